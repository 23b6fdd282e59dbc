//! The long leg's devices as TAP devices: what a NIC sends on `wan0`, the delay line reads.

use std::ffi::{c_short, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use rtt0_netio::netns::Namespace;

use super::port::{FRAME_CAPACITY, Port};

/// `_IOW('T', 202, int)` of `<linux/if_tun.h>`.
const TUNSETIFF: u32 = 0x4004_54ca;
/// `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
/// Checksums and TCP segmentation over both IP versions: `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`.
const OFFLOADS_ALL: c_ulong = 0x01 | 0x02 | 0x04;
/// `TUN_F_CSUM` alone: partial checksums, but single segments.
const OFFLOADS_CHECKSUM: c_ulong = 0x01;

/// Which kinds of packets the kernel may hand to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Burden {
    /// Single segments with full checksums.
    Plain,
    /// Single segments, perhaps with partial checksums.
    Checksums,
    /// Super-packets and partial checksums.
    SuperPackets,
}

/// The user-space side of a TAP device. The device disappears with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    file: Arc<File>,
}

impl Tap {
    /// Makes the device `name` in `namespace`, down. Needs `CAP_NET_ADMIN` there and access to
    /// `/dev/net/tun`, which is mostly root's.
    ///
    /// # Errors
    /// The error of `open(2)` or of `ioctl(2)` with `TUNSETIFF`.
    pub(crate) fn create(namespace: &Namespace, name: &str, burden: Burden) -> io::Result<Self> {
        let tap = namespace.enter(|| Self::create_here(name))??;
        tap.set_burden(burden)?;
        Ok(tap)
    }

    fn create_here(name: &str) -> io::Result<Self> {
        // The descriptor belongs to the namespace of the thread that opens it.
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF.into(), &raw mut request) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file: Arc::new(file) })
    }

    /// Changes what the kernel may hand to the device, from the next packet on.
    ///
    /// # Errors
    /// The error of `ioctl(2)` with `TUNSETOFFLOAD`.
    pub(super) fn set_burden(&self, burden: Burden) -> io::Result<()> {
        let features: c_ulong = match burden {
            Burden::Plain => 0,
            Burden::Checksums => OFFLOADS_CHECKSUM,
            Burden::SuperPackets => OFFLOADS_ALL,
        };
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let outcome = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD.into(), features) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Port for Tap {
    fn readable(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn receive(&self, buffer: &mut [u8; FRAME_CAPACITY]) -> io::Result<(usize, Duration)> {
        // A TAP device keeps no arrival times, so a frame arrives when it is read.
        let length = (&*self.file).read(buffer)?;
        Ok((length, Duration::ZERO))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&*self.file).write_all(frame)
    }
}

//! Offloads of a network device, by the `SIOCETHTOOL` ioctl (`netdevice(7)`).
//!
//! The functions act in the namespace of the calling thread.

use std::ffi::{c_char, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Commands of `<linux/ethtool.h>`.
mod command {
    pub(super) const GET_RX_CHECKSUM: u32 = 0x14;
    pub(super) const SET_RX_CHECKSUM: u32 = 0x15;
    pub(super) const GET_TX_CHECKSUM: u32 = 0x16;
    pub(super) const SET_TX_CHECKSUM: u32 = 0x17;
    pub(super) const GET_TSO: u32 = 0x1e;
    pub(super) const SET_TSO: u32 = 0x1f;
    pub(super) const GET_GSO: u32 = 0x23;
    pub(super) const SET_GSO: u32 = 0x24;
    pub(super) const GET_FLAGS: u32 = 0x25;
    pub(super) const SET_FLAGS: u32 = 0x26;
    pub(super) const GET_GRO: u32 = 0x2b;
    pub(super) const SET_GRO: u32 = 0x2c;
}

/// `ETH_FLAG_LRO` of the words that `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS` carry.
const FLAG_LRO: u32 = 1 << 15;

/// `SIOCETHTOOL` of `<linux/sockios.h>`.
const SIOCETHTOOL: u32 = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Which offloads a device has switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Offloads {
    /// TCP segmentation by the device (`ethtool -K tso`, all its variants).
    pub tso: bool,
    /// Segmentation put off until just before the driver (`gso`).
    pub gso: bool,
    /// Received segments merged by software (`gro`).
    pub gro: bool,
    /// Received segments merged by the device (`lro`); they cannot be forwarded unharmed.
    pub lro: bool,
    /// Checksums filled in by the device on sending (`tx`).
    pub tx_checksum: bool,
    /// Checksums verified by the device on receiving (`rx`).
    pub rx_checksum: bool,
}

impl Offloads {
    /// Everything off: each packet on the wire is one segment with a full checksum.
    pub const NONE: Self =
        Self { tso: false, gso: false, gro: false, lro: false, tx_checksum: false, rx_checksum: false };
}

/// Reads the offloads of `interface`. Needs no capability.
///
/// # Errors
/// The error of `ioctl(2)`: `ENODEV` if there is no such device, `EINVAL` if its name is too long.
pub fn read(interface: &str) -> io::Result<Offloads> {
    let device = Device::open(interface)?;
    let on = |command| device.value(command, 0).map(|data| data != 0);
    Ok(Offloads {
        tso: on(command::GET_TSO)?,
        gso: on(command::GET_GSO)?,
        gro: on(command::GET_GRO)?,
        lro: device.value(command::GET_FLAGS, 0)? & FLAG_LRO != 0,
        tx_checksum: on(command::GET_TX_CHECKSUM)?,
        rx_checksum: on(command::GET_RX_CHECKSUM)?,
    })
}

/// Sets the offloads of `interface`. A feature that already is as wanted is not touched, so that
/// a device without it is no error.
///
/// # Errors
/// The error of `ioctl(2)`: `EPERM` without `CAP_NET_ADMIN`, `ENODEV` if there is no such device,
/// `EOPNOTSUPP` if it lacks the feature.
pub fn write(interface: &str, wanted: Offloads) -> io::Result<()> {
    let device = Device::open(interface)?;
    let present = read(interface)?;
    // Without checksums the kernel also drops TSO, so checksums go first on the way up and the
    // order does not matter on the way down.
    let settings = [
        (command::SET_TX_CHECKSUM, present.tx_checksum, wanted.tx_checksum),
        (command::SET_RX_CHECKSUM, present.rx_checksum, wanted.rx_checksum),
        (command::SET_TSO, present.tso, wanted.tso),
        (command::SET_GSO, present.gso, wanted.gso),
        (command::SET_GRO, present.gro, wanted.gro),
    ];
    for (command, present, wanted) in settings {
        if present != wanted {
            device.value(command, u32::from(wanted))?;
        }
    }
    if present.lro != wanted.lro {
        let others = device.value(command::GET_FLAGS, 0)? & !FLAG_LRO;
        let flags = if wanted.lro { others | FLAG_LRO } else { others };
        device.value(command::SET_FLAGS, flags)?;
    }
    Ok(())
}

/// A device by name, with a socket of its namespace to ask through.
pub(crate) struct Device {
    socket: OwnedFd,
    name: [c_char; libc::IFNAMSIZ],
}

impl Device {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let bytes = interface.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            let message = format!("interface name {interface:?} must have 1–15 bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name })
    }

    /// Runs one command with `data` and returns the answer's data.
    fn value(&self, command: u32, data: u32) -> io::Result<u32> {
        let mut value = Value { command, data };
        // SAFETY: the commands of this module read and write exactly one `struct ethtool_value`.
        unsafe { self.run((&raw mut value).cast()) }?;
        Ok(value.data)
    }

    /// Runs the command that `structure` begins with.
    ///
    /// # Safety
    /// `structure` points to the command's structure of `<linux/ethtool.h>`, with room for all that the kernel writes.
    pub(crate) unsafe fn run(&self, structure: *mut c_void) -> io::Result<()> {
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.name;
        request.ifr_ifru.ifru_data = structure.cast::<c_char>();
        // SAFETY: `request` outlives the call; what it points to does by this function's contract.
        let outcome = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Links, VethEnd};
    use crate::netns::Namespace;

    #[test]
    fn offloads_of_a_veth_go_off_and_on_again() {
        let namespace = match Namespace::create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            outcome => outcome.unwrap(),
        };
        let end = |name| VethEnd { namespace: &namespace, name };
        Links::add_veth(end("a0"), end("b0"), 1500).unwrap();
        namespace
            .enter(|| {
                let before = read("a0").unwrap();
                assert!(before.tso && before.gso && before.tx_checksum);
                write("a0", Offloads::NONE).unwrap();
                // Veth cannot switch off the verification of received checksums.
                let bare = Offloads { rx_checksum: before.rx_checksum, ..Offloads::NONE };
                assert_eq!(Offloads { rx_checksum: before.rx_checksum, ..read("a0").unwrap() }, bare);
                write("a0", before).unwrap();
                assert_eq!(read("a0").unwrap(), before);
            })
            .unwrap();
    }

    #[test]
    fn an_absent_device_is_an_error() {
        assert_eq!(read("absent0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(read("").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read("0123456789abcdef").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

//! Devices of our own: what is written into one the kernel takes as if received, and what the kernel
//! sends into one can be captured there.
//!
//! There are two kinds:
//!
//! - a TUN device with virtio-net headers. A write is handled to the end, up to the egress device's
//!   queue, before it returns. The device vanishes with its descriptor.
//! - a veth pair, where there is no `/dev/net/tun`. A packet socket sends into the far end, which
//!   lies in a namespace that only this process holds; what comes out of the near end is routed.
//!   The kernel removes the pair with the namespace, whichever way the process ends.
//!
//! Neither has routes, so that the kernel sends nothing into it by itself.

use std::ffi::c_char;
use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::capture::SendingSocket;
use crate::emit::DEVICE_PREFIX;
use crate::links::{LinkError, Links, VethEnd};
use crate::netns::Namespace;
use crate::sysctl::{self, SysctlError};

/// `TUNSETIFF` of `<linux/if_tun.h>`.
const TUNSETIFF: u32 = 0x4004_54ca;
/// Names to try for a veth.
const NAMES: u32 = 64;
/// The far end of the veth, in its namespace.
const FAR_END: &str = "in0";
/// Largest that the kernel takes for a veth; super-packets need not fit, but their headers say so.
const VETH_MTU: u32 = 65_535;
/// How long a carrier is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Length of an Ethernet header in bytes.
const ETHERNET_HEADER: usize = 14;

/// What kind of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A TUN device.
    Tun,
    /// A veth pair.
    Veth,
}

/// Why a way can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// The call and its notable argument.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The veth pair could not be made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A device parameter could not be set.
    #[error(transparent)]
    Parameter(#[from] SysctlError),
}

/// Parameters of a device: IP version, name and value (`net.ipv4.conf.DEVICE.NAME`).
pub(crate) type Parameters = [(&'static str, &'static str, &'static str)];

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
    way: Way,
    name: String,
    /// What precedes an IPv4 packet; an IPv6 one differs in the EtherType. Empty on a TUN device.
    link_header: Vec<u8>,
    /// Holds the far end of a veth pair.
    far: Option<Namespace>,
}

impl Device {
    /// Opens a device in the namespace of the calling thread, sets its parameters and brings it up.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is left then. A TUN device needs `/dev/net/tun` and CAP_NET_ADMIN, a
    /// veth pair CAP_NET_ADMIN and CAP_SYS_ADMIN.
    pub(crate) fn open(way: Way, parameters: &Parameters) -> Result<Self, DeviceError> {
        let system = |call| move |source| DeviceError::System { call, source };
        let opened = match way {
            Way::Tun => Self::open_tun()?,
            Way::Veth => Self::open_veth()?,
        };
        set(&opened.name, parameters)?;
        Links::here()?.bring_up(&opened.name)?;
        if let Some(there) = &opened.far {
            wait_for_carrier(&opened.name);
            there.enter(|| wait_for_carrier(FAR_END)).map_err(system("setns(2)"))?;
        }
        Ok(opened)
    }

    fn open_tun() -> Result<Self, DeviceError> {
        let system = |call| move |source| DeviceError::System { call, source };
        let fd: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(system("open(/dev/net/tun)"))?
            .into();
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(format!("{DEVICE_PREFIX}%d").bytes()) {
            *to = from.cast_signed() as c_char;
        }
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF.into(), &raw mut request) } != 0 {
            return Err(system("ioctl(TUNSETIFF)")(io::Error::last_os_error()));
        }
        let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
        let name = name.map(|byte| char::from(byte.cast_unsigned())).collect();
        Ok(Self { fd, way: Way::Tun, name, link_header: Vec::new(), far: None })
    }

    fn open_veth() -> Result<Self, DeviceError> {
        let system = |call| move |source| DeviceError::System { call, source };
        let here = Namespace::current().map_err(system("open(/proc/thread-self/ns/net)"))?;
        let there = Namespace::create().map_err(system("unshare(CLONE_NEWNET)"))?;
        let name = add_pair(&here, &there)?;
        let far = Links::open(&there)?;
        // Nothing but what we send is to come out of it.
        sysctl::set(&there, &[(&format!("net.ipv6.conf.{FAR_END}.disable_ipv6"), "1")])
            .or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })?;
        far.bring_up(FAR_END)?;
        let mut link_header = Links::here()?.mac(&name)?.to_vec();
        link_header.extend(far.mac(FAR_END)?);
        link_header.extend((libc::ETH_P_IP as u16).to_be_bytes());
        let open = || SendingSocket::open(FAR_END);
        let socket = there.enter(open).map_err(system("setns(2)"))?.map_err(system("socket(AF_PACKET)"))?;
        Ok(Self { fd: socket.into(), way: Way::Veth, name, link_header, far: Some(there) })
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the bytes before the IP packet, without the virtio-net header.
    pub(crate) fn link_header(&self) -> &[u8] {
        &self.link_header
    }

    /// Hands over one packet in pieces, writev(2).
    pub(crate) fn write(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(self.fd.as_fd(), pieces)?;
        Ok(())
    }
}

/// Sets those parameters of a device that are not set already.
///
/// Not for a real-time thread: for some the kernel tries for a lock and has the call begin anew until it gets it, so that
/// whoever holds it may never get to run.
pub(crate) fn set(device: &str, parameters: &Parameters) -> Result<(), SysctlError> {
    for (version, name, value) in parameters {
        let name = format!("net.{version}.conf.{device}.{name}");
        match sysctl::read_here(&name) {
            Ok(present) if present == *value => {}
            // A host without IPv6, or a parameter that only newer kernels have.
            Err(error) if *version == "ipv6" && error.kind() == io::ErrorKind::NotFound => {}
            _ => sysctl::set_here(&[(&name, value)])?,
        }
    }
    Ok(())
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a pair under the first free name here, and returns that.
fn add_pair(here: &Namespace, there: &Namespace) -> Result<String, LinkError> {
    let mut attempt = 0;
    loop {
        let name = format!("{DEVICE_PREFIX}{attempt}");
        let near = VethEnd { namespace: there, name: FAR_END };
        match Links::add_veth(near, VethEnd { namespace: here, name: &name }, VETH_MTU) {
            Err(LinkError::Refused { source, .. })
                if attempt < NAMES && source.raw_os_error() == Some(libc::EEXIST) =>
            {
                attempt += 1;
            }
            outcome => return outcome.map(|()| name),
        }
    }
}

/// Waits until a device can send, for [`PATIENCE`] at most: a veth notices its carrier some time after
/// both ends are up, and loses what is sent until then.
fn wait_for_carrier(device: &str) {
    let start = Instant::now();
    let is_running =
        || pnet_datalink::interfaces().iter().any(|link| link.name == device && link.is_running());
    while !is_running() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_absent(error: &SysctlError) -> bool {
    error.source.kind() == io::ErrorKind::NotFound
}

/// Space for everything before an IP header: virtio-net and link header.
pub(crate) const PRELUDE: usize = 10 + ETHERNET_HEADER;

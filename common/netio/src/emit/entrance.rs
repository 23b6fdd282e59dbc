//! A device of our own through which packets enter the kernel's forwarding as if received.
//!
//! Only there does the kernel take a super-packet or a partial checksum from user space at layer 3.
//! There are two kinds:
//!
//! - a TUN device with virtio-net headers. A write is handled to the end, up to the egress device's
//!   queue, before it returns. The device vanishes with its descriptor.
//! - a veth pair, where there is no `/dev/net/tun`. A packet socket sends into the far end, which
//!   lies in a namespace that only this process holds; what comes out of the near end is routed.
//!   The kernel removes the pair with the namespace, whichever way the process ends.
//!
//! Neither has routes, so nothing is ever sent into it. The kernel would refuse what arrives on a
//! device from a source whose way back leads elsewhere (RFC 3704), so that check is off for it.

use std::ffi::c_char;
use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use super::DEVICE_PREFIX;
use crate::capture::SendingSocket;
use crate::links::{LinkError, Links, VethEnd};
use crate::netns::Namespace;
use crate::sysctl::{self, SysctlError};

/// `TUNSETIFF` of `<linux/if_tun.h>`.
const TUNSETIFF: u32 = 0x4004_54ca;
/// The IPv4 dummy address (RFC 7600 §4.8). The loose reverse path check (`rp_filter` 2) refuses
/// everything on a device that has no address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
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

/// How a packet enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A TUN device.
    Tun,
    /// A veth pair.
    Veth,
}

/// Why a way can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
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

/// Which IP versions the kernel forwards from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usable {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

/// An open device.
#[derive(Debug)]
pub(super) struct Entrance {
    fd: OwnedFd,
    way: Way,
    device: String,
    /// What precedes an IPv4 packet; an IPv6 one differs in the EtherType. Empty on a TUN device.
    link_header: Vec<u8>,
    /// Holds the far end of a veth pair.
    far: Option<Namespace>,
}

impl Entrance {
    /// Opens a device in the namespace of the calling thread.
    ///
    /// # Errors
    /// [`EntranceError`]; nothing is left then. A TUN device needs `/dev/net/tun` and CAP_NET_ADMIN, a
    /// veth pair CAP_NET_ADMIN and CAP_SYS_ADMIN.
    pub(super) fn open(way: Way) -> Result<Self, EntranceError> {
        let system = |call| move |source| EntranceError::System { call, source };
        let entrance = match way {
            Way::Tun => Self::open_tun()?,
            Way::Veth => Self::open_veth()?,
        };
        entrance.set_parameters()?;
        let links = Links::here()?;
        links.bring_up(&entrance.device)?;
        links.add_host_address(&entrance.device, ADDRESS)?;
        if let Some(there) = &entrance.far {
            wait_for_carrier(&entrance.device);
            there.enter(|| wait_for_carrier(FAR_END)).map_err(system("setns(2)"))?;
        }
        Ok(entrance)
    }

    fn open_tun() -> Result<Self, EntranceError> {
        let system = |call| move |source| EntranceError::System { call, source };
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
        let device = name.map(|byte| char::from(byte.cast_unsigned())).collect();
        Ok(Self { fd, way: Way::Tun, device, link_header: Vec::new(), far: None })
    }

    fn open_veth() -> Result<Self, EntranceError> {
        let system = |call| move |source| EntranceError::System { call, source };
        let here = Namespace::current().map_err(system("open(/proc/thread-self/ns/net)"))?;
        let there = Namespace::create().map_err(system("unshare(CLONE_NEWNET)"))?;
        let device = add_pair(&here, &there)?;
        let far = Links::open(&there)?;
        // Nothing but what we send is to come out of it.
        sysctl::set(&there, &[(&format!("net.ipv6.conf.{FAR_END}.disable_ipv6"), "1")])
            .or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })?;
        far.bring_up(FAR_END)?;
        let mut link_header = Links::here()?.mac(&device)?.to_vec();
        link_header.extend(far.mac(FAR_END)?);
        link_header.extend((libc::ETH_P_IP as u16).to_be_bytes());
        let open = || SendingSocket::open(FAR_END);
        let socket = there.enter(open).map_err(system("setns(2)"))?.map_err(system("socket(AF_PACKET)"))?;
        Ok(Self { fd: socket.into(), way: Way::Veth, device, link_header, far: Some(there) })
    }

    /// Sets what is not set already: the kernel takes a lock for some of them, which the packet thread
    /// had better not wait for.
    fn set_parameters(&self) -> Result<(), EntranceError> {
        for (version, name, value) in [
            ("ipv4", "rp_filter", "0"),
            ("ipv4", "forwarding", "1"),
            ("ipv6", "addr_gen_mode", "1"),
            ("ipv6", "accept_dad", "0"),
            ("ipv6", "accept_ra", "0"),
            ("ipv6", "forwarding", "1"),
            ("ipv6", "force_forwarding", "1"),
        ] {
            let name = format!("net.{version}.conf.{}.{name}", self.device);
            match sysctl::read_here(&name) {
                Ok(present) if present == value => {}
                // A host without IPv6; force_forwarding is new in Linux 6.17.
                Err(error) if version == "ipv6" && error.kind() == io::ErrorKind::NotFound => {}
                _ => sysctl::set_here(&[(&name, value)])?,
            }
        }
        Ok(())
    }

    /// Tells which IP versions the kernel forwards from the device as it is set now. Whoever sets
    /// the parameters of new devices (systemd-sysctl does, a moment after they appear) may have
    /// undone ours, so these are set again.
    pub(super) fn usable(&self) -> Usable {
        if self.set_parameters().is_err() {
            return Usable::default();
        }
        let read = |name: &str| sysctl::read_here(name).unwrap_or_default();
        // The kernel takes the larger of both. Ours is 0, and loose (2) lets pass what has a route
        // back, which all that is served needs anyway.
        let strict = read("net.ipv4.conf.all.rp_filter") == "1";
        let forced = read(&format!("net.ipv6.conf.{}.force_forwarding", self.device)) == "1";
        let disabled = read(&format!("net.ipv6.conf.{}.disable_ipv6", self.device));
        Usable { v4: !strict, v6: disabled == "0" && (forced || read("net.ipv6.conf.all.forwarding") == "1") }
    }

    pub(super) fn way(&self) -> Way {
        self.way
    }

    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Returns the bytes before the IP packet, without the virtio-net header.
    pub(super) fn link_header(&self) -> &[u8] {
        &self.link_header
    }

    /// Hands over one packet in pieces, writev(2).
    pub(super) fn write(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(self.fd.as_fd(), pieces)?;
        Ok(())
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
pub(super) const PRELUDE: usize = 10 + ETHERNET_HEADER;

//! The device out of which the kernel's program sends what is for the daemon.
//!
//! A packet socket captures what leaves there, as it would at any interface; the packets themselves end in the
//! device. It vanishes with the process, and by that the program knows that there is no daemon.

use std::os::fd::{AsFd, AsRawFd};

use aya::programs::SocketFilter;
use netlink_bindings::tc::{Request, Tcmsg};
use netlink_socket2::NetlinkSocket;

use super::OffloadError;
use crate::device::{Device, DeviceError, Parameters, Way};
use crate::links::Links;

// Of <linux/if_tun.h>.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETFILTEREBPF: u32 = 0x8004_54e1;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN: what the device takes as it is.
const OFFLOADS: libc::c_ulong = 0xf;
/// TC_H_ROOT.
const ROOT: u32 = u32::MAX;
/// The kernel is to send nothing of its own there.
const PARAMETERS: &Parameters = &[("ipv6", "disable_ipv6", "1")];

/// The open device.
#[derive(Debug)]
pub(super) struct Outlet {
    device: Device,
    index: u32,
}

impl Outlet {
    /// Opens one in the namespace of the calling thread, of the best kind that can be had or of the given one.
    /// `nothing` is a filter that lets nothing pass.
    pub(super) fn open(way: Option<Way>, nothing: &SocketFilter) -> Result<Self, OffloadError> {
        let device = match Device::open(way.unwrap_or(Way::Tun), PARAMETERS) {
            Err(error) if way.is_none() => {
                tracing::debug!(%error, "the outlet can't be a TUN device");
                Device::open(Way::Veth, PARAMETERS)
            }
            opened => opened,
        }?;
        if device.way() == Way::Tun {
            discard(&device, nothing)?;
        }
        let index = Links::here().and_then(|links| links.index(device.name())).map_err(DeviceError::from)?;
        if let Err(error) = do_not_queue(index) {
            // Nothing is wrong without; it costs a lock for each packet.
            tracing::debug!(%error, device = device.name(), "the device keeps its queue");
        }
        Ok(Self { device, index })
    }

    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

/// Has a TUN device take super-packets whole, and keep nothing for a reader: ioctl(TUNSETOFFLOAD, TUNSETFILTEREBPF).
fn discard(device: &Device, nothing: &SocketFilter) -> Result<(), OffloadError> {
    let failed = |call| DeviceError::System { call, source: std::io::Error::last_os_error() };
    let device = device.as_fd().as_raw_fd();
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    if unsafe { libc::ioctl(device, TUNSETOFFLOAD.into(), OFFLOADS) } != 0 {
        return Err(failed("ioctl(TUNSETOFFLOAD)").into());
    }
    let nothing = nothing.fd().map_err(super::program_error("nothing"))?;
    let program: libc::c_int = nothing.as_fd().as_raw_fd();
    // SAFETY: TUNSETFILTEREBPF reads one int, which outlives the call.
    if unsafe { libc::ioctl(device, TUNSETFILTEREBPF.into(), &raw const program) } != 0 {
        return Err(failed("ioctl(TUNSETFILTEREBPF)").into());
    }
    Ok(())
}

/// Gives a device the queueing discipline that has no queue: what is sent is captured before the call returns.
fn do_not_queue(index: u32) -> std::io::Result<()> {
    let at = Tcmsg { ifindex: index as i32, parent: ROOT, ..Tcmsg::new() };
    let mut request = Request::new().set_create().set_replace().op_newqdisc_do(&at);
    request.encode().push_kind(c"noqueue");
    NetlinkSocket::new().request(&request)?.recv_ack()?;
    Ok(())
}

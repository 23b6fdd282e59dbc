//! The device through which packets enter the kernel's forwarding as if received.
//!
//! Only there does the kernel take a super-packet or a partial checksum from user space at layer 3. It would refuse
//! what arrives on a device from a source whose way back leads elsewhere (RFC 3704), so that check is off for it.
//!
//! Whether the kernel forwards from it depends on parameters that others may change. A thread of its own looks at them,
//! and not the packet thread: reading and writing some of them makes the kernel spin for a lock (`rtnl_trylock` and
//! `restart_syscall`), and a real-time thread that spins keeps the lock's holder from ever giving it back.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::device::{self, Device, DeviceError, Parameters, Way};
use crate::links::Links;
use crate::privilege::{self, Duty};
use crate::sysctl;

/// The IPv4 dummy address (RFC 7600 §4.8). The loose reverse path check (`rp_filter` 2) refuses
/// everything on a device that has no address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// What matters when the device comes up.
const AT_FIRST: &Parameters =
    &[("ipv6", "addr_gen_mode", "1"), ("ipv6", "accept_dad", "0"), ("ipv6", "accept_ra", "0")];
/// What has to stay as it is. `force_forwarding` is new in Linux 6.17.
const ALWAYS: &Parameters = &[
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "forwarding", "1"),
    ("ipv6", "forwarding", "1"),
    ("ipv6", "force_forwarding", "1"),
];
/// How often the parameters are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Which IP versions the kernel forwards from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usable {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

/// A device from which the kernel forwards.
#[derive(Debug)]
pub(super) struct Entrance {
    device: Device,
    usable: Arc<Shared>,
    /// Ends the thread that looks.
    _end: mpsc::Sender<()>,
}

/// What the thread that looks has seen last.
#[derive(Debug)]
struct Shared {
    v4: AtomicBool,
    v6: AtomicBool,
}

impl Entrance {
    /// Opens one in the namespace of the calling thread, which is an ordinary one. `failures` is logged: what was tried
    /// before.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is left then.
    pub(super) fn open(way: Way, failures: &[String]) -> Result<Self, DeviceError> {
        let device = Device::open(way, &[AT_FIRST, ALWAYS].concat())?;
        Links::here()?.add_host_address(device.name(), ADDRESS)?;
        let mut last = usable(device.name());
        tell(device.name(), way, last, &failures.join("; "));
        let shared = Arc::new(Shared { v4: last.v4.into(), v6: last.v6.into() });
        let (end, ended) = mpsc::channel();
        let (name, seen) = (device.name().to_owned(), Arc::clone(&shared));
        let look = move || {
            privilege::confine(Duty::Control);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PERIOD) {
                let now = usable(&name);
                if now != last {
                    last = now;
                    seen.v4.store(now.v4, Ordering::Relaxed);
                    seen.v6.store(now.v6, Ordering::Relaxed);
                    tell(&name, way, now, "");
                }
            }
        };
        thread::Builder::new()
            .name("entrance".to_owned())
            .spawn(look)
            .map_err(|source| DeviceError::System { call: "clone", source })?;
        Ok(Self { device, usable: shared, _end: end })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Tells which IP versions the kernel forwards from the device as it was set a second ago.
    pub(super) fn usable(&self) -> Usable {
        let Shared { v4, v6 } = &*self.usable;
        Usable { v4: v4.load(Ordering::Relaxed), v6: v6.load(Ordering::Relaxed) }
    }
}

/// Tells which IP versions the kernel forwards from a device as it is set now. Whoever sets the parameters of new devices
/// (systemd-sysctl does, a moment after they appear) may have undone ours, so these are set again.
fn usable(device: &str) -> Usable {
    if device::set(device, ALWAYS).is_err() {
        return Usable::default();
    }
    let read = |name: &str| sysctl::read_here(name).unwrap_or_default();
    // The kernel takes the larger of both. Ours is 0, and loose (2) lets pass what has a route
    // back, which all that is served needs anyway.
    let strict = read("net.ipv4.conf.all.rp_filter") == "1";
    let forced = read(&format!("net.ipv6.conf.{device}.force_forwarding")) == "1";
    let disabled = read(&format!("net.ipv6.conf.{device}.disable_ipv6"));
    Usable { v4: !strict, v6: disabled == "0" && (forced || read("net.ipv6.conf.all.forwarding") == "1") }
}

fn tell(device: &str, way: Way, Usable { v4, v6 }: Usable, why: &str) {
    tracing::info!(device, ?way, ipv4 = v4, ipv6 = v6, why, "super-packets are handed to the kernel whole");
    if !v4 {
        tracing::warn!("IPv4 super-packets are cut in user space: net.ipv4.conf.all.rp_filter must not be 1");
    }
}

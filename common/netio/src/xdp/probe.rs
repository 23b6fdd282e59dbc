//! What AF_XDP needs, looked for before anything is touched; and what the kernel's answers mean.

use std::fs;
use std::io;

use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, getrlimit};

use super::error::Missing;
use super::ethtool;

/// What fits in a page of 4,096 bytes beside what drivers keep free: 256 bytes before and some 320 behind the frame.
const MTU_IN_A_PAGE: u16 = 3498;

/// Returns everything that is known to be missing here for AF_XDP; the interface is not looked at. Nothing is changed.
pub fn missing() -> Vec<Missing> {
    let held = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let mut missing = Vec::new();
    let mut need = |capability, purpose, is_held: bool| {
        if !is_held {
            missing.push(Missing::Capability { capability, purpose });
        }
    };
    need("CAP_NET_RAW", "to open AF_XDP sockets", held(Capability::CAP_NET_RAW));
    need("CAP_NET_ADMIN", "to attach an XDP program", held(Capability::CAP_NET_ADMIN));
    // Before Linux 5.8 it was part of CAP_SYS_ADMIN, which still does.
    let may_load = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN].into_iter().any(held);
    need("CAP_BPF", "to load an XDP program (before Linux 5.8: CAP_SYS_ADMIN)", may_load);
    let may_compute = [Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN].into_iter().any(held);
    need("CAP_PERFMON", "to load one that computes addresses within packets", may_compute);
    if is_user_namespace(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()) {
        missing.push(Missing::InitialUserNamespace);
    }
    if KernelVersion::current().is_ok_and(|present| present < KernelVersion::new(5, 9, 0)) {
        missing.push(Missing::Links);
    }
    let opened = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    if opened.err() == Some(rustix::io::Errno::AFNOSUPPORT) {
        missing.push(Missing::Sockets);
    }
    missing
}

/// Outside of user namespaces all identities are mapped to themselves.
fn is_user_namespace(uid_map: &str) -> bool {
    !uid_map.is_empty() && !uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Says what the kernel means by refusing `needed` bytes of packet memory.
pub(super) fn locked_memory(needed: u64) -> Missing {
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    Missing::LockedMemory { needed, limit }
}

/// Says what an error of attaching a program in the driver means.
pub(super) fn native(interface: &str, mtu: u16, error: &io::Error) -> Missing {
    let driver = ethtool::driver(interface).unwrap_or_else(|| "(unknown)".to_owned());
    explain(interface.to_owned(), driver, mtu, error)
}

fn explain(interface: String, driver: String, mtu: u16, error: &io::Error) -> Missing {
    const OF_VETH: &str =
        "the peer has more transmit queues than this end has receive queues; `ethtool -L INTERFACE rx N`";
    const OF_OTHERS: &str = "`ethtool -L INTERFACE combined N` with half of the most that `ethtool -l` shows";
    let is_large = mtu > MTU_IN_A_PAGE;
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if !is_large => Missing::Driver { interface, driver },
        Some(libc::ERANGE | libc::E2BIG) => {
            Missing::SmallerMtu { interface, driver, mtu, within: MTU_IN_A_PAGE }
        }
        Some(libc::ENOTCONN) => Missing::Peer { interface },
        Some(libc::ENOSPC) => Missing::Queues { interface, driver, remedy: OF_VETH },
        // Drivers say so of both, and a large MTU is the likelier cause.
        Some(libc::EINVAL | libc::EOPNOTSUPP) if is_large => {
            Missing::SmallerMtu { interface, driver, mtu, within: MTU_IN_A_PAGE }
        }
        Some(libc::ENOMEM | libc::EINVAL) => Missing::Queues { interface, driver, remedy: OF_OTHERS },
        _ => Missing::Consent { interface, driver, cause: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_refusals_are_explained() {
        let text = |driver: &str, mtu, error| {
            let error = io::Error::from_raw_os_error(error);
            explain("eth0".to_owned(), driver.to_owned(), mtu, &error).to_string()
        };
        assert!(text("tun", 1500, libc::EOPNOTSUPP).contains("ethtool -K eth0 lro off"));
        assert!(text("ena", 9001, libc::EINVAL).ends_with("`ip link set dev eth0 mtu 3498`, or less"));
        assert!(text("veth", 9000, libc::ERANGE).contains("the peer's counts"));
        assert!(text("ena", 1500, libc::EINVAL).contains("half of the most"));
        assert!(text("virtio_net", 1500, libc::ENOMEM).contains("half of the most"));
        assert!(text("veth", 1500, libc::ENOSPC).contains("the peer has more transmit queues"));
        assert_eq!(text("veth", 1500, libc::ENOTCONN), "veth 'eth0' has lost its peer");
        assert!(text("odd", 1500, libc::EIO).contains("driver odd refuses"));
    }

    #[test]
    fn only_the_initial_user_namespace_maps_all() {
        assert!(!is_user_namespace("         0          0 4294967295\n"));
        assert!(!is_user_namespace(""), "kernels without user namespaces have no such file");
        assert!(is_user_namespace("0 1000 1\n"));
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        // Capabilities belong to a thread, so this one may throw them away.
        let drop_all = || {
            caps::clear(None, CapSet::Effective).unwrap();
            missing()
        };
        let text: String =
            std::thread::spawn(drop_all).join().unwrap().iter().map(Missing::to_string).collect();
        for part in [
            "CAP_NET_RAW is missing",
            "CAP_NET_ADMIN is",
            "CAP_BPF is",
            "CAP_PERFMON is",
            "started after that",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let locked = locked_memory(16 << 20).to_string();
        assert!(locked.contains("16777216") && locked.contains("LimitMEMLOCK"), "{locked}");
    }
}

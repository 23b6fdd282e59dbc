//! Filters and policies.

use super::{Blame, Verdict};
use crate::causes;
use crate::check::drops::{TCP, UDP, place};
use crate::finding::Layer;
use crate::look::drops::Dropped;
use crate::peer::station::PORTS;

/// Tells whether a segment is one of a path check's ([`crate::peer`]): one of its ports is always among those.
fn is_path_check(dropped: &Dropped) -> bool {
    let (source, destination) = dropped.ports;
    dropped.protocol == TCP && (PORTS.contains(&source) || PORTS.contains(&destination))
}

/// Those that an administrator or a program has set up.
pub(super) fn filters(reason: &str, dropped: &Dropped) -> Verdict {
    let leaves = place::is_leaving(dropped);
    let tc = |layer| {
        let (command, fix) = (
            "tc -s filter show dev DEV ingress; tc -s filter show dev DEV egress; bpftool net",
            "find out whose filter or program it is, and take it away or correct it",
        );
        Some(Blame::loss(&causes::TC_DROP, layer, command, fix))
    };
    Some(match reason {
        "NETFILTER_DROP" => {
            let unknown = if leaves { Layer::Output } else { Layer::Input };
            let layer = place::netfilter(dropped).unwrap_or(unknown);
            Some(Blame::loss(
                &causes::NETFILTER_DROP,
                layer,
                "nft list ruleset; iptables-save -c",
                "find the rule or policy whose counter grows, and let the packets through",
            ))
        }
        "TC_INGRESS" => tc(Layer::TcIngress),
        "TC_EGRESS" => tc(Layer::TcEgress),
        "TC_COOKIE_ERROR" | "TC_CHAIN_NOTFOUND" | "TC_RECLASSIFY_LOOP" => {
            tc(if leaves { Layer::TcEgress } else { Layer::TcIngress })
        }
        "XDP" => xdp(),
        // Kernels that don't say so drop in functions of that name.
        "NOT_SPECIFIED" if place::is_in(dropped, "xdp") => xdp(),
        "BPF_CGROUP_EGRESS" => cgroup(),
        "SOCKET_FILTER" if !matches!(dropped.protocol, TCP | UDP) => None,
        // The doctor's own: at these its silence is meant.
        "SOCKET_FILTER" if is_path_check(dropped) => None,
        // The kernel calls both so; but only one of them is with the socket.
        "SOCKET_FILTER" if !dropped.has_socket_filter => cgroup(),
        "SOCKET_FILTER" => Some(Blame::loss(
            &causes::SOCKET_FILTER,
            Layer::Socket,
            "ss -tuanp --bpf",
            "the program that owns the socket filters what it receives: correct its \
             filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)",
        )),
        "SECURITY_HOOK" => Some(Blame::loss(
            &causes::CONFINED,
            Layer::Socket,
            "journalctl -k | grep -i -e apparmor -e avc",
            "a security module (SELinux, Smack, AppArmor) refuses the packets: correct its policy",
        )),
        "XFRM_POLICY" => Some(Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Ip,
            "ip xfrm policy; cat /proc/net/xfrm_stat",
            "an IPsec policy does not let the packets pass in the clear, or has no state for them",
        )),
        _ => return None,
    })
}

fn xdp() -> Option<Blame> {
    Some(Blame::loss(
        &causes::XDP_DROP,
        Layer::Xdp,
        "ip -d link show dev DEV; bpftool net",
        "find out whose XDP program it is; `ip link set dev DEV xdp off` takes it away",
    ))
}

fn cgroup() -> Option<Blame> {
    Some(Blame::loss(
        &causes::CGROUP_DROP,
        Layer::Cgroup,
        "bpftool cgroup tree",
        "a BPF program of the control group drops (systemd's IPAddressDeny=, a \
         container's policy): correct it",
    ))
}

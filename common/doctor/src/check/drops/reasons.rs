//! What the kernel's reasons mean: whose fault it is, from how many packets on, and what to do.
//!
//! Names that older kernels had are here too; numbers differ between all of them.

use crate::causes;
use crate::finding::{Cause, Layer, Rank};
use crate::look::drops::Dropped;
use crate::peer::station::PORTS;

use super::{ICMP, ICMP6, TCP, UDP, place};

/// What a reason means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blame {
    pub(super) cause: &'static Cause,
    pub(super) layer: Layer,
    pub(super) rank: Rank,
    /// Fewer packets than that are nothing to speak of.
    pub(super) least: u64,
    /// What shows it by hand; empty for the tracepoint itself.
    pub(super) command: &'static str,
    pub(super) fix: &'static str,
}

/// A few packets that stray are usual in every network.
const FEW: u64 = 3;
/// A traceroute sends three datagrams with each hop limit, to a port at which nobody listens.
const SOME: u64 = 5;
/// Happens to every busy host for a moment.
const MANY: u64 = 20;

/// What mac80211 can't use, as every radio hears it.
const WIRELESS: &str = "SUBSYSTEM_1_";

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
/// Neighbour solicitations and advertisements.
const NEIGHBOUR_DISCOVERY: [u16; 2] = [135, 136];

impl Blame {
    fn loss(cause: &'static Cause, layer: Layer, command: &'static str, fix: &'static str) -> Self {
        Self { cause, layer, rank: Rank::Loss, least: FEW, command, fix }
    }

    fn from(self, least: u64) -> Self {
        Self { least, ..self }
    }

    fn symptom(self) -> Self {
        Self { rank: Rank::Symptom, ..self }
    }
}

/// Returns what is wrong where a packet is dropped so, or nothing where that is usual.
pub(super) fn blame(dropped: &Dropped) -> Option<Blame> {
    if place::is_captured(dropped) || is_noise(dropped) {
        return None;
    }
    let reason = dropped.reason.as_str();
    if is_usual(reason) || reason.starts_with(WIRELESS) {
        return None;
    }
    filters(reason, dropped)
        .or_else(|| queues(reason, dropped))
        .or_else(|| internet(reason, dropped))
        .or_else(|| transport(reason, dropped))
        .unwrap_or_else(|| {
            let layer = if place::is_leaving(dropped) { Layer::Device } else { Layer::Ip };
            Some(Blame::loss(
                &causes::KERNEL_DROP,
                layer,
                "",
                "look the reason up in the kernel's include/net/dropreason-core.h",
            ))
        })
}

/// Multicast and other protocols than IP, that nobody has asked for. Neighbour discovery is needed, though, and ARP.
fn is_noise(dropped: &Dropped) -> bool {
    let is_needed = match dropped.ethertype {
        IPV4 | IPV6 if !dropped.is_to_many => return false,
        IPV6 => dropped.protocol == ICMP6 && NEIGHBOUR_DISCOVERY.contains(&dropped.ports.0),
        ARP => true,
        _ => false,
    };
    let filters = ["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP"];
    !(is_needed && (filters.contains(&dropped.reason.as_str()) || place::is_in(dropped, "xdp")))
}

/// What every healthy host drops: what has come twice or too late, what was for sockets that are closed, and what is no loss.
fn is_usual(reason: &str) -> bool {
    const USUAL: &[&str] = &[
        "SKB_NOT_DROPPED_YET",
        "NOT_DROPPED_YET",
        "SKB_CONSUMED",
        "CONSUMED",
        "SOCKET_CLOSE",
        "QUEUE_PURGE",
        "SOCKET_DESTROYED",
        "UNIX_DISCONNECT",
        "UNIX_SKIP_OOB",
        "TCP_ZEROWINDOW",
        "TCP_OLD_DATA",
        "TCP_OFOMERGE",
        "TCP_OLD_SEQUENCE",
        "TCP_RESET",
        "TCP_CLOSE",
        "TCP_FASTOPEN",
        "TCP_OLD_ACK",
        "TCP_TOO_OLD_ACK",
        "TCP_ABORT_ON_DATA",
        "TCP_FLAGS",
        "TCP_INVALID_SYN",
        "TCP_RFC7323_PAWS_ACK",
        "TCP_RFC7323_TW_PAWS",
        "TCP_ACK_UNSENT_DATA",
        "IPV6DISABLED",
        "PACKET_SOCK_ERROR",
        "UNHANDLED_PROTO",
        "UNICAST_IN_L2_MULTICAST",
        "IPV6_NDISC_NS_OTHERHOST",
        "IPV6_NDISC_BAD_OPTIONS",
        "IPV6_NDISC_BAD_CODE",
        "IPV6_NDISC_HOP_LIMIT",
        "IPV6_NDISC_FRAG",
        "DEV_READY",
        "MAC_IEEE_MAC_CONTROL",
        "LOCAL_MAC",
        "PFMEMALLOC",
        "ARP_PVLAN_DISABLE",
        "BRIDGE_INGRESS_STP_STATE",
        "CAN_RX_INVALID_FRAME",
        "CANFD_RX_INVALID_FRAME",
        "CANXL_RX_INVALID_FRAME",
        "SKB_UCOPY_FAULT",
        "QDISC_CONGESTED",
        "DUALPI2_STEP_DROP",
        "FQ_HORIZON_LIMIT",
        "DUP_FRAG",
        "TAP_FILTER",
        "TAP_TXFILTER",
    ];
    USUAL.contains(&reason)
}

/// `Some(None)`: usual; `None`: another table's.
type Verdict = Option<Option<Blame>>;

/// Those that an administrator or a program has set up.
/// Tells whether a segment is one of a path check's ([`crate::peer`]): one of its ports is always among those.
fn is_path_check(dropped: &Dropped) -> bool {
    let (source, destination) = dropped.ports;
    dropped.protocol == TCP && (PORTS.contains(&source) || PORTS.contains(&destination))
}

fn filters(reason: &str, dropped: &Dropped) -> Verdict {
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
            "the program that owns the socket filters what it receives: correct its filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)",
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
        "a BPF program of the control group drops (systemd's IPAddressDeny=, a container's policy): correct it",
    ))
}

/// Devices and their queues.
fn queues(reason: &str, dropped: &Dropped) -> Verdict {
    let device = |fix| Blame::loss(&causes::DEVICE_TX_DROP, Layer::Device, "ip -s link; ethtool -S DEV", fix);
    Some(Some(match reason {
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "CAKE_FLOOD" | "FQ_BAND_LIMIT" | "FQ_FLOW_LIMIT" => {
            Blame::loss(&causes::QDISC_DROP, Layer::Qdisc, "tc -s qdisc show dev DEV",
                "raise the queue's limit or rate, or send less: tc qdisc replace dev DEV root …")
        }
        "CPU_BACKLOG" => Blame::loss(&causes::BACKLOG_FULL, Layer::Backlog, "cat /proc/net/softnet_stat",
            "raise net.core.netdev_max_backlog, or spread the packets over more processors (RSS, RPS)"),
        "FULL_RING" if dropped.ethertype != 0 => device("whoever reads the device (TUN, TAP, virtual machine) is too slow: make its queue longer").from(SOME),
        "NO_TX_TARGET" => device("the device has nowhere to send to: look at its members or its remote end"),
        "RECURSION_LIMIT" => device("devices are stacked in a loop"),
        "DEV_HDR" | "MAC_INVALID_SOURCE" | "HDR_TRUNC" | "PKT_TOO_SMALL" => {
            Blame::loss(&causes::DEVICE_ERRORS, Layer::Device, "ip -s -s link", "frames are cut or broken: look at the sender and the link")
        }
        "OTHERHOST" => Blame::loss(&causes::WRONG_MAC, Layer::Device, "tcpdump -e -n -i DEV; ip link show dev DEV; ip neigh",
            "the sender has an old or wrong neighbour entry for this host: correct it there (ip neigh flush), \
             or whoever re-sends frames must set the next hop's address").from(SOME),
        "NEIGH_CREATEFAIL" | "NEIGH_FAILED" | "NEIGH_QUEUEFULL" | "NEIGH_DEAD" | "NEIGH_HH_FILLFAIL" => {
            Blame::loss(&causes::NEIGHBOUR_FAILED, Layer::Neighbour, "ip neigh show nud failed",
                "the next hop does not answer: is its address right, is it up, is it on this link?")
        }
        "SKB_CSUM" | "SKB_GSO_SEG" => device("the kernel could not finish checksums or segments for the device: look at its offloads (ethtool -k DEV)"),
        _ => return None,
    }))
}

/// IP, routing, fragments.
fn internet(reason: &str, dropped: &Dropped) -> Verdict {
    let address = |fix| {
        Blame::loss(
            &causes::ADDRESS_ERRORS,
            Layer::Ip,
            "nstat -az IpInAddrErrors Ip6InAddrErrors; ip route",
            fix,
        )
    };
    let routes = "nstat -az IpInNoRoutes IpOutNoRoutes Ip6InNoRoutes; ip route get ADDRESS";
    Some(Some(match reason {
        "IP_RPFILTER" => Blame::loss(
            &causes::REVERSE_PATH_FILTER,
            Layer::Routing,
            "nstat -az TcpExtIPReversePathFilter; sysctl -a | grep rp_filter",
            "set net.ipv4.conf.{all,DEV}.rp_filter to 2 (loose) or 0, or let the way back be the same",
        ),
        "IP_INNOROUTES" | "IP_OUTNOROUTES" => Blame::loss(
            &causes::NO_ROUTE_FOR_RECEIVED,
            Layer::Routing,
            routes,
            "add the route that is missing",
        ),
        "NOT_SPECIFIED" if is_refused_by_route(dropped) => Blame::loss(
            &causes::ROUTE_REFUSES,
            Layer::Routing,
            "ip route show table all | grep -e blackhole -e unreachable -e prohibit; ip rule",
            "take away the route or rule that refuses the packets",
        ),
        "NOT_SPECIFIED" => return Some(None),
        "IP_INADDRERRORS" => address(
            "packets are not for this host and it does not forward: switch forwarding on (net.ipv4.ip_forward, \
             net.ipv6.conf.all.forwarding), or correct the route that leads here",
        ),
        "IP_LOCAL_SOURCE" | "IP_INVALID_SOURCE" | "IP_LOCALNET" | "IP_INVALID_DEST" => {
            address("the source or destination can't come from outside (martian): find who sends that")
        }
        // That a hop limit has run out has no reason of its own, but it is judged only by who forwards.
        "IP_INHDR" if place::is_in(dropped, "forward") => Blame::loss(
            &causes::HOP_LIMIT,
            Layer::Ip,
            "tcpdump -v -n -i DEV; traceroute ADDRESS",
            "look for a routing loop, or let the sender use a larger hop limit",
        )
        .from(SOME),
        "IP_INHDR" | "IPV6_BAD_EXTHDR" | "INVALID_PROTO" | "IP_TUNNEL_ECN" => Blame::loss(
            &causes::HEADER_ERRORS,
            Layer::Ip,
            "nstat -az IpInHdrErrors Ip6InHdrErrors",
            "find who sends broken headers",
        ),
        "IP_NOPROTO" => Blame::loss(
            &causes::HEADER_ERRORS,
            Layer::Ip,
            "nstat -az IpInUnknownProtos",
            "nobody here takes that protocol",
        )
        .from(SOME),
        "IP_CSUM" => checksum(Layer::Ip),
        "PKT_TOO_BIG" => Blame::loss(
            &causes::PACKET_TOO_BIG,
            Layer::Ip,
            "ip link; ip route get ADDRESS",
            "let ICMP 'too big' errors reach the sender, clamp the MSS, or make the MTUs equal",
        ),
        "FRAG_REASM_TIMEOUT" | "FRAG_TOO_FAR" => Blame::loss(
            &causes::REASSEMBLY_FAILED,
            Layer::Ip,
            "nstat -az IpReasmFails Ip6ReasmFails",
            "fragments are lost or come too late: send smaller packets, or raise net.ipv4.ipfrag_high_thresh",
        ),
        "VXLAN_INVALID_HDR"
        | "VXLAN_VNI_NOT_FOUND"
        | "VXLAN_ENTRY_EXISTS"
        | "TUNNEL_TXINFO"
        | "PSP_INPUT"
        | "PSP_OUTPUT" => Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Device,
            "ip -d link",
            "the tunnel's ends are set up differently",
        ),
        _ => return None,
    }))
}

/// Routes of types blackhole, unreachable, prohibit drop without a reason, in functions of their own.
fn is_refused_by_route(dropped: &Dropped) -> bool {
    let refusing =
        ["ip_error", "dst_discard_out", "dst_discard", "ip6_pkt_discard", "ip6_pkt_prohibit", "ip6_pkt_drop"];
    dropped.location.as_deref().is_some_and(|name| refusing.contains(&name))
}

fn checksum(layer: Layer) -> Blame {
    Blame::loss(
        &causes::CHECKSUM_ERRORS,
        layer,
        "nstat -az IpExtInCsumErrors UdpInCsumErrors TcpInCsumErrors; tcpdump -vv -n -i DEV",
        "the sender's checksum offload is not finished by anybody (ethtool -K DEV tx off there), or the path corrupts packets",
    )
}

/// TCP, UDP and their sockets.
fn transport(reason: &str, dropped: &Dropped) -> Verdict {
    let paws = |least| {
        Blame::loss(&causes::PAWS, Layer::Transport, "nstat -az TcpExtPAWSEstab",
        "the sender's timestamps go back: several hosts behind one address, or a middlebox that changes them").from(least)
    };
    let window = || {
        Blame::loss(
            &causes::OUT_OF_WINDOW,
            Layer::Transport,
            "nstat -az TcpExtTCPChallengeACK TcpExtTCPACKSkippedSeq",
            "something on the path changes sequence numbers, or connections are half open",
        )
        .symptom()
        .from(MANY)
    };
    let buffer = |cause, command| {
        Blame::loss(
            cause,
            Layer::Socket,
            command,
            "make the receive buffer larger (SO_RCVBUF, net.core.rmem_max, \
         net.ipv4.tcp_rmem), or the program faster",
        )
    };
    Some(Some(match reason {
        "NO_SOCKET" if dropped.protocol == UDP => Blame::loss(
            &causes::UDP_NO_PORT,
            Layer::Transport,
            "ss -lun; nstat -az UdpNoPorts",
            "start the program that should listen there, or correct the port or address it listens at",
        )
        .from(SOME),
        // Other segments without a socket are those of connections that are gone.
        "NO_SOCKET" if dropped.protocol == TCP && dropped.is_syn => Blame::loss(
            &causes::TCP_NO_PORT,
            Layer::Transport,
            "ss -ltn; nstat -az TcpOutRsts",
            "start the program that should listen there, or correct the port or address it listens at",
        )
        .symptom()
        .from(SOME),
        "NO_SOCKET" => return Some(None),
        "TCP_CSUM" | "UDP_CSUM" => checksum(Layer::Transport),
        "ICMP_CSUM" => checksum(Layer::Ip),
        "SOCKET_RCVBUFF" if dropped.protocol == UDP => {
            buffer(&causes::UDP_RECEIVE_BUFFER, "ss -uanm; nstat -az UdpRcvbufErrors")
        }
        "SOCKET_RCVBUFF" if matches!(dropped.protocol, ICMP | ICMP6) => return Some(None),
        "SOCKET_RCVBUFF" | "TCP_OFO_QUEUE_PRUNE" | "TCP_OFO_DROP" => {
            buffer(&causes::RECEIVE_BUFFER, "ss -tanm; nstat -az TcpExtRcvPruned TcpExtTCPRcvQDrop")
        }
        "PROTO_MEM" | "NOMEM" => Blame::loss(
            &causes::MEMORY_PRESSURE,
            Layer::Transport,
            "cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem net.ipv4.udp_mem",
            "raise net.ipv4.tcp_mem or net.ipv4.udp_mem, or give the host more memory",
        ),
        "SOCKET_BACKLOG" => Blame::loss(
            &causes::SOCKET_BACKLOG,
            Layer::Socket,
            "nstat -az TcpExtTCPBacklogDrop",
            "the program keeps its socket busy; raise net.core.rmem_max or SO_RCVBUF",
        ),
        "TCP_LISTEN_OVERFLOW" => Blame::loss(
            &causes::LISTEN_OVERFLOW,
            Layer::Socket,
            "ss -ltn; nstat -az TcpExtListenOverflows",
            "let the program accept faster, or raise its backlog and net.core.somaxconn",
        ),
        "TCP_RFC7323_PAWS" | "TCP_RFC7323_TSECR" => paws(SOME),
        "TCP_OVERWINDOW"
        | "TCP_INVALID_SEQUENCE"
        | "TCP_INVALID_END_SEQUENCE"
        | "TCP_INVALID_ACK_SEQUENCE" => window(),
        "TCP_MD5NOTFOUND" | "TCP_MD5UNEXPECTED" | "TCP_MD5FAILURE" | "TCP_AUTH_HDR" | "TCP_AONOTFOUND"
        | "TCP_AOUNEXPECTED" | "TCP_AOKEYNOTFOUND" | "TCP_AOFAILURE" => Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Transport,
            "nstat -az | grep -e MD5 -e TCPAO",
            "the ends' TCP-MD5 or TCP-AO keys differ, or only one has them",
        ),
        "TCP_MINTTL" => Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Transport,
            "nstat -az TcpExtTCPMinTTLDrop",
            "segments come with a smaller hop limit than the program asks for (IP_MINTTL)",
        ),
        _ => return None,
    }))
}

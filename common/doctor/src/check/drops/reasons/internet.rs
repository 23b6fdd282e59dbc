//! IP.

use super::{Blame, LEARNING, SOME, Verdict};
use crate::causes;
use crate::check::drops::place;
use crate::finding::Layer;
use crate::look::drops::Dropped;

/// IP, routing, fragments.
pub(super) fn internet(reason: &str, dropped: &Dropped) -> Verdict {
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
        )
        .symptom()
        .from(LEARNING),
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

pub(super) fn checksum(layer: Layer) -> Blame {
    Blame::loss(
        &causes::CHECKSUM_ERRORS,
        layer,
        "nstat -az IpExtInCsumErrors UdpInCsumErrors TcpInCsumErrors; tcpdump -vv -n -i DEV",
        "the sender's checksum offload is not finished by anybody (ethtool -K DEV \
         tx off there), or the path corrupts packets",
    )
}

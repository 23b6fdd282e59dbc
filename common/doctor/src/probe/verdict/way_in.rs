//! Who took what was to arrive, on this host or at the far one.

use super::Gap;
use crate::causes;
use crate::finding::{Cause, Finding, Layer, Rank};

/// Finds the cause of a gap on the way in, on this host or at the far one.
pub(super) fn arriving(gap: &Gap<'_>, is_elsewhere: bool, what: &str) -> Finding {
    let (cause, layer) = arriving_cause(gap);
    let place = if is_elsewhere { "on the far host" } else { "on this host" };
    let mut finding = Finding::new(cause, layer, Rank::Loss)
        .losing(gap.lost())
        .because(format!(
            "{place}, {} {what} were seen at '{}', and {} at '{}'",
            gap.seen, gap.from.place, gap.left, gap.to.place
        ))
        .seen_by(format!("{place}: {}", arriving_command(layer)))
        .mended_by(format!("{place}: {}", arriving_fix(cause)));
    if let Some(rule) = gap.to.suspects.first().filter(|_| layer_has_rules(layer)) {
        finding = finding.of(rule.split(": ").next().unwrap_or_default());
    }
    if is_elsewhere && finding.subject.is_empty() {
        finding = finding.of("far host");
    }
    gap.to
        .suspects
        .iter()
        .take(8)
        .fold(finding, |finding, suspect| finding.because(format!("{place}: {suspect}")))
}

fn layer_has_rules(layer: Layer) -> bool {
    matches!(layer, Layer::NetdevIngress | Layer::Prerouting | Layer::Input)
}

fn arriving_cause(gap: &Gap<'_>) -> (&'static Cause, Layer) {
    let says = |counter: &str| gap.to.suspects.iter().any(|suspect| suspect.contains(counter));
    let has_suspects = !gap.to.suspects.is_empty();
    match gap.layer() {
        Layer::Xdp => (&causes::XDP_DROP, Layer::Xdp),
        Layer::Device => (&causes::WRONG_MAC, Layer::Device),
        Layer::TcIngress if has_suspects => (&causes::TC_DROP, Layer::TcIngress),
        layer if layer_has_rules(layer) && has_suspects => (&causes::FIREWALL_DROP, layer),
        Layer::Ip if says("CsumErrors") => (&causes::CHECKSUM_ERRORS, Layer::Ip),
        Layer::Ip if says("InHdrErrors") => (&causes::HEADER_ERRORS, Layer::Ip),
        Layer::Routing if says("IPReversePathFilter") => (&causes::REVERSE_PATH_FILTER, Layer::Routing),
        Layer::Routing if says("InNoRoutes") => (&causes::NO_ROUTE_FOR_RECEIVED, Layer::Routing),
        Layer::Routing if says("InAddrErrors") => (&causes::ADDRESS_ERRORS, Layer::Routing),
        Layer::Transport if says("CsumErrors") => (&causes::CHECKSUM_ERRORS, Layer::Transport),
        Layer::Transport if says("RcvbufErrors") => (&causes::UDP_RECEIVE_BUFFER, Layer::Socket),
        Layer::Transport if says("NoPorts") => (&causes::UDP_NO_PORT, Layer::Socket),
        Layer::Transport if says("ListenOverflows") => (&causes::LISTEN_OVERFLOW, Layer::Socket),
        layer => (&causes::LOST_BETWEEN_LAYERS, layer),
    }
}

fn arriving_command(layer: Layer) -> &'static str {
    match layer {
        Layer::Xdp | Layer::TcIngress => "bpftool net; tc -s filter show dev INTERFACE ingress",
        Layer::NetdevIngress | Layer::Prerouting | Layer::Input => "nft -a list ruleset",
        Layer::Device => "tcpdump -eni INTERFACE, and ip link for the address that it should be",
        Layer::Routing => "nstat -az IpExtInNoRoutes IpInAddrErrors TcpExtIPReversePathFilter",
        _ => "nstat -az",
    }
}

fn arriving_fix(cause: &Cause) -> &'static str {
    match cause.id {
        "xdp-drop" => "ip link set dev INTERFACE xdp off, or mend the program",
        "tc-drop" => "detach the program or filter, or mend it",
        "firewall-drop" => "accept what is meant to pass before the rule that drops",
        "wrong-mac" => "correct the sender's neighbour entry, or what re-sends with these addresses",
        "reverse-path-filter" => "give it a route back by the same interface, or set rp_filter to 2 or 0",
        "checksum-errors" => {
            "switch off transmit checksum offload at the sender, or mend what changes packets"
        }
        _ => "see the evidence",
    }
}

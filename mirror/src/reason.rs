//! Why a mirrored packet was not sent on. Every variant is a counter.

rtt0_core::reasons! {
    /// Where a packet ended that was captured and not sent on.
    DropReason {
        /// The outer IP or UDP header contradicts itself or the captured length.
        OuterMalformed => "outer_malformed",
        /// The outer packet is a fragment: a mirror's packets that exceed the path's MTU are fragmented, and are not put
        /// together again here.
        OuterFragment => "outer_fragment",
        /// UDP to a port on which no tunnel is expected, or no UDP at all.
        NoTunnel => "no_tunnel",
        /// The outer UDP checksum is not zero and wrong.
        OuterChecksum => "outer_checksum",
        /// Several packets that receive offload has merged: switch GRO and TSO off on the interface (on a veth pair, segmentation
        /// offloads on its other end).
        Merged => "merged",
        /// The tunnel's header is cut, or its version, flags or option lengths are wrong (RFC 7348 §5, RFC 8926 §3.4).
        TunnelMalformed => "tunnel_malformed",
        /// A GENEVE option that must be understood, and is not (RFC 8926 §3.5).
        CriticalOption => "critical_option",
        /// The tunnel carries neither Ethernet nor IP.
        TunnelProtocol => "tunnel_protocol",
        /// A virtual network identifier that is not asked for.
        Vni => "vni",
        /// The inner Ethernet header is cut.
        FrameMalformed => "frame_malformed",
        /// The inner frame carries no IP: ARP, for example.
        NotIp => "not_ip",
        /// The inner IP, TCP, UDP or ICMP header contradicts itself.
        InnerMalformed => "inner_malformed",
        /// The mirror has cut the inner packet: its IP header says that there is more than has come.
        Truncated => "truncated",
        /// An inner IP fragment: its ports are not known.
        InnerFragment => "inner_fragment",
        /// The inner packet carries neither TCP nor UDP nor ICMP.
        InnerProtocol => "inner_protocol",
        /// The inner source is on no list of allowed addresses.
        NotAllowed => "not_allowed",
        /// No rule matches.
        NoRule => "no_rule",
        /// A reply of a flow for which no translation is remembered.
        NoReply => "no_reply",
        /// The inner time to live has run out.
        HopLimit => "hop_limit",
        /// The kernel did not take it: no route, a full queue, larger than the MTU. The emission's own counters say why.
        NotSent => "not_sent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_meanings_say_something() {
        let labels: std::collections::HashSet<_> =
            DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.iter().all(|reason| reason.meaning().ends_with('.')));
    }

    #[test]
    fn the_documents_name_every_reason() {
        let text = include_str!("../../docs/MIRROR.md");
        for reason in DropReason::ALL {
            let row = format!("| `{}` | {} |", reason.label(), reason.meaning());
            assert!(text.contains(&row), "docs/MIRROR.md lacks: {row}");
        }
    }
}

//! What part of a connection a packet is, for scenarios that pick one.

use rtt0_core::packet::Packet;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;

/// A part of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A SYN; on the long leg with the NICs, the offer.
    Syn,
    /// A SYN-ACK; on the long leg with the NICs, the confirm.
    SynAck,
    /// A segment that only acknowledges.
    BareAck,
    /// Payload without FIN.
    Data,
    /// A FIN, with payload or without.
    Fin,
    /// A reset.
    Reset,
}

/// Returns the (source, destination) ports and the part; `None` if the packet is no TCP.
pub(super) fn part_of(packet: &mut Packet<'_>) -> Option<((u16, u16), Part)> {
    let segment = Segment::parse(packet).ok()?;
    let tcp = segment.tcp();
    let part = match tcp.flags() {
        flags if flags.contains(Flags::RST) => Part::Reset,
        flags if flags.is_syn_ack() => Part::SynAck,
        flags if flags.is_syn() => Part::Syn,
        flags if flags.contains(Flags::FIN) => Part::Fin,
        _ if segment.payload_length() > 0 => Part::Data,
        _ => Part::BareAck,
    };
    Some(((tcp.source_port(), tcp.destination_port()), part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::packet::Offload;
    use rtt0_core::wire::build::Control;

    #[test]
    fn parts_are_told_apart() {
        let cases = [
            (Flags::SYN, Part::Syn),
            (Flags::SYN | Flags::ACK, Part::SynAck),
            (Flags::ACK, Part::BareAck),
            (Flags::FIN | Flags::ACK, Part::Fin),
            (Flags::RST | Flags::ACK, Part::Reset),
        ];
        for (flags, part) in cases {
            let control = Control {
                source: ([10, 1, 0, 10].into(), 4000),
                destination: ([10, 1, 2, 10].into(), 8080),
                sequence: 1,
                acknowledgement: 2,
                flags,
                window: 3,
            };
            let mut bytes = Vec::new();
            control.write(&[], &mut bytes);
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            assert_eq!(part_of(&mut packet), Some(((4000, 8080), part)));
        }
    }
}

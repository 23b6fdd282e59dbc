//! The way of a reply that is given back to who has asked.

use rtt0_core::packet::{Offload, Packet};
use rtt0_core::time::Instant;

use crate::inner;
use crate::nat::SharedReplies;
use crate::pipeline::{Fate, Way};
use crate::reason::DropReason;

/// Gives replies the ends of the packets that they answer.
#[derive(Debug)]
pub struct Restore {
    flows: SharedReplies,
}

impl Restore {
    /// Makes one that goes by `flows`, which whoever forwards has to fill.
    pub fn new(flows: SharedReplies) -> Self {
        Self { flows }
    }
}

impl Way for Restore {
    fn lead(&mut self, now: Instant, packet: &mut Packet<'_>) -> Result<Fate, DropReason> {
        if packet.offload.gso_size != 0 {
            return Err(DropReason::Merged);
        }
        let inner = inner::parse(packet.bytes)?;
        if packet.offload.needs_csum {
            inner::complete_checksum(packet.bytes, &inner);
        }
        self.flows.restore(now, packet.bytes, &inner)?;
        packet.offload = Offload::default();
        Ok(Fate::Forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Matching, Rule};
    use etherparse::PacketBuilder;
    use rtt0_core::wire::checksum;

    const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 40_000);
    const SERVER: ([u8; 4], u16) = ([203, 0, 113, 9], 31_765);
    const TARGET: ([u8; 4], u16) = ([192, 0, 2, 95], 8_081);

    fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4(source.0, destination.0, 64).udp(source.1, destination.1);
        builder.write(&mut bytes, b"answer").unwrap();
        bytes
    }

    /// A way that remembers one flow.
    fn way(now: Instant) -> Restore {
        let flows = SharedReplies::default();
        let to = (TARGET.0.into(), Some(TARGET.1));
        let rule = Rule { name: "a".into(), matching: Matching::default(), to, from: None, replies: true };
        flows.note(now, &inner::parse(&udp(CLIENT, SERVER)).unwrap(), &rule);
        Restore::new(flows)
    }

    #[test]
    fn a_reply_comes_from_whom_was_asked_also_if_a_nic_was_to_finish_its_checksum() {
        let now = Instant::from_micros(5);
        let mut expected = udp(SERVER, CLIENT);
        // One router on the way, in both the field and the header's checksum.
        expected[8] -= 1;
        expected[10..12].copy_from_slice(&[0, 0]);
        let sum = !checksum::sum(&expected[..20]);
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
        for needs_csum in [false, true] {
            let mut bytes = udp(TARGET, CLIENT);
            if needs_csum {
                let length = bytes.len() - 20;
                let pseudo = checksum::pseudo_header(TARGET.0.into(), CLIENT.0.into(), 17, length);
                bytes[26..28].copy_from_slice(&pseudo.to_be_bytes());
            }
            // What fills up a short frame is none of it.
            bytes.extend([0; 12]);
            let mut packet = Packet { bytes: &mut bytes, offload: Offload { needs_csum, gso_size: 0 } };
            assert_eq!(way(now).lead(now, &mut packet), Ok(Fate::Forwarded));
            assert_eq!(packet.offload, Offload::default());
            assert_eq!(bytes[..expected.len()], expected, "partial: {needs_csum}");
        }
    }

    #[test]
    fn what_nobody_has_asked_for_and_what_is_merged_is_not_sent() {
        let now = Instant::from_micros(5);
        let lead = |mut bytes: Vec<u8>, gso_size| {
            let offload = Offload { needs_csum: gso_size > 0, gso_size };
            way(now).lead(now, &mut Packet { bytes: &mut bytes, offload })
        };
        assert_eq!(lead(udp(TARGET, (CLIENT.0, 1)), 0), Err(DropReason::NoReply));
        assert_eq!(lead(udp(TARGET, CLIENT), 1_448), Err(DropReason::Merged));
        let mut cut = udp(TARGET, CLIENT);
        cut.pop();
        assert_eq!(lead(cut, 0), Err(DropReason::Truncated));
    }
}

//! Recorded packets read as TCP segments, for scenarios that judge captures.

use crate::record::Record;
use rtt0_core::offer::is_offer;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::net::SocketAddr;
use std::time::Duration;

/// A TCP segment, or super-packet, as a device saw it.
#[derive(Debug, Clone)]
pub(super) struct Sighting {
    /// When.
    pub(super) at: Duration,
    /// Where, as `host:device`.
    pub(super) device: String,
    /// Whether the host sent it; else it received it.
    pub(super) outgoing: bool,
    /// The client's end of the connection.
    pub(super) client: SocketAddr,
    /// Whether it travels towards the server.
    pub(super) to_server: bool,
    /// TTL or hop limit.
    pub(super) hops: u8,
    /// SEG.SEQ.
    pub(super) sequence: u32,
    /// SEG.ACK.
    pub(super) acknowledgement: u32,
    /// The flags.
    pub(super) flags: Flags,
    /// SEG.WND, unscaled.
    pub(super) window: u16,
    /// The options, as they are.
    pub(super) options: Vec<u8>,
    /// Bytes of payload.
    pub(super) payload: u32,
    /// Whether the NICs' signalling option is among the options.
    pub(super) signals: bool,
    /// Whether the checksums hold; a partial TCP checksum does by definition.
    pub(super) sound: bool,
}

impl Sighting {
    /// Reads a record. `None` if it is no TCP of `server`.
    pub(super) fn read(record: &Record, server: SocketAddr) -> Option<Self> {
        let mut bytes = record.bytes.clone();
        let sound = checksums_hold(record);
        let hops = if server.is_ipv4() { *bytes.get(8)? } else { *bytes.get(7)? };
        let offload = Offload { needs_csum: record.needs_csum, gso_size: record.gso_size };
        let mut packet = Packet { bytes: &mut bytes, offload };
        let segment = Segment::parse(&mut packet).ok()?;
        let (source, destination) = (segment.source(), segment.destination());
        let to_server = SocketAddr::from(destination) == server;
        if !to_server && SocketAddr::from(source) != server {
            return None;
        }
        let tcp = segment.tcp();
        Some(Self {
            at: record.at,
            device: record.interface.clone(),
            outgoing: record.outgoing,
            client: if to_server { source.into() } else { destination.into() },
            to_server,
            hops,
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            flags: tcp.flags(),
            window: tcp.window(),
            options: tcp.option_bytes().to_vec(),
            payload: u32::try_from(segment.payload_length()).ok()?,
            signals: tcp.options().map_while(Result::ok).any(|option| is_offer(&option)),
            sound,
        })
    }

    /// Tells whether this and `other` have the same contents: a packet seen at both ends of a
    /// link, or one that was sent twice.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let numbers = |s: &Self| (s.client, s.to_server, s.sequence, s.acknowledgement, s.payload, s.window);
        numbers(self) == numbers(other) && self.flags == other.flags && self.options == other.options
    }

    /// Tells whether it carries a SYN (and, as asked, an ACK).
    pub(super) fn is_syn(&self, acknowledges: bool) -> bool {
        if acknowledges { self.flags.is_syn_ack() } else { self.flags.is_syn() }
    }
}

/// Verifies the checksums of the IPv4 header and of TCP by RFC 1071's own definition, and not by
/// the code that made them.
fn checksums_hold(record: &Record) -> bool {
    let bytes = &record.bytes;
    let (header, addresses) = match bytes.first().map(|byte| byte >> 4) {
        Some(4) => (usize::from(bytes[0] & 15) * 4, 12..20),
        Some(6) => (40, 8..40),
        _ => return false,
    };
    let (Some(ip), Some(tcp), Some(addresses)) =
        (bytes.get(..header), bytes.get(header..), bytes.get(addresses))
    else {
        return false;
    };
    if bytes[0] >> 4 == 4 && sum(ip) != 0xffff {
        return false;
    }
    let mut covered = addresses.to_vec();
    covered.extend((tcp.len() as u32).to_be_bytes());
    covered.extend([0, 6]);
    covered.extend(tcp);
    record.needs_csum || sum(&covered) == 0xffff
}

/// One's complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::wire::build::Control;

    const SERVER: ([u8; 4], u16) = ([10, 1, 2, 10], 8080);

    fn record(needs_csum: bool) -> Record {
        let control = Control {
            source: ([10, 1, 0, 10].into(), 4000),
            destination: (SERVER.0.into(), SERVER.1),
            sequence: 1,
            acknowledgement: 2,
            flags: Flags::ACK,
            window: 3,
        };
        let mut bytes = Vec::new();
        control.write(&[], &mut bytes);
        let (interface, length) = ("client:eth0".to_owned(), bytes.len());
        Record { at: Duration::ZERO, interface, outgoing: true, bytes, length, needs_csum, gso_size: 0 }
    }

    #[test]
    fn a_segment_is_read_with_its_end_of_the_connection() {
        let seen = Sighting::read(&record(false), SERVER.into()).unwrap();
        assert_eq!((seen.client, seen.to_server), (([10, 1, 0, 10], 4000).into(), true));
        assert_eq!((seen.sequence, seen.acknowledgement, seen.window, seen.hops), (1, 2, 3, 64));
        assert!(seen.sound && !seen.signals);
        assert!(Sighting::read(&record(false), ([10, 1, 2, 10], 80).into()).is_none());
    }

    #[test]
    fn any_flipped_bit_is_unsound_unless_the_checksum_is_partial() {
        for at in 0..40 {
            let mut bad = record(false);
            bad.bytes[at] ^= 4;
            assert!(!checksums_hold(&bad), "byte {at}");
        }
        let mut partial = record(true);
        partial.bytes[36] ^= 4;
        assert!(checksums_hold(&partial));
    }
}

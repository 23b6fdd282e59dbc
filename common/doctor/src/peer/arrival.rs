//! What has come of a segment: its fields, and which of them are others than when it left.

use std::net::SocketAddr;

use rtt0_core::packet::{Offload, Packet};
use rtt0_core::wire::icmp::Quote;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use rtt0_core::wire::options::{self, kind};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, MIN_HEADER};
use serde::{Deserialize, Serialize};

use super::order::{Order, Shape};

/// Something that a tap has caught: numbers and flags only, none of its bytes but TCP options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Caught {
    /// A segment.
    Segment(Arrival),
    /// A router said that a segment sent from here was too big.
    TooBig(TooBig),
}

/// An ICMP error: fragmentation needed (RFC 1191), or packet too big (RFC 4443 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooBig {
    /// Who sent the segment that it quotes.
    pub source: SocketAddr,
    /// Whom that was for.
    pub destination: SocketAddr,
    /// The next link's MTU in bytes; 0 from routers that don't tell.
    pub mtu: u32,
}

/// A segment as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Whom it came from.
    pub source: SocketAddr,
    /// Whom it was for.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of the whole packet.
    pub length: u16,
    /// SEG.SEQ.
    pub sequence: u32,
    /// SEG.ACK.
    pub acknowledgement: u32,
    /// Control bits ([`Flags::bits`]).
    pub flags: u16,
    /// SEG.WND as it stood on the wire.
    pub window: u16,
    /// TCP options, 40 bytes at most.
    pub options: Vec<u8>,
    /// Whether the checksum is right.
    pub is_checksum_right: bool,
    /// Whether the data is what a doctor sends.
    pub is_data_right: bool,
}

/// Something that the path has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Where it comes from.
    Source(SocketAddr, SocketAddr),
    /// Whom it is for.
    Destination(SocketAddr, SocketAddr),
    /// SEG.SEQ.
    Sequence(u32, u32),
    /// SEG.ACK.
    Acknowledgement(u32, u32),
    /// ECE or CWR.
    EcnFlags(u16, u16),
    /// Other control bits.
    Flags(u16, u16),
    /// SEG.WND.
    Window,
    /// The MSS option's value.
    Mss(u16, u16),
    /// An option is missing.
    OptionMissing(u8),
    /// An option's value.
    OptionValue(u8),
    /// An option that was not sent.
    OptionAdded(u8),
    /// DSCP.
    Dscp(u8, u8),
    /// The ECN field of the IP header.
    Ecn(u8, u8),
    /// The data, or its length.
    Data,
    /// The checksum is wrong.
    Checksum,
}

impl Caught {
    /// Reads an IP packet. `None` if it is nothing of the kind.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let mut bytes = packet.to_vec();
        if let Some(too_big) = TooBig::read(&mut bytes) {
            return Some(Self::TooBig(too_big));
        }
        let (hop_limit, traffic_class) = hops_and_class(packet)?;
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let segment = Segment::parse(&mut packet).ok()?;
        let tcp = segment.tcp();
        let data = tcp.payload();
        let endpoint = |(address, port)| SocketAddr::new(address, port);
        Some(Self::Segment(Arrival {
            source: endpoint(segment.source()),
            destination: endpoint(segment.destination()),
            hop_limit,
            traffic_class,
            length: segment.bytes().len() as u16,
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            flags: tcp.flags().bits(),
            window: tcp.window(),
            options: tcp.option_bytes().to_vec(),
            is_checksum_right: segment.checksum_ok(),
            is_data_right: data.iter().zip(MIN_HEADER..).all(|(&byte, at)| byte == at as u8),
        }))
    }
}

impl TooBig {
    fn read(packet: &mut [u8]) -> Option<Self> {
        let at = match packet.first()? >> 4 {
            4 => usize::from(packet.first()? & 0x0f) * 4,
            _ => 40,
        };
        let header = packet.get(at..at + 8)?.to_vec();
        let is_ipv4 = at < 40 || packet.first()? >> 4 == 4;
        let mtu = match (is_ipv4, header[0], header[1]) {
            (true, 3, 4) => u32::from(u16::from_be_bytes([header[6], header[7]])),
            (false, 2, _) => u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            _ => return None,
        };
        let quote = Quote::parse(packet).ok()?;
        let endpoint = |(address, port)| SocketAddr::new(address, port);
        Some(Self { source: endpoint(quote.source()), destination: endpoint(quote.destination()), mtu })
    }
}

fn hops_and_class(packet: &[u8]) -> Option<(u8, u8)> {
    match packet.first()? >> 4 {
        4 => Some((Ipv4::unverified(packet).ok()?.ttl(), *packet.get(1)?)),
        6 => Some((Ipv6::unverified(packet).ok()?.hop_limit(), packet[0] << 4 | packet.get(1)? >> 4)),
        _ => None,
    }
}

impl Arrival {
    /// Tells whether it may be a certain segment, judging by fields that are seldom changed besides its number.
    pub fn resembles(&self, order: &Order) -> bool {
        let flags = Flags::from_bits(self.flags).without(Flags::ECN).without(Flags::URG);
        flags == order.flags().without(Flags::ECN).without(Flags::URG)
    }

    /// Returns everything that is other than when it left one end for the other.
    pub fn changes(&self, order: &Order, from: SocketAddr, to: SocketAddr) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut note = |is_changed: bool, change: Change| {
            if is_changed {
                changes.push(change);
            }
        };
        note(self.source != from, Change::Source(from, self.source));
        note(self.destination != to, Change::Destination(to, self.destination));
        note(self.sequence != order.sequence, Change::Sequence(order.sequence, self.sequence));
        let acknowledgement = order.acknowledgement;
        note(
            self.acknowledgement != acknowledgement,
            Change::Acknowledgement(acknowledgement, self.acknowledgement),
        );
        let (sent, come) = (order.flags(), Flags::from_bits(self.flags));
        let ecn = |flags: Flags| flags.bits() & Flags::ECN.bits();
        note(ecn(sent) != ecn(come), Change::EcnFlags(ecn(sent), ecn(come)));
        let (sent, come) = (sent.without(Flags::ECN), come.without(Flags::ECN));
        note(sent != come, Change::Flags(sent.bits(), come.bits()));
        note(Order::number_of(self.window) != Some(order.number), Change::Window);
        let (dscp, ecn) = (order.traffic_class >> 2, order.traffic_class & 3);
        note(self.traffic_class >> 2 != dscp, Change::Dscp(dscp, self.traffic_class >> 2));
        note(self.traffic_class & 3 != ecn, Change::Ecn(ecn, self.traffic_class & 3));
        let is_longer = order.shape == Shape::Data && self.length != order.length.max(self.header_length());
        note(is_longer || (order.shape == Shape::Data && !self.is_data_right), Change::Data);
        note(!self.is_checksum_right, Change::Checksum);
        self.option_changes(&order.option_bytes(), &mut changes);
        changes
    }

    fn header_length(&self) -> u16 {
        let ip = if self.destination.is_ipv4() { 20 } else { 40 };
        ip + MIN_HEADER as u16 + self.options.len() as u16
    }

    fn option_changes(&self, sent: &[u8], changes: &mut Vec<Change>) {
        let (sent, come) = (by_kind(sent), by_kind(&self.options));
        for (kind, value) in &sent {
            match come.iter().find(|(other, _)| other == kind) {
                None => changes.push(Change::OptionMissing(*kind)),
                Some((_, other)) if other == value => {}
                Some((_, other)) if *kind == kind::MSS => {
                    changes.push(Change::Mss(number(value), number(other)))
                }
                Some(_) => changes.push(Change::OptionValue(*kind)),
            }
        }
        let added = come.iter().filter(|(kind, _)| !sent.iter().any(|(other, _)| other == kind));
        changes.extend(added.map(|(kind, _)| Change::OptionAdded(*kind)));
    }
}

/// Returns all options but NOPs and the end, as far as they can be read.
fn by_kind(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    options::Options::new(bytes)
        .map_while(Result::ok)
        .filter(|option| !matches!(option.kind, kind::NOP | kind::END))
        .map(|option| (option.kind, option.value))
        .collect()
}

fn number(value: &[u8]) -> u16 {
    value.iter().fold(0, |all, &byte| all << 8 | u16::from(byte))
}

#[cfg(test)]
mod tests {
    use super::super::order::Options;
    use super::*;
    use proptest::prelude::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        ("10.0.0.1:9643".parse().unwrap(), "10.0.0.2:9650".parse().unwrap())
    }

    fn sent(order: &Order) -> Vec<u8> {
        let mut packet = order.packet(ends().0, ends().1);
        Ipv4::unverified(&mut packet[..]).unwrap().fill_checksum();
        packet
    }

    fn arrival(packet: &[u8]) -> Arrival {
        match Caught::read(packet) {
            Some(Caught::Segment(arrival)) => arrival,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_comes_as_it_left_is_unchanged() {
        for shape in [Shape::Syn, Shape::SynAck, Shape::Data] {
            for options in [Options::None, Options::Usual, Options::Offer] {
                let length = if shape == Shape::Data && options == Options::None { 300 } else { 0 };
                let mut order = Order { options, length, mss: 1460, ..Order::new(3, shape, 9, 10) };
                order.traffic_class = 0xb9;
                let come = arrival(&sent(&order));
                assert_eq!(come.changes(&order, ends().0, ends().1), [], "{shape:?} {options:?}");
                assert_eq!(come.hop_limit, 64);
            }
        }
    }

    #[test]
    fn every_change_is_told() {
        let order = Order { options: Options::Offer, mss: 1460, ..Order::new(3, Shape::Syn, 9, 0) };
        let mut packet = sent(&order);
        // The signalling option turned into NOPs, the MSS clamped, the ISN moved; no checksum is mended.
        packet[40..60].fill(kind::NOP);
        packet[62..64].copy_from_slice(&1300u16.to_be_bytes());
        packet[27] = 10;
        let changes = arrival(&packet).changes(&order, ends().0, ends().1);
        let expected = [
            Change::Sequence(9, 10),
            Change::Checksum,
            Change::OptionMissing(kind::EXPERIMENT),
            Change::Mss(1460, 1300),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn routers_say_what_is_too_big() {
        let order = Order { length: 1400, ..Order::new(3, Shape::Data, 9, 10) };
        let quoted = &sent(&order)[..28];
        let mut icmp = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 10, 0, 0, 1];
        icmp.extend([3, 4, 0, 0, 0, 0, 0x05, 0x14]);
        icmp.extend(quoted);
        Ipv4::unverified(&mut icmp[..]).unwrap().fill_checksum();
        let (source, destination) = ends();
        assert_eq!(Caught::read(&icmp), Some(Caught::TooBig(TooBig { source, destination, mtu: 1300 })));
    }

    proptest! {
        #[test]
        fn reads_anything(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0usize..3) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = [0x45, 0x60, *byte][first];
            }
            let _ = Caught::read(&bytes);
        }
    }
}

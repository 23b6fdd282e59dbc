//! What the two doctors send one another: segments of a few kinds, described in numbers and never in bytes, so that neither
//! can be had to send anything else.

use std::net::{IpAddr, SocketAddr};

use rtt0_core::offer;
use rtt0_core::wire::PROTOCOL_TCP;
use rtt0_core::wire::checksum::{add, pseudo_header, sum};
use rtt0_core::wire::options::kind;
use rtt0_core::wire::tcp::{Flags, MIN_HEADER};
use serde::{Deserialize, Serialize};

/// Hop limit that all of them begin with.
pub const HOP_LIMIT: u8 = 64;
/// SEG.WND of number 0. Which one a segment is, is told by its window: of all fields the least often changed. It is large enough for
/// a firewall that follows windows to let data pass.
const FIRST_WINDOW: u16 = 30_000;
/// Numbers that there are.
pub const NUMBERS: u16 = u16::MAX - FIRST_WINDOW;
/// Length of the IPv4 and the IPv6 header.
const IP_HEADER: (usize, usize) = (20, 40);
/// Where the urgent pointer points, if it is set.
const URGENT: u16 = 1;
/// Window scale offered.
const WINDOW_SCALE: u8 = 7;
/// Version of the signalling option that no NIC knows: theirs are not imitated.
const NO_VERSION: u8 = 0xf0;

/// Which segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The first of a connection.
    Syn,
    /// Its answer.
    SynAck,
    /// An acknowledgement, with as much data as fills the length.
    Data,
    /// The end of a connection, for firewalls that remember it.
    Reset,
}

/// Which TCP options it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Options {
    /// None.
    None,
    /// MSS, SACK-permitted, timestamps, window scale.
    Usual,
    /// Before those the NICs' signalling option, unsigned.
    Offer,
}

/// A segment to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which it is: below [`NUMBERS`].
    pub number: u16,
    /// Which segment.
    pub shape: Shape,
    /// SEG.SEQ.
    pub sequence: u32,
    /// SEG.ACK.
    pub acknowledgement: u32,
    /// Its options.
    pub options: Options,
    /// The MSS among them, in bytes.
    pub mss: u16,
    /// Whether it negotiates ECN (RFC 3168 §6.1.1).
    pub is_ecn_setup: bool,
    /// Whether it has URG.
    pub is_urgent: bool,
    /// DSCP (6 bits) and ECN (2 bits) of the IP header.
    pub traffic_class: u8,
    /// Bytes of the whole packet; as many as its headers have if that is more.
    pub length: u16,
}

impl Order {
    /// Returns one of a kind, without options, ECN, URG and data.
    pub fn new(number: u16, shape: Shape, sequence: u32, acknowledgement: u32) -> Self {
        Self {
            number,
            shape,
            sequence,
            acknowledgement,
            options: Options::None,
            mss: 0,
            is_ecn_setup: false,
            is_urgent: false,
            traffic_class: 0,
            length: 0,
        }
    }

    /// Returns the number that a SEG.WND stands for, if any.
    pub fn number_of(window: u16) -> Option<u16> {
        window.checked_sub(FIRST_WINDOW)
    }

    /// Returns the control bits it is sent with.
    pub fn flags(&self) -> Flags {
        let (ecn, bits) = match self.shape {
            Shape::Syn => (Flags::ECE.bits() | Flags::CWR.bits(), Flags::SYN.bits()),
            Shape::SynAck => (Flags::ECE.bits(), Flags::SYN.bits() | Flags::ACK.bits()),
            Shape::Data => (0, Flags::ACK.bits() | Flags::PSH.bits()),
            Shape::Reset => (0, Flags::ACK.bits() | Flags::RST.bits()),
        };
        let ecn = if self.is_ecn_setup { ecn } else { 0 };
        let urgent = if self.is_urgent { Flags::URG.bits() } else { 0 };
        Flags::from_bits(bits | ecn | urgent)
    }

    /// Returns the whole packet from one end to the other, which are of one IP version.
    pub fn packet(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let ip_header = if to.is_ipv4() { IP_HEADER.0 } else { IP_HEADER.1 };
        let segment = self.segment(from, to, ip_header);
        let mut packet = Vec::with_capacity(ip_header + segment.len());
        // No longer than `length` or the headers, which are 16-bit numbers.
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, self.traffic_class]);
                packet.extend(((ip_header + segment.len()) as u16).to_be_bytes());
                // Don't Fragment; the kernel writes identification and checksum.
                packet.extend([0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_TCP, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            (from, to) => {
                packet.extend([0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
                packet.extend((segment.len() as u16).to_be_bytes());
                packet.extend([PROTOCOL_TCP, HOP_LIMIT]);
                packet.extend(octets(from));
                packet.extend(octets(to));
            }
        }
        packet.extend(segment);
        packet
    }

    fn segment(&self, from: SocketAddr, to: SocketAddr, ip_header: usize) -> Vec<u8> {
        let options = self.option_bytes();
        let header = MIN_HEADER + options.len();
        let length = usize::from(self.length).saturating_sub(ip_header).max(header);
        let mut segment = Vec::with_capacity(length);
        segment.extend(from.port().to_be_bytes());
        segment.extend(to.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.extend(((header as u16 / 4) << 12 | self.flags().bits()).to_be_bytes());
        segment.extend(FIRST_WINDOW.saturating_add(self.number).to_be_bytes());
        segment.extend([0, 0]);
        segment.extend((if self.is_urgent { URGENT } else { 0 }).to_be_bytes());
        segment.extend(options);
        segment.extend((header..length).map(|at| at as u8));
        let total = add(pseudo_header(from.ip(), to.ip(), PROTOCOL_TCP, length), sum(&segment));
        segment[16..18].copy_from_slice(&(!total).to_be_bytes());
        segment
    }

    /// Returns its TCP options, a multiple of 4 bytes.
    pub fn option_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.options == Options::Offer {
            bytes.extend(offer::PREFIX);
            bytes.push(NO_VERSION);
            bytes.extend(offer::PREFIX.len() as u8 + 1..offer::LENGTH as u8);
        }
        if self.options != Options::None {
            bytes.extend([kind::MSS, 4]);
            bytes.extend(self.mss.to_be_bytes());
            bytes.extend([kind::SACK_PERMITTED, 2, kind::TIMESTAMPS, 10]);
            bytes.extend(self.sequence.max(1).to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            bytes.extend([kind::NOP, kind::WINDOW_SCALE, 3, WINDOW_SCALE]);
        }
        bytes
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::packet::{Offload, Packet};
    use rtt0_core::wire::segment::Segment;

    #[test]
    fn packets_are_whole_and_their_checksums_right() {
        let ends = [("10.0.0.1:9643", "10.0.0.2:9650"), ("[fd00::1]:9643", "[fd00::2]:9650")];
        for (from, to) in ends.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap())) {
            for (shape, options, length, expected) in [
                (Shape::Syn, Options::Offer, 0, 5),
                (Shape::SynAck, Options::Usual, 0, 4),
                (Shape::Data, Options::None, 1281, 0),
            ] {
                let mut order = Order { options, length, mss: 1440, ..Order::new(7, shape, u32::MAX, 5) };
                order.is_urgent = true;
                let mut bytes = order.packet(from, to);
                if from.is_ipv4() {
                    // As the kernel would.
                    rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..]).unwrap().fill_checksum();
                }
                let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
                let segment = Segment::parse(&mut packet).unwrap();
                assert!(segment.checksum_ok());
                assert_eq!(Order::number_of(segment.tcp().window()), Some(7));
                assert_eq!(segment.tcp().flags(), order.flags());
                let sent =
                    segment.tcp().options().map(Result::unwrap).filter(|o| o.kind != kind::NOP).count();
                assert_eq!(sent, expected);
                if length > 0 {
                    assert_eq!(segment.bytes().len(), 1281);
                }
            }
        }
    }
}

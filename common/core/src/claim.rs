//! Which packets are the middlebox's to handle: the one definition that user space uses.
//!
//! The kernel guard (`rtt0-netio`, module `guard`) drops exactly the packets for which
//! [`claims`] returns `Some`, so that each is forwarded once: by us or by the kernel. The
//! function therefore reads a packet as nftables does, oddities included:
//!
//! - Lengths are checked against the *captured* bytes, trailing link padding included, since
//!   the guard stands before the kernel trims it.
//! - IPv6 hop-by-hop, routing and destination headers are stepped over; an authentication
//!   header ends the walk, so what it protects is never claimed.
//! - A later IPv4 fragment is never claimed; the first is, if it carries a whole TCP header of
//!   20 bytes. A packet with an IPv6 fragment header is never claimed, since nftables gives no
//!   reliable view behind it. (Routers don't fragment IPv6, and TCP senders have no need to.)
//! - Checksums are not looked at. A claimed packet whose IPv4 header checksum is wrong was
//!   dropped by the guard, and so it has to be dropped by the engine as well: the kernel would
//!   have done so, and a raw socket would write a correct one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::FlowKey;
use crate::offer;
use crate::service::{Direction, Services};

/// Why a packet is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A TCP segment between a client and a service; all 20 bytes of its header are there.
    Tcp(Direction),
    /// An ICMP error that quotes such a segment up to its sequence number: IPv4 type 3
    /// (RFC 792), IPv6 types 1 and 2 (RFC 4443).
    IcmpError {
        /// Which way the quoted segment was going; the error itself goes the other way.
        quoted: Direction,
    },
}

/// Tells whether `packet`, the captured bytes from the first one of the IP header on, is ours
/// to handle. Total: any input gets an answer.
///
/// ```
/// use rtt0_core::claim::claims;
/// use rtt0_core::service::Services;
/// assert_eq!(claims(&Services::default(), &[0x45, 0]), None);
/// ```
pub fn claims(services: &Services, packet: &[u8]) -> Option<Claim> {
    let outer = Outer::read(packet)?;
    let payload = packet.get(outer.transport..)?;
    match (outer.protocol, outer.source) {
        (TCP, _) => {
            payload.get(..TCP_HEADER)?;
            let (source, destination) = outer.ends(payload)?;
            Some(Claim::Tcp(services.direction(source, destination)?))
        }
        (ICMP, IpAddr::V4(_)) if payload.first() == Some(&3) => {
            quoted_claim(services, &outer, quoted_v4(payload.get(ICMP_HEADER..)?)?)
        }
        (ICMP_V6, IpAddr::V6(_)) if matches!(payload.first(), Some(1 | 2)) => {
            quoted_claim(services, &outer, quoted_v6(payload.get(ICMP_HEADER..)?)?)
        }
        _ => None,
    }
}

/// Tells which flow a claimed TCP segment will be found to be of, for looking ahead.
pub(crate) fn flow_of(services: &Services, packet: &[u8]) -> Option<FlowKey> {
    let outer = Outer::read(packet).filter(|outer| outer.protocol == TCP)?;
    let (source, destination) = outer.ends(packet.get(outer.transport..)?)?;
    let direction = services.direction(source, destination)?;
    Some(FlowKey::new(source, destination, direction))
}

/// What the kernel forwards by itself while a flood of SYNs lasts: the guard lets it through and
/// the captures leave it out, each by rules that say the same as [`Bypass::includes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bypass {
    /// Nothing: there is no flood.
    #[default]
    Nothing,
    /// SYNs towards services that no NIC has signed: all that a flood is made of.
    Syns,
    /// And SYN-ACKs from services that no NIC has signed. Only for an engine that waits for none.
    Handshakes,
}

impl Bypass {
    /// Tells whether `packet`, which would be claimed, is left to the kernel. Behind IPv6 extension
    /// headers nothing is.
    pub fn includes(self, services: &Services, packet: &[u8]) -> bool {
        match unsigned(services, packet) {
            Some(Direction::ToServer) => self != Self::Nothing,
            Some(Direction::ToClient) => self == Self::Handshakes,
            None => false,
        }
    }
}

/// Returns the direction of a claimed SYN towards a service or SYN-ACK from one that does not
/// begin its options with the signalling option.
fn unsigned(services: &Services, packet: &[u8]) -> Option<Direction> {
    let Claim::Tcp(direction) = claims(services, packet)? else { return None };
    let outer = Outer::read(packet).filter(|outer| outer.transport == 40 || !outer.source.is_ipv6())?;
    let segment = packet.get(outer.transport..)?;
    let (length, flags) = (*segment.get(12)?, *segment.get(13)?);
    let wanted = match direction {
        Direction::ToServer => SYN,
        Direction::ToClient => SYN_ACK,
    };
    let options = segment.get(TCP_HEADER..TCP_HEADER + offer::PREFIX.len());
    let is_unsigned = length >> 4 == 5 || options.is_some_and(|first| first != offer::PREFIX);
    (flags & SYN_AND_KIN == wanted && is_unsigned).then_some(direction)
}

/// The control bits that together make a segment a SYN: FIN, SYN, RST, ACK (RFC 9293 §3.1).
pub const SYN_AND_KIN: u8 = 0x17;
/// Those of a SYN.
pub const SYN: u8 = 0x02;
/// Those of a SYN-ACK.
pub const SYN_ACK: u8 = 0x12;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const ICMP_V6: u8 = 58;
const DESTINATION: u8 = 60;

/// Smallest TCP header in bytes (RFC 9293 §3.1).
const TCP_HEADER: usize = 20;
/// Bytes before the quoted packet in an ICMP error.
const ICMP_HEADER: usize = 8;
/// Ports and sequence number: what RFC 792 promises of a quoted segment.
const QUOTED_TCP: usize = 8;

type Endpoint = (IpAddr, u16);

/// What is read from the outer header.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Offset of the transport header.
    transport: usize,
}

impl Outer {
    /// Reads the ports that `payload` begins with.
    fn ends(&self, payload: &[u8]) -> Option<(Endpoint, Endpoint)> {
        Some(((self.source, be16(payload, 0)?), (self.destination, be16(payload, 2)?)))
    }

    /// `None` if malformed or a fragment that is never claimed.
    fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &[u8]) -> Option<Self> {
        packet.get(..20)?;
        let transport = usize::from(packet[0] & 0x0f) * 4;
        let total = usize::from(be16(packet, 2)?);
        let later_fragment = be16(packet, 6)? & 0x1fff != 0;
        if transport < 20 || total > packet.len() || total < transport || later_fragment {
            return None;
        }
        Some(Self {
            source: address_v4(packet, 12)?,
            destination: address_v4(packet, 16)?,
            protocol: packet[9],
            transport,
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        packet.get(..40)?;
        if usize::from(be16(packet, 4)?) + 40 > packet.len() {
            return None;
        }
        let (protocol, transport) = walk_extensions(packet)?;
        Some(Self {
            source: address_v6(packet, 8)?,
            destination: address_v6(packet, 24)?,
            protocol,
            transport,
        })
    }
}

/// Steps over the extension headers of RFC 8200 §4. Returns protocol and offset of what
/// follows, or `None` if a header is cut off.
fn walk_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    let mut next = packet[6];
    let mut at = 40;
    // Every header is 8 bytes at least, so the walk ends with the packet.
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
        let header = packet.get(at..)?;
        // Of a routing header the kernel reads the type and segments-left fields as well.
        header.get(..if next == ROUTING { 4 } else { 2 })?;
        next = header[0];
        at += (usize::from(header[1]) + 1) * 8;
    }
    Some((next, at))
}

fn quoted_claim(services: &Services, outer: &Outer, quoted: (Endpoint, Endpoint)) -> Option<Claim> {
    if services.local().contains(&outer.destination) {
        return None;
    }
    let direction = services.direction(quoted.0, quoted.1)?;
    Some(Claim::IcmpError { quoted: direction })
}

/// Reads the ends of a quoted IPv4 segment: no IP options, not a later fragment.
fn quoted_v4(quote: &[u8]) -> Option<(Endpoint, Endpoint)> {
    quote.get(..20 + QUOTED_TCP)?;
    if quote[0] != 0x45 || quote[9] != TCP || be16(quote, 6)? & 0x1fff != 0 {
        return None;
    }
    Some(((address_v4(quote, 12)?, be16(quote, 20)?), (address_v4(quote, 16)?, be16(quote, 22)?)))
}

/// Reads the ends of a quoted IPv6 segment: no extension headers.
fn quoted_v6(quote: &[u8]) -> Option<(Endpoint, Endpoint)> {
    quote.get(..40 + QUOTED_TCP)?;
    if quote[0] >> 4 != 6 || quote[6] != TCP {
        return None;
    }
    Some(((address_v6(quote, 8)?, be16(quote, 40)?), (address_v6(quote, 24)?, be16(quote, 42)?)))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

fn address_v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<4>().map(|chunk| Ipv4Addr::from(*chunk).into())
}

fn address_v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<16>().map(|chunk| Ipv6Addr::from(*chunk).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn services() -> Services {
        let rules = ["10.1.2.0/24:443", "[fd00:1:2::/64]:443"].map(|rule| rule.parse().unwrap());
        Services::new(rules.to_vec(), vec!["10.1.2.1".parse().unwrap(), "10.1.1.2".parse().unwrap()])
    }

    fn tcp_v4(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(source, destination, 64)
            .tcp(sport, dport, u32::MAX, 1024)
            .write(&mut packet, b"x")
            .unwrap();
        packet
    }

    fn tcp_v6(sport: u16, dport: u16) -> Vec<u8> {
        let (client, server) = ("fd00:1::10".parse::<Ipv6Addr>(), "fd00:1:2::10".parse::<Ipv6Addr>());
        let mut packet = Vec::new();
        PacketBuilder::ipv6(client.unwrap().octets(), server.unwrap().octets(), 64)
            .tcp(sport, dport, 7, 1024)
            .write(&mut packet, &[])
            .unwrap();
        packet
    }

    const CLIENT: [u8; 4] = [10, 1, 0, 10];
    const SERVER: [u8; 4] = [10, 1, 2, 10];

    /// Puts `quoted` into an ICMP error of `kind` from a router to `destination`.
    fn error_v4(kind: u8, destination: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let icmp = [kind, 4, 0, 0, 0, 0, 5, 0];
        PacketBuilder::ipv4([10, 1, 1, 9], destination, 64)
            .icmpv4_raw(kind, icmp[1], [0, 0, 5, 0])
            .write(&mut packet, quoted)
            .unwrap();
        packet
    }

    #[test]
    fn claims_both_directions_of_a_service() {
        let to_server = tcp_v4(CLIENT, 40_000, SERVER, 443);
        let to_client = tcp_v4(SERVER, 443, CLIENT, 40_000);
        assert_eq!(claims(&services(), &to_server), Some(Claim::Tcp(Direction::ToServer)));
        assert_eq!(claims(&services(), &to_client), Some(Claim::Tcp(Direction::ToClient)));
        assert_eq!(claims(&services(), &tcp_v6(40_000, 443)), Some(Claim::Tcp(Direction::ToServer)));
    }

    #[test]
    fn leaves_other_ports_local_addresses_and_flows_between_services_alone() {
        assert_eq!(claims(&services(), &tcp_v4(CLIENT, 40_000, SERVER, 80)), None);
        assert_eq!(claims(&services(), &tcp_v4(CLIENT, 40_000, [10, 1, 2, 1], 443)), None);
        assert_eq!(claims(&services(), &tcp_v4([10, 1, 1, 2], 40_000, SERVER, 443)), None);
        assert_eq!(claims(&services(), &tcp_v4([10, 1, 2, 11], 443, SERVER, 443)), None);
        assert_eq!(claims(&services(), &tcp_v6(40_000, 80)), None);
    }

    #[test]
    fn claims_the_first_ipv4_fragment_only() {
        let mut packet = tcp_v4(CLIENT, 40_000, SERVER, 443);
        packet[6] = 0x20;
        assert_eq!(claims(&services(), &packet), Some(Claim::Tcp(Direction::ToServer)));
        packet[7] = 1;
        assert_eq!(claims(&services(), &packet), None);
    }

    #[test]
    fn steps_over_extension_headers() {
        let plain = tcp_v6(40_000, 443);
        for (kind, head, claimed) in [
            (HOP_BY_HOP, [TCP, 0, 1, 4, 0, 0, 0, 0], true),
            (ROUTING, [TCP, 0, 0, 0, 0, 0, 0, 0], true),
            (DESTINATION, [TCP, 0, 1, 4, 0, 0, 0, 0], true),
            (44, [TCP, 0, 0, 1, 0, 0, 0, 9], false),
            (44, [TCP, 0, 0, 9, 0, 0, 0, 9], false),
            (51, [TCP, 0, 0, 0, 0, 0, 0, 0], false),
            (59, [TCP, 0, 0, 0, 0, 0, 0, 0], false),
        ] {
            let mut packet = plain.clone();
            packet[6] = kind;
            packet[5] += 8;
            packet.splice(40..40, head);
            assert_eq!(claims(&services(), &packet).is_some(), claimed, "header {kind} {head:?}");
        }
    }

    #[test]
    fn claims_icmp_errors_by_the_quoted_segment() {
        let segment = tcp_v4(SERVER, 443, CLIENT, 40_000);
        let claim = Some(Claim::IcmpError { quoted: Direction::ToClient });
        assert_eq!(claims(&services(), &error_v4(3, SERVER, &segment)), claim);
        assert_eq!(claims(&services(), &error_v4(3, SERVER, &segment[..28])), claim);
        assert_eq!(
            claims(&services(), &error_v4(3, SERVER, &segment[..27])),
            None,
            "sequence number cut off"
        );
        assert_eq!(claims(&services(), &error_v4(11, SERVER, &segment)), None, "time exceeded");
        assert_eq!(claims(&services(), &error_v4(3, [10, 1, 2, 1], &segment)), None, "addressed to us");
        let own = tcp_v4([10, 1, 1, 2], 40_000, SERVER, 443);
        assert_eq!(claims(&services(), &error_v4(3, SERVER, &own)), None, "quotes our own segment");
        let mut fragment = segment.clone();
        fragment[7] = 1;
        assert_eq!(claims(&services(), &error_v4(3, SERVER, &fragment)), None, "quotes a later fragment");
        let mut options = segment;
        options[0] = 0x46;
        assert_eq!(claims(&services(), &error_v4(3, SERVER, &options)), None, "quotes IP options");
    }

    #[test]
    fn claims_icmpv6_errors_by_the_quoted_segment() {
        let quoted = tcp_v6(40_000, 443);
        for (kind, claimed) in [(1, true), (2, true), (3, false), (128, false)] {
            let mut packet = Vec::new();
            PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
                .icmpv6_raw(kind, 0, [0; 4])
                .write(&mut packet, &quoted)
                .unwrap();
            assert_eq!(claims(&services(), &packet).is_some(), claimed, "type {kind}");
        }
    }

    #[test]
    fn answers_every_truncation() {
        for whole in [tcp_v4(CLIENT, 40_000, SERVER, 443), tcp_v6(40_000, 443)] {
            for length in 0..whole.len() {
                assert_eq!(claims(&services(), &whole[..length]), None, "{length} bytes");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn answers_any_bytes(mut bytes: Vec<u8>, version in proptest::bool::ANY) {
            if let Some(first) = bytes.first_mut() {
                *first = if version { 0x45 } else { 0x60 };
            }
            let _ = claims(&services(), &bytes);
        }
    }
}

//! ICMP errors (RFC 792, RFC 4443): the TCP header they quote, and errors of our own.

use super::build::write_ip;
use super::ipv4::Ipv4;
use super::ipv6::Ipv6;
use super::segment::Endpoint;
use super::tcp::field;
use super::{Malformed, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, checksum, read_u16, read_u32};
use std::net::IpAddr;

/// Length of an ICMP error's header before the quote, in bytes.
const HEADER: usize = 8;

/// An ICMP error together with the TCP segment it quotes.
#[derive(Debug)]
pub struct Quote<'a> {
    bytes: &'a mut [u8],
    icmp: usize,
    tcp: usize,
    source: Endpoint,
    destination: Endpoint,
}

impl<'a> Quote<'a> {
    /// Checks an IP packet that holds an ICMP error about a TCP segment: at least ports and
    /// sequence number must be quoted (RFC 792 promises just these 8 bytes).
    ///
    /// # Errors
    /// [`Malformed`] if it is anything else.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (icmp, total) = outer(bytes)?;
        let bytes = bytes.get_mut(..total).ok_or(Malformed::Length)?;
        let inner = icmp + HEADER;
        let quoted = bytes.get(inner..).ok_or(Malformed::Truncated)?;
        let (offset, source, destination): (usize, IpAddr, IpAddr) = match quoted.first().map(|b| b >> 4) {
            Some(4) => {
                let ip = Ipv4::unverified(quoted)?;
                if ip.protocol() != PROTOCOL_TCP || ip.fragment_offset() != 0 {
                    return Err(Malformed::Version);
                }
                (ip.header_length(), ip.source().into(), ip.destination().into())
            }
            _ => {
                let ip = Ipv6::unverified(quoted)?;
                let upper = ip.upper()?;
                if upper.protocol != PROTOCOL_TCP || upper.fragment.is_some_and(|f| f.offset != 0) {
                    return Err(Malformed::Version);
                }
                (upper.offset, ip.source().into(), ip.destination().into())
            }
        };
        let tcp = inner + offset;
        if bytes.len() < tcp + HEADER {
            return Err(Malformed::Truncated);
        }
        let ports = (read_u16(bytes, tcp), read_u16(bytes, tcp + 2));
        Ok(Self { bytes, icmp, tcp, source: (source, ports.0), destination: (destination, ports.1) })
    }

    /// Returns who sent the quoted segment.
    pub fn source(&self) -> Endpoint {
        self.source
    }

    /// Returns whom the quoted segment was for.
    pub fn destination(&self) -> Endpoint {
        self.destination
    }

    /// Returns the quoted SEG.SEQ.
    pub fn sequence(&self) -> u32 {
        read_u32(self.bytes, self.tcp + field::SEQUENCE)
    }

    /// Returns the quoted SEG.ACK if the quote reaches that far.
    pub fn acknowledgement(&self) -> Option<u32> {
        let at = self.tcp + field::ACKNOWLEDGEMENT;
        (self.bytes.len() >= at + 4).then(|| read_u32(self.bytes, at))
    }

    /// Tells whether it says that the destination can't be reached at all (IPv4 type 3 but for code
    /// 4, IPv6 type 1), with a right ICMP checksum.
    pub fn is_unreachable(&self) -> bool {
        let icmp = &self.bytes[self.icmp..];
        let (unreachable, pseudo) = match Ipv6::unverified(&self.bytes[..]) {
            Ok(ip) => {
                let ends = (ip.source().into(), ip.destination().into());
                (icmp[0] == 1, checksum::pseudo_header(ends.0, ends.1, PROTOCOL_ICMPV6, icmp.len()))
            }
            Err(_) => (icmp[0] == 3 && icmp[1] != 4, 0),
        };
        unreachable && checksum::add(pseudo, checksum::sum(icmp)) == 0xffff
    }

    /// Sets the quoted SEG.SEQ; updates the quoted TCP checksum, if there, and the ICMP checksum.
    pub fn set_sequence(&mut self, sequence: u32) {
        self.patch(field::SEQUENCE, sequence);
    }

    /// Sets the quoted SEG.ACK likewise, if the quote reaches that far.
    pub fn set_acknowledgement(&mut self, acknowledgement: u32) {
        if self.acknowledgement().is_some() {
            self.patch(field::ACKNOWLEDGEMENT, acknowledgement);
        }
    }

    fn patch(&mut self, field: usize, value: u32) {
        let at = self.tcp + field;
        let old = checksum::sum(&self.bytes[at..at + 4]);
        let new = checksum::sum(&value.to_be_bytes());
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self.update_icmp_checksum(at, old, new);
        let check = self.tcp + field::CHECKSUM;
        if self.bytes.len() >= check + 2 {
            let before = read_u16(self.bytes, check);
            let after = checksum::update(before, old, new);
            self.bytes[check..check + 2].copy_from_slice(&after.to_be_bytes());
            self.update_icmp_checksum(check, before, after);
        }
    }

    /// `at` tells the change's parity: quoted IP headers are whole 32-bit words, so a field is
    /// always 16-bit-aligned within the ICMP message.
    fn update_icmp_checksum(&mut self, at: usize, old: u16, new: u16) {
        debug_assert!((at - self.icmp).is_multiple_of(2));
        let check = self.icmp + 2;
        let value = checksum::update(read_u16(self.bytes, check), old, new);
        self.bytes[check..check + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Returns where the ICMP header of an IP packet begins, and the packet's length.
fn outer(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    if bytes.first().is_some_and(|b| b >> 4 == 4) {
        let ip = Ipv4::new(bytes)?;
        if ip.protocol() != PROTOCOL_ICMP || ip.fragment_offset() != 0 || ip.more_fragments() {
            return Err(Malformed::Version);
        }
        return Ok((ip.header_length(), usize::from(ip.total_length())));
    }
    let ip = Ipv6::new(bytes)?;
    let upper = ip.upper()?;
    if upper.protocol != PROTOCOL_ICMPV6 || upper.fragment.is_some() {
        return Err(Malformed::Version);
    }
    Ok((upper.offset, ip.total_length()))
}

/// What a router complains about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// TTL or hop limit ran out in transit.
    HopLimit,
    /// The packet exceeds the next hop's MTU, given in bytes.
    TooBig(u16),
}

/// Appends to `out` an ICMP error from `router` to the sender of `packet`, quoting as much of it
/// as RFC 1812 §4.3.2.3 (576 bytes in all) or RFC 4443 §2.4 (1,280) allows. Appends nothing if
/// `packet` is no IP packet or of the other IP version than `router`.
pub fn write_error(complaint: Complaint, router: IpAddr, packet: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    match router {
        IpAddr::V4(_) => {
            let Ok(ip) = Ipv4::unverified(packet) else { return false };
            let quote = &packet[..packet.len().min(576 - super::ipv4::MIN_HEADER - HEADER)];
            write_ip(router, ip.source().into(), PROTOCOL_ICMP, HEADER + quote.len(), out);
            let icmp = out.len() - start;
            let [high, low] = match complaint {
                Complaint::HopLimit => [0, 0],
                Complaint::TooBig(mtu) => mtu.to_be_bytes(),
            };
            let kind: [u8; 2] = if complaint == Complaint::HopLimit { [11, 0] } else { [3, 4] };
            out.extend_from_slice(&[kind[0], kind[1], 0, 0, 0, 0, high, low]);
            out.extend_from_slice(quote);
            fill_checksum(&mut out[start + icmp..], 0);
        }
        IpAddr::V6(_) => {
            let Ok(ip) = Ipv6::unverified(packet) else { return false };
            let quote = &packet[..packet.len().min(1280 - super::ipv6::HEADER - HEADER)];
            let length = HEADER + quote.len();
            write_ip(router, ip.source().into(), PROTOCOL_ICMPV6, length, out);
            let icmp = out.len() - start;
            let (kind, [high, low]) = match complaint {
                Complaint::HopLimit => (3, [0, 0]),
                Complaint::TooBig(mtu) => (2, mtu.to_be_bytes()),
            };
            out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, high, low]);
            out.extend_from_slice(quote);
            let pseudo = checksum::pseudo_header(router, ip.source().into(), PROTOCOL_ICMPV6, length);
            fill_checksum(&mut out[start + icmp..], pseudo);
        }
    }
    true
}

fn fill_checksum(icmp: &mut [u8], pseudo: u16) {
    let value = !checksum::add(pseudo, checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&value.to_be_bytes());
}

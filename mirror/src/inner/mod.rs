//! The inner packet: an IP header and the transport's, checked once.

mod partial;
#[cfg(test)]
mod tests;

pub use partial::complete_checksum;

use crate::reason::DropReason;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use rtt0_core::wire::{Malformed, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, checksum, tcp};
use std::net::IpAddr;

/// IP protocol number of UDP.
const PROTOCOL_UDP: u8 = 17;
/// Length of the UDP header in bytes (RFC 768).
const UDP_HEADER: usize = 8;
/// Length of an ICMP message's fixed part in bytes (RFC 792, RFC 4443 §2.1 and the messages' own).
const ICMP_HEADER: usize = 8;

/// The transport of an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
}

/// What the headers of an inner packet say. It is no fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Whom it comes from.
    pub source: IpAddr,
    /// Whom it goes to, of the same IP version. (With a routing header: the next of the hops.)
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// The source port; 0 for ICMP.
    pub source_port: u16,
    /// The destination port; 0 for ICMP.
    pub destination_port: u16,
    /// Where the header of TCP, UDP or ICMP begins, in bytes from the start of the IP header.
    pub upper: usize,
    /// Bytes of the IP packet by its own header.
    pub length: usize,
    /// Time to live or hop limit.
    pub hop_limit: u8,
}

/// What the IP header says.
struct Carrier {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    upper: usize,
    length: usize,
    hop_limit: u8,
}

/// Reads an inner packet. `bytes` are what came of it, from its IP header on; what follows its end, like the padding of a
/// short Ethernet frame, is left alone.
///
/// Checked are all lengths, an IPv4 header's checksum, and TCP's data offset. The transport's checksum is not: whoever gets
/// the packet does.
///
/// # Errors
/// [`DropReason::InnerMalformed`], [`DropReason::InnerFragment`], [`DropReason::InnerProtocol`]; and
/// [`DropReason::Truncated`] if nothing is wrong with what has come, but there is more of the packet.
pub fn parse(bytes: &[u8]) -> Result<Inner, DropReason> {
    match parse_cut(bytes)? {
        (inner, false) => Ok(inner),
        (_, true) => Err(DropReason::Truncated),
    }
}

/// Reads an inner packet of which the mirror may have cut the end off, for an observer. All headers with their options
/// must be there, the transport's included. Tells whether it is cut.
///
/// # Errors
/// As [`parse`] does; [`DropReason::Truncated`] if not even the headers are whole.
pub fn parse_cut(bytes: &[u8]) -> Result<(Inner, bool), DropReason> {
    let carrier = match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(bytes)?,
        Some(6) => v6(bytes)?,
        _ => return Err(DropReason::InnerMalformed),
    };
    let Carrier { source, destination, protocol, upper, length, hop_limit } = carrier;
    let is_cut = length > bytes.len();
    let came = bytes.get(upper..length.min(bytes.len())).ok_or(DropReason::InnerMalformed)?;
    let whole = length.checked_sub(upper).ok_or(DropReason::InnerMalformed)?;
    let (transport, source_port, destination_port) = match (protocol, source) {
        (PROTOCOL_TCP, _) => with_ports(Transport::Tcp, tcp_ports(came, whole)?),
        (PROTOCOL_UDP, _) => with_ports(Transport::Udp, udp_ports(came, whole)?),
        (PROTOCOL_ICMP, IpAddr::V4(_)) | (PROTOCOL_ICMPV6, IpAddr::V6(_)) => {
            header::<ICMP_HEADER>(came, whole)?;
            with_ports(Transport::Icmp, [0; 4])
        }
        _ => return Err(DropReason::InnerProtocol),
    };
    let inner =
        Inner { source, destination, transport, source_port, destination_port, upper, length, hop_limit };
    Ok((inner, is_cut))
}

/// What is missing of a header has been cut off: how much there was of the packet is known only from its IP header.
fn cut(malformed: Malformed) -> DropReason {
    match malformed {
        Malformed::Truncated => DropReason::Truncated,
        Malformed::Version | Malformed::Length | Malformed::HeaderChecksum => DropReason::InnerMalformed,
    }
}

fn v4(bytes: &[u8]) -> Result<Carrier, DropReason> {
    // `Ipv4::new` asks for all bytes that the total length promises.
    let ip = Ipv4::unverified(bytes).map_err(cut)?;
    let (upper, length) = (ip.header_length(), usize::from(ip.total_length()));
    if length < upper || checksum::sum(bytes.get(..upper).unwrap_or_default()) != 0xffff {
        return Err(DropReason::InnerMalformed);
    }
    if ip.more_fragments() || ip.fragment_offset() != 0 {
        return Err(DropReason::InnerFragment);
    }
    Ok(Carrier {
        source: ip.source().into(),
        destination: ip.destination().into(),
        protocol: ip.protocol(),
        upper,
        length,
        hop_limit: ip.ttl(),
    })
}

fn v6(bytes: &[u8]) -> Result<Carrier, DropReason> {
    let length = Ipv6::unverified(bytes).map_err(cut)?.total_length();
    // The headers must lie within the packet, and not in what follows it.
    let came = bytes.get(..length).unwrap_or(bytes);
    let ip = Ipv6::unverified(came).map_err(cut)?;
    let upper = match ip.upper() {
        Ok(upper) => upper,
        Err(Malformed::Truncated) if length > bytes.len() => return Err(DropReason::Truncated),
        Err(_) => return Err(DropReason::InnerMalformed),
    };
    // A fragment that is first and last is a whole packet (RFC 6946).
    if upper.fragment.is_some_and(|fragment| fragment.more || fragment.offset != 0) {
        return Err(DropReason::InnerFragment);
    }
    Ok(Carrier {
        source: ip.source().into(),
        destination: ip.destination().into(),
        protocol: upper.protocol,
        upper: upper.offset,
        length,
        hop_limit: ip.hop_limit(),
    })
}

/// Returns the first `N` bytes of a transport's header, of which `came` is there out of `whole`.
fn header<const N: usize>(came: &[u8], whole: usize) -> Result<&[u8; N], DropReason> {
    if whole < N {
        return Err(DropReason::InnerMalformed);
    }
    came.first_chunk().ok_or(DropReason::Truncated)
}

fn tcp_ports(came: &[u8], whole: usize) -> Result<[u8; 4], DropReason> {
    let fixed: &[u8; tcp::MIN_HEADER] = header(came, whole)?;
    let length = usize::from(fixed[tcp::field::OFFSET_FLAGS] >> 4) * 4;
    if length < tcp::MIN_HEADER || length > whole {
        return Err(DropReason::InnerMalformed);
    }
    if length > came.len() {
        return Err(DropReason::Truncated);
    }
    Ok([fixed[0], fixed[1], fixed[2], fixed[3]])
}

/// A datagram may be shorter than its IP packet, whose surplus holds UDP options (RFC 9868), but not longer.
fn udp_ports(came: &[u8], whole: usize) -> Result<[u8; 4], DropReason> {
    let [ports @ .., l0, l1, _, _] = header::<UDP_HEADER>(came, whole)?;
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    if length < UDP_HEADER || length > whole {
        return Err(DropReason::InnerMalformed);
    }
    Ok(*ports)
}

fn with_ports(transport: Transport, [s0, s1, d0, d1]: [u8; 4]) -> (Transport, u16, u16) {
    (transport, u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
}

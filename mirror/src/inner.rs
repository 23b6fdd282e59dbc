//! The inner packet.
use crate::reason::DropReason;
use std::net::IpAddr;
/// What the packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}
/// A checked inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Transport.
    pub transport: Transport,
    /// Source port; 0 for ICMP.
    pub source_port: u16,
    /// Destination port; 0 for ICMP.
    pub destination_port: u16,
    /// Offset of the TCP, UDP or ICMP header.
    pub upper: usize,
    /// Length of the IP packet in bytes.
    pub length: usize,
    /// TTL or hop limit.
    pub hop_limit: u8,
}
/// Checks a packet.
///
/// # Errors
/// Says why not.
pub fn parse(bytes: &[u8]) -> Result<Inner, DropReason> {
    use rtt0_core::wire::{ipv4::Ipv4, ipv6::Ipv6};
    let bad = |_| DropReason::InnerMalformed;
    let (source, destination, protocol, upper, length, hop_limit): (IpAddr, IpAddr, _, _, _, _) = match bytes
        .first()
        .map(|b| b >> 4)
    {
        Some(4) => {
            let ip = Ipv4::new(bytes).map_err(bad)?;
            let length = usize::from(ip.total_length());
            (ip.source().into(), ip.destination().into(), ip.protocol(), ip.header_length(), length, ip.ttl())
        }
        Some(6) => {
            let ip = Ipv6::new(bytes).map_err(bad)?;
            let upper = ip.upper().map_err(bad)?;
            let (s, d) = (ip.source().into(), ip.destination().into());
            (s, d, upper.protocol, upper.offset, ip.total_length(), ip.hop_limit())
        }
        _ => return Err(DropReason::InnerMalformed),
    };
    let (transport, least) = match (protocol, source.is_ipv4()) {
        (6, _) => (Transport::Tcp, 20),
        (17, _) => (Transport::Udp, 8),
        (1, true) | (58, false) => (Transport::Icmp, 4),
        _ => return Err(DropReason::InnerProtocol),
    };
    let header = bytes.get(upper..length).filter(|h| h.len() >= least).ok_or(DropReason::InnerMalformed)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (source_port, destination_port) =
        if transport == Transport::Icmp { (0, 0) } else { (port(0), port(2)) };
    Ok(Inner { source, destination, transport, source_port, destination_port, upper, length, hop_limit })
}

//! The outer packet: an IP header and a UDP header, as far as the tunnel's.

use crate::reason::DropReason;
use rtt0_core::wire::checksum;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use std::net::IpAddr;
use std::ops::Range;

/// IP protocol number of UDP.
const UDP: u8 = 17;
/// Length of the UDP header in bytes (RFC 768).
const HEADER: usize = 8;

/// A UDP datagram in an IP packet that is no fragment.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    checksum: u16,
    /// Where its header begins in the packet.
    offset: usize,
    /// Header and payload, by its own length.
    bytes: &'a [u8],
}

/// What the IP header says.
struct Carrier {
    source: IpAddr,
    destination: IpAddr,
    payload: Range<usize>,
}

impl<'a> Datagram<'a> {
    /// Reads the headers of `packet`, and checks all lengths. A datagram shorter than its IP packet is taken as long as
    /// it says it is, as hosts take it.
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, DropReason> {
        let Carrier { source, destination, payload } = match packet.first().map(|first| first >> 4) {
            Some(4) => v4(packet)?,
            Some(6) => v6(packet)?,
            _ => return Err(DropReason::OuterMalformed),
        };
        let offset = payload.start;
        let bytes = packet.get(payload).ok_or(DropReason::OuterMalformed)?;
        let [_, _, port @ .., l0, l1, c0, c1] =
            bytes.first_chunk::<HEADER>().ok_or(DropReason::OuterMalformed)?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let bytes = bytes.get(..length).filter(|_| length >= HEADER).ok_or(DropReason::OuterMalformed)?;
        let (port, checksum) = (u16::from_be_bytes(*port), u16::from_be_bytes([*c0, *c1]));
        Ok(Self { source, destination, port, checksum, offset, bytes })
    }

    /// Returns the destination port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns where in the packet the payload lies.
    pub(super) fn payload(&self) -> Range<usize> {
        self.offset + HEADER..self.offset + self.bytes.len()
    }

    /// Tells whether the checksum is right, or zero: none (RFC 768, RFC 6935 §5). Reads all bytes unless it is zero.
    pub(super) fn checksum_ok(&self) -> bool {
        if self.checksum == 0 {
            return true;
        }
        let pseudo = checksum::pseudo_header(self.source, self.destination, UDP, self.bytes.len());
        checksum::add(pseudo, checksum::sum(self.bytes)) == 0xffff
    }
}

fn v4(packet: &[u8]) -> Result<Carrier, DropReason> {
    let ip = Ipv4::new(packet).map_err(|_| DropReason::OuterMalformed)?;
    if ip.more_fragments() || ip.fragment_offset() != 0 {
        return Err(DropReason::OuterFragment);
    }
    if ip.protocol() != UDP {
        return Err(DropReason::NoTunnel);
    }
    let payload = ip.header_length()..usize::from(ip.total_length());
    Ok(Carrier { source: ip.source().into(), destination: ip.destination().into(), payload })
}

fn v6(packet: &[u8]) -> Result<Carrier, DropReason> {
    let length = Ipv6::new(packet).map_err(|_| DropReason::OuterMalformed)?.total_length();
    // The headers must lie within the packet, and not in link padding behind it.
    let packet = packet.get(..length).ok_or(DropReason::OuterMalformed)?;
    let ip = Ipv6::new(packet).map_err(|_| DropReason::OuterMalformed)?;
    let upper = ip.upper().map_err(|_| DropReason::OuterMalformed)?;
    // A fragment that is first and last is a whole packet (RFC 6946).
    if upper.fragment.is_some_and(|fragment| fragment.more || fragment.offset != 0) {
        return Err(DropReason::OuterFragment);
    }
    if upper.protocol != UDP {
        return Err(DropReason::NoTunnel);
    }
    let payload = upper.offset..length;
    Ok(Carrier { source: ip.source().into(), destination: ip.destination().into(), payload })
}

//! Finishes what a NIC would have finished: full TCP checksums, and super-packets cut into
//! segments.
//!
//! Pure: a [`Cut`] writes one header per segment and borrows the payload from the packet, so
//! that payload is never copied.

use std::net::IpAddr;

use rtt0_core::packet::Offload;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::{self, Ipv6};
use rtt0_core::wire::tcp::{Flags, Tcp, field};
use rtt0_core::wire::{Malformed, PROTOCOL_TCP, checksum};

/// Most bytes that IP and TCP headers together may have here: an IPv4 packet has at most 120, an
/// IPv6 packet with a reasonable chain of extension headers fits too.
pub const MAX_HEADERS: usize = 256;

/// A packet whose TCP checksum must be computed, and that may have to be cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    bytes: &'a [u8],
    /// Where the TCP header begins.
    tcp: usize,
    /// Where the payload begins.
    payload: usize,
    /// Largest payload of one segment in bytes; at least 1.
    size: usize,
    source: IpAddr,
    destination: IpAddr,
}

impl<'a> Cut<'a> {
    /// Prepares `packet`, an IP packet without link padding, as its `offload` state demands:
    /// one segment if its payload is within `gso_size` or that is 0, else several.
    ///
    /// # Errors
    /// [`Malformed`] if it is not a whole TCP segment or its headers exceed [`MAX_HEADERS`].
    pub fn new(packet: &'a [u8], offload: Offload) -> Result<Self, Malformed> {
        let (tcp, source, destination): (usize, IpAddr, IpAddr) = match Ipv4::unverified(packet) {
            Ok(ip) if ip.protocol() == PROTOCOL_TCP && !ip.more_fragments() && ip.fragment_offset() == 0 => {
                (ip.header_length(), ip.source().into(), ip.destination().into())
            }
            Ok(_) => return Err(Malformed::Length),
            Err(Malformed::Version) => {
                let ip = Ipv6::new(packet)?;
                let upper = ip.upper()?;
                let whole = upper.fragment.is_none_or(|f| f.offset == 0 && !f.more);
                if upper.protocol != PROTOCOL_TCP || !whole {
                    return Err(Malformed::Length);
                }
                (upper.offset, ip.source().into(), ip.destination().into())
            }
            Err(error) => return Err(error),
        };
        let payload = tcp + Tcp::new(packet.get(tcp..).ok_or(Malformed::Truncated)?)?.header_length();
        if payload > MAX_HEADERS {
            return Err(Malformed::Length);
        }
        let size = match usize::from(offload.gso_size) {
            0 => packet.len(),
            size => size,
        };
        Ok(Self { bytes: packet, tcp, payload, size, source, destination })
    }

    /// Returns how many segments the packet makes; at least 1.
    pub fn segments(&self) -> usize {
        (self.bytes.len() - self.payload).div_ceil(self.size).max(1)
    }

    /// Writes the headers of segment `index` to the start of `headers` and returns their length
    /// and the segment's payload.
    ///
    /// SEG.SEQ and the IPv4 identification advance from segment to segment; PSH and FIN are left
    /// to the last, CWR to the first (RFC 3168 §6.1.2: it is sent once); options are copied.
    /// Lengths and checksums are the segment's own.
    ///
    /// # Panics
    /// If `index` is not below [`Cut::segments`].
    pub fn write(&self, index: usize, headers: &mut [u8; MAX_HEADERS]) -> (usize, &'a [u8]) {
        let offset = index * self.size;
        let data = &self.bytes[self.payload + offset..];
        let data = &data[..self.size.min(data.len())];
        let header = &mut headers[..self.payload];
        header.copy_from_slice(&self.bytes[..self.payload]);
        self.write_ip(index, data.len(), &mut header[..self.tcp]);
        self.write_tcp(index, offset, data, &mut header[self.tcp..]);
        (self.payload, data)
    }

    fn write_ip(&self, index: usize, data: usize, header: &mut [u8]) {
        // No longer than the packet, whose length came from a 16-bit field.
        let length = self.payload + data;
        if let Ok(mut ip) = Ipv4::unverified(&mut *header) {
            let id = ip.identification().wrapping_add(index as u16);
            ip.set_total_length(length as u16);
            ip.set_identification(id);
            ip.fill_checksum();
        } else if let Ok(mut ip) = Ipv6::unverified(header) {
            ip.set_payload_length((length - ipv6::HEADER) as u16);
        }
    }

    fn write_tcp(&self, index: usize, offset: usize, data: &[u8], header: &mut [u8]) {
        let last = index + 1 == self.segments();
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        header[field::SEQUENCE..][..4].copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
        let mut cleared = if last { 0 } else { Flags::PSH.bits() | Flags::FIN.bits() };
        if index > 0 {
            cleared |= Flags::CWR.bits();
        }
        // All three lie in the low byte of the word at OFFSET_FLAGS.
        header[field::OFFSET_FLAGS + 1] &= !(cleared as u8);
        header[field::CHECKSUM..][..2].fill(0);
        let length = header.len() + data.len();
        let pseudo = checksum::pseudo_header(self.source, self.destination, PROTOCOL_TCP, length);
        // A TCP header is a whole number of words, so that the sums may be added.
        let sum = checksum::add(pseudo, checksum::add(checksum::sum(header), checksum::sum(data)));
        header[field::CHECKSUM..][..2].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// Returns the length an IP packet says it has, if `bytes` hold that much; bytes behind it are
/// link padding.
///
/// # Errors
/// [`Malformed`] if the length field contradicts the header or the bytes.
pub fn ip_length(bytes: &[u8]) -> Result<usize, Malformed> {
    let length = match Ipv4::unverified(bytes) {
        Ok(ip) if usize::from(ip.total_length()) < ip.header_length() => return Err(Malformed::Length),
        Ok(ip) => usize::from(ip.total_length()),
        Err(Malformed::Version) => Ipv6::new(bytes)?.total_length(),
        Err(error) => return Err(error),
    };
    if length > bytes.len() { Err(Malformed::Length) } else { Ok(length) }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;

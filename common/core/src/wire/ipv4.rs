//! IPv4 header (RFC 791).

use super::{Malformed, checksum, read_u16};
use std::net::Ipv4Addr;

mod field {
    use std::ops::Range;
    pub(super) const VERSION_IHL: usize = 0;
    pub(super) const TOTAL_LENGTH: Range<usize> = 2..4;
    pub(super) const IDENTIFICATION: Range<usize> = 4..6;
    pub(super) const FRAGMENT: usize = 6;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: Range<usize> = 10..12;
    pub(super) const SOURCE: usize = 12;
    pub(super) const DESTINATION: usize = 16;
}

/// Length of a header without options, in bytes.
pub const MIN_HEADER: usize = 20;

/// A checked view of an IPv4 packet.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks version, IHL, total length and header checksum. Bytes behind the total length
    /// (link padding) are tolerated.
    ///
    /// # Errors
    /// [`Malformed`] says which check failed.
    pub fn new(bytes: T) -> Result<Self, Malformed> {
        let view = Self::unverified(bytes)?;
        let total = usize::from(view.total_length());
        if total < view.header_length() || total > view.bytes.as_ref().len() {
            return Err(Malformed::Length);
        }
        if checksum::sum(&view.bytes.as_ref()[..view.header_length()]) != 0xffff {
            return Err(Malformed::HeaderChecksum);
        }
        Ok(view)
    }

    /// Checks version and IHL only: for the packet quoted in an ICMP error, which is cut short
    /// and whose checksum a router may have left stale.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::Length`].
    pub fn unverified(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        let first = *b.get(field::VERSION_IHL).ok_or(Malformed::Truncated)?;
        if first >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header = usize::from(first & 0xf) * 4;
        if header < MIN_HEADER {
            return Err(Malformed::Length);
        }
        if b.len() < header {
            return Err(Malformed::Truncated);
        }
        Ok(Self { bytes })
    }

    /// Returns the header's length in bytes, 20–60.
    pub fn header_length(&self) -> usize {
        usize::from(self.byte(field::VERSION_IHL) & 0xf) * 4
    }

    /// Returns the length of header and payload in bytes.
    pub fn total_length(&self) -> u16 {
        read_u16(self.bytes.as_ref(), field::TOTAL_LENGTH.start)
    }

    /// Returns the identification field.
    pub fn identification(&self) -> u16 {
        read_u16(self.bytes.as_ref(), field::IDENTIFICATION.start)
    }

    /// Tells whether Don't Fragment is set.
    pub fn dont_fragment(&self) -> bool {
        read_u16(self.bytes.as_ref(), field::FRAGMENT) & 0x4000 != 0
    }

    /// Tells whether More Fragments is set.
    pub fn more_fragments(&self) -> bool {
        read_u16(self.bytes.as_ref(), field::FRAGMENT) & 0x2000 != 0
    }

    /// Returns the fragment offset in units of 8 bytes.
    pub fn fragment_offset(&self) -> u16 {
        read_u16(self.bytes.as_ref(), field::FRAGMENT) & 0x1fff
    }

    /// Returns the time to live in hops.
    pub fn ttl(&self) -> u8 {
        self.byte(field::TTL)
    }

    /// Returns the upper layer's protocol number.
    pub fn protocol(&self) -> u8 {
        self.byte(field::PROTOCOL)
    }

    /// Returns the source address.
    pub fn source(&self) -> Ipv4Addr {
        self.address(field::SOURCE)
    }

    /// Returns the destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.address(field::DESTINATION)
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.as_ref()[at]
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(super::read_u32(self.bytes.as_ref(), at))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets the time to live and updates the header checksum.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.patch(field::TTL, |word| word[0] = ttl);
    }

    /// Sets header-and-payload length in bytes and updates the header checksum.
    pub fn set_total_length(&mut self, length: u16) {
        self.patch(field::TOTAL_LENGTH.start, |word| word.copy_from_slice(&length.to_be_bytes()));
    }

    /// Sets the identification and updates the header checksum.
    pub fn set_identification(&mut self, id: u16) {
        self.patch(field::IDENTIFICATION.start, |word| word.copy_from_slice(&id.to_be_bytes()));
    }

    /// Computes the header checksum from nothing.
    pub fn fill_checksum(&mut self) {
        let header = self.header_length();
        let bytes = self.bytes.as_mut();
        bytes[field::CHECKSUM].fill(0);
        let value = !checksum::sum(&bytes[..header]);
        bytes[field::CHECKSUM].copy_from_slice(&value.to_be_bytes());
    }

    fn patch(&mut self, at: usize, write: impl FnOnce(&mut [u8])) {
        let bytes = self.bytes.as_mut();
        let old = read_u16(bytes, at);
        write(&mut bytes[at..at + 2]);
        let value = checksum::update(read_u16(bytes, field::CHECKSUM.start), old, read_u16(bytes, at));
        bytes[field::CHECKSUM].copy_from_slice(&value.to_be_bytes());
    }
}

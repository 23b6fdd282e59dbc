//! IPv6 header and the extension headers that may stand before TCP (RFC 8200).

use super::{Malformed, read_u16, read_u128};
use std::net::Ipv6Addr;

mod field {
    use std::ops::Range;
    pub(super) const VERSION: usize = 0;
    pub(super) const PAYLOAD_LENGTH: Range<usize> = 4..6;
    pub(super) const NEXT_HEADER: usize = 6;
    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const SOURCE: usize = 8;
    pub(super) const DESTINATION: usize = 24;
}

/// Length of the fixed header in bytes.
pub const HEADER: usize = 40;

/// A chain of more extension headers than this is not followed: no sender makes one.
const MAX_EXTENSIONS: usize = 8;

/// What stands behind the IPv6 header and its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Protocol number of the upper layer, or of a header that is not followed.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the IPv6 header.
    pub offset: usize,
    /// The fragment header, if there is one.
    pub fragment: Option<Fragment>,
}

/// The fields of a fragment header that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in units of 8 bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// A checked view of an IPv6 packet.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks version and payload length. Bytes behind the payload (link padding) are tolerated.
    ///
    /// # Errors
    /// [`Malformed`] says which check failed.
    pub fn new(bytes: T) -> Result<Self, Malformed> {
        let view = Self::unverified(bytes)?;
        if view.total_length() > view.bytes.as_ref().len() {
            return Err(Malformed::Length);
        }
        Ok(view)
    }

    /// Checks version and the fixed header only: for the packet quoted in an ICMPv6 error.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`].
    pub fn unverified(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if *b.get(field::VERSION).ok_or(Malformed::Truncated)? >> 4 != 6 {
            return Err(Malformed::Version);
        }
        if b.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        Ok(Self { bytes })
    }

    /// Returns the length of everything behind the fixed header in bytes.
    pub fn payload_length(&self) -> u16 {
        read_u16(self.bytes.as_ref(), field::PAYLOAD_LENGTH.start)
    }

    /// Returns the length of the fixed header and what follows in bytes.
    pub fn total_length(&self) -> usize {
        HEADER + usize::from(self.payload_length())
    }

    /// Returns the hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[field::HOP_LIMIT]
    }

    /// Returns the source address.
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(read_u128(self.bytes.as_ref(), field::SOURCE))
    }

    /// Returns the destination address.
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(read_u128(self.bytes.as_ref(), field::DESTINATION))
    }

    /// Follows hop-by-hop, routing, destination and fragment headers to the upper layer.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the chain runs out of the bytes, [`Malformed::Length`] if it
    /// is longer than eight headers.
    pub fn upper(&self) -> Result<Upper, Malformed> {
        let bytes = self.bytes.as_ref();
        let mut protocol = bytes[field::NEXT_HEADER];
        let mut offset = HEADER;
        let mut fragment = None;
        for _ in 0..=MAX_EXTENSIONS {
            let length = match protocol {
                0 | 43 | 60 => usize::from(*bytes.get(offset + 1).ok_or(Malformed::Truncated)?) * 8 + 8,
                44 => 8,
                _ => return Ok(Upper { protocol, offset, fragment }),
            };
            let header = bytes.get(offset..offset + length).ok_or(Malformed::Truncated)?;
            if protocol == 44 {
                let word = read_u16(header, 2);
                fragment = Some(Fragment { offset: word >> 3, more: word & 1 != 0 });
                if word >> 3 != 0 {
                    return Ok(Upper { protocol: header[0], offset: offset + length, fragment });
                }
            }
            protocol = header[0];
            offset += length;
        }
        Err(Malformed::Length)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the hop limit.
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.bytes.as_mut()[field::HOP_LIMIT] = hops;
    }

    /// Sets the length of everything behind the fixed header in bytes.
    pub fn set_payload_length(&mut self, length: u16) {
        self.bytes.as_mut()[field::PAYLOAD_LENGTH].copy_from_slice(&length.to_be_bytes());
    }
}

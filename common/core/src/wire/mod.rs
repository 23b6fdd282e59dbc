//! Checked views over IP and TCP bytes, patched in place and never rebuilt.
//!
//! A view's constructor checks every length once; behind it nothing can be out of bounds.
//! Rewriting patches single fields and updates checksums incrementally (RFC 1624), so that
//! whatever this code does not know survives: URG, ECN bits, unknown options, a fourth SACK
//! block, and a checksum that was already wrong.

pub mod build;
pub mod checksum;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod options;
pub mod segment;
pub mod tcp;

/// Bytes that do not form what they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the header needs.
    #[error("truncated header")]
    Truncated,
    /// The version field is neither 4 nor 6, or not the view's.
    #[error("wrong IP version")]
    Version,
    /// A length field is smaller than its minimum or larger than the bytes at hand.
    #[error("length field contradicts the packet")]
    Length,
    /// IPv4 header checksum wrong (RFC 1122 §3.2.1.2: discard).
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
}

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Reads the big-endian u16 at `at`; 0 beyond the end (views have checked that it isn't).
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(b) => u16::from_be_bytes([b[0], b[1]]),
        None => 0,
    }
}

/// Reads the big-endian u32 at `at`; 0 beyond the end (views have checked that it isn't).
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at + 4) {
        Some(b) => u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
        None => 0,
    }
}

/// Reads the 16 bytes at `at`; zero beyond the end.
pub(crate) fn read_u128(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..at + 16).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes)
}

#[cfg(test)]
mod tests;

//! TCP header (RFC 9293 §3.1).

use super::options::Options;
use super::{Malformed, read_u16, read_u32};
use std::ops::BitOr;

/// Offsets of fields from the start of the TCP header, in bytes.
pub mod field {
    /// Sequence number, 4 bytes.
    pub const SEQUENCE: usize = 4;
    /// Acknowledgement number, 4 bytes.
    pub const ACKNOWLEDGEMENT: usize = 8;
    /// Data offset, reserved bits and flags, 2 bytes.
    pub const OFFSET_FLAGS: usize = 12;
    /// Window, 2 bytes.
    pub const WINDOW: usize = 14;
    /// Checksum, 2 bytes.
    pub const CHECKSUM: usize = 16;
    /// Options, if any.
    pub const OPTIONS: usize = 20;
}

/// Length of a header without options, in bytes.
pub const MIN_HEADER: usize = 20;
/// The most bytes that options may take.
pub const MAX_OPTIONS: usize = 40;

/// The control bits, the nine low bits of the word at offset 12 (AE, CWR, ECE, URG … FIN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x001);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x002);
    /// Reset the connection.
    pub const RST: Self = Self(0x004);
    /// Push.
    pub const PSH: Self = Self(0x008);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x010);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x020);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x040);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x080);
    /// Accurate ECN (RFC 9768), formerly the nonce sum.
    pub const AE: Self = Self(0x100);
    /// The three bits an ECN set-up uses.
    pub const ECN: Self = Self(0x1c0);

    /// Makes flags from the word at offset 12; other bits are dropped.
    pub const fn from_bits(word: u16) -> Self {
        Self(word & 0x1ff)
    }

    /// Returns the bits in their place in the word at offset 12.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Tells whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Tells whether any of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the flags without those of `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Tells whether this is a connection request: SYN, and not ACK, RST or FIN.
    pub const fn is_syn(self) -> bool {
        self.0 & 0x17 == 0x02
    }

    /// Tells whether this is the answer to one: SYN and ACK, and not RST or FIN.
    pub const fn is_syn_ack(self) -> bool {
        self.0 & 0x17 == 0x12
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A checked view of a TCP header and whatever follows it.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    bytes: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks that the header and its options lie within `bytes`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::Length`] (data offset below 5 or beyond the end).
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < MIN_HEADER {
            return Err(Malformed::Truncated);
        }
        let view = Self { bytes };
        if view.header_length() < MIN_HEADER || view.header_length() > bytes.len() {
            return Err(Malformed::Length);
        }
        Ok(view)
    }

    /// Returns the source port.
    pub fn source_port(&self) -> u16 {
        read_u16(self.bytes, 0)
    }

    /// Returns the destination port.
    pub fn destination_port(&self) -> u16 {
        read_u16(self.bytes, 2)
    }

    /// Returns SEG.SEQ.
    pub fn sequence(&self) -> u32 {
        read_u32(self.bytes, field::SEQUENCE)
    }

    /// Returns SEG.ACK; meaningful only with [`Flags::ACK`].
    pub fn acknowledgement(&self) -> u32 {
        read_u32(self.bytes, field::ACKNOWLEDGEMENT)
    }

    /// Returns the control bits.
    pub fn flags(&self) -> Flags {
        Flags::from_bits(read_u16(self.bytes, field::OFFSET_FLAGS))
    }

    /// Returns SEG.WND as it stands on the wire, unscaled.
    pub fn window(&self) -> u16 {
        read_u16(self.bytes, field::WINDOW)
    }

    /// Returns the checksum field.
    pub fn checksum(&self) -> u16 {
        read_u16(self.bytes, field::CHECKSUM)
    }

    /// Returns the header's length in bytes, 20–60.
    pub fn header_length(&self) -> usize {
        usize::from(self.bytes[field::OFFSET_FLAGS] >> 4) * 4
    }

    /// Returns the raw options, 0–40 bytes.
    pub fn option_bytes(&self) -> &'a [u8] {
        &self.bytes[field::OPTIONS..self.header_length()]
    }

    /// Iterates over the options.
    pub fn options(&self) -> Options<'a> {
        Options::new(self.option_bytes())
    }

    /// Returns what follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_length()..]
    }

    /// Returns how much sequence space the segment takes: payload bytes plus SYN plus FIN
    /// (SEG.LEN of RFC 9293 §3.4).
    pub fn sequence_length(&self) -> u32 {
        let control =
            u32::from(self.flags().contains(Flags::SYN)) + u32::from(self.flags().contains(Flags::FIN));
        (self.payload().len() as u32).wrapping_add(control)
    }
}

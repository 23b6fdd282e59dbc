//! Counts certain packets at places of their way: at netfilter's hooks and at packet taps.
//!
//! Nothing is kept of the packets and nothing is done to them. What counts belongs to a socket: it vanishes with this
//! process, even after `kill -9`.

mod hooks;
mod tap;

#[cfg(test)]
mod tests;

pub use hooks::{Hooks, Place, TABLE_PREFIX};
pub use tap::{Direction, Tap, report_errors};

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Where a field's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network,
    /// The TCP or UDP header.
    Transport,
}

/// What a field of 1, 2 or 4 bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    base: Base,
    /// In bytes.
    offset: u8,
    /// In bytes: 1, 2 or 4.
    length: u8,
    mask: u32,
    low: u32,
    high: u32,
}

/// Which packets are counted: those of one IP version and one transport protocol for which all conditions hold.
/// First fragments and whole packets only; IPv6 extension headers hide packets from [`Tap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packets {
    is_v4: bool,
    protocol: u8,
    conditions: Vec<Condition>,
}

impl Packets {
    /// All of `protocol` (`IPPROTO_*`) in IPv4 or IPv6.
    pub fn of(is_v4: bool, protocol: u8) -> Self {
        Self { is_v4, protocol, conditions: Vec::new() }
    }

    /// Those from these ports.
    #[must_use]
    pub fn from_ports(self, ports: &RangeInclusive<u16>) -> Self {
        self.within(Base::Transport, 0, 2, 0xffff, (*ports.start()).into(), (*ports.end()).into())
    }

    /// Those to these ports.
    #[must_use]
    pub fn to_ports(self, ports: &RangeInclusive<u16>) -> Self {
        self.within(Base::Transport, 2, 2, 0xffff, (*ports.start()).into(), (*ports.end()).into())
    }

    /// Those from this address; none if it is of the other IP version.
    #[must_use]
    pub fn from_address(mut self, address: IpAddr) -> Self {
        let words: Vec<[u8; 4]> = match address {
            IpAddr::V4(address) => vec![address.octets()],
            IpAddr::V6(address) => address.octets().as_chunks::<4>().0.to_vec(),
        };
        let first = if self.is_v4 { 12 } else { 8 };
        for (index, word) in words.iter().enumerate() {
            let word = u32::from_be_bytes(*word);
            self = self.within(Base::Network, first + 4 * index as u8, 4, u32::MAX, word, word);
        }
        self
    }

    /// Those whose TCP flags, under a mask, lie in a range.
    #[must_use]
    pub fn with_flags(self, mask: u8, values: RangeInclusive<u8>) -> Self {
        self.within(Base::Transport, 13, 1, mask.into(), (*values.start()).into(), (*values.end()).into())
    }

    /// Those whose UDP payload begins so.
    #[must_use]
    pub fn with_payload(mut self, start: [u8; 8]) -> Self {
        for (offset, word) in [(8, &start[..4]), (12, &start[4..])] {
            let word = word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            self = self.within(Base::Transport, offset, 4, u32::MAX, word, word);
        }
        self
    }

    fn within(mut self, base: Base, offset: u8, length: u8, mask: u32, low: u32, high: u32) -> Self {
        self.conditions.push(Condition { base, offset, length, mask, low, high });
        self
    }
}

//! The inner Ethernet header and its VLAN tags.

use crate::reason::DropReason;

/// GENEVE's protocol type of Ethernet frames (Transparent Ethernet Bridging).
pub(super) const ETHERNET: u16 = 0x6558;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const TAG: u16 = 0x8100;
/// IEEE 802.1ad, the outer of two tags.
const SERVICE_TAG: u16 = 0x88a8;

/// Length of the two addresses in bytes.
const ADDRESSES: usize = 12;
/// Length of a VLAN tag in bytes.
const TAG_LENGTH: usize = 4;
/// Tags that are passed over.
const MAX_TAGS: usize = 2;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

impl Version {
    /// Returns the version of an Ethernet type, if it is one of IP.
    pub(super) fn of(ethernet_type: u16) -> Option<Self> {
        match ethernet_type {
            IPV4 => Some(Self::V4),
            IPV6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Returns the number that an IP header begins with.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// Returns where in a frame the IP packet begins, and which version the frame says it is.
pub(super) fn packet(frame: &[u8]) -> Result<(usize, Version), DropReason> {
    let mut at = ADDRESSES;
    for _ in 0..=MAX_TAGS {
        let kind = frame.get(at..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::FrameMalformed)?;
        match u16::from_be_bytes(*kind) {
            TAG | SERVICE_TAG => at += TAG_LENGTH,
            other => return Version::of(other).map(|version| (at + 2, version)).ok_or(DropReason::NotIp),
        }
    }
    Err(DropReason::NotIp)
}

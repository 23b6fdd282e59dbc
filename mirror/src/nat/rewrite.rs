//! The rewrite: everything of a packet that a rule changes, and every checksum that covers it.

use super::Rule;
use super::routed::is_routed;
use crate::inner::{Inner, Transport};
use crate::reason::DropReason;
use rtt0_core::wire::checksum;
use rtt0_core::wire::segment::Endpoint;
use std::net::IpAddr;
use std::ops::Range;

/// Translates a packet in place as `rule` says, and takes one from its hop limit as a router does (RFC 1812 §5.3.1).
///
/// `bytes` begin with the IP header that `inner` was read from. `partial` says that the transport's checksum field
/// holds only the sum over its pseudo-header, not complemented (see `rtt0_core::packet::Offload::needs_csum`).
///
/// A checksum that was right is right, and one that was wrong is wrong by the same amount. A UDP checksum of zero means
/// that there is none (RFC 768; over IPv6 for tunnels, RFC 6935), and stays; one that comes to zero is sent as 0xffff.
///
/// # Errors
/// [`DropReason::HopLimit`] if it would reach 0; [`DropReason::InnerMalformed`] if `bytes` are not those of `inner`,
/// the rule is of another IP version, or the packet is source-routed. The packet is unchanged then.
pub fn rewrite(bytes: &mut [u8], inner: &Inner, rule: &Rule, partial: bool) -> Result<(), DropReason> {
    let (source, destination) = rule.translated(inner);
    readdress(bytes, inner, source, destination, partial)
}

/// Where the fields of an IP version stand.
struct Layout {
    /// The header without options or extension headers.
    header: usize,
    hop_limit: usize,
    addresses: Range<usize>,
}

const V4: Layout = Layout { header: 20, hop_limit: 8, addresses: 12..20 };
const V6: Layout = Layout { header: 40, hop_limit: 7, addresses: 8..40 };
const V4_CHECKSUM: Range<usize> = 10..12;
/// Source and destination port of TCP and UDP.
const PORTS: Range<usize> = 0..4;

/// Gives a packet other ends, in place; see [`rewrite`].
pub(super) fn readdress(
    bytes: &mut [u8],
    inner: &Inner,
    source: Endpoint,
    destination: Endpoint,
    partial: bool,
) -> Result<(), DropReason> {
    const NOT_ITS_BYTES: DropReason = DropReason::InnerMalformed;
    // Everything is checked before anything is changed.
    let (layout, addresses) = match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut both = [0; 32];
            both[..4].copy_from_slice(&source.octets());
            both[4..8].copy_from_slice(&destination.octets());
            (V4, both)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut both = [0; 32];
            both[..16].copy_from_slice(&source.octets());
            both[16..].copy_from_slice(&destination.octets());
            (V6, both)
        }
        _ => return Err(NOT_ITS_BYTES),
    };
    let is_ipv4 = inner.source.is_ipv4();
    let packet = bytes.get_mut(..inner.length).ok_or(NOT_ITS_BYTES)?;
    let (ip, upper) = packet.split_at_mut_checked(inner.upper).ok_or(NOT_ITS_BYTES)?;
    let checksum_at = match inner.transport {
        Transport::Tcp => 16,
        Transport::Udp => 6,
        Transport::Icmp => 2,
    };
    let fits = ip.len() >= layout.header && upper.len() >= checksum_at + 2;
    if !fits || is_ipv4 != source.0.is_ipv4() || (ip.len() > layout.header && is_routed(ip)) {
        return Err(NOT_ITS_BYTES);
    }
    if ip[layout.hop_limit] <= 1 {
        return Err(DropReason::HopLimit);
    }

    let new = &addresses[..layout.addresses.len()];
    let (mut old_sum, mut new_sum) = (checksum::sum(&ip[layout.addresses.clone()]), checksum::sum(new));
    ip[layout.addresses].copy_from_slice(new);
    if is_ipv4 {
        // The hop limit is the high half of its word.
        let value = word(ip, V4_CHECKSUM);
        let value = checksum::update(value, checksum::add(old_sum, 0x0100), new_sum);
        ip[V4_CHECKSUM].copy_from_slice(&value.to_be_bytes());
    }
    ip[layout.hop_limit] -= 1;

    if inner.transport == Transport::Icmp {
        if is_ipv4 {
            // Its checksum covers no address (RFC 792).
            return Ok(());
        }
    } else {
        let ports = (u32::from(source.1) << 16 | u32::from(destination.1)).to_be_bytes();
        if !partial {
            old_sum = checksum::add(old_sum, checksum::sum(&upper[PORTS]));
            new_sum = checksum::add(new_sum, checksum::sum(&ports));
        }
        upper[PORTS].copy_from_slice(&ports);
    }
    let field = checksum_at..checksum_at + 2;
    let value = match word(upper, field.clone()) {
        sum if partial => checksum::add(checksum::add(sum, !old_sum), new_sum),
        0 if inner.transport == Transport::Udp => 0,
        value => match checksum::update(value, old_sum, new_sum) {
            0 if inner.transport == Transport::Udp => 0xffff,
            value => value,
        },
    };
    upper[field].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// Reads a big-endian word.
fn word(bytes: &[u8], at: Range<usize>) -> u16 {
    u16::from_be_bytes([bytes[at.start], bytes[at.start + 1]])
}

//! Checksums that a kernel has left to a NIC: between hosts of one machine (veth, virtio) no NIC ever makes them.

use rtt0_core::wire::checksum;

use super::{Inner, Transport};

/// Makes the transport checksum of `bytes`, an inner IP packet, whole if it is only the sum over the pseudo-header. To be
/// called if the kernel says that some checksum of the captured packet is partial: that may be the outer one.
pub fn complete_checksum(bytes: &mut [u8], inner: &Inner) {
    let (at, protocol) = match (inner.transport, inner.source.is_ipv4()) {
        (Transport::Tcp, _) => (inner.upper + 16, 6),
        (Transport::Udp, _) => (inner.upper + 6, 17),
        (Transport::Icmp, false) => (inner.upper + 2, 58),
        // It has no pseudo-header, and is never partial.
        (Transport::Icmp, true) => return,
    };
    let Some(upper) = bytes.get(inner.upper..inner.length) else { return };
    let pseudo = checksum::pseudo_header(inner.source, inner.destination, protocol, upper.len());
    let Some(&[high, low]) = bytes.get(at..at + 2) else { return };
    if u16::from_be_bytes([high, low]) != pseudo {
        return;
    }
    // The field holds the pseudo-header's sum already.
    let whole = match (!checksum::sum(upper), inner.transport) {
        (0, Transport::Udp) => 0xffff,
        (whole, _) => whole,
    };
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&whole.to_be_bytes());
    }
}

//! Packets made from nothing: spoofed SYN-ACKs, resets, ICMP errors' IP headers.

use super::ipv4::Ipv4;
use super::segment::{Endpoint, fill_tcp_checksum};
use super::tcp::{Flags, MAX_OPTIONS, MIN_HEADER};
use super::{PROTOCOL_TCP, ipv4, ipv6};
use std::net::IpAddr;

/// Hop limit of packets made here, the value most hosts begin with (RFC 1700).
pub const HOP_LIMIT: u8 = 64;

/// The fields of a TCP segment without payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Whom it comes from (or seems to).
    pub source: Endpoint,
    /// Whom it goes to.
    pub destination: Endpoint,
    /// SEG.SEQ.
    pub sequence: u32,
    /// SEG.ACK; 0 if ACK is not set.
    pub acknowledgement: u32,
    /// Control bits.
    pub flags: Flags,
    /// SEG.WND as it stands on the wire.
    pub window: u16,
}

impl Control {
    /// Appends the packet with `options` and full checksums to `out`.
    ///
    /// # Panics
    /// If `options` exceeds 40 bytes or is no multiple of 4.
    pub fn write(&self, options: &[u8], out: &mut Vec<u8>) {
        assert!(options.len() <= MAX_OPTIONS && options.len().is_multiple_of(4));
        let start = out.len();
        let header = MIN_HEADER + options.len();
        write_ip(self.source.0, self.destination.0, PROTOCOL_TCP, header, out);
        let tcp = out.len() - start;
        out.extend_from_slice(&self.source.1.to_be_bytes());
        out.extend_from_slice(&self.destination.1.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.acknowledgement.to_be_bytes());
        out.extend_from_slice(&((header as u16 / 4) << 12 | self.flags.bits()).to_be_bytes());
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(options);
        fill_tcp_checksum(&mut out[start..], tcp, self.source.0, self.destination.0);
    }
}

/// Appends an IP header for `length` bytes of `protocol` to `out`: Don't Fragment set,
/// identification 0 (RFC 6864 §4.1: an atomic datagram's means nothing).
pub(crate) fn write_ip(source: IpAddr, destination: IpAddr, protocol: u8, length: usize, out: &mut Vec<u8>) {
    let start = out.len();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (ipv4::MIN_HEADER + length) as u16;
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&total.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
            if let Ok(mut ip) = Ipv4::unverified(&mut out[start..]) {
                ip.fill_checksum();
            }
        }
        _ => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, HOP_LIMIT]);
            out.extend_from_slice(&octets16(source));
            out.extend_from_slice(&octets16(destination));
        }
    }
    debug_assert!(matches!(out.len() - start, ipv4::MIN_HEADER | ipv6::HEADER));
}

fn octets16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

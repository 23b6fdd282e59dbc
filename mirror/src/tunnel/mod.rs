//! Taking what a mirror sent out of its tunnel: VXLAN (RFC 7348) and GENEVE (RFC 8926), over IPv4 and IPv6.
//!
//! ```text
//!  outer IPv4, IPv6 ─▶ UDP ─▶ port: which tunnel? ─▶ checksum ─▶ VXLAN, GENEVE ─▶ VNI ─▶ Ethernet, VLAN ─▶ inner IP
//!  outer.rs                   listening.rs           outer.rs    vxlan.rs, geneve.rs     frame.rs
//! ```
//!
//! Nothing is copied: the answer is a range of the packet. VXLAN-GPE (UDP 4790, other protocols than Ethernet behind a
//! VXLAN header) is not supported.
//!
//! AWS Traffic Mirroring sends VXLAN to port 4789. If its target is a Gateway Load Balancer, that arrives as the inner
//! packet of a GENEVE tunnel at port 6081: then the inner packet can be given to [`decapsulate`] again.

mod frame;
mod geneve;
mod listening;
mod outer;
mod vxlan;

#[cfg(test)]
mod tests;

pub use listening::{Listening, Tunnels, TunnelsError};

use crate::reason::DropReason;
use frame::Version;
use outer::Datagram;
use rtt0_core::packet::Offload;
use std::ops::Range;

/// A kind of tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// RFC 7348; Ethernet frames. Its port is 4789.
    Vxlan,
    /// RFC 8926; Ethernet frames or IP packets. Its port is 6081.
    Geneve,
}

/// What was found in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decapsulated {
    /// The tunnel.
    pub kind: Kind,
    /// Its virtual network identifier, 24 bits.
    pub vni: u32,
    /// Where the inner IP packet begins in the outer packet, and where the bytes that came end: an Ethernet frame's
    /// padding may be among them, and of a packet that the mirror has cut there are fewer than its IP header says. At
    /// least one byte, whose upper half is the IP version.
    pub inner: Range<usize>,
}

/// What a tunnel's header says of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    vni: u32,
    /// Of the header with its options, in bytes.
    length: usize,
    carries: Carries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    Ethernet,
    Ip(Version),
}

/// Returns the UDP destination port of `packet`, if it is a whole datagram.
pub fn port(packet: &[u8]) -> Option<u16> {
    Datagram::parse(packet).ok().map(|datagram| datagram.port())
}

/// Finds the inner IP packet in `packet`, which begins with the outer IP header; link padding may follow it.
///
/// An outer UDP checksum of zero says that the sender made none (RFC 7348 §5; RFC 6935 §5 and RFC 8926 §3.3 for IPv6).
/// Any other is verified, over all bytes, unless `offload` says that it can't be right: the kernel has left checksums
/// to a NIC. What the kernel has merged may hold several datagrams, and is not looked into.
///
/// # Errors
/// Every reason from [`DropReason::OuterMalformed`] to [`DropReason::NotIp`], and [`DropReason::InnerMalformed`] if what
/// should be an IP packet has no bytes or another version than its Ethernet or GENEVE header says.
pub fn decapsulate(packet: &[u8], tunnels: &Tunnels, offload: Offload) -> Result<Decapsulated, DropReason> {
    if offload.gso_size != 0 {
        return Err(DropReason::Merged);
    }
    let datagram = Datagram::parse(packet)?;
    let tunnel = tunnels.at(datagram.port()).ok_or(DropReason::NoTunnel)?;
    if !offload.needs_csum && !datagram.checksum_ok() {
        return Err(DropReason::OuterChecksum);
    }
    let payload = datagram.payload();
    let bytes = packet.get(payload.clone()).ok_or(DropReason::OuterMalformed)?;
    let header = match tunnel.kind() {
        Kind::Vxlan => vxlan::read(bytes)?,
        Kind::Geneve => geneve::read(bytes)?,
    };
    if !tunnel.wants(header.vni) {
        return Err(DropReason::Vni);
    }
    let carried = bytes.get(header.length..).ok_or(DropReason::TunnelMalformed)?;
    let (offset, version) = match header.carries {
        Carries::Ethernet => frame::packet(carried)?,
        Carries::Ip(version) => (0, version),
    };
    if carried.get(offset).map(|first| first >> 4) != Some(version.number()) {
        return Err(DropReason::InnerMalformed);
    }
    let inner = payload.start + header.length + offset..payload.end;
    Ok(Decapsulated { kind: tunnel.kind(), vni: header.vni, inner })
}

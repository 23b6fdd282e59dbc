//! Hands super-packets to the kernel as they are, instead of cutting them here.
//!
//! A super-packet enters the kernel's forwarding through an [`Entrance`] with a virtio-net header
//! that says where to cut it and where its checksum belongs; the kernel routes it, and whoever
//! sends it in the end (a NIC, or the software just before it) cuts it.
//!
//! *Order.* The raw sockets and the entrance both deliver before their call returns, so that the
//! order of the calls is the order on the wire; but a device with several queues may choose another
//! one for what was forwarded than for what came from a socket, and a veth is emptied a moment later if the
//! kernel is busy. So a direction of a flow that has begun to have super-packets stays with the
//! entrance, whatever the size of its packets: [`Flows`]. Before its first one, what waits for the
//! raw socket is sent.
//!
//! *Hop limit.* The kernel decrements it, as the engine has already done: one is added again.
//!
//! *MTU.* The kernel would complain of a packet whose segments exceed the MTU with an ICMP error that
//! quotes it as it left, in numbers that its sender does not know. So only what fits enters; the
//! rest takes the way through the raw socket, which tells of it.

use std::io::IoSlice;

use rtt0_core::packet::Offload;
use rtt0_core::wire::PROTOCOL_TCP;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::tcp::{Flags, field};

use super::entrance::{Entrance, Usable};
use super::mtu::PathMtu;
use super::run::{MOST, Run};
use crate::device::{Device, PRELUDE};

/// Length of `struct virtio_net_hdr`.
const VNET_HEADER: usize = 10;
// Of <linux/virtio_net.h>.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// The longest IP header that enters: IPv6 without extensions.
const MAX_IP_HEADER: usize = 40;

/// What becomes of a packet.
pub(super) enum Lane {
    /// The raw socket has it, with all others.
    Raw,
    /// The raw socket has it, and nothing may wait there after it: its flow belongs to the entrance.
    RawNow,
    /// It is sent.
    Sent,
}

#[derive(Debug)]
pub(super) struct Whole {
    entrance: Entrance,
    flows: Flows,
}

impl Whole {
    pub(super) fn new(entrance: Entrance) -> Self {
        Self { entrance, flows: Flows::default() }
    }

    pub(super) fn device(&self) -> &Device {
        self.entrance.device()
    }

    /// Sends `packet` if it belongs here. `settle` is called before the first of a flow
    /// and has to send what waits.
    pub(super) fn send(
        &mut self,
        packet: &[u8],
        offload: Offload,
        mtu: &mut PathMtu,
        settle: impl FnOnce(&PathMtu),
    ) -> Lane {
        let is_super = offload.gso_size != 0;
        if !is_super && self.flows.is_empty() {
            return Lane::Raw;
        }
        let Some(parts) = Parts::of(packet, self.entrance.usable()) else { return Lane::Raw };
        let is_known = self.flows.contains(parts.flow);
        if !is_super && !is_known {
            return Lane::Raw;
        }
        let leave = if is_known { Lane::RawNow } else { Lane::Raw };
        let payload = packet.len() - parts.headers;
        let size = usize::from(offload.gso_size);
        let cut = is_super && payload > size;
        // The kernel cuts only what has a partial checksum.
        if cut && !offload.needs_csum {
            return leave;
        }
        let longest = if cut { parts.headers + size } else { packet.len() };
        if !mtu.carries(super::lane::destination(packet), longest) {
            return leave;
        }
        if !is_known {
            self.flows.insert(parts.flow);
            settle(mtu);
        }
        let mut prelude = [0; PRELUDE + MAX_IP_HEADER];
        let length = parts.write_prelude(packet, offload, cut, self.device().link_header(), &mut prelude);
        match self.device().write(&[IoSlice::new(&prelude[..length]), IoSlice::new(&packet[parts.ip..])]) {
            Ok(()) => Lane::Sent,
            // The device was shut down, or the kernel is out of memory.
            Err(_) => Lane::RawNow,
        }
    }

    /// Sends a run of two or more as one super-packet; returns whether it is sent. `settle` is as for
    /// [`Whole::send`].
    pub(super) fn send_run(
        &mut self,
        run: &Run<'_>,
        mtu: &mut PathMtu,
        settle: impl FnOnce(&PathMtu),
    ) -> bool {
        let mut headers = [0; 120];
        let (length, offload) = run.write_headers(&mut headers);
        let headers = &headers[..length];
        let Some(parts) = Parts::of(headers, self.entrance.usable()) else { return false };
        if !mtu.carries(super::lane::destination(headers), length + usize::from(offload.gso_size)) {
            return false;
        }
        if !self.flows.contains(parts.flow) {
            self.flows.insert(parts.flow);
            settle(mtu);
        }
        let mut prelude = [0; PRELUDE + MAX_IP_HEADER];
        let written = parts.write_prelude(headers, offload, true, self.device().link_header(), &mut prelude);
        let mut pieces = [IoSlice::new(&[]); MOST + 2];
        pieces[0] = IoSlice::new(&prelude[..written]);
        pieces[1] = IoSlice::new(&headers[parts.ip..]);
        for (piece, payload) in pieces[2..].iter_mut().zip(run.payloads()) {
            *piece = IoSlice::new(payload);
        }
        self.device().write(&pieces[..2 + run.len()]).is_ok()
    }
}

/// Where the headers of a packet that may enter end.
struct Parts {
    v4: bool,
    /// Length of the IP header in bytes.
    ip: usize,
    /// Length of IP and TCP header in bytes.
    headers: usize,
    /// The flow's direction, hashed.
    flow: u32,
}

impl Parts {
    /// Only TCP right behind an IP header without options: a router would act upon those, and a
    /// host that sends does not.
    fn of(packet: &[u8], usable: Usable) -> Option<Self> {
        let (v4, ip, usable) = match packet.first()? {
            0x45 => (true, 20, usable.v4 && packet.get(9) == Some(&PROTOCOL_TCP)),
            first if first >> 4 == 6 => (false, 40, usable.v6 && packet.get(6) == Some(&PROTOCOL_TCP)),
            _ => return None,
        };
        // More fragments, or a fragment behind the first.
        let fragment = v4 && (packet.get(6)? & 0x3f != 0 || packet.get(7) != Some(&0));
        if !usable || fragment {
            return None;
        }
        let tcp = usize::from(packet.get(ip + field::OFFSET_FLAGS)? >> 4) * 4;
        if tcp < 20 || ip + tcp > packet.len() {
            return None;
        }
        let word =
            |at: usize| packet[at..at + 4].iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let (source, destination) = if v4 { (word(12), word(16)) } else { (word(20), word(36)) };
        let mixed = source
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(destination.rotate_left(16))
            .wrapping_mul(0x85eb_ca6b)
            .wrapping_add(word(ip));
        let flow = (mixed ^ mixed >> 15).wrapping_mul(0xc2b2_ae35);
        Some(Self { v4, ip, headers: ip + tcp, flow: (flow ^ flow >> 16) | 1 })
    }

    /// Writes what stands before the TCP header, and returns its length.
    fn write_prelude(
        &self,
        packet: &[u8],
        offload: Offload,
        cut: bool,
        link_header: &[u8],
        out: &mut [u8; PRELUDE + MAX_IP_HEADER],
    ) -> usize {
        let tcp = link_header.len() + self.ip;
        let mut field = |at: usize, value: usize| {
            // All are lengths of headers or of a segment.
            out[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        };
        if cut {
            field(2, link_header.len() + self.headers);
            field(4, offload.gso_size.into());
        }
        if offload.needs_csum {
            field(6, tcp);
            field(8, field::CHECKSUM);
            out[0] = NEEDS_CSUM;
        }
        if cut {
            let congestion = packet[self.ip + field::OFFSET_FLAGS + 1] & Flags::CWR.bits() as u8 != 0;
            let ecn = if congestion { GSO_ECN } else { 0 };
            out[1] = ecn | if self.v4 { GSO_TCPV4 } else { GSO_TCPV6 };
        }
        let start = VNET_HEADER + link_header.len();
        out[VNET_HEADER..start].copy_from_slice(link_header);
        if !link_header.is_empty() && !self.v4 {
            out[start - 2..start].copy_from_slice(&(libc::ETH_P_IPV6 as u16).to_be_bytes());
        }
        let header = &mut out[start..start + self.ip];
        header.copy_from_slice(&packet[..self.ip]);
        if let Ok(mut ip) = Ipv4::unverified(&mut *header) {
            let ttl = ip.ttl().saturating_add(1);
            ip.set_ttl(ttl);
        } else {
            header[7] = header[7].saturating_add(1);
        }
        start + self.ip
    }
}

/// Directions of flows that stay with the entrance, by their hash. One that is forgotten because
/// another has the same place comes back with its next super-packet; one that is taken for another
/// is sent all the same.
#[derive(Debug)]
struct Flows {
    places: Box<[u32; 1024]>,
    is_empty: bool,
}

impl Default for Flows {
    fn default() -> Self {
        Self { places: Box::new([0; 1024]), is_empty: true }
    }
}

impl Flows {
    fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn contains(&self, flow: u32) -> bool {
        self.places[flow as usize >> 1 & 1023] == flow
    }

    fn insert(&mut self, flow: u32) {
        self.places[flow as usize >> 1 & 1023] = flow;
        self.is_empty = false;
    }
}

#[cfg(test)]
#[path = "whole_tests.rs"]
mod tests;

//! Joins consecutive segments of a flow into a super-packet, where the sender's came one by one.
//!
//! Each packet costs the kernel a route, its filters and a buffer; forty that make one super-packet
//! cost that once. What is joined here the kernel cuts again to the same bytes: only segments join
//! that differ in nothing but sequence number, IPv4 identification (counting up), PSH (on the last only),
//! checksum (right, or all partial) and length (the last may be shorter). These are the rules of the
//! kernel's own GRO (net/ipv4/tcp_offload.c), and stricter: the window has to be equal too.
//!
//! Only packets handed in at once are joined, so that nothing waits for what may not come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtt0_core::packet::Offload;
use rtt0_core::wire::tcp::{Flags, field};
use rtt0_core::wire::{PROTOCOL_TCP, checksum};

/// Most segments in one run; with a common MSS they fill the longest IP packet.
pub(super) const MOST: usize = 44;
/// Longest IP packet in bytes.
const LONGEST: usize = 65_535;
/// Shortest payload worth joining, in bytes.
const SHORTEST: usize = 256;

/// Consecutive segments, all of which go on as one packet.
#[derive(Debug)]
pub(super) struct Run<'a> {
    packets: [&'a [u8]; MOST],
    count: usize,
    /// Number of the first among the packets handed in.
    first: usize,
    offload: Offload,
    /// Length of the IP header, and of both headers, in bytes.
    ip: usize,
    headers: usize,
    /// Payload of each but the last, in bytes.
    size: usize,
    /// All payload so far, in bytes.
    total: usize,
    /// Nothing more joins: the last was pushed or shorter.
    closed: bool,
}

impl<'a> Run<'a> {
    /// Begins with `packet`, number `first` of those handed in; `None` if nothing could ever join it.
    pub(super) fn begin(packet: &'a [u8], offload: Offload, first: usize) -> Option<Self> {
        let ip = match packet.first()? {
            0x45 if packet.get(9) == Some(&PROTOCOL_TCP) => 20,
            version if version >> 4 == 6 && packet.get(6) == Some(&PROTOCOL_TCP) => 40,
            _ => return None,
        };
        // Don't fragment alone: identifications of other packets are not ours to count up.
        if offload.gso_size != 0 || (ip == 20 && packet.get(6..8) != Some(&[0x40, 0])) {
            return None;
        }
        let headers = ip + usize::from(packet.get(ip + field::OFFSET_FLAGS)? >> 4) * 4;
        let size = packet.len().checked_sub(headers)?;
        let flags = *packet.get(ip + field::OFFSET_FLAGS + 1)?;
        let plain = flags & !(ECE | PSH) == ACK && packet[ip + field::OFFSET_FLAGS] & 0xf == 0;
        if headers < ip + 20 || size < SHORTEST || !plain {
            return None;
        }
        let mut packets = [&[][..]; MOST];
        packets[0] = packet;
        let closed = flags & PSH != 0;
        Some(Self { packets, count: 1, first, offload, ip, headers, size, total: size, closed })
    }

    /// Appends `packet` if it goes on where the run ends; returns whether it did.
    pub(super) fn join(&mut self, packet: &'a [u8], offload: Offload) -> bool {
        let payload = packet.len().wrapping_sub(self.headers);
        let fits = !self.closed
            && self.count < MOST
            && offload == self.offload
            && (1..=self.size).contains(&payload)
            && self.headers + self.total + payload <= LONGEST;
        if !fits || !self.goes_on(packet) {
            return false;
        }
        let is_right = |packet| self.offload.needs_csum || self.is_right(packet);
        if !is_right(packet) || (self.count == 1 && !is_right(self.packets[0])) {
            return false;
        }
        self.packets[self.count] = packet;
        self.count += 1;
        self.total += payload;
        self.closed = payload < self.size || packet[self.ip + field::OFFSET_FLAGS + 1] & PSH != 0;
        true
    }

    /// Tells whether the headers differ in nothing but what a cut would make differ.
    fn goes_on(&self, packet: &[u8]) -> bool {
        let (first, tcp) = (self.packets[0], self.ip);
        let equal = |from: usize, to: usize| first[from..to] == packet[from..to];
        let number = |bytes: &[u8], at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let same_ip = if self.ip == 20 {
            // The identification counts up; length and header checksum follow from the rest.
            let id = |bytes: &[u8]| u16::from_be_bytes([bytes[4], bytes[5]]);
            equal(0, 2)
                && equal(6, 10)
                && equal(12, 20)
                && id(packet) == id(first).wrapping_add(self.count as u16)
        } else {
            equal(0, 4) && equal(6, 40)
        };
        let sequence = number(first, tcp + field::SEQUENCE).wrapping_add(self.total as u32);
        let flags = tcp + field::OFFSET_FLAGS + 1;
        same_ip
            && equal(tcp, tcp + field::SEQUENCE)
            && number(packet, tcp + field::SEQUENCE) == sequence
            // Acknowledgement, data offset; window; urgent pointer and options.
            && equal(tcp + field::SEQUENCE + 4, flags)
            && (first[flags] ^ packet[flags]) & !PSH == 0
            && equal(flags + 1, tcp + field::CHECKSUM)
            && equal(tcp + field::CHECKSUM + 2, self.headers)
    }

    /// Tells whether the TCP checksum is right: joining would make a wrong one right.
    fn is_right(&self, packet: &[u8]) -> bool {
        let (source, destination) = self.ends();
        let segment = &packet[self.ip..];
        let pseudo = checksum::pseudo_header(source, destination, PROTOCOL_TCP, segment.len());
        checksum::add(pseudo, checksum::sum(segment)) == 0xffff
    }

    fn ends(&self) -> (IpAddr, IpAddr) {
        fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            std::array::from_fn(|index| bytes[at + index])
        }
        let bytes = self.packets[0];
        match self.ip {
            20 => (Ipv4Addr::from(octets(bytes, 12)).into(), Ipv4Addr::from(octets(bytes, 16)).into()),
            _ => (Ipv6Addr::from(octets(bytes, 8)).into(), Ipv6Addr::from(octets(bytes, 24)).into()),
        }
    }

    /// Iterates over the packets with their numbers among those handed in.
    pub(super) fn packets(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'_, 'a> {
        (self.first..).zip(self.packets[..self.count].iter().copied())
    }

    /// Tells the IP version.
    pub(super) fn is_v4(&self) -> bool {
        self.ip == 20
    }

    /// Returns how many segments there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the offload state that all of them have.
    pub(super) fn offload(&self) -> Offload {
        self.offload
    }

    /// Returns the payloads, in order.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &'a [u8]> {
        self.packets[..self.count].iter().map(|packet| &packet[self.headers..])
    }

    /// Returns payload and headers of the super-packet together, in bytes.
    pub(super) fn length(&self) -> usize {
        self.headers + self.total
    }

    /// Writes the super-packet's headers, with a partial checksum; returns their length and its
    /// offload state.
    pub(super) fn write_headers(&self, out: &mut [u8; 120]) -> (usize, Offload) {
        let headers = &mut out[..self.headers];
        headers.copy_from_slice(&self.packets[0][..self.headers]);
        let (source, destination) = self.ends();
        let length = self.length();
        // At most LONGEST.
        if self.ip == 20 {
            if let Ok(mut ip) = rtt0_core::wire::ipv4::Ipv4::unverified(&mut headers[..20]) {
                ip.set_total_length(length as u16);
                ip.fill_checksum();
            }
        } else {
            headers[4..6].copy_from_slice(&((length - self.ip) as u16).to_be_bytes());
        }
        let last = self.packets[self.count - 1];
        let flags = self.ip + field::OFFSET_FLAGS + 1;
        headers[flags] |= last[flags] & PSH;
        let pseudo = checksum::pseudo_header(source, destination, PROTOCOL_TCP, length - self.ip);
        let at = self.ip + field::CHECKSUM;
        headers[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        // A payload of one packet.
        (self.headers, Offload { needs_csum: true, gso_size: self.size as u16 })
    }
}

const ACK: u8 = Flags::ACK.bits() as u8;
const PSH: u8 = Flags::PSH.bits() as u8;
const ECE: u8 = Flags::ECE.bits() as u8;

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

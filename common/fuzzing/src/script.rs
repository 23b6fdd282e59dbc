//! Packets and pauses, written in bytes: twelve for a step, any value of which means something.
//!
//! | byte | means |
//! |---|---|
//! | 0 | below 128: a packet that moves a flow on (bits 0–2 say which); else one made from the rest |
//! | 1 | port (bits 0–2), which client's ISN (3), which server's (4), direction (5), within ICMP (6 and 7) |
//! | 2 | pause before it: ms, tenths of a second from 200 on, four seconds each from 251 on |
//! | 3 | control bits: an index of `FLAGS`, or with bit 7 any |
//! | 4, 5 | SEQ and ACK: of which space (bits 0–1), of which end (2), how far ahead (3–7) |
//! | 6 | options (bits 0–2) |
//! | 7 | payload, from 128 on |
//! | 8, 9 | below 64: the place of a byte to spoil, and its new value |
//! | 10 | below 16: cut at eight times this |
//! | 11 | hop limit 1 if bits 0–3 are zero; partial checksum (bits 4 and 5), super-packet (6 and 7) |

use crate::packets::*;
use rtt0_core::flow::FlowKey;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::packet::Offload;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::wire::icmp::{Complaint, write_error};
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

/// Bytes of a step.
pub(crate) const STEP: usize = 12;

/// ISNs of clients; both wrap soon.
const CLIENTS: [u32; 2] = [0xffff_fffe, 0xffff_f000];
/// ISNs of servers.
const SERVERS: [u32; 2] = [0x7fff_0000, 0xffff_ff00];
const FLAGS: [Flags; 8] = [
    SYN,
    Flags::from_bits(0x12),
    ACK,
    Flags::from_bits(0x18),
    RST,
    Flags::from_bits(0x14),
    Flags::from_bits(0x11),
    Flags::from_bits(0xc2),
];

/// One packet and the time before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a>(pub(crate) &'a [u8; STEP]);

/// What a step's packet is made from.
struct Shape {
    to: Direction,
    flags: Flags,
    numbers: (u32, u32),
    options: Options,
    payload: usize,
}

enum Options {
    None,
    Linux,
    Timestamps,
    Signal(Kind),
    Raw(u8),
}

impl Step<'_> {
    /// Returns the time before the packet.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(match u64::from(self.0[2]) {
            ms @ ..200 => ms,
            tenths @ 200..=250 => 100 * (tenths - 199),
            long => 4000 * (long - 250),
        })
    }

    /// Returns what the kernel would say of the packet.
    pub(crate) fn offload(&self) -> Offload {
        let both = |bits: u8| self.0[11] & bits == bits && !self.moves_on();
        Offload { needs_csum: both(0x30), gso_size: if both(0xc0) { 64 } else { 0 } }
    }

    /// Returns the packet.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let shape = if self.moves_on() { self.plausible() } else { self.free() };
        let mut bytes = self.segment(&shape);
        if self.moves_on() {
            return bytes;
        }
        if self.0[1] >> 6 == 3 {
            let mut error = Vec::new();
            write_error(Complaint::TooBig(1200), [10, 1, 1, 9].into(), &bytes, &mut error);
            bytes = error;
        }
        let mut ip = Ipv4::unverified(&mut bytes[..]).unwrap();
        if self.0[11] & 0xf == 0 {
            ip.set_ttl(1);
        }
        if let Some(byte) = bytes.get_mut(usize::from(self.0[8])).filter(|_| self.0[8] < 64) {
            *byte = self.0[9];
        }
        if self.0[10] < 16 {
            bytes.truncate(8 * usize::from(self.0[10]));
        }
        bytes
    }

    fn moves_on(&self) -> bool {
        self.0[0] < 128
    }

    fn flow(&self) -> FlowKey {
        FlowKey::new((client().0, client().1 + self.port()), server(), Direction::ToServer)
    }

    fn port(&self) -> u16 {
        u16::from(self.0[1] & 7) % 6
    }

    fn client_isn(&self) -> u32 {
        CLIENTS[usize::from(self.0[1] >> 3 & 1)]
    }

    fn server_isn(&self) -> u32 {
        SERVERS[usize::from(self.0[1] >> 4 & 1)]
    }

    fn promised(&self, client: u32) -> u32 {
        keys().promised_isn(1, &self.flow(), Seq::new(client)).unwrap().get()
    }

    /// What the two ends and the NICs would send.
    fn plausible(&self) -> Shape {
        use Direction::{ToClient, ToServer};
        let (c, s) = (self.client_isn(), self.server_isn());
        let p = self.promised(c);
        let after = |number: u32, n: u32| number.wrapping_add(n);
        let (to, flags, numbers, options, payload) = match self.0[0] & 7 {
            0 => (ToServer, SYN, (c, 0), Options::Linux, 0),
            1 => (ToServer, SYN, (c, 0), Options::Signal(Kind::Spoofed), 0),
            2 => (ToServer, SYN, (c, 0), Options::Signal(Kind::Probe), 0),
            3 => (ToClient, SYN | ACK, (s, after(c, 1)), Options::Linux, 0),
            4 => (ToClient, SYN | ACK, (p, after(c, 1)), Options::Signal(Kind::Confirm), 0),
            5 => (ToServer, ACK | PSH, (after(c, 1), after(p, 1)), Options::Timestamps, 50),
            6 => (ToServer, FIN | ACK, (after(c, 51), after(p, 1)), Options::Timestamps, 0),
            _ => (ToClient, FIN | ACK, (after(s, 1), after(c, 52)), Options::Timestamps, 0),
        };
        Shape { to, flags, numbers, options, payload }
    }

    fn free(&self) -> Shape {
        let up = self.0[1] & 0x20 != 0;
        let options = match self.0[6] & 7 {
            0 => Options::None,
            1 | 2 => Options::Linux,
            3 => Options::Timestamps,
            4 => Options::Signal(Kind::Spoofed),
            5 => Options::Signal(Kind::Probe),
            6 => Options::Signal(Kind::Confirm),
            _ => Options::Raw(self.0[9]),
        };
        let any = u16::from_be_bytes([self.0[8], self.0[9]]) & 0x01ff;
        let flags = self.0[3];
        Shape {
            to: if up { Direction::ToServer } else { Direction::ToClient },
            flags: if flags < 128 { FLAGS[usize::from(flags) % 8] } else { Flags::from_bits(any) },
            numbers: (self.number(self.0[4]), self.number(self.0[5])),
            options,
            payload: usize::from(self.0[7].saturating_sub(128)),
        }
    }

    fn number(&self, byte: u8) -> u32 {
        let end = usize::from(byte >> 2 & 1);
        let start = match byte & 3 {
            0 => CLIENTS[end],
            1 => SERVERS[end],
            2 => self.promised(CLIENTS[end]),
            _ => u32::from_be_bytes([self.0[8], self.0[9], self.0[3], byte]),
        };
        let ahead = match u32::from(byte >> 3) {
            31 => 1500,
            near => near,
        };
        start.wrapping_add(ahead)
    }

    fn segment(&self, shape: &Shape) -> Vec<u8> {
        let mut segment = Seg::new(shape.to, shape.flags, shape.numbers.0, shape.numbers.1);
        segment.payload = vec![7; shape.payload];
        match &shape.options {
            Options::None => {}
            Options::Linux => segment.syn_options = Some(linux(1, 2)),
            Options::Timestamps => segment.ts = Some((3, 4)),
            Options::Raw(byte) => segment.raw = vec![*byte; 4 * usize::from(byte % 11)],
            Options::Signal(kind) => {
                let promise =
                    Promise { mss: 1200, window_scale: Some(9), sack: true, tsval: Some(9), ecn: false };
                let offer = Offer { kind: *kind, key: 1, promise };
                let signal = offer.encode(&keys(), &self.flow(), Seq::new(self.client_isn())).unwrap();
                segment.raw = signal.to_vec();
                segment.syn_options = Some(linux(1, 2));
            }
        }
        let mut bytes = segment.bytes();
        let at = if shape.to == Direction::ToServer { 20 } else { 22 };
        set_port(&mut bytes, at, client().1 + self.port());
        bytes
    }
}

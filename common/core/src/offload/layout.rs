//! A flow in the kernel's map: what the program in C and this crate agree on.
//!
//! The key holds both ends in the order of their addresses and ports, so that one look-up serves both
//! directions. Numbers in the value are in host byte order.
//!
//! | bytes of the key | content |
//! |---|---|
//! | 0–15, 16–31 | lower address, higher address; IPv4 as IPv4-mapped (RFC 4291 §2.5.5.2) |
//! | 32–33, 34–35 | port of the lower, of the higher; big-endian |
//!
//! | bytes of the value | content |
//! |---|---|
//! | 0–3, 4–7 | δ, τ |
//! | 8–11, 12–15 | the client's ISN, the server's `Y` |
//! | 16 | flags |
//! | 17, 18 | left shift of the client's and the server's window field, signed |
//! | 19 | how far it has ended: [`Stage`](crate::translated::Stage) |
//! | 20–35, 36–51 | client, server: SND.NXT, RCV.NXT, right edge of the window; window scale |
//! | 52–55 | TSval of the server's SYN-ACK |
//! | 56–63 | last use, ns of the monotonic clock |
//! | 64–79, 80–95 | towards the server, towards the client: packets, bytes |
//! | 96–103 | when it was handed over, ns |
//! | 104–111, 112–119 | when the client's, the server's last packet was in the daemon's queue, ns |
//! | 120–139, 140–159 | the way that the client's, the server's last segment took: the program's own; 0 here |
//!
//! Bytes 33 and 49 tell, besides, that what the client or the server sends is the daemon's still, and bytes 34 and 50
//! which of its workers has it.

use super::{Offloaded, Progress, Queued, Volume};
use crate::flow::FlowKey;
use crate::seq::Seq;
use crate::time::Instant;
use crate::translate::{Parts, Translation};
use crate::translated::{End, Stage};
use crate::wire::options::MAX_WINDOW_SCALE;

/// Length of a key in bytes.
pub const KERNEL_KEY: usize = 36;
/// Length of a value in bytes.
pub const KERNEL_VALUE: usize = 160;

mod flag {
    /// The client is the lower end.
    pub(super) const CLIENT_IS_LOWER: u8 = 1;
    /// It is translated.
    pub(super) const TRANSLATED: u8 = 1 << 1;
    pub(super) const TIMESTAMPS: u8 = 1 << 2;
    pub(super) const ERASE_SACK: u8 = 1 << 3;
    pub(super) const HIDE_ECHO: u8 = 1 << 4;
    /// Its handshake is not over.
    pub(super) const OPENING: u8 = 1 << 5;
    pub(super) const ALL: u8 = 63;
}

/// A key as the kernel has it, and which of its ends is the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelKey {
    /// The key.
    pub bytes: [u8; KERNEL_KEY],
    client_is_lower: bool,
}

impl From<&FlowKey> for KernelKey {
    fn from(key: &FlowKey) -> Self {
        let bytes = key.to_bytes();
        let (client, server) = ((&bytes[..16], &bytes[32..34]), (&bytes[16..32], &bytes[34..]));
        let client_is_lower = client < server;
        let (lower, higher) = if client_is_lower { (client, server) } else { (server, client) };
        let mut ordered = [0; KERNEL_KEY];
        for (place, part) in [(0, lower.0), (16, higher.0), (32, lower.1), (34, higher.1)] {
            ordered[place..place + part.len()].copy_from_slice(part);
        }
        Self { bytes: ordered, client_is_lower }
    }
}

impl Offloaded {
    /// Writes it down for the kernel.
    pub fn to_kernel(&self) -> (KernelKey, [u8; KERNEL_VALUE]) {
        let key = KernelKey::from(&self.key);
        let mut value = [0; KERNEL_VALUE];
        let mut put = |at: usize, bytes: &[u8]| value[at..at + bytes.len()].copy_from_slice(bytes);
        let mut flags = if key.client_is_lower { flag::CLIENT_IS_LOWER } else { 0 };
        if self.progress.is_opening {
            flags |= flag::OPENING;
        }
        put(8, &self.client_isn.get().to_ne_bytes());
        if let Some(parts) = self.translation.as_ref().map(Translation::parts) {
            flags |= flag::TRANSLATED;
            let delta = parts.promised_isn.get().wrapping_sub(parts.real_isn.get());
            put(0, &delta.to_ne_bytes());
            put(12, &parts.real_isn.get().to_ne_bytes());
            if let Some(offset) = parts.tsval_offset {
                flags |= flag::TIMESTAMPS;
                put(4, &offset.to_ne_bytes());
            }
            if parts.erase_sack {
                flags |= flag::ERASE_SACK;
            }
            if parts.hide_echo {
                flags |= flag::HIDE_ECHO;
            }
            put(52, &parts.syn_ack_tsval.to_ne_bytes());
            put(17, &[parts.client_window_shift.cast_unsigned(), parts.server_window_shift.cast_unsigned()]);
        }
        let Progress { client, server, last_used, to_server, to_client, .. } = &self.progress;
        put(16, &[flags]);
        put(19, &[Stage::of(client, server).bits()]);
        for (at, end) in [(20, client), (36, server)] {
            for (index, number) in end.numbers().into_iter().enumerate() {
                put(at + index * 4, &number.to_ne_bytes());
            }
            put(at + 12, &[end.scale()]);
        }
        put(56, &(last_used.as_micros() * 1000).to_ne_bytes());
        for (at, volume) in [(64, to_server), (80, to_client)] {
            put(at, &volume.packets.to_ne_bytes());
            put(at + 8, &volume.bytes.to_ne_bytes());
        }
        (key, value)
    }

    /// Reads what [`Offloaded::to_kernel`] and the kernel's program have written; `None` for what
    /// neither writes.
    pub fn from_kernel(key: &[u8; KERNEL_KEY], value: &[u8; KERNEL_VALUE]) -> Option<Self> {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| value[at + index]));
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| value[at + index]));
        let flags = value[16];
        let has = |bit: u8| flags & bit != 0;
        if flags & !flag::ALL != 0 {
            return None;
        }
        let stage = Stage::from_bits(value[19])?;
        let (client_fin, server_fin, client_reset, server_reset) = stage.parts();
        let end = |at: usize, ended: (bool, bool)| {
            let numbers = [word(at), word(at + 4), word(at + 8)];
            (value[at + 12] <= MAX_WINDOW_SCALE).then(|| End::resumed(numbers, value[at + 12], ended))
        };
        let (client, server) = (end(20, (client_fin, client_reset))?, end(36, (server_fin, server_reset))?);
        let real_isn = Seq::new(word(12));
        let translation = match has(flag::TRANSLATED) {
            true => Some(Translation::from_parts(Parts {
                promised_isn: Seq::new(word(12).wrapping_add(word(0))),
                real_isn,
                tsval_offset: has(flag::TIMESTAMPS).then(|| word(4)),
                client_window_shift: value[17].cast_signed(),
                server_window_shift: value[18].cast_signed(),
                mss_limit: 0,
                erase_sack: has(flag::ERASE_SACK),
                hide_echo: has(flag::HIDE_ECHO),
                syn_ack_tsval: word(52),
            })?),
            false => None,
        };
        let volume = |at: usize| Volume { packets: long(at), bytes: long(at + 8) };
        let progress = Progress {
            client,
            server,
            is_opening: has(flag::OPENING),
            last_used: Instant::from_micros(long(56) / 1000),
            to_server: volume(64),
            to_client: volume(80),
        };
        let key = flow_key(key, has(flag::CLIENT_IS_LOWER));
        Some(Self { key, client_isn: Seq::new(word(8)), translation, progress })
    }
}

/// Has the kernel leave the directions of which something may be `queued` to the daemon's worker until that has emitted
/// all that it may have queued at `now`, and what comes meanwhile. `margin` is the time that a packet takes from the
/// kernel's look at the flows into the queue: at `now` some may be under way. Both in ns, `now` of the monotonic clock.
pub fn wait(value: &mut [u8; KERNEL_VALUE], queued: Queued, worker: u8, now: u64, margin: u64) {
    (value[34], value[50]) = (worker, worker);
    value[33] = (queued != Queued::Nothing).into();
    value[49] = (queued == Queued::BothWays).into();
    value[96..104].copy_from_slice(&now.to_ne_bytes());
    let captured = now.saturating_add(margin);
    for at in [104, 112] {
        value[at..at + 8].copy_from_slice(&captured.to_ne_bytes());
    }
}

/// Reads a key; `client_is_lower` tells which of its ends is the client.
pub fn flow_key(ordered: &[u8; KERNEL_KEY], client_is_lower: bool) -> FlowKey {
    let mut bytes = *ordered;
    if !client_is_lower {
        bytes[..16].copy_from_slice(&ordered[16..32]);
        bytes[16..32].copy_from_slice(&ordered[..16]);
        bytes[32..34].copy_from_slice(&ordered[34..]);
        bytes[34..].copy_from_slice(&ordered[32..34]);
    }
    FlowKey::from_bytes(bytes)
}

//! The three legs between client, ClientNIC, ServerNIC and server, and a middlebox on the long one.

use super::wire::{Wire, ip_header, patch, ports, tcp};
use rtt0_core::offer::{is_offer, strip};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Direction;
use rtt0_core::wire::options::kind;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

/// What a leg does to packets, in tenths of a percent of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weather {
    pub(super) loss: u16,
    pub(super) duplication: u16,
    /// Flips bits of one byte.
    pub(super) corruption: u16,
    /// Delays by up to `jitter`: others overtake.
    pub(super) reordering: u16,
    pub(super) jitter: Duration,
}

impl Weather {
    /// Tells whether it does nothing.
    pub(super) fn is_calm(&self) -> bool {
        self.loss | self.duplication | self.corruption | self.reordering == 0
    }
}

/// A leg.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg {
    /// One way.
    pub(super) delay: Duration,
    pub(super) weather: Weather,
}

/// What the legs did, in packets.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Damage {
    /// Lost.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Spoiled.
    pub corrupted: u64,
    /// Delayed.
    pub reordered: u64,
}

impl Damage {
    /// Adds another's.
    pub(super) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.reordered += other.reordered;
    }
}

impl Leg {
    /// Sends a packet: calls `arrive` with each copy that will and how long it takes.
    pub(super) fn send(
        &self,
        mut wire: Wire,
        calm: bool,
        random: &mut fastrand::Rng,
        damage: &mut Damage,
        mut arrive: impl FnMut(Duration, Wire),
    ) {
        let weather = &self.weather;
        if calm || weather.is_calm() {
            return arrive(self.delay, wire);
        }
        let mut happens = |permille: u16| permille > 0 && random.u16(..1000) < permille;
        let (lost, twice) = (happens(weather.loss), happens(weather.duplication));
        let (spoiled, late) = (happens(weather.corruption), happens(weather.reordering));
        if lost {
            damage.lost += 1;
            return;
        }
        if twice {
            damage.duplicated += 1;
            let later = random.u64(..=weather.jitter.as_micros() as u64);
            arrive(self.delay + Duration::from_micros(later), wire.clone());
        }
        if spoiled && !wire.spoiled && spoil(&mut wire, random) {
            damage.corrupted += 1;
        }
        let more = if late { random.u64(..=weather.jitter.as_micros() as u64) } else { 0 };
        damage.reordered += u64::from(late);
        arrive(self.delay + Duration::from_micros(more), wire);
    }
}

/// Flips bits of one byte that the TCP checksum covers, so that it always notices. Only what has
/// its full checksum travels over a real wire.
fn spoil(wire: &mut Wire, random: &mut fastrand::Rng) -> bool {
    let header = ip_header(&wire.bytes);
    if wire.offload.needs_csum || wire.bytes.len() <= header {
        return false;
    }
    // Mostly in the header, where it does more harm.
    let most = if random.bool() { wire.bytes.len() } else { wire.bytes.len().min(header + 32) };
    wire.bytes[random.usize(header..most)] ^= random.u8(1..);
    wire.spoiled = true;
    true
}

/// A middlebox of somebody else's on the long leg.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Middlebox {
    /// It removes options it does not know.
    pub(super) strips: bool,
    /// It gives both ends other ISNs, as some firewalls do: the secret they depend on.
    pub(super) rewrites: Option<u32>,
}

/// Returns what the middlebox makes of a client's ISN.
pub(super) fn rewritten_isn(secret: u32, isn: u32) -> u32 {
    isn.wrapping_add(secret.wrapping_mul(isn | 1))
}

/// The middlebox at work.
#[derive(Debug, Default)]
pub(super) struct MiddleboxState {
    /// Ports, client ISN, and what is added to the client's and to the server's numbers.
    flows: Vec<((u16, u16), u32, u32, u32)>,
}

impl MiddleboxState {
    /// Lets a packet through.
    pub(super) fn pass(&mut self, kind: Middlebox, wire: &mut Wire, to: Direction) {
        if kind.strips {
            strip_offer(wire);
        }
        if let Some(secret) = kind.rewrites {
            self.rewrite(secret, wire, to);
        }
    }

    fn rewrite(&mut self, secret: u32, wire: &mut Wire, to: Direction) {
        let Some(view) = tcp(&wire.bytes) else { return };
        let (key, flags, sequence) = (ports(&view, to), view.flags(), view.sequence());
        let known = self.flows.iter().rposition(|flow| flow.0 == key);
        let index = match (known, to) {
            (Some(index), Direction::ToServer) if !flags.is_syn() || self.flows[index].1 == sequence => index,
            (Some(index), Direction::ToClient) => index,
            (_, Direction::ToServer) if flags.is_syn() => {
                let delta = rewritten_isn(secret, sequence).wrapping_sub(sequence);
                self.flows.push((key, sequence, delta, 0));
                self.flows.len() - 1
            }
            _ => return,
        };
        let flow = &mut self.flows[index];
        if to == Direction::ToClient && flags.is_syn_ack() && flow.3 == 0 {
            flow.3 = secret.wrapping_mul(sequence | 1).rotate_left(7);
        }
        let (own, others) = match to {
            Direction::ToServer => (flow.2, flow.3),
            Direction::ToClient => (flow.3, flow.2),
        };
        patch(&mut wire.bytes, wire.offload, |segment| move_numbers(segment, own, others));
    }
}

fn move_numbers(segment: &mut Segment<'_>, own: u32, others: u32) {
    segment.set_sequence(segment.tcp().sequence().wrapping_add(own));
    if !segment.tcp().flags().contains(Flags::ACK) {
        return;
    }
    segment.set_acknowledgement(segment.tcp().acknowledgement().wrapping_sub(others));
    let mut edges = Vec::new();
    for option in segment.tcp().options().map_while(Result::ok).filter(|option| option.kind == kind::SACK) {
        for (index, edge) in option.value.chunks_exact(4).enumerate() {
            let number = u32::from_be_bytes([edge[0], edge[1], edge[2], edge[3]]);
            edges.push((option.offset + 2 + index * 4, number.wrapping_sub(others)));
        }
    }
    for (at, number) in edges {
        segment.patch_options(at, &number.to_be_bytes());
    }
}

fn strip_offer(wire: &mut Wire) {
    let Some(view) = tcp(&wire.bytes) else { return };
    if wire.spoiled || !view.options().map_while(Result::ok).any(|option| is_offer(&option)) {
        return;
    }
    let (options, flags) = (strip(&view), view.flags());
    let mut stripped = Vec::with_capacity(wire.bytes.len());
    let mut packet = Packet { bytes: &mut wire.bytes, offload: Offload::default() };
    if let Ok(segment) = Segment::parse(&mut packet) {
        segment.write_with_options(&options, flags, &mut stripped);
        wire.bytes = stripped;
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Fields, segment};
    use super::super::wire::{Addresses, is_right};
    use super::*;

    #[test]
    fn every_spoiled_packet_is_noticed() {
        let mut random = fastrand::Rng::with_seed(1);
        for v6 in [false, true] {
            for length in 0..200 {
                let payload = vec![length as u8; length];
                let fields = Fields {
                    to: Direction::ToServer,
                    client_port: 40_000,
                    server_port: 80,
                    seq: random.u32(..),
                    ack: random.u32(..),
                    flags: Flags::ACK,
                    window: 100,
                    options: &[],
                    payload: &payload,
                };
                let mut wire = segment(&Addresses::new(v6), &fields);
                assert!(is_right(&wire.bytes, wire.offload));
                assert!(spoil(&mut wire, &mut random));
                assert!(!is_right(&wire.bytes, wire.offload));
            }
        }
    }
}

//! Arbitrary packets for the engines: valid ones of every kind on a few flows, then spoiled.

use super::packets::*;
use proptest::collection::vec;
use proptest::prelude::*;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::FlowKey;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

/// ISNs of clients; both wrap soon.
const CLIENTS: [u32; 2] = [0xffff_fffe, 0xffff_f000];
/// ISNs of servers.
const SERVERS: [u32; 2] = [0x7fff_0000, 0xffff_ff00];

/// Bounds small enough to be reached.
pub(crate) fn small_limits() -> Limits {
    Limits {
        flows: 4,
        pending: 3,
        half_open: 2,
        held_per_flow: 400,
        held_total: 700,
        idle: Duration::from_secs(60),
        closed: Duration::from_secs(2),
        reset: Duration::from_secs(1),
        learning: Duration::from_secs(3),
        unproven: Duration::from_secs(1),
        unacknowledged: Duration::from_secs(4),
        ..Limits::default()
    }
}

/// A sequence number as it may come up in a flow.
#[derive(Debug, Clone, Copy)]
enum Number {
    Client(usize, u32),
    Server(usize, u32),
    Promised(usize, u32),
    Any(u32),
}

fn number() -> impl Strategy<Value = Number> {
    let ahead = prop_oneof![5 => 0u32..3, 1 => 0u32..2000];
    prop_oneof![
        4 => (0..2usize, ahead.clone()).prop_map(|(i, n)| Number::Client(i, n)),
        4 => (0..2usize, ahead.clone()).prop_map(|(i, n)| Number::Server(i, n)),
        4 => (0..2usize, ahead).prop_map(|(i, n)| Number::Promised(i, n)),
        1 => any::<u32>().prop_map(Number::Any),
    ]
}

#[derive(Debug, Clone)]
enum Options {
    None,
    Linux,
    Timestamps,
    Signal(Kind, usize),
    Raw(Vec<u8>),
}

fn options() -> impl Strategy<Value = Options> {
    let kind = prop_oneof![Just(Kind::Spoofed), Just(Kind::Probe), Just(Kind::Confirm)];
    prop_oneof![
        2 => Just(Options::None),
        4 => Just(Options::Linux),
        2 => Just(Options::Timestamps),
        5 => (kind, 0..2usize).prop_map(|(kind, client)| Options::Signal(kind, client)),
        1 => vec(any::<u8>(), 0..=10).prop_map(|words| Options::Raw(words.repeat(4))),
    ]
}

/// One packet and the time before it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    wait_ms: u64,
    port: u16,
    to: Direction,
    flags: Flags,
    numbers: (Number, Number),
    options: Options,
    payload: usize,
    icmp: bool,
    spoil: Vec<(usize, u8)>,
    cut: Option<usize>,
    hop_limit: u8,
    offload: Offload,
}

/// A sequence of packets.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(prop_oneof![1 => plausible(), 1 => step()], 1..120)
}

/// Packets that move a flow on: what the two ends and the NICs would send.
fn plausible() -> impl Strategy<Value = Step> {
    (0u64..300, 0u16..3, 0..2usize, 0..2usize, 0..8usize).prop_map(|(wait_ms, port, c, s, what)| {
        use Direction::{ToClient, ToServer};
        let signal = |kind| Options::Signal(kind, c);
        let (client, server, promised) = (Number::Client, Number::Server, Number::Promised);
        let (to, flags, numbers, options, payload) = match what {
            0 => (ToServer, SYN, (client(c, 0), Number::Any(0)), Options::Linux, 0),
            1 => (ToServer, SYN, (client(c, 0), Number::Any(0)), signal(Kind::Spoofed), 0),
            2 => (ToServer, SYN, (client(c, 0), Number::Any(0)), signal(Kind::Probe), 0),
            3 => (ToClient, SYN | ACK, (server(s, 0), client(c, 1)), Options::Linux, 0),
            4 => (ToClient, SYN | ACK, (promised(c, 0), client(c, 1)), signal(Kind::Confirm), 0),
            5 => (ToServer, ACK | PSH, (client(c, 1), promised(c, 1)), Options::Timestamps, 50),
            6 => (ToServer, FIN | ACK, (client(c, 51), promised(c, 1)), Options::Timestamps, 0),
            _ => (ToClient, FIN | ACK, (server(s, 1), client(c, 52)), Options::Timestamps, 0),
        };
        let (icmp, spoil, cut) = (false, vec![], None);
        let offload = Offload::default();
        Step { wait_ms, port, to, flags, numbers, options, payload, icmp, spoil, cut, hop_limit: 64, offload }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        8 => prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(ACK | PSH)],
        4 => prop_oneof![Just(RST), Just(RST | ACK), Just(FIN | ACK)],
        1 => any::<u16>().prop_map(Flags::from_bits),
    ];
    let spoil = prop_oneof![3 => Just(vec![]), 1 => vec((0usize..120, any::<u8>()), 1..4)];
    let offload = (any::<bool>(), prop_oneof![4 => Just(0u16), 1 => 0u16..100])
        .prop_map(|(needs_csum, gso_size)| Offload { needs_csum, gso_size });
    let wait = prop_oneof![6 => 0u64..50, 1 => 0u64..20_000];
    (
        (wait, 0u16..6, any::<bool>(), flags, (number(), number()), options()),
        (
            prop_oneof![Just(0), 0usize..200],
            prop::bool::weighted(0.1),
            spoil,
            prop::option::weighted(0.1, 0usize..120),
            prop_oneof![9 => Just(64u8), 1 => 0u8..3],
            offload,
        ),
    )
        .prop_map(
            |(
                (wait_ms, port, up, flags, numbers, options),
                (payload, icmp, spoil, cut, hop_limit, offload),
            )| {
                let to = if up { Direction::ToServer } else { Direction::ToClient };
                Step {
                    wait_ms,
                    port,
                    to,
                    flags,
                    numbers,
                    options,
                    payload,
                    icmp,
                    spoil,
                    cut,
                    hop_limit,
                    offload,
                }
            },
        )
}

impl Step {
    fn flow(&self) -> FlowKey {
        FlowKey::new((client().0, client().1 + self.port), server(), Direction::ToServer)
    }

    fn resolve(&self, number: Number) -> u32 {
        let promised = |i: usize| keys().promised_isn(1, &self.flow(), Seq::new(CLIENTS[i]));
        match number {
            Number::Client(i, n) => CLIENTS[i].wrapping_add(n),
            Number::Server(i, n) => SERVERS[i].wrapping_add(n),
            Number::Promised(i, n) => promised(i).map_or(n, |isn| isn.plus(n).get()),
            Number::Any(n) => n,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (seq, ack) = (self.resolve(self.numbers.0), self.resolve(self.numbers.1));
        let mut segment = Seg::new(self.to, self.flags, seq, ack).payload(&vec![7; self.payload]);
        match &self.options {
            Options::None => {}
            Options::Linux => segment.syn_options = Some(linux(1, 2)),
            Options::Timestamps => segment.ts = Some((3, 4)),
            Options::Raw(raw) => segment.raw = raw.clone(),
            Options::Signal(kind, client) => {
                let promise =
                    Promise { mss: 1200, window_scale: Some(9), sack: true, tsval: Some(9), ecn: false };
                let offer = Offer { kind: *kind, key: 1, promise };
                let signal = offer.encode(&keys(), &self.flow(), Seq::new(CLIENTS[*client]));
                segment.raw = signal.map_or(vec![], |signal| signal.to_vec());
                segment.syn_options = Some(linux(1, 2));
            }
        }
        let mut bytes = segment.bytes();
        let port = if self.to == Direction::ToServer { 20 } else { 22 };
        set_port(&mut bytes, port, client().1 + self.port);
        if self.icmp {
            let router = [10, 1, 1, 9].into();
            let mut error = Vec::new();
            let complaint = rtt0_core::wire::icmp::Complaint::TooBig(1200);
            rtt0_core::wire::icmp::write_error(complaint, router, &bytes, &mut error);
            bytes = error;
        }
        let mut ip = rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..]).expect("an IPv4 header");
        ip.set_ttl(self.hop_limit);
        for (at, value) in &self.spoil {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte = *value;
            }
        }
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}

/// What an engine has emitted for what it has been given.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Ledger {
    received: usize,
    answered: usize,
    timed: usize,
}

/// Hands the steps to an engine, with `check` after each; then lets every timer run out.
///
/// All that is emitted at once is at most two packets for each received so far, held ones and
/// answers included; timers add at most six for each: five repeats of a SYN, and a reset.
pub(crate) fn feed<E: Engine>(engine: &mut E, steps: &[Step], check: impl Fn(&E)) {
    let mut now = ms(1);
    let mut ledger = Ledger::default();
    for step in steps {
        now = now + Duration::from_millis(step.wait_ms);
        turn(engine, now, &mut ledger);
        let mut bytes = step.bytes();
        let (mut out, original) = (Outbox::new(), bytes.clone());
        let mut packet = Packet { bytes: &mut bytes, offload: step.offload };
        let verdict = engine.handle(now, &mut packet, &mut out);
        ledger.received += 1;
        ledger.answered += out.len() + usize::from(verdict == Verdict::Forward);
        if verdict == Verdict::Forward && step.payload > 150 {
            engine.too_big(now, &bytes, 1200, &mut out);
        }
        assert!(out.iter().all(|(bytes, _)| !bytes.is_empty()));
        assert!(ledger.answered <= 2 * ledger.received, "{ledger:?} at {original:02x?}");
        check(engine);
    }
    while let Some(at) = engine.next_timeout() {
        turn(engine, at.max(now), &mut ledger);
        assert!(at < now + Duration::from_secs(600), "a timer that never ends");
    }
    assert!(ledger.timed <= 6 * ledger.received, "{ledger:?}");
}

fn turn(engine: &mut impl Engine, now: Instant, ledger: &mut Ledger) {
    while engine.next_timeout().is_some_and(|at| at <= now) {
        let mut out = Outbox::new();
        engine.handle_timeout(now, &mut out);
        ledger.timed += out.len();
    }
}

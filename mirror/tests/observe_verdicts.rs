//! The observer's verdicts are those of ClientNIC's engine itself, given the same SYNs and answers.
//!
//! What depends on the daemon alone (its mode, exclusions and bounds, a flood) and SYNs whose checksum is wrong the observer
//! does not judge.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use mirror::inner::{Inner, Transport};
use mirror::observe::{Observer, Options, Report};
use packets::*;
use proptest::prelude::*;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::{Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::SynOptions;
use std::sync::Arc;

/// The server's ISN.
const Y: u32 = 0xffff_ff00;

/// Later than any timer of the two that is due, in ms.
const TICK: u64 = 100;

/// A connection: its SYN's control bits, which options it has, its payload, what the server does, bytes uploaded, and
/// ms until the next one.
type Talk = (u16, usize, usize, Answer, u32, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accepts,
    Refuses,
    /// None, for as long as the engine waits for one.
    Silence,
}

fn talk() -> impl Strategy<Value = Talk> {
    let flags =
        prop_oneof![8 => Just(0x02u16), 1 => Just(0xc2), 1 => Just(0x1c2), 1 => Just(0x22), 1 => Just(0x0a)];
    let payload = prop_oneof![9 => Just(0usize), 1 => Just(30)];
    let answer =
        prop_oneof![10 => Just(Answer::Accepts), 2 => Just(Answer::Refuses), 1 => Just(Answer::Silence)];
    let upload = prop_oneof![4 => Just(500u32), 2 => Just(400_000)];
    let gap = prop_oneof![6 => 300u64..3_000, 1 => Just(599_000), 1 => Just(700_000)];
    (flags, 0usize..8, payload, answer, upload, gap)
}

/// Options that ask for all, for less, have what is not known, leave no room for a probe, or make no sense.
fn options(which: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let all = linux(100, 0);
    match which {
        0 | 1 => all.write(&mut bytes),
        2 => SynOptions { timestamps: None, ..all }.write(&mut bytes),
        3 => SynOptions { mss: Some(536), ..SynOptions::default() }.write(&mut bytes),
        4 => {
            all.write(&mut bytes);
            bytes.extend_from_slice(&[34, 2, 1, 1]);
        }
        5 => {
            all.write(&mut bytes);
            bytes.extend_from_slice(&[1, 1, 1, 1]);
        }
        6 => {
            all.write(&mut bytes);
            bytes.extend_from_slice(&[30, 4, 0, 0]);
        }
        // A window scale that is longer than the header.
        _ => bytes.extend_from_slice(&[3, 9, 0, 0]),
    }
    bytes
}

fn show(observer: &mut Observer, now: Instant, segment: &Seg) {
    let bytes = segment.bytes();
    let ends = match segment.to {
        Direction::ToServer => [client(), server()],
        Direction::ToClient => [server(), client()],
    };
    let inner = Inner {
        source: ends[0].0,
        destination: ends[1].0,
        transport: Transport::Tcp,
        source_port: ends[0].1,
        destination_port: ends[1].1,
        upper: 20,
        length: bytes.len(),
        hop_limit: 64,
    };
    observer.segment(now, &bytes, &inner);
}

/// 0-RTT connections, then those that passed for each reason that a SYN can pass for.
type Verdicts = Vec<u64>;

fn of_report(report: &Report) -> Verdicts {
    let passed = |reason: &PassReason| {
        report.all.passed.iter().filter(|told| told.label == reason.label()).map(|told| told.count).sum()
    };
    std::iter::once(report.all.zero_rtt).chain(PassReason::ALL.iter().map(passed)).collect()
}

fn of_engine(nic: &ClientNic) -> Verdicts {
    let counters = nic.counters();
    let spoofed = counters.happened(Event::SpoofedPaired) + counters.happened(Event::SpoofedSolo);
    std::iter::once(spoofed).chain(PassReason::ALL.iter().map(|reason| counters.passed(*reason))).collect()
}

fn since(before: &Verdicts, after: &Verdicts) -> Verdicts {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

/// What the server answers: whatever it is offered, but for ECN.
fn answer_options(syn: &Seg) -> SynOptions {
    let offered =
        SynOptions::parse(rtt0_core::wire::options::Options::new(&syn.raw), |option| option.kind > 8);
    SynOptions { mss: Some(1460), ..offered.unwrap_or_default() }
}

/// Gives the engine a SYN; returns whether it asks for a ServerNIC. Options that make no sense are not read back.
fn asks(nic: &mut ClientNic, now: Instant, syn: &Seg) -> bool {
    let (mut bytes, mut out) = (syn.bytes(), Outbox::new());
    nic.handle(now, &mut Packet { bytes: &mut bytes, offload: Offload::default() }, &mut out);
    let asks = |sent: Seg| sent.to == Direction::ToServer && sent.raw.len() > 19;
    out.iter().any(|(bytes, _)| asks(Seg::read(bytes)))
}

/// The engine on the path, a ServerNIC answering for the server; and the observer, who sees the same connections
/// without either.
struct Both {
    nic: ClientNic,
    observer: Observer,
    /// ms.
    at: u64,
    connections: u32,
}

impl Both {
    fn new() -> Self {
        let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
        let settings =
            Settings { policy: Mode::Auto.into(), mss_clamp: (1460, 1440), limits: Limits::default() };
        let nic = ClientNic::new(gateway(), keys(), profiles, settings);
        Self { nic, observer: Observer::new(Options::default()), at: 1_000, connections: 0 }
    }

    fn now(&self) -> Instant {
        ms(self.at)
    }

    /// Returns what the engine did with the connection's SYN, and what the observer says of it.
    fn talk(&mut self, (bits, which, payload, answer, upload, gap): Talk) -> (Verdicts, Verdicts) {
        self.at += gap;
        self.connections += 1;
        let (now, isn) = (self.now(), self.connections.wrapping_mul(0x9e37_79b9));
        pass_time(&mut self.nic, now);
        let flags = rtt0_core::wire::tcp::Flags::from_bits(bits);
        let syn = Seg::from_client(flags, isn, 0).raw(&options(which)).payload(&vec![7; payload]);
        let before = (of_engine(&self.nic), of_report(&self.observer.report(now)));
        let asked = asks(&mut self.nic, now, &syn);
        show(&mut self.observer, now, &syn);
        let mut done = since(&before.0, &of_engine(&self.nic));
        let told = since(&before.1, &of_report(&self.observer.report(now)));
        // The daemon counts both; here it is the reason why there is nothing to learn.
        if done[1 + PassReason::NoOptionSpace as usize] > 0 {
            if done[1 + PassReason::Learning as usize] > 0 {
                done[1 + PassReason::Learning as usize] = 0;
            } else {
                done[1 + PassReason::NoOptionSpace as usize] = 0;
            }
        }
        let spoofed = done[0] > 0;
        let promised = keys().promised_isn(1, &flow(), Seq::new(isn)).unwrap().get();
        let first = isn.wrapping_add(1);
        if spoofed {
            give(&mut self.nic, now, &Seg::from_client(ACK, first, promised.wrapping_add(1)));
        }
        match answer {
            Answer::Silence => {
                self.at += Limits::default().handshake.as_millis() as u64 + TICK;
                pass_time(&mut self.nic, ms(self.at));
                // Whatever comes tells the observer what time it is.
                show(&mut self.observer, ms(self.at), &Seg::from_client(ACK, first, 1));
            }
            Answer::Refuses => {
                let refusal = Seg::from_server(RST | ACK, 0, first);
                give(&mut self.nic, now, &refusal);
                show(&mut self.observer, now, &refusal);
            }
            Answer::Accepts => {
                let confirm = Offer { kind: Kind::Confirm, key: 1, promise: Promise::default() };
                let raw = confirm.encode(&keys(), &flow(), Seq::new(isn)).unwrap().to_vec();
                let raw = if asked { raw } else { vec![] };
                let seq = if spoofed { promised } else { Y };
                let answered = |seq| Seg::from_server(SYN | ACK, seq, first).options(answer_options(&syn));
                give(&mut self.nic, now, &Seg { raw, ..answered(seq) });
                show(&mut self.observer, now, &answered(Y));
                // The upload's end, then a reset, shown to both in the numbers that each knows.
                let real = |segment: Seg| Seg { ack: Y.wrapping_add(1), ..segment };
                let seen = seq.wrapping_add(1);
                let last = Seg::from_client(ACK, first.wrapping_add(upload - 1), seen).payload(b"x");
                let reset = Seg::from_client(RST | ACK, first.wrapping_add(upload), seen);
                show(&mut self.observer, now, &real(Seg::from_client(ACK, first, 0)));
                for segment in [last, reset] {
                    give(&mut self.nic, now, &segment);
                    show(&mut self.observer, now, &real(segment));
                }
            }
        }
        (done, told)
    }
}

proptest! {
    #[test]
    fn each_syn_is_judged_as_the_engine_judges_it(talks in proptest::collection::vec(talk(), 1..25)) {
        let (mut both, mut silent) = (Both::new(), false);
        for mut talk in talks {
            // The two time silence a tick apart, and so the end of what follows from it.
            talk.5 += if silent { 1_000 } else { 0 };
            silent = talk.3 == Answer::Silence;
            let (done, told) = both.talk(talk);
            prop_assert_eq!(&told, &done, "connection {}: {:?}", both.connections, talk);
        }
    }
}

/// One connection for each verdict that the observer can give, each where the engine must give the same.
#[test]
fn each_verdict_comes_up() {
    const ECN: u16 = 0xc2;
    const SHORT: u32 = 500;
    let plain = |bits, which| (bits, which, 0, Answer::Accepts, SHORT, 300);
    let with = |answer, upload, gap| (0x02, 0, 0, answer, upload, gap);
    let mut both = Both::new();
    let mut must_be = |talk: Talk, expected: Result<(), PassReason>| {
        let (done, told) = both.talk(talk);
        let place = expected.err().map_or(0, |reason| 1 + reason as usize);
        let alone: Verdicts = (0..told.len()).map(|at| u64::from(at == place)).collect();
        assert_eq!((&told, &done), (&alone, &alone), "connection {}: {talk:?}", both.connections);
    };
    // First contact, with no room for a probe, and with some; without timestamps; then what is known.
    must_be(plain(0x02, 5), Err(PassReason::NoOptionSpace));
    must_be(plain(0x02, 2), Err(PassReason::Learning));
    must_be(plain(0x02, 2), Ok(()));
    must_be(plain(0x02, 0), Err(PassReason::Learning));
    must_be(plain(0x02, 0), Ok(()));
    must_be(plain(0x02, 2), Ok(()));
    must_be(plain(ECN, 0), Err(PassReason::Learning));
    must_be(plain(ECN, 0), Ok(()));
    // What passes whatever is known: Fast Open, MPTCP, data, odd bits, options that make no sense.
    must_be(plain(0x02, 4), Err(PassReason::UnknownOption));
    must_be(plain(0x02, 6), Err(PassReason::UnknownOption));
    must_be((0x02, 0, 30, Answer::Accepts, SHORT, 300), Err(PassReason::SynPayload));
    must_be(plain(0x1c2, 0), Err(PassReason::AccurateEcn));
    must_be(plain(0x22, 0), Err(PassReason::OddSyn));
    must_be(plain(0x0a, 0), Err(PassReason::OddSyn));
    must_be(plain(0x02, 7), Err(PassReason::MalformedTcp));
    // A second behind a refusal or silence; and longer.
    for answer in [Answer::Refuses, Answer::Silence] {
        must_be(with(answer, SHORT, 2_000), Ok(()));
        must_be(with(Answer::Accepts, SHORT, 800), Err(PassReason::RefusedLately));
        must_be(with(Answer::Accepts, SHORT, 300), Err(PassReason::Learning));
    }
    // A profile lives ten minutes.
    must_be(with(Answer::Accepts, SHORT, 599_000), Ok(()));
    must_be(with(Answer::Accepts, SHORT, 601_000), Err(PassReason::Learning));
    // A quarter of the last eight uploads.
    must_be(with(Answer::Accepts, 4_000_000, 300), Ok(()));
    must_be(with(Answer::Accepts, 4_000_000, 300), Ok(()));
    must_be(with(Answer::Accepts, SHORT, 300), Err(PassReason::LargeUploads));
}

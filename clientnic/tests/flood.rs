//! SYNs from clients that do not exist: what they occupy, and what they make the NIC send.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use packets::*;
use proptest::prelude::*;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::{Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// The server's ISN.
const Y: u32 = 0x8000_0000;

fn engine(mode: Mode, limits: Limits) -> ClientNic {
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    ClientNic::new(
        gateway(),
        keys(),
        profiles,
        Settings { policy: mode.into(), mss_clamp: (1460, 1440), limits },
    )
}

fn syn(isn: u32) -> Seg {
    Seg::from_client(SYN, isn, 0).options(linux(100, 0))
}

fn syn_ack(isn: u32) -> Seg {
    Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(5000, 100))
}

fn promised(isn: u32) -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(isn)).unwrap().get()
}

fn confirmed(isn: u32, seq: u32) -> Seg {
    let offer = Offer { kind: Kind::Confirm, key: 1, promise: Promise::default() };
    let raw = offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap();
    Seg { seq, ..syn_ack(isn) }.raw(&raw)
}

/// An engine that knows the destination.
fn taught(mode: Mode, limits: Limits) -> ClientNic {
    let mut nic = engine(mode, limits);
    give(&mut nic, ms(0), &syn(1));
    let answer = if mode == Mode::Solo { syn_ack(1) } else { confirmed(1, Y) };
    give(&mut nic, ms(1), &answer);
    give(&mut nic, ms(2), &Seg::from_client(ACK, 2, Y + 1));
    give(&mut nic, ms(2), &Seg::from_client(RST, 2, 0));
    nic
}

/// What the server's side may say to a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Nothing,
    Confirm,
    Plain,
    Refusal,
}

fn answer(answer: Answer, isn: u32) -> Option<Seg> {
    match answer {
        Answer::Nothing => None,
        Answer::Confirm => Some(confirmed(isn, promised(isn))),
        Answer::Plain => Some(syn_ack(isn)),
        Answer::Refusal => Some(Seg::from_server(RST | ACK, 0, isn.wrapping_add(1))),
    }
}

proptest! {
    /// Never more than one packet towards the client for each SYN, nor more than two towards the
    /// server, whatever the server does and however often a SYN is repeated.
    #[test]
    fn no_amplifier(
        solo in any::<bool>(),
        syns in prop::collection::vec((any::<u32>(), 1usize..4, 0u64..2000, prop_oneof![
            Just(Answer::Nothing), Just(Answer::Confirm), Just(Answer::Plain), Just(Answer::Refusal),
        ]), 1..20),
    ) {
        let mut nic = taught(if solo { Mode::Solo } else { Mode::Auto }, Limits::default());
        let (mut now, mut received) = (ms(100), 0);
        let (mut to_client, mut to_server) = (0, 0);
        let mut count = |sent: &[Seg]| {
            let client = sent.iter().filter(|segment| segment.to == Direction::ToClient).count();
            to_client += client;
            to_server += sent.len() - client;
        };
        for (isn, copies, wait, kind) in syns {
            for _ in 0..copies {
                received += 1;
                count(&give(&mut nic, now, &syn(isn)));
            }
            now = now + Duration::from_millis(wait);
            let timed: Vec<Seg> = pass_time(&mut nic, now).into_iter().map(|(_, segment)| segment).collect();
            count(&timed);
            if let Some(segment) = answer(kind, isn) {
                let sent = give(&mut nic, now, &segment);
                // What the server itself sends to the client is its own affair.
                if sent != [segment] {
                    count(&sent);
                }
            }
        }
        let rest: Vec<Seg> = pass_time(&mut nic, ms(1_000_000)).into_iter().map(|(_, s)| s).collect();
        count(&rest);
        prop_assert!(to_client <= received, "{to_client} packets to the client for {received} SYNs");
        prop_assert!(to_server <= 2 * received, "{to_server} packets to the server for {received} SYNs");
    }
}

/// A SYN from any port, and its number space.
fn give_from(nic: &mut ClientNic, now: Instant, port: u16, segment: &Seg) -> usize {
    let mut bytes = segment.bytes();
    let at = if segment.to == Direction::ToServer { 20 } else { 22 };
    set_port(&mut bytes, at, port);
    give_bytes(nic, now, &mut bytes).len()
}

#[test]
fn clients_that_acknowledge_nothing_fill_their_bound_only_and_only_for_a_while() {
    let limits = Limits { half_open: 10, ..Limits::default() };
    let mut nic = taught(Mode::Auto, limits);
    for port in 0..100 {
        assert!((1..=2).contains(&give_from(&mut nic, ms(100), 1000 + port, &syn(7))));
    }
    assert_eq!((nic.gauges().half_open, nic.gauges().flows), (10, 11), "the eleventh has taught, and ended");
    assert_eq!(nic.counters().passed(PassReason::HalfOpenFull), 90);
    // A client that did exist is no longer counted, and has patience on its side.
    let proof = Seg::from_client(ACK, 8, isn_promised_from(1003, 7).wrapping_add(1));
    give_from(&mut nic, ms(150), 1003, &proof);
    assert_eq!(nic.gauges().half_open, 9);
    pass_time(&mut nic, ms(3200));
    assert_eq!((nic.gauges().half_open, nic.gauges().flows), (0, 2));
    assert_eq!(give_from(&mut nic, ms(3300), 2000, &syn(7)), 2, "spoofed again");
}

fn isn_promised_from(port: u16, isn: u32) -> u32 {
    let flow = rtt0_core::flow::FlowKey::new((client().0, port), server(), Direction::ToServer);
    keys().promised_isn(1, &flow, Seq::new(isn)).unwrap().get()
}

#[test]
fn a_confirmed_flow_of_nobody_is_soon_forgotten() {
    for (mode, kind, long) in [(Mode::Auto, Answer::Confirm, 3), (Mode::Solo, Answer::Plain, 20)] {
        let mut nic = taught(mode, Limits::default());
        give(&mut nic, ms(100), &syn(7));
        give(&mut nic, ms(200), &answer(kind, 7).unwrap());
        assert_eq!((nic.gauges().half_open, nic.gauges().flows), (1, 1));
        // The server repeats its SYN-ACK; that does not keep the flow.
        give(&mut nic, ms(1200), &Seg { seq: promised(7), ..syn_ack(7) });
        pass_time(&mut nic, ms(300 + long * 1000));
        assert_eq!((nic.gauges().half_open, nic.gauges().flows), (0, 0), "{mode:?}");
    }
}

#[test]
fn a_refusal_reaches_a_client_that_exists_and_no_other() {
    let mut nic = taught(Mode::Auto, Limits::default());
    give(&mut nic, ms(100), &syn(7));
    assert!(give(&mut nic, ms(110), &answer(Answer::Refusal, 7).unwrap()).is_empty());
    assert_eq!(nic.counters().happened(Event::Refused), 0);
    let proof = Seg::from_client(ACK, 8, promised(7).wrapping_add(1));
    let sent = give(&mut nic, ms(120), &proof);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].flags, sent[0].seq), (RST | ACK, promised(7).wrapping_add(1)));
    assert_eq!((nic.counters().happened(Event::Refused), nic.gauges().flows), (1, 0));
    // The next SYN sees the truth.
    assert_eq!(give(&mut nic, ms(130), &syn(8)), [syn(8)]);
}

//! A ClientNIC whose kernel answers SYNs by itself.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/fast_path.rs"]
mod fast_path;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Phase, Settings};
use clientnic::{Policy, SharedPolicy};
use fast_path::Kept;
use packets::*;
use rtt0_core::engine::Engine;
use rtt0_core::exclusions::Exclusions;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Keys, Kind, LENGTH, Offer, Promise};
use rtt0_core::offload::{Applied, Begun, FastPath, Offloaded, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::profile::{Posted, ProfileLimits, Profiles};
use rtt0_core::reason::{Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::spoof::{Spoof, spoof_at_once};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::MAX_OPTIONS;
use std::sync::Arc;

/// The ISNs of the connection that teaches, and of the one after it.
const C: u32 = 0xffff_ff00;
const D: u32 = 7;
/// The server's ISN.
const Y: u32 = 0x8000_0000;

fn s() -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(D)).unwrap().get()
}

fn syn(isn: u32) -> Seg {
    Seg::from_client(SYN, isn, 0).options(linux(100, 0))
}

fn confirm(isn: u32) -> Seg {
    confirm_as(Kind::Confirm, isn)
}

fn confirm_as(kind: Kind, isn: u32) -> Seg {
    let offer = Offer { kind, key: 1, promise: Promise::default() };
    let syn_ack = Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(5_000, 100));
    syn_ack.raw(&offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap())
}

/// The SYN of another client.
fn from_port(port: u16) -> Vec<u8> {
    let mut bytes = syn(D).bytes();
    set_port(&mut bytes, 20, port);
    bytes
}

/// One whose kernel can answer.
fn new(policy: &SharedPolicy, limits: Limits) -> (ClientNic, Kept) {
    let settings = Settings { policy: policy.clone(), mss_clamp: (1460, 1440), limits };
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let (mut nic, kept) = (ClientNic::new(gateway(), keys(), profiles, settings), Kept::default());
    kept.state().can_begin = true;
    nic.accelerate(Box::new(kept.clone()));
    (nic, kept)
}

/// Likewise, which knows of a ServerNIC.
fn taught(policy: &SharedPolicy, limits: Limits) -> (ClientNic, Kept) {
    let (mut nic, kept) = new(policy, limits);
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &confirm(C));
    give(&mut nic, ms(60), &Seg::from_client(RST, C + 1, 0));
    (nic, kept)
}

fn auto() -> (ClientNic, Kept) {
    taught(&Mode::Auto.into(), Limits::default())
}

/// What the kernel does with a SYN: returns the SYN-ACK, and the SYN with the offer.
fn answer(kept: &Kept, syn: &Seg, keys: &Keys, at: u64) -> Spoof {
    let bytes = syn.bytes();
    let mut copy = bytes.clone();
    let mut packet = Packet { bytes: &mut copy, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).unwrap();
    let posted = Posted { mss: 1460, window: 500, window_scale: 7, expires: ms(1 << 30) };
    let made = spoof_at_once(flow(), &segment, &posted, keys, 1460).unwrap();
    let on = &made.start.syn;
    let offer = on[on.len() - MAX_OPTIONS..][..LENGTH].try_into().unwrap();
    let opening = Offloaded::opening(flow(), made.start.client_isn, made.start.promised_isn);
    kept.clone().hand(&opening, Queued::Nothing);
    kept.state().begun.push_back(Begun { syn: bytes, offer, at: ms(at) });
    made
}

#[test]
fn the_engine_goes_on_with_what_the_kernel_has_begun() {
    let (mut nic, kept) = auto();
    let made = answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(180));
    assert_eq!(nic.view(&flow()).phase, Phase::OpeningPaired);
    assert_eq!((nic.gauges().half_open, nic.gauges().pending, nic.gauges().awaited), (1, 1, 1));
    let happened = |nic: &ClientNic, event| nic.counters().happened(event);
    assert_eq!(happened(&nic, Event::SpoofedAtOnce) + happened(&nic, Event::SpoofedPaired), 2);
    // It has sent nothing, and answers the repeated SYN as the kernel did.
    let sent = give(&mut nic, ms(1_100), &syn(D));
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], Seg::read(&made.start.syn));
    assert_eq!(sent[1], Seg::read(&made.syn_ack));
    assert_eq!(give(&mut nic, ms(1_150), &Seg { seq: s(), ..confirm(D) }), [], "consumed");
    assert_eq!((nic.view(&flow()).phase, happened(&nic, Event::Confirmed)), (Phase::Watching, 1));
}

#[test]
fn the_time_of_the_answer_counts_and_not_when_the_engine_hears_of_it() {
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(150));
    assert_eq!(give(&mut nic, ms(150), &Seg { seq: s(), ..confirm(D) }), []);
    assert_eq!(nic.counters().saved().read().micros, 50_000);
}

#[test]
fn what_a_confirm_is_late_is_no_part_of_the_way() {
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(101));
    let late = Seg { seq: s(), ..confirm_as(Kind::LateConfirm(80_000), D) };
    assert_eq!(give(&mut nic, ms(230), &late), [], "consumed");
    assert_eq!((nic.view(&flow()).phase, nic.counters().saved().read().micros), (Phase::Watching, 50_000));
}

#[test]
fn a_connection_that_is_over_before_its_confirm_makes_way_for_the_next() {
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(101));
    let tsval = keys().promised_tsval(1, &flow(), Seq::new(D)).unwrap();
    let proof = Seg::from_client(ACK, D + 1, s().wrapping_add(1)).ts(101, tsval);
    assert_eq!(kept.forward(&proof, Direction::ToServer, 102), Applied::Forwarded);
    let data = Seg::from_server(ACK | PSH, s().wrapping_add(1), D + 1).ts(tsval, 101).payload(b"220");
    assert_eq!(kept.forward(&data, Direction::ToClient, 150), Applied::Forwarded);
    let sent = give(&mut nic, ms(160), &syn(D + 100_000));
    assert_eq!(sent.len(), 2, "it is answered early");
    assert_eq!(nic.counters().passed(PassReason::RivalSyn), 0);
}

#[test]
fn an_offer_that_got_lost_is_sent_again() {
    let (mut nic, kept) = auto();
    let made = answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(150));
    let sent = pass_time(&mut nic, ms(1_000));
    assert_eq!(sent.first().map(|(_, seg)| seg.clone()), Some(Seg::read(&made.start.syn)));
}

#[test]
fn early_data_are_kept_for_a_server_that_has_lost_its_nic() {
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &keys(), 100);
    let request = Seg::from_client(ACK | PSH, D + 1, s().wrapping_add(1)).payload(b"GET /");
    assert_eq!(kept.forward(&request, Direction::ToServer, 101), Applied::Copied);
    let mut copy = request.bytes();
    rtt0_core::wire::ipv4::Ipv4::unverified(&mut copy[..]).unwrap().set_ttl(0);
    hear(&mut nic, ms(102));
    assert!(give_bytes(&mut nic, ms(102), &mut copy).is_empty());
    let answer = Seg::from_server(SYN | ACK, Y, D + 1).options(linux(5_000, 100));
    assert_eq!(kept.forward(&answer, Direction::ToClient, 150), Applied::ToEngine);
    let sent = give(&mut nic, ms(150), &answer);
    assert_eq!(sent.last().map(|seg| (seg.ack, seg.payload.clone())), Some((Y + 1, b"GET /".to_vec())));
    assert_eq!(nic.counters().happened(Event::FellBackToSolo), 1);
}

#[test]
fn what_it_can_t_take_charge_of_goes_on_without_it() {
    let disowned = |nic: &ClientNic, kept: &Kept| {
        assert!(kept.state().flows.is_empty());
        assert_eq!(nic.counters().happened(Event::SpoofedAtOnce), 0);
        nic.counters().happened(Event::Disowned)
    };
    // Signed by a key that is no more.
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &Keys::new((1, [9; 16]), None).unwrap(), 100);
    hear(&mut nic, ms(110));
    assert_eq!((disowned(&nic, &kept), nic.view(&flow()).phase), (1, Phase::Watching));
    // Of ports whose SYN has passed unspoofed.
    let (mut nic, kept) = new(&Mode::Auto.into(), Limits::default());
    give(&mut nic, ms(90), &syn(D));
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(110));
    assert_eq!((disowned(&nic, &kept), nic.view(&flow()).phase), (1, Phase::Learning));
    // Where as many are half open as may be.
    let (mut nic, kept) = taught(&Mode::Auto.into(), Limits { half_open: 1, ..Limits::default() });
    give_bytes(&mut nic, ms(90), &mut from_port(9));
    kept.state().flows.clear();
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(110));
    assert_eq!(disowned(&nic, &kept), 1);
}

#[test]
fn a_client_that_aborts_and_begins_anew_is_not_lost() {
    let (mut nic, kept) = auto();
    answer(&kept, &syn(D), &keys(), 100);
    hear(&mut nic, ms(101));
    let reset = Seg::from_client(RST | ACK, D + 1, s().wrapping_add(1));
    assert_eq!(kept.forward(&reset, Direction::ToServer, 102), Applied::ToEngine);
    give(&mut nic, ms(102), &reset);
    assert!(kept.state().flows.is_empty());
    answer(&kept, &syn(D + 1_000), &keys(), 103);
    hear(&mut nic, ms(104));
    assert_eq!(nic.view(&flow()).client_isn, Some(Seq::new(D + 1_000)));
    assert_eq!(nic.counters().happened(Event::Disowned), 0);
}

#[test]
fn the_kernel_may_answer_only_where_the_engine_would_answer_every_syn() {
    let may = |nic: &mut ClientNic, kept: &Kept, at: u64| {
        hear(nic, ms(at));
        kept.state().allowed.is_some()
    };
    let policy = SharedPolicy::from(Mode::Auto);
    let (mut nic, kept) = taught(&policy, Limits::default());
    assert!(may(&mut nic, &kept, 100));
    assert_eq!(kept.state().allowed, Some(ms(400)), "not for long: the engine may be no more");
    assert_eq!(nic.next_timeout(), Some(ms(200)), "and again before that");
    nic.handle_timeout(ms(200), &mut Default::default());
    assert_eq!(kept.state().allowed, Some(ms(500)));
    for mode in [Mode::Solo, Mode::Off] {
        policy.replace(Policy { mode, ..Policy::default() });
        assert!(!may(&mut nic, &kept, 210), "{mode:?}");
    }
    let sources = vec!["10.1.0.0/24".parse().unwrap()];
    let exclusions = Exclusions { sources, ..Exclusions::default() };
    policy.replace(Policy { exclusions, ..Policy::default() });
    assert!(!may(&mut nic, &kept, 220), "an exclusion");
    policy.replace(Policy { mode: Mode::Paired, ..Policy::default() });
    assert!(may(&mut nic, &kept, 230));
    nic.stand_back(true);
    assert_eq!(kept.state().allowed, None, "at once");
    assert!(!may(&mut nic, &kept, 240));
    nic.stand_back(false);
    assert!(may(&mut nic, &kept, 250));
    policy.replace(Policy { mode: Mode::Off, ..Policy::default() });
    nic.rekey(keys());
    assert_eq!(kept.state().allowed, None, "when the configuration is read again");
    assert_eq!(nic.counters().passed(PassReason::ModeOff), 0);
}

#[test]
fn in_a_flood_the_engine_answers_itself() {
    let limits = Limits { half_open: 4, ..Limits::default() };
    let (mut nic, kept) = taught(&Mode::Auto.into(), limits);
    hear(&mut nic, ms(100));
    assert!(kept.state().allowed.is_some());
    for port in [1, 2] {
        give_bytes(&mut nic, ms(101), &mut from_port(port));
    }
    assert!(nic.gauges().half_open > limits.half_open / 4);
    hear(&mut nic, ms(102));
    assert!(kept.state().allowed.is_none());
}

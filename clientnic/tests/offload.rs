//! A ClientNIC whose kernel forwards what it only watches.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/fast_path.rs"]
mod fast_path;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use fast_path::Kept;
use packets::*;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::offload::{Applied, Queued};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::segment::Segment;
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

fn syn_ack(isn: u32) -> Seg {
    Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(5_000, 100))
}

fn confirm(isn: u32) -> Seg {
    let offer = Offer { kind: Kind::Confirm, key: 1, promise: Promise::default() };
    syn_ack(isn).raw(&offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap())
}

fn from_client(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_client(flags, D + seq, s().wrapping_add(ack))
}

/// As ServerNIC has translated it.
fn from_server(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_server(flags, s().wrapping_add(seq), D + ack)
}

/// One that knows of a ServerNIC, and has answered a client.
fn opened() -> (ClientNic, Kept) {
    let (mut nic, kept) = taught(Limits::default());
    give(&mut nic, ms(100), &syn(D));
    (nic, kept)
}

fn taught(limits: Limits) -> (ClientNic, Kept) {
    let settings = Settings { policy: Mode::Auto.into(), mss_clamp: (1460, 1440), limits };
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let (mut nic, kept) = (ClientNic::new(gateway(), keys(), profiles, settings), Kept::default());
    nic.accelerate(Box::new(kept.clone()));
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &confirm(C));
    give(&mut nic, ms(60), &Seg::from_client(RST, C + 1, 0));
    assert!(kept.state().flows.is_empty());
    (nic, kept)
}

fn request() -> Seg {
    from_client(ACK | PSH, 1, 1).payload(b"GET /")
}

#[test]
fn what_a_client_sends_that_was_answered_is_the_kernel_s_at_once() {
    let (mut nic, kept) = opened();
    assert_eq!(kept.state().queued, [Queued::Nothing], "the client has still to get its answer");
    nic.settle();
    assert!(!nic.is_waited_for());
    assert_eq!((nic.gauges().half_open, nic.gauges().awaited), (1, 1));
    assert_eq!(kept.forward(&from_client(ACK, 1, 1), Direction::ToServer, 101), Applied::Forwarded);
    assert_eq!(kept.forward(&request(), Direction::ToServer, 101), Applied::Copied);
    // The confirm is the engine's, and tells it that there is a client.
    let confirmed = Seg { seq: s(), ..confirm(D) };
    assert_eq!(kept.forward(&confirmed, Direction::ToClient, 150), Applied::ToEngine);
    assert!(give(&mut nic, ms(150), &confirmed).is_empty(), "consumed");
    assert_eq!((nic.gauges().half_open, nic.gauges().awaited), (0, 0));
    assert_eq!((kept.state().flows.len(), nic.counters().happened(Event::Confirmed)), (1, 1));
    // All else passes, and the client's FIN tells that its upload is over.
    let answer = from_server(ACK | FIN, 1, 6).payload(b"200");
    assert_eq!(kept.forward(&answer, Direction::ToClient, 151), Applied::Forwarded);
    let fin = from_client(ACK | FIN, 6, 5);
    assert_eq!(kept.forward(&fin, Direction::ToServer, 152), Applied::Closed);
    hear(&mut nic, ms(153));
    pass_time(&mut nic, ms(2_500));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (1, 0), "lest a late SYN be answered");
    pass_time(&mut nic, ms(13_000));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn the_size_of_an_upload_that_the_kernel_has_forwarded_counts() {
    let (mut nic, kept) = taught(Limits::default());
    for n in 0..8 {
        let isn = D + n * 100;
        let promised = keys().promised_isn(1, &flow(), Seq::new(isn)).unwrap().get();
        let at = 100 + u64::from(n) * 20_000;
        give(&mut nic, ms(at), &syn(isn));
        if nic.counters().passed(PassReason::LargeUploads) > 0 {
            assert!(n > 0);
            return;
        }
        kept.forward(&Seg::from_client(ACK, isn + 1, promised.wrapping_add(1)), Direction::ToServer, at);
        give(&mut nic, ms(at + 50), &Seg { seq: promised, ..confirm(isn) });
        let seen = Seg::from_server(ACK, promised.wrapping_add(1), isn + 1_000);
        assert_eq!(kept.forward(&seen, Direction::ToClient, at + 55), Applied::Forwarded);
        // Its end is enough to see.
        let end = isn.wrapping_add(1 << 20);
        kept.forward(
            &Seg::from_client(FIN | ACK, end, promised.wrapping_add(1)),
            Direction::ToServer,
            at + 60,
        );
        hear(&mut nic, ms(at + 70));
        pass_time(&mut nic, ms(at + 15_000));
    }
    panic!("the gate never closed");
}

#[test]
fn until_the_confirm_only_what_server_nic_has_translated_passes() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    // Of an older connection, in the server's own numbers.
    let challenge = Seg::from_server(ACK, Y + 500, D.wrapping_sub(9_000_000));
    assert_eq!(kept.forward(&challenge, Direction::ToClient, 140), Applied::ToEngine);
    assert!(give(&mut nic, ms(140), &challenge).is_empty(), "ServerNIC clears it away");
    let early = from_server(ACK, 1, 6).payload(b"200");
    assert_eq!(kept.forward(&early, Direction::ToClient, 141), Applied::Forwarded);
    assert_eq!(kept.forward(&challenge, Direction::ToClient, 142), Applied::Forwarded, "as any flow's");
}

#[test]
fn a_confirm_that_got_lost_is_not_asked_for_again_once_data_have_passed() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    kept.forward(&from_server(ACK, 1, 6).payload(b"200"), Direction::ToClient, 150);
    assert!(pass_time(&mut nic, ms(10_000)).is_empty());
    assert_eq!((nic.gauges().flows, nic.gauges().pending, kept.state().flows.len()), (1, 0, 1));
}

#[test]
fn replies_that_take_another_way_show_in_what_the_client_acknowledges() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    kept.forward(&from_client(ACK, 6, 400), Direction::ToServer, 150);
    assert!(pass_time(&mut nic, ms(10_000)).is_empty());
    assert_eq!((nic.gauges().flows, nic.gauges().pending), (1, 0));
}

#[test]
fn silence_is_reported_to_a_client_that_only_the_kernel_has_heard_of() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    let sent = pass_time(&mut nic, ms(40_000));
    let (offers, reset) = sent.split_at(sent.len() - 1);
    assert_eq!(offers.len(), usize::from(Limits::default().syn_repeats));
    assert_eq!((reset[0].1.flags, reset[0].1.seq), (RST | ACK, s().wrapping_add(1)));
    assert_eq!((nic.gauges().flows, nic.gauges().half_open, nic.gauges().awaited), (0, 0, 0));
    assert!(kept.state().flows.is_empty());
}

#[test]
fn a_client_that_nobody_has_heard_of_is_forgotten_without_a_word() {
    let (mut nic, kept) = opened();
    let sent = pass_time(&mut nic, ms(40_000));
    assert!(sent.iter().all(|(_, segment)| segment.flags == SYN), "no reset: perhaps a forgery");
    assert_eq!((nic.gauges().flows, nic.gauges().half_open, nic.gauges().awaited), (0, 0, 0));
    assert!(kept.state().flows.is_empty());
}

#[test]
fn a_refusal_reaches_a_client_that_only_the_kernel_has_heard_of() {
    let refusal = Seg { window: 0, ..Seg::from_server(RST | ACK, s().wrapping_add(1), D + 1) };
    let (mut nic, kept) = opened();
    kept.forward(&from_client(ACK, 1, 1), Direction::ToServer, 101);
    assert_eq!(give(&mut nic, ms(150), &refusal), std::slice::from_ref(&refusal));
    // Who has not been heard of is told when it is.
    let (mut nic, kept) = opened();
    assert!(give(&mut nic, ms(150), &refusal).is_empty());
    assert!(kept.state().flows.is_empty(), "so its acknowledgement has to be seen");
    assert_eq!(give(&mut nic, ms(151), &from_client(ACK, 1, 1)), [refusal]);
    assert_eq!((nic.gauges().half_open, nic.gauges().awaited), (0, 0));
}

#[test]
fn without_a_server_nic_the_engine_takes_the_flow_back_and_translates() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    // The server saw the data before its handshake.
    let reset = Seg::from_server(RST, s().wrapping_add(1), 0);
    assert_eq!(kept.forward(&reset, Direction::ToClient, 149), Applied::ToEngine);
    assert!(give(&mut nic, ms(149), &reset).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::ResetOfEarlyData), 1);
    give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(nic.counters().happened(Event::FellBackToSolo), 1);
    assert!(kept.state().flows.is_empty());
    // Nobody has a copy of the request, so the client repeats it.
    let sent = give(&mut nic, ms(300), &request());
    assert_eq!((sent.len(), sent[0].ack), (1, Y + 1));
    assert_eq!((nic.gauges().half_open, nic.gauges().awaited), (0, 0));
}

/// Hands in what the kernel has forwarded and copied.
fn give_copy(nic: &mut ClientNic, seg: &Seg) {
    let mut bytes = seg.bytes();
    Ipv4::unverified(&mut bytes[..]).unwrap().set_ttl(0);
    let (mut packet, mut out) = (Packet { bytes: &mut bytes, offload: Offload::default() }, Outbox::new());
    assert_eq!(nic.handle(ms(102), &mut packet, &mut out), Verdict::Taken, "it has gone on already");
    assert!(out.is_empty());
}

#[test]
fn a_copy_of_early_data_completes_the_handshake_if_nobody_else_does() {
    let (mut nic, kept) = opened();
    assert_eq!(kept.forward(&from_client(ACK, 1, 1), Direction::ToServer, 101), Applied::Forwarded);
    assert_eq!(kept.forward(&request(), Direction::ToServer, 101), Applied::Copied);
    give_copy(&mut nic, &request());
    let sent = give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(sent, [Seg { ack: Y + 1, ..request() }], "with a hop limit");
    assert_eq!(nic.counters().happened(Event::FellBackToSolo), 1);
}

#[test]
fn a_copy_that_nobody_needs_any_more_is_no_packet() {
    let (mut nic, kept) = opened();
    kept.forward(&request(), Direction::ToServer, 101);
    give_copy(&mut nic, &request());
    give(&mut nic, ms(150), &Seg { seq: s(), ..confirm(D) });
    give_copy(&mut nic, &request());
    // Of a flow that is not known here it is one, and its hop limit has run out.
    let mut bytes = Seg::from_client(ACK, 5, 5).bytes();
    Ipv4::unverified(&mut bytes[..]).unwrap().set_ttl(0);
    bytes[20..22].copy_from_slice(&50_000u16.to_be_bytes());
    let (mut packet, mut out) = (Packet { bytes: &mut bytes, offload: Offload::default() }, Outbox::new());
    let verdict = nic.handle(ms(151), &mut packet, &mut out);
    assert_eq!(verdict, Verdict::Drop(DropReason::HopLimit));
}

#[test]
fn a_repeated_syn_or_an_abort_takes_the_handshake_back() {
    for seg in [syn(D), from_client(RST, 1, 0), from_client(FIN | ACK, 1, 1)] {
        let (mut nic, kept) = opened();
        give(&mut nic, ms(110), &seg);
        assert!(kept.state().flows.is_empty(), "{seg:?}");
        pass_time(&mut nic, ms(40_000));
        let gauges = nic.gauges();
        assert_eq!((gauges.flows, gauges.half_open, gauges.awaited), (0, 0, 0), "{seg:?}");
    }
}

#[test]
fn in_a_flood_of_syns_the_kernel_is_spared() {
    let (mut nic, kept) = taught(Limits { half_open: 4, ..Limits::default() });
    give(&mut nic, ms(100), &syn(1));
    let handed = |kept: &Kept| kept.state().queued.len();
    assert_eq!(handed(&kept), 1);
    // Another client's, of which there is no other way to tell here than by its port.
    let mut other = syn(2).bytes();
    other[20..22].copy_from_slice(&50_000u16.to_be_bytes());
    let (mut packet, mut out) = (Packet { bytes: &mut other, offload: Offload::default() }, Outbox::new());
    Segment::parse(&mut packet).unwrap().fill_checksum();
    nic.handle(ms(100), &mut packet, &mut out);
    assert_eq!((out.len(), nic.gauges().half_open, handed(&kept)), (2, 2, 1));
}

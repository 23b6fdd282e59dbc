//! A ServerNIC whose kernel takes established flows.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/fast_path.rs"]
mod fast_path;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use fast_path::Kept;
use packets::*;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::offload::Applied;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::reason::Event;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::wire::segment::Segment;
use servernic::engine::ServerNic;

/// ISNs; the first bytes of both ends lie at the wrap or next to it.
const C: u32 = 0xffff_fffe;
const Y: u32 = 0x7fff_0000;
const TSVAL: u32 = 5_000;

fn s() -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(C)).unwrap().get()
}

fn promised_tsval() -> u32 {
    keys().promised_tsval(1, &flow(), Seq::new(C)).unwrap()
}

fn from_client(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_client(flags, C.wrapping_add(seq), s().wrapping_add(ack))
        .ts(200, promised_tsval().wrapping_add(9))
}

fn from_server(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_server(flags, Y + seq, C.wrapping_add(ack)).ts(TSVAL + 9, 200)
}

/// A flow as it is behind its handshake and a request of five bytes.
fn established() -> (ServerNic, Kept) {
    let (mut nic, kept) = (ServerNic::new(gateway(), keys(), Limits::default()), Kept::default());
    nic.accelerate(Box::new(kept.clone()));
    let promise =
        Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(promised_tsval()), ecn: false };
    let offer = Offer { kind: Kind::Spoofed, key: 1, promise }.encode(&keys(), &flow(), Seq::new(C)).unwrap();
    give(&mut nic, ms(1), &Seg::from_client(SYN, C, 0).raw(&offer).options(linux(100, 0)));
    give(&mut nic, ms(1), &from_client(ACK | PSH, 1, 1).payload(b"GET /"));
    let syn_ack = Seg::from_server(SYN | ACK, Y, C.wrapping_add(1)).options(linux(TSVAL, 99));
    // Of both copies of its SYN.
    (0..2).for_each(|_| drop(give(&mut nic, ms(2), &syn_ack)));
    (nic, kept)
}

/// The same, handed over: behind four answers of 100 bytes, each acknowledged.
fn handed() -> (ServerNic, Kept) {
    let (mut nic, kept) = established();
    for n in 0..4 {
        assert!(kept.state().flows.is_empty(), "after {n} answers");
        give(&mut nic, ms(3), &from_server(ACK, 1 + n * 100, 6).payload(&[0; 100]));
        give(&mut nic, ms(3), &from_client(ACK, 6, 101 + n * 100));
        assert!(kept.state().flows.is_empty(), "what was forwarded may not have left");
        assert_eq!(nic.settle(), n == 3);
    }
    assert_eq!((kept.state().flows.len(), nic.counters().happened(Event::Handed)), (1, 1));
    (nic, kept)
}

/// Has the kernel forward a segment.
fn in_kernel(kept: &Kept, seg: &Seg, to: Direction, at: u64) {
    let mut bytes = seg.bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let mut segment = Segment::parse(&mut packet).unwrap();
    let mut state = kept.state();
    let flow = state.flows.values_mut().next().unwrap();
    assert_eq!(flow.apply(ms(at), to, &mut segment, true), Applied::Forwarded);
}

#[test]
fn a_flow_is_handed_over_after_eight_segments_and_its_ends_are_known_again_at_the_fin() {
    let (mut nic, kept) = handed();
    // A megabyte that the engine does not see.
    for n in 0..1000 {
        in_kernel(&kept, &from_server(ACK, 401 + n * 1000, 6).payload(&[0; 1000]), Direction::ToClient, 10);
        in_kernel(&kept, &from_client(ACK, 6, 1401 + n * 1000), Direction::ToServer, 10);
    }
    let end = 401 + 1_000_000;
    let sent = give(&mut nic, ms(11), &from_server(FIN | ACK, end, 6));
    assert_eq!(sent[0].seq, s().wrapping_add(end));
    assert!(kept.state().flows.is_empty());
    assert_eq!(nic.counters().happened(Event::Recalled), 1);
    // Only who knows how far the server has come believes its FIN, and ends the flow after the client's.
    give(&mut nic, ms(12), &from_client(FIN | ACK, 6, end + 1));
    give(&mut nic, ms(13), &from_server(ACK, end + 1, 7));
    assert_eq!(nic.gauges().flows, 1);
    pass_time(&mut nic, ms(200_000));
    assert_eq!(nic.gauges().flows, 0, "it was closed, and rests no longer than that");
}

#[test]
fn a_flow_that_the_kernel_does_not_take_stays_and_is_handed_again() {
    let (mut nic, kept) = established();
    kept.state().is_full = true;
    for n in 0..8 {
        let sent = give(&mut nic, ms(3), &from_server(ACK, 1 + n * 100, 6).payload(&[0; 100]));
        assert_eq!(sent[0].seq, s().wrapping_add(1 + n * 100));
        nic.settle();
    }
    assert_eq!(nic.counters().happened(Event::HandRefused), 1);
    kept.state().is_full = false;
    for n in 8..16 {
        give(&mut nic, ms(3), &from_server(ACK, 1 + n * 100, 6).payload(&[0; 100]));
        nic.settle();
    }
    assert_eq!(kept.state().flows.len(), 1);
}

#[test]
fn a_flow_in_use_in_the_kernel_does_not_expire_and_an_idle_one_does() {
    let (mut nic, kept) = handed();
    let idle = Limits::default().idle.as_millis() as u64;
    in_kernel(&kept, &from_client(ACK, 6, 401), Direction::ToServer, idle - 1000);
    pass_time(&mut nic, ms(idle + 100_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (1, 1));
    pass_time(&mut nic, ms(2 * idle + 100_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (0, 0));
}

#[test]
fn any_syn_takes_the_flow_back() {
    let (mut nic, kept) = handed();
    give(&mut nic, ms(20), &Seg::from_client(SYN, C.wrapping_add(9000), 0).options(linux(100, 0)));
    assert!(kept.state().flows.is_empty(), "the newer connection's data must not be rewritten");
    assert_eq!(nic.gauges().flows, 1);
}

#[test]
fn what_was_pinned_is_taken_over_if_there_is_a_record_of_it() {
    let (mut nic, kept) = established();
    nic.journal().unwrap().open();
    for n in 0..4 {
        give(&mut nic, ms(3), &from_server(ACK, 1 + n * 100, 6).payload(&[0; 100]));
        give(&mut nic, ms(3), &from_client(ACK, 6, 101 + n * 100));
    }
    nic.settle();
    let change = nic.journal().unwrap().drain().last().unwrap();
    let flow = *kept.state().flows.values().next().unwrap();
    let mut next = ServerNic::new(gateway(), keys(), Limits::default());
    assert!(!next.adopt(ms(60_000), &flow), "nothing is known of it");
    next.journal().unwrap().open();
    assert!(next.restore(ms(60_000), change.slot, &change.record.unwrap()));
    next.accelerate(Box::new(kept.clone()));
    assert!(next.adopt(ms(60_000), &flow));
    assert_eq!(next.counters().happened(Event::Adopted), 1);
    // A reset is believed at once: how far the ends have come is known.
    give(&mut next, ms(60_001), &from_server(RST, 401, 0));
    pass_time(&mut next, ms(80_000));
    assert_eq!((next.gauges().flows, kept.state().flows.len()), (0, 0));
}

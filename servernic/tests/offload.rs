//! A ServerNIC whose kernel takes established flows.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod connection;
#[path = "../../common/core/tests/packets/fast_path.rs"]
mod fast_path;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use connection::*;
use fast_path::Kept;
use packets::*;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::offload::{Applied, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::reason::Event;
use rtt0_core::service::Direction;
use rtt0_core::wire::segment::Segment;
use servernic::engine::ServerNic;

fn from_client(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_client(flags, C.wrapping_add(seq), s().wrapping_add(ack))
        .ts(200, promised_tsval().wrapping_add(9))
}

fn from_server(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_server(flags, Y + seq, C.wrapping_add(ack)).ts(TSVAL + 9, 200)
}

/// A flow as it is behind its handshake and a request of five bytes.
fn established(kept: &Kept) -> ServerNic {
    let mut nic = opened(kept);
    give(&mut nic, ms(1), &from_client(ACK | PSH, 1, 1).payload(b"GET /"));
    answered(&mut nic);
    nic
}

/// A handshake that the server has still to answer.
fn opened(kept: &Kept) -> ServerNic {
    let mut nic = ServerNic::new(gateway(), keys(), Limits::default());
    nic.accelerate(Box::new(kept.clone()));
    give(&mut nic, ms(1), &offered_syn(C));
    nic
}

/// The server answers both copies of its SYN.
fn answered(nic: &mut ServerNic) {
    (0..2).for_each(|_| drop(give(nic, ms(2), &syn_ack())));
}

fn handed() -> (ServerNic, Kept) {
    let kept = Kept::default();
    (established(&kept), kept)
}

#[test]
fn a_flow_is_the_kernel_s_with_its_handshake_and_its_ends_are_known_again_at_the_second_fin() {
    let (mut nic, kept) = handed();
    assert_eq!((kept.state().flows.len(), nic.counters().happened(Event::Handed)), (1, 1));
    assert_eq!(kept.state().queued, [Queued::ToServer], "the server has not had anything to answer");
    assert!(nic.is_waited_for(), "the request may not have left");
    nic.settle();
    assert!(!nic.is_waited_for());
    // A megabyte that the engine does not see, nor the server's FIN behind it.
    for n in 0..1000 {
        let data = from_server(ACK, 1 + n * 1000, 6).payload(&[0; 1000]);
        assert_eq!(kept.forward(&data, Direction::ToClient, 10), Applied::Forwarded);
        let acknowledgement = from_client(ACK, 6, 1001 + n * 1000);
        assert_eq!(kept.forward(&acknowledgement, Direction::ToServer, 10), Applied::Forwarded);
    }
    let end = 1 + 1_000_000;
    let fin = from_server(FIN | ACK, end, 6);
    assert_eq!(kept.forward(&fin, Direction::ToClient, 10), Applied::Forwarded);
    // The client's is the last, and of that the engine is told. The kernel forwards what acknowledges it.
    let fin = from_client(FIN | ACK, 6, end + 1);
    assert_eq!(kept.forward(&fin, Direction::ToServer, 11), Applied::Closed);
    hear(&mut nic, ms(12));
    pass_time(&mut nic, ms(2000));
    assert_eq!(kept.state().flows.len(), 1);
    assert_eq!(kept.forward(&from_server(ACK, end + 1, 7), Direction::ToClient, 2001), Applied::Forwarded);
    pass_time(&mut nic, ms(2100));
    assert!(kept.state().flows.is_empty());
    assert_eq!((nic.gauges().flows, nic.counters().happened(Event::Recalled)), (1, 1));
    // A FIN whose acknowledgement got lost.
    assert_eq!(give(&mut nic, ms(3000), &fin)[0].ack, Y + end + 1);
    pass_time(&mut nic, ms(65_000));
    assert_eq!(nic.gauges().flows, 0, "both ends have acknowledged all: it rests no longer than that");
}

#[test]
fn a_closed_flow_whose_last_fin_nobody_acknowledges_stays_for_as_long_as_one_of_the_engine_s() {
    let (mut nic, kept) = handed();
    kept.forward(&from_server(FIN | ACK, 1, 6), Direction::ToClient, 10);
    kept.forward(&from_client(FIN | ACK, 6, 2), Direction::ToServer, 11);
    hear(&mut nic, ms(12));
    pass_time(&mut nic, ms(121_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (1, 0));
    pass_time(&mut nic, ms(124_000));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn a_flow_that_goes_on_although_it_was_closed_lives() {
    let (mut nic, kept) = handed();
    kept.forward(&from_server(FIN | ACK, 1, 6), Direction::ToClient, 10);
    kept.forward(&from_client(FIN | ACK, 6, 1), Direction::ToServer, 11);
    // One of them was not its sender's, who has more to say.
    kept.forward(&from_client(ACK, 6, 1).payload(b"more"), Direction::ToServer, 12);
    hear(&mut nic, ms(12));
    pass_time(&mut nic, ms(1_000_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (1, 0));
}

#[test]
fn a_fin_that_its_receiver_would_not_accept_is_the_engine_s() {
    let (mut nic, kept) = handed();
    let forged = from_server(FIN | ACK, 200_000, 6);
    assert_eq!(kept.forward(&forged, Direction::ToClient, 10), Applied::ToEngine);
    give(&mut nic, ms(10), &forged);
    pass_time(&mut nic, ms(200_000));
    assert_eq!(nic.gauges().flows, 1, "the flow goes on");
}

#[test]
fn what_the_engine_forwards_while_it_is_waited_for_counts_in_the_kernel_too() {
    let (_nic, kept) = handed();
    // A second request, of a direction that is waited for, and the server's answer and end.
    let mut bytes = from_client(ACK | PSH, 6, 1).payload(b"more").bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).unwrap();
    kept.state().flows.values_mut().next().unwrap().leave(Direction::ToServer, &segment.tcp());
    let fin = from_server(FIN | ACK | PSH, 1, 10).payload(b"200");
    assert_eq!(kept.forward(&fin, Direction::ToClient, 10), Applied::Forwarded);
    let fin = from_client(FIN | ACK, 10, 5);
    assert_eq!(kept.forward(&fin, Direction::ToServer, 10), Applied::Closed, "it is the second one");
}

#[test]
fn a_client_that_was_not_heard_of_before_the_server_s_answer_is_handed_over_with_its_first_segment() {
    let kept = Kept::default();
    let mut nic = opened(&kept);
    answered(&mut nic);
    nic.settle();
    assert!(kept.state().flows.is_empty(), "nobody may be there");
    let sent = give(&mut nic, ms(3), &from_client(ACK | PSH, 1, 1).payload(b"GET /"));
    assert_eq!((sent.len(), kept.state().flows.len()), (1, 1));
    assert_eq!(kept.state().queued, [Queued::ToServer]);
}

#[test]
fn a_flow_that_the_kernel_does_not_take_stays_and_is_handed_again_after_eight_segments() {
    let kept = Kept::default();
    kept.state().is_full = true;
    let mut nic = established(&kept);
    assert_eq!(nic.counters().happened(Event::HandRefused), 1);
    kept.state().is_full = false;
    for n in 0..8 {
        assert!(kept.state().flows.is_empty(), "after {n} answers");
        let sent = give(&mut nic, ms(3), &from_server(ACK, 1 + n * 100, 6).payload(&[0; 100]));
        assert_eq!(sent[0].seq, s().wrapping_add(1 + n * 100));
        assert!(kept.state().flows.is_empty(), "what was forwarded may not have left");
        nic.settle();
        assert_eq!(nic.is_waited_for(), n == 7);
    }
    assert_eq!(kept.state().queued, [Queued::BothWays]);
}

#[test]
fn a_flow_in_use_in_the_kernel_does_not_expire_and_an_idle_one_does() {
    let (mut nic, kept) = handed();
    let idle = Limits::default().idle.as_millis() as u64;
    kept.forward(&from_client(ACK, 6, 1), Direction::ToServer, idle - 1000);
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
fn what_was_pinned_is_taken_over() {
    let kept = Kept::default();
    let mut nic = opened(&kept);
    nic.journal().unwrap().open();
    give(&mut nic, ms(1), &from_client(ACK | PSH, 1, 1).payload(b"GET /"));
    answered(&mut nic);
    let change = nic.journal().unwrap().drain().last().unwrap();
    kept.forward(&from_server(ACK, 1, 6).payload(&[0; 400]), Direction::ToClient, 10);
    kept.forward(&from_client(ACK, 6, 401), Direction::ToServer, 10);
    let flow = *kept.state().flows.values().next().unwrap();
    let mut next = ServerNic::new(gateway(), keys(), Limits::default());
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

//! ServerNIC's engine, segment by segment.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod connection;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use connection::*;
use packets::*;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::gauges::Gauges;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Found, Kind, Offer};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::wire::icmp::{Complaint, Quote, write_error};
use rtt0_core::wire::options::{Options, SynOptions};
use servernic::engine::ServerNic;

fn engine() -> ServerNic {
    ServerNic::new(gateway(), keys(), Limits::default())
}

fn plain_syn(client_isn: u32) -> Seg {
    Seg::from_client(SYN, client_isn, 0).options(linux(100, 0))
}

/// The two copies that the server gets of an offered SYN.
fn twins(client_isn: u32) -> [Seg; 2] {
    [plain_syn(client_isn).options(linux(99, 0)), plain_syn(client_isn)]
}

/// Has the server answer both SYNs.
fn accept(nic: &mut ServerNic, at: u64, answer: &Seg) -> Vec<Seg> {
    assert!(give(nic, ms(at), answer).is_empty(), "it waits for the second answer");
    give(nic, ms(at), answer)
}

/// Brings a flow to where both ends can talk.
fn established() -> ServerNic {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    assert_eq!(accept(&mut nic, 2, &syn_ack()).len(), 2);
    nic
}

#[test]
fn an_offer_becomes_two_syns_without_it() {
    let mut nic = engine();
    let sent = give(&mut nic, ms(1), &offered_syn(C));
    assert_eq!(sent, twins(C));
}

#[test]
fn early_data_is_held_released_translated_and_confirmed() {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    assert!(give(&mut nic, ms(1), &request()).is_empty(), "held");
    let sent = accept(&mut nic, 2, &syn_ack());
    let released = request();
    let expected = Seg { ack: Y + 1, ts: Some((101, 0)), ..released };
    assert_eq!(sent[0], expected, "TSecr is hidden: no RTT sample from the handshake");
    assert_eq!((sent[1].flags, sent[1].seq, sent[1].ack), (SYN | ACK, s(), C.wrapping_add(1)));
    assert_eq!(sent[1].syn_options, Some(linux(TSVAL, 100)));
    let found = Offer::find(Options::new(&sent[1].raw), &keys(), &flow(), Seq::new(C));
    assert!(matches!(found, Found::Authentic(offer) if offer.kind == Kind::Confirm));
}

/// With SYN cookies the server reads from the echo what was agreed upon.
#[test]
fn a_server_without_state_gets_its_echo() {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    assert!(give(&mut nic, ms(2), &syn_ack()).is_empty());
    let sent = give(&mut nic, ms(2), &syn_ack().options(linux(TSVAL, 100)));
    assert_eq!(sent[0], Seg { ack: Y + 1, ts: Some((101, TSVAL)), ..request() });
    assert_eq!(sent[1].syn_options, Some(linux(TSVAL, 100)));
}

#[test]
fn a_second_answer_that_is_late_is_swallowed_and_a_third_is_not() {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    assert!(give(&mut nic, ms(2), &syn_ack()).is_empty());
    let sent: Vec<_> = pass_time(&mut nic, ms(40)).into_iter().map(|(_, segment)| segment).collect();
    assert_eq!(sent[0], Seg { ack: Y + 1, ts: Some((101, TSVAL)), ..request() }, "it may have no state");
    assert_eq!(sent.len(), 2);
    assert!(give(&mut nic, ms(41), &syn_ack()).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::RepeatedSynAck), 1);
    let sent = give(&mut nic, ms(1002), &syn_ack());
    let tau = promised_tsval().wrapping_sub(TSVAL);
    let expected = Seg { seq: s(), ..syn_ack() }.options(linux(TSVAL.wrapping_add(tau), 99));
    assert_eq!(sent, [expected], "the client's answer must reach the server");
}

#[test]
fn an_established_flow_is_translated_both_ways() {
    let mut nic = established();
    let answer = Seg::from_server(ACK, Y + 1, C.wrapping_add(6)).ts(TSVAL + 7, 101).payload(b"200 OK");
    let sent = give(&mut nic, ms(3), &answer);
    let seen = Seg { seq: s().wrapping_add(1), ts: Some((promised_tsval().wrapping_add(7), 101)), ..answer };
    assert_eq!(sent, [seen]);
    let ack = Seg::from_client(ACK, C.wrapping_add(6), s().wrapping_add(7))
        .ts(102, promised_tsval().wrapping_add(7));
    let sent = give(&mut nic, ms(4), &ack);
    assert_eq!(sent, [Seg { ack: Y + 7, ts: Some((102, TSVAL + 7)), ..ack }]);
}

#[test]
fn a_refusal_reaches_the_client_in_its_window() {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    let sent = give(&mut nic, ms(2), &Seg::from_server(RST | ACK, 0, C.wrapping_add(1)));
    let reset = Seg { window: 0, ..Seg::from_server(RST | ACK, s().wrapping_add(1), C.wrapping_add(1)) };
    assert_eq!(sent, [reset]);
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn data_that_overtakes_its_syn_waits_for_it() {
    let mut nic = engine();
    assert!(give(&mut nic, ms(1), &request()).is_empty());
    assert_eq!(nic.counters().happened(Event::HeldForOffer), 1);
    let second = Seg { seq: C.wrapping_add(6), ..request() };
    assert!(give(&mut nic, ms(1), &second).is_empty());
    assert_eq!(give(&mut nic, ms(2), &offered_syn(C)).len(), 2);
    let sent = accept(&mut nic, 3, &syn_ack());
    assert_eq!(sent.iter().map(|s| s.seq).collect::<Vec<_>>(), [C.wrapping_add(1), C.wrapping_add(6), s()]);
}

#[test]
fn a_syn_that_came_during_a_handshake_may_still_replace_the_flow() {
    let mut nic = engine();
    let newer = C.wrapping_add(0x1234_5678);
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(2), &request());
    assert_eq!(give(&mut nic, ms(3), &plain_syn(newer)), [plain_syn(newer)]);
    give(&mut nic, ms(4), &syn_ack());
    let accepted =
        Seg { seq: 77, ..Seg::from_server(SYN | ACK, 77, newer.wrapping_add(1)).options(linux(TSVAL, 100)) };
    assert_eq!(give(&mut nic, ms(5), &accepted), [accepted], "not translated with the older one's numbers");
}

#[test]
fn a_late_copy_of_older_early_data_does_not_end_a_closing_flow() {
    let mut nic = established();
    let close = Seg { flags: FIN | ACK, seq: C.wrapping_add(6), payload: vec![], ..request() };
    give(&mut nic, ms(4), &close);
    give(&mut nic, ms(5), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(7)).ts(TSVAL, 0));
    let older = C.wrapping_sub(0x1000_0000);
    let late =
        Seg::from_client(ACK, older.wrapping_add(1), isn_promised(older).wrapping_add(1)).payload(b"GET");
    assert_eq!(give(&mut nic, ms(6), &late), [late]);
    let last = Seg { flags: ACK, payload: vec![], ..request() };
    let last = Seg { seq: C.wrapping_add(7), ack: s().wrapping_add(2), ..last };
    assert_eq!(give(&mut nic, ms(7), &last)[0].ack, Y + 2, "translated as before");
}

#[test]
fn a_late_offer_without_answer_does_not_end_a_closing_flow() {
    let mut nic = established();
    let close = Seg { flags: FIN | ACK, seq: C.wrapping_add(6), payload: vec![], ..request() };
    give(&mut nic, ms(4), &close);
    give(&mut nic, ms(5), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(7)).ts(TSVAL, 0));
    give(&mut nic, ms(6), &offered_syn(C.wrapping_sub(0x1000_0000)));
    pass_time(&mut nic, ms(5_000));
    let last =
        Seg { flags: ACK, seq: C.wrapping_add(7), ack: s().wrapping_add(2), payload: vec![], ..request() };
    assert_eq!(give(&mut nic, ms(5_001), &last)[0].ack, Y + 2, "translated as before");
}

/// The second copy of the SYN comes when the server has ended what the first one began.
#[test]
fn another_connection_of_the_same_syn_is_not_translated() {
    let mut nic = established();
    give(&mut nic, ms(3), &Seg::from_server(RST | ACK, Y + 1, C.wrapping_add(6)));
    assert!(give(&mut nic, ms(4), &Seg { seq: Y + 0x0100_0000, ..syn_ack() }).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::StraySegment), 1);
}

/// ClientNIC has fallen back to solo, and has not seen the confirm yet.
#[test]
fn a_segment_that_comes_translated_passes_untouched() {
    let mut nic = established();
    let solo = Seg { ack: Y + 1, ts: Some((101, TSVAL)), ..request() };
    assert_eq!(give(&mut nic, ms(10), &solo), [solo]);
    assert_eq!(nic.counters().passed(PassReason::AlreadyTranslated), 1);
    assert_eq!(give(&mut nic, ms(11), &request())[0].ack, Y + 1, "the flow stays");
}

/// Else nobody would ever tell its client that there is no connection.
#[test]
fn what_finds_no_room_to_wait_for_its_offer_passes() {
    let limits = Limits { held_per_flow: 30, ..Limits::default() };
    let mut nic = ServerNic::new(gateway(), keys(), limits);
    assert_eq!(give(&mut nic, ms(1), &request()), [request()]);
    assert_eq!(nic.counters().passed(PassReason::NoRoomToHold), 1);
    assert_eq!(nic.gauges().flows, 0);
}

/// The client repeats a SYN that passed unspoofed, and this time it is answered early.
#[test]
fn a_rival_that_becomes_a_successor_is_no_rival_of_itself() {
    let mut nic = established();
    let newer = C.wrapping_add(0x1234_5678);
    give(&mut nic, ms(10), &plain_syn(newer));
    assert_eq!(give(&mut nic, ms(20), &offered_syn(newer)).len(), 2);
    let early = Seg::from_client(ACK, newer.wrapping_add(1), isn_promised(newer).wrapping_add(1));
    assert!(give(&mut nic, ms(21), &early).is_empty(), "held");
    let accepted = Seg::from_server(SYN | ACK, 77, newer.wrapping_add(1)).options(linux(TSVAL, 100));
    give(&mut nic, ms(30), &accepted);
    give(&mut nic, ms(30), &accepted);
    let data = Seg::from_server(ACK, 78, newer.wrapping_add(1)).ts(TSVAL, 100).payload(b"x");
    let sent = give(&mut nic, ms(1000), &data);
    assert_eq!(sent[0].seq, isn_promised(newer).wrapping_add(1), "translated");
    assert_eq!(give(&mut nic, ms(1001), &accepted)[0].seq, isn_promised(newer), "and its SYN-ACK too");
    assert_eq!(nic.gauges().flows, 1);
}

/// Both ends have closed, but what came before the client's FIN got lost.
#[test]
fn a_late_copy_of_an_older_offer_does_not_end_a_closing_flow() {
    let mut nic = established();
    let fin = Seg { flags: FIN | ACK, seq: C.wrapping_add(700), payload: vec![], ..request() };
    give(&mut nic, ms(4), &fin);
    give(&mut nic, ms(5), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(6)).ts(TSVAL, 0));
    assert_eq!(give(&mut nic, ms(6), &offered_syn(C.wrapping_sub(0x1000_0000))).len(), 2, "it may be wanted");
    let repeated = Seg { seq: C.wrapping_add(6), ..request() };
    let sent = give(&mut nic, ms(7), &repeated);
    assert_eq!(sent[0].ack, Y + 1, "translated as before");
}

/// ClientNIC has given up and its reset got lost: only the server can tell the client now.
#[test]
fn data_whose_offer_never_comes_goes_on() {
    let mut nic = engine();
    give(&mut nic, ms(1), &request());
    let sent = pass_time(&mut nic, ms(10_000));
    assert_eq!(sent.len(), 1);
    assert!(sent[0].0 >= ms(2_001), "it was waited for");
    assert_eq!(sent[0].1, request());
    assert_eq!(nic.gauges(), Gauges::default());
    let refused = Seg { window: 0, ..Seg::from_server(RST, s().wrapping_add(1), 0) };
    assert_eq!(give(&mut nic, ms(10_001), &refused), [refused]);
}

#[test]
fn data_of_an_unknown_flow_passes_unless_its_numbers_prove_a_promise() {
    let mut nic = engine();
    let other = Seg { ack: s().wrapping_add(2), ..request() };
    assert_eq!(give(&mut nic, ms(1), &other), [other]);
    assert_eq!(nic.counters().passed(PassReason::NoFlow), 1);
}

#[test]
fn a_probe_is_stripped_and_its_syn_ack_confirmed() {
    let mut nic = engine();
    let probe = Seg { raw: offer_of(Kind::Probe, C).to_vec(), ..plain_syn(C) };
    assert_eq!(give(&mut nic, ms(1), &probe), [plain_syn(C)]);
    let sent = give(&mut nic, ms(2), &syn_ack());
    assert_eq!(Seg { raw: vec![], ..sent[0].clone() }, syn_ack());
    let found = Offer::find(Options::new(&sent[0].raw), &keys(), &flow(), Seq::new(C));
    assert!(matches!(found, Found::Authentic(offer) if offer.kind == Kind::Confirm));
    // Untranslated from here on.
    let data = Seg::from_server(ACK, Y + 1, C.wrapping_add(1)).payload(b"x");
    assert_eq!(give(&mut nic, ms(3), &data), [data]);
}

#[test]
fn a_forged_offer_is_stripped_and_nothing_else() {
    let mut nic = engine();
    let mut forged = offered_syn(C);
    forged.raw[19] ^= 1;
    assert_eq!(give(&mut nic, ms(1), &forged), [plain_syn(C)]);
    assert_eq!(nic.counters().happened(Event::OfferForged), 1);
    assert_eq!(give(&mut nic, ms(2), &syn_ack()), [syn_ack()]);
}

#[test]
fn a_repeated_offer_is_confirmed_again() {
    let mut nic = established();
    let sent = give(&mut nic, ms(500), &offered_syn(C));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].flags, sent[0].seq), (SYN | ACK, s()));
    assert_eq!(nic.counters().happened(Event::OfferRepeated), 1);
}

#[test]
fn somebody_elses_syn_does_not_hurt_a_live_flow() {
    let mut nic = established();
    let other = C.wrapping_add(77_000);
    assert_eq!(give(&mut nic, ms(10), &offered_syn(other)).len(), 2, "the server is asked");
    // The server knows the old connection: a challenge ACK, which the client gets translated.
    let challenge = Seg::from_server(ACK, Y + 1, C.wrapping_add(6)).ts(TSVAL, 101);
    let sent = give(&mut nic, ms(11), &challenge);
    assert_eq!((sent.len(), sent[0].to, sent[0].seq), (1, challenge.to, s().wrapping_add(1)));
    // The client's own segments still go through.
    let ack = Seg::from_client(ACK, C.wrapping_add(6), s().wrapping_add(1)).ts(102, promised_tsval());
    assert_eq!(give(&mut nic, ms(12), &ack)[0].ack, Y + 1);
    // After the hand-shake's time the impostor is forgotten, the flow is not.
    pass_time(&mut nic, ms(20_000));
    assert_eq!(nic.gauges().flows, 1);
    assert_eq!(give(&mut nic, ms(20_001), &ack)[0].ack, Y + 1);
}

#[test]
fn an_old_connection_is_reset_once_the_client_has_proven_itself() {
    let mut nic = established();
    let new = C.wrapping_add(77_000);
    give(&mut nic, ms(10), &offered_syn(new));
    let first = Seg::from_client(ACK, new.wrapping_add(1), isn_promised(new).wrapping_add(1));
    assert!(give(&mut nic, ms(10), &first).is_empty(), "held");
    let challenge = Seg::from_server(ACK, Y + 1, C.wrapping_add(6));
    let sent = give(&mut nic, ms(11), &challenge);
    let reset = Seg { window: 0, ..Seg::from_client(RST, C.wrapping_add(6), 0) };
    let [elder, younger] = twins(new);
    assert_eq!(sent, [reset, elder, younger]);
    let accepted = Seg { ack: new.wrapping_add(1), seq: 9, ..syn_ack() };
    let sent = accept(&mut nic, 12, &accepted);
    assert_eq!((sent[0].seq, sent[0].ack), (new.wrapping_add(1), 10));
    assert_eq!(nic.gauges().flows, 1);
}

#[test]
fn an_unspoofed_syn_replaces_a_flow_when_both_ends_go_on_with_it() {
    let mut nic = established();
    let new = C.wrapping_add(9_000);
    assert_eq!(give(&mut nic, ms(10), &plain_syn(new)), [plain_syn(new)]);
    let accepted = Seg { ack: new.wrapping_add(1), seq: 9, ..syn_ack() };
    assert_eq!(give(&mut nic, ms(11), &accepted), [accepted]);
    // Both may be forged: the flow is translated on.
    let ack = Seg::from_client(ACK, C.wrapping_add(6), s().wrapping_add(1)).ts(102, promised_tsval());
    assert_eq!(give(&mut nic, ms(12), &ack)[0].ack, Y + 1);
    // A late copy of the SYN does not undo its answer.
    give(&mut nic, ms(12), &plain_syn(new));
    let newer = Seg::from_client(ACK, new.wrapping_add(1), 10).ts(102, 7);
    assert_eq!(give(&mut nic, ms(13), &newer), [newer]);
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn silence_is_met_with_five_repeats_and_then_given_up() {
    let mut nic = engine();
    give(&mut nic, ms(0), &offered_syn(C));
    give(&mut nic, ms(0), &request());
    let sent = pass_time(&mut nic, ms(30_000));
    let times: Vec<_> = sent.iter().step_by(2).map(|(at, _)| at.as_micros() / 1000).collect();
    let expected = [200u64, 600, 1400, 3000, 6200];
    assert_eq!(times.len(), expected.len());
    assert!(times.iter().zip(expected).all(|(at, due)| (due..due + 16).contains(at)), "{times:?}");
    assert!(sent.iter().map(|(_, segment)| segment).eq(twins(C).iter().cycle().take(10)));
    assert_eq!(nic.gauges().flows, 0);
    assert_eq!(nic.counters().happened(Event::TimedOut), 1);
    assert_eq!(nic.next_timeout(), None);
}

#[test]
fn a_handshake_whose_answer_takes_another_route_is_let_go() {
    let mut nic = engine();
    give(&mut nic, ms(0), &offered_syn(C));
    assert!(give(&mut nic, ms(1), &request()).is_empty(), "held");
    let older = Seg::from_client(ACK, C.wrapping_sub(9), Y.wrapping_add(1));
    give(&mut nic, ms(2), &older);
    assert_eq!(nic.gauges().pending, 1, "an older connection's");
    // ClientNIC has seen the server's SYN-ACK and translates.
    let translated = Seg::from_client(ACK, C.wrapping_add(6), Y.wrapping_add(1));
    assert_eq!(give(&mut nic, ms(51), &translated), [translated]);
    assert_eq!((nic.gauges().pending, nic.gauges().held), (0, 0));
    assert!(pass_time(&mut nic, ms(30_000)).is_empty(), "the server sees no further SYN");
}

#[test]
fn timestamps_refused_after_a_promise_reset_both_sides() {
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    let answer = syn_ack().options(SynOptions { timestamps: None, ..linux(0, 0) });
    let sent = give(&mut nic, ms(2), &answer);
    assert_eq!(
        sent.iter().map(|s| (s.to, s.seq)).collect::<Vec<_>>(),
        [(syn_ack().to, s().wrapping_add(1)), (request().to, C.wrapping_add(1)),]
    );
    assert!(sent.iter().all(|s| s.flags.contains(RST)));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn a_closed_flow_leaves_after_its_time_and_a_blind_reset_changes_nothing() {
    let mut nic = established();
    let blind = Seg::from_server(RST, Y + 999_999, 0);
    give(&mut nic, ms(3), &blind);
    pass_time(&mut nic, ms(60_000));
    assert_eq!(nic.gauges().flows, 1);
    give(&mut nic, ms(60_000), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(6)));
    give(&mut nic, ms(60_000), &Seg::from_client(FIN | ACK, C.wrapping_add(6), s().wrapping_add(2)));
    pass_time(&mut nic, ms(179_000));
    assert_eq!(nic.gauges().flows, 1, "the last ACK may have to be repeated");
    pass_time(&mut nic, ms(181_000));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn the_same_4_tuple_can_be_used_again_at_once() {
    let mut nic = established();
    give(&mut nic, ms(5), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(6)));
    give(&mut nic, ms(5), &Seg::from_client(FIN | ACK, C.wrapping_add(6), s().wrapping_add(2)));
    let new = C.wrapping_add(50_000);
    assert_eq!(give(&mut nic, ms(6), &offered_syn(new)), twins(new));
    assert_eq!(nic.counters().happened(Event::FlowReplaced), 1);
}

#[test]
fn the_hop_limit_ends_here() {
    let mut nic = engine();
    let mut bytes = request().bytes();
    rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..]).unwrap().set_ttl(1);
    let mut out = rtt0_core::packet::Outbox::new();
    let mut packet = rtt0_core::packet::Packet { bytes: &mut bytes, offload: Default::default() };
    let verdict = nic.handle(ms(1), &mut packet, &mut out);
    assert_eq!(verdict, rtt0_core::engine::Verdict::Drop(DropReason::HopLimit));
    let (error, _) = out.get(0).unwrap();
    assert_eq!((error[9], error[20], &error[16..20]), (1, 11, &[10, 1, 0, 10][..]));
}

#[test]
fn only_the_data_of_its_own_handshake_waits_for_an_offer() {
    let mut nic = engine();
    assert!(give(&mut nic, ms(1), &request()).is_empty(), "held for its offer");
    // ClientNIC has fallen back to solo: it translates, and nobody else holds.
    let translated = Seg { ack: Y + 1, ..request() };
    assert_eq!(give(&mut nic, ms(2), &translated), [translated]);
    assert!(pass_time(&mut nic, ms(10_000)).is_empty());
    assert_eq!(nic.gauges(), Gauges::default());
}

#[test]
fn data_that_overtakes_a_syn_of_a_4_tuple_in_use_waits_for_it() {
    let mut nic = engine();
    // An unspoofed connection, then one whose offer comes late.
    let probe = plain_syn(9).raw(&offer_of(Kind::Probe, 9));
    assert_eq!(give(&mut nic, ms(1), &probe).len(), 1);
    assert!(give(&mut nic, ms(2), &request()).is_empty(), "held");
    assert_eq!(give(&mut nic, ms(3), &offered_syn(C)).len(), 2);
    assert_eq!(accept(&mut nic, 4, &syn_ack()).len(), 2, "the data and the confirm");
    // It ends; the next one's offer comes late too.
    let fin = |seq, ack| Seg::from_server(FIN | ACK, seq, ack).ts(TSVAL, 0);
    let close = Seg { flags: FIN | ACK, seq: C.wrapping_add(6), payload: vec![], ..request() };
    give(&mut nic, ms(5), &close);
    give(&mut nic, ms(6), &fin(Y + 1, C.wrapping_add(7)));
    assert_eq!(give(&mut nic, ms(7), &close).len(), 1, "its own FIN again");
    let next = Seg::from_client(ACK | PSH, 101, isn_promised(100).wrapping_add(1)).payload(b"GET /");
    assert!(give(&mut nic, ms(8), &next).is_empty(), "held");
    assert_eq!(give(&mut nic, ms(9), &offered_syn(100)).len(), 2);
}

#[test]
fn a_syn_ack_that_has_no_room_for_a_confirm_passes_as_it_is() {
    let mut nic = engine();
    give(&mut nic, ms(1), &plain_syn(C).raw(&offer_of(Kind::Probe, C)));
    let full = Seg::from_server(SYN | ACK, Y, C.wrapping_add(1)).options(linux(TSVAL, 100));
    let full = full.payload(&vec![0; 65_535 - 60]);
    assert_eq!(give(&mut nic, ms(2), &full), [full]);
}

#[test]
fn a_flow_that_ended_beside_a_refused_successor_leaves() {
    let mut nic = established();
    give(&mut nic, ms(10), &offered_syn(500));
    let close = Seg { flags: FIN | ACK, seq: C.wrapping_add(6), payload: vec![], ..request() };
    give(&mut nic, ms(11), &close);
    give(&mut nic, ms(12), &Seg::from_server(FIN | ACK, Y + 1, C.wrapping_add(7)).ts(TSVAL, 0));
    give(&mut nic, ms(13), &Seg::from_server(RST | ACK, 0, 501));
    pass_time(&mut nic, ms(200_000));
    assert_eq!((nic.gauges().flows, nic.gauges().pending), (0, 0));
}

#[test]
fn a_newer_handshake_clears_an_abandoned_one_out_of_its_way() {
    let new = C.wrapping_add(9_000);
    let reset = Seg { window: 0, ..Seg::from_client(RST, C.wrapping_add(1), 0) };
    let abandoned = || {
        let mut nic = engine();
        give(&mut nic, ms(1), &offered_syn(C));
        give(&mut nic, ms(1), &Seg { flags: RST | ACK, payload: vec![], ..request() });
        nic
    };
    let mut nic = abandoned();
    // A server in SYN-RECEIVED would answer the new SYN with a reset.
    let [elder, younger] = twins(new);
    assert_eq!(give(&mut nic, ms(1), &offered_syn(new)), [reset.clone(), elder, younger]);
    let accepted = Seg { ack: new.wrapping_add(1), ..syn_ack() };
    assert_eq!(accept(&mut nic, 2, &accepted).len(), 1, "the confirm; what was held is gone");
    // The same for SYNs that are not spoofed.
    let mut nic = abandoned();
    assert_eq!(give(&mut nic, ms(1), &plain_syn(new)), [reset.clone(), plain_syn(new)]);
    let mut nic = abandoned();
    let probe = plain_syn(new).raw(&offer_of(Kind::Probe, new));
    assert_eq!(give(&mut nic, ms(1), &probe), [reset, plain_syn(new)]);
    // Whoever has not shown that the first SYN was his resets nothing.
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    assert_eq!(give(&mut nic, ms(1), &offered_syn(new)), twins(new));
}

#[test]
fn a_newer_successor_clears_an_abandoned_one_out_of_its_way() {
    let mut nic = established();
    let (first, second) = (C.wrapping_add(9_000), C.wrapping_add(18_000));
    give(&mut nic, ms(10), &offered_syn(first));
    let ack = isn_promised(first).wrapping_add(1);
    assert!(give(&mut nic, ms(10), &Seg::from_client(RST | ACK, first.wrapping_add(1), ack)).is_empty());
    let reset = Seg { window: 0, ..Seg::from_client(RST, first.wrapping_add(1), 0) };
    let [elder, younger] = twins(second);
    assert_eq!(give(&mut nic, ms(11), &offered_syn(second)), [reset, elder, younger]);
}

/// The kernel says that what was to be emitted is too large; its sender hears of it in its own
/// numbers, or path-MTU discovery would ignore it.
#[test]
fn too_big_is_told_in_the_numbers_of_the_sender() {
    let mut nic = established();
    let quoted = |nic: &mut ServerNic, segment: &Seg| {
        let emitted = give(nic, ms(3), segment).remove(0);
        assert_ne!((emitted.seq, emitted.ack), (segment.seq, segment.ack), "translated");
        let mut out = Outbox::new();
        nic.too_big(ms(3), &emitted.bytes(), 1400, &mut out);
        let (error, _) = out.get_mut(0).unwrap();
        let quote = Quote::parse(error).unwrap();
        (quote.source(), quote.sequence(), quote.acknowledgement())
    };
    let answer = Seg::from_server(ACK, Y + 1, C.wrapping_add(6)).ts(TSVAL + 7, 101).payload(&[0; 1448]);
    assert_eq!(quoted(&mut nic, &answer), (server(), Y + 1, Some(C.wrapping_add(6))));
    let upload = Seg { seq: C.wrapping_add(6), ..request() }.payload(&[0; 1448]);
    assert_eq!(quoted(&mut nic, &upload), (client(), C.wrapping_add(6), Some(s().wrapping_add(1))));
}

#[test]
fn an_icmp_error_from_the_path_reaches_its_receiver_in_its_numbers() {
    let mut nic = established();
    let answer = Seg::from_server(ACK, Y + 1, C.wrapping_add(6)).ts(TSVAL + 7, 101).payload(&[0; 1448]);
    let emitted = give(&mut nic, ms(3), &answer).remove(0);
    let mut error = Vec::new();
    assert!(write_error(Complaint::TooBig(1300), [10, 1, 1, 9].into(), &emitted.bytes(), &mut error));
    let mut packet = Packet { bytes: &mut error, offload: Offload::default() };
    assert_eq!(nic.handle(ms(4), &mut packet, &mut Outbox::new()), Verdict::Forward);
    assert_eq!(Quote::parse(&mut error).unwrap().sequence(), Y + 1);
    assert_eq!(nic.counters().happened(Event::IcmpTranslated), 1);
}

/// Gives it an ICMP error; returns whether it was forwarded, and what else was sent.
fn give_error(nic: &mut ServerNic, at: u64, mut error: Vec<u8>) -> (bool, Vec<Seg>) {
    let (mut packet, mut out) = (Packet { bytes: &mut error, offload: Offload::default() }, Outbox::new());
    let verdict = nic.handle(ms(at), &mut packet, &mut out);
    (verdict == Verdict::Forward, out.iter().map(|(bytes, _)| Seg::read(bytes)).collect())
}

#[test]
fn an_unreachable_server_refuses_and_nobody_says_so_blindly() {
    let opening = || {
        let mut nic = engine();
        give(&mut nic, ms(1), &offered_syn(C));
        give(&mut nic, ms(1), &request());
        nic
    };
    let reset = Seg { window: 0, ..Seg::from_server(RST | ACK, s().wrapping_add(1), C.wrapping_add(1)) };
    for code in [0, 1, 13] {
        let mut nic = opening();
        assert_eq!(give_error(&mut nic, 2, unreachable(&plain_syn(C), code)), (false, vec![reset.clone()]));
        assert_eq!((nic.gauges().flows, nic.counters().happened(Event::Refused)), (0, 1));
    }
    let mut corrupt = unreachable(&plain_syn(C), 13);
    corrupt[22] ^= 1;
    for other in [unreachable(&plain_syn(C + 1), 13), unreachable(&plain_syn(C), 4), corrupt] {
        let mut nic = opening();
        assert_eq!(give_error(&mut nic, 2, other), (true, vec![]));
        assert_eq!(nic.gauges().pending, 1);
    }
    let mut unproven = engine();
    give(&mut unproven, ms(1), &offered_syn(C));
    assert_eq!(give_error(&mut unproven, 2, unreachable(&plain_syn(C), 13)), (true, vec![]));
    let mut live = established();
    assert_eq!(give_error(&mut live, 3, unreachable(&request(), 13)), (true, vec![]), "a soft error");
    assert_eq!(live.gauges().flows, 1);
}

#[test]
fn a_blind_syn_does_not_end_a_handshake() {
    let blind = C.wrapping_add(0x1234_5678);
    let blinds = [
        plain_syn(blind),
        plain_syn(blind).raw(&offer_of(Kind::Probe, blind)),
        plain_syn(blind).raw(&offer_of(Kind::Spoofed, C)),
    ];
    for syn in blinds {
        for proven in [true, false] {
            let mut nic = engine();
            give(&mut nic, ms(1), &offered_syn(C));
            if proven {
                give(&mut nic, ms(1), &request());
            }
            assert_eq!(give(&mut nic, ms(1), &syn), [plain_syn(blind)], "no reset goes with it");
            if !proven {
                give(&mut nic, ms(1), &request());
            }
            // A server in SYN-RECEIVED challenges it (RFC 5961 §4), and then accepts the first.
            let challenge = Seg::from_server(ACK, Y + 1, C.wrapping_add(1)).ts(TSVAL, 100);
            assert_eq!(give(&mut nic, ms(2), &challenge), [challenge]);
            let sent = accept(&mut nic, 2, &syn_ack());
            assert_eq!(sent.iter().map(|s| s.payload.len()).collect::<Vec<_>>(), [5, 0], "held, and confirm");
            assert_eq!(nic.counters().happened(Event::Established), 1);
            assert_eq!(nic.gauges().pending, 0);
        }
    }
}

#[test]
fn a_newer_offer_waits_for_a_handshake_that_is_wanted() {
    let new = C.wrapping_add(9_000);
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    assert!(give(&mut nic, ms(1), &offered_syn(new)).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::OfferTooEarly), 1);
    assert_eq!(accept(&mut nic, 2, &syn_ack()).len(), 2);
    assert_eq!(give(&mut nic, ms(200), &offered_syn(new)).len(), 2, "a successor");
}

#[test]
fn a_server_that_accepts_the_newer_syn_decides() {
    let new = C.wrapping_add(9_000);
    let mut nic = engine();
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    give(&mut nic, ms(1), &plain_syn(new));
    let accepted = Seg { ack: new.wrapping_add(1), ..syn_ack() };
    assert_eq!(give(&mut nic, ms(2), &accepted), [accepted]);
    assert_eq!(nic.gauges(), Gauges::default());
    assert_eq!(nic.counters().happened(Event::FlowReplaced), 1);
}

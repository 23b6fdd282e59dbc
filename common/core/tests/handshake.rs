//! What a server's segment means to a handshake, as a whole table; and its timers.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod packets;

use packets::*;
use rtt0_core::handshake::{Context, Opening, Reply, Start};
use rtt0_core::held::{Held, HoldBudget};
use rtt0_core::limits::Limits;
use rtt0_core::offer::Promise;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{Offered, SynAck};
use rtt0_core::reason::{Counters, Event};
use rtt0_core::seq::Seq;
use rtt0_core::wire::options::SynOptions;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

const C: u32 = u32::MAX;
const S: u32 = 0xffff_fff0;
const Y: u32 = 0x7fff_ffff;

fn start(copies: u8) -> Start {
    Start {
        flow: flow(),
        client_isn: Seq::new(C),
        promised_isn: Seq::new(S),
        promise: Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(9), ecn: false },
        client_window_scale: 7,
        offered: Offered::default(),
        key: 1,
        syn: Seg::from_client(SYN, C, 0).options(linux(1, 0)).bytes(),
        copies,
        repeat_after: Duration::from_millis(200),
    }
}

fn opening(out: &mut Outbox) -> Opening {
    Opening::begin(start(2), Held::new(&HoldBudget::new(&Limits::default())), ms(0), out)
}

fn judge(segment: &Seg) -> Reply {
    let mut bytes = segment.bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).unwrap();
    opening(&mut Outbox::new()).judge(&segment.tcp())
}

/// RFC 9293 §3.10.7.3 (SYN-SENT), for every combination of the five flags that decide and for
/// an acknowledgement that is right, too small, further on in the same connection, or of the promised
/// space.
#[test]
fn every_segment_has_its_meaning() {
    for bits in 0..0x20u16 {
        let flags = Flags::from_bits(bits);
        for ack in [C.wrapping_add(1), C, C.wrapping_add(2), S.wrapping_add(1), 0x1234_5678] {
            let right = flags.contains(ACK) && ack == C.wrapping_add(1);
            let own = flags.contains(ACK) && ack == C.wrapping_add(2);
            let reply = judge(&Seg::from_server(flags, Y, ack).options(SynOptions::default()));
            let accepts = flags.contains(SYN | ACK) && !flags.contains(FIN);
            match reply {
                Reply::Refused => assert!(flags.contains(RST) && right, "{flags:?} {ack}"),
                Reply::Stray => assert!(
                    flags.contains(RST) && !right
                        || !flags.contains(RST) && !flags.contains(ACK)
                        || !flags.contains(RST) && right && !accepts
                        || !flags.contains(RST) && own,
                    "{flags:?} {ack}"
                ),
                Reply::OldConnection { reset } => {
                    assert!(!flags.contains(RST) && flags.contains(ACK) && !right && !own, "{flags:?} {ack}");
                    assert_eq!(reset, ack);
                }
                Reply::Accepted { isn, answer } => {
                    assert!(right && accepts && !flags.contains(RST), "{flags:?} {ack}");
                    assert_eq!((isn, answer.window), (Seq::new(Y), 500));
                }
            }
        }
    }
}

#[test]
fn a_syn_ack_with_malformed_options_is_a_stray() {
    let answer = Seg::from_server(SYN | ACK, Y, C.wrapping_add(1));
    assert_eq!(judge(&answer.clone().raw(&[2, 3, 5, 0])), Reply::Stray);
    // Options without a meaning here are no obstacle.
    assert!(matches!(judge(&answer.raw(&[34, 4, 1, 2])), Reply::Accepted { .. }));
}

/// Lets every timer come, each of which sends so many SYNs; returns when each was due in ms.
fn dues(opening: &mut Opening, syns: usize) -> Vec<u64> {
    let (limits, mut out, mut due) = (Limits::default(), Outbox::new(), Vec::new());
    loop {
        let at = opening.due(&limits);
        due.push(at.as_micros() / 1000);
        out.clear();
        if !opening.on_timer(at, &limits, &mut out) {
            assert!(out.is_empty());
            return due;
        }
        assert_eq!(out.len(), syns);
    }
}

fn prove(opening: &mut Opening) {
    hold(opening, &Seg::from_client(ACK, C.wrapping_add(1), S.wrapping_add(1)));
}

#[test]
fn repeats_double_and_end() {
    let mut out = Outbox::new();
    let mut opening = opening(&mut out);
    assert_eq!(out.len(), 2);
    prove(&mut opening);
    assert_eq!(dues(&mut opening, 2), [200, 600, 1400, 3000, 6200, 15_000]);
    assert!(opening.has_repeated());
}

#[test]
fn one_repeat_until_the_client_has_proven_itself() {
    assert_eq!(dues(&mut opening(&mut Outbox::new()), 1), [200, 3000]);
    let mut late = opening(&mut Outbox::new());
    assert!(late.on_timer(ms(200), &Limits::default(), &mut Outbox::new()));
    prove(&mut late);
    assert_eq!(dues(&mut late, 2), [600, 1400, 3000, 6200, 15_000]);
}

fn hold(opening: &mut Opening, segment: &Seg) {
    let mut bytes = segment.bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    opening.hold(&Segment::parse(&mut packet).unwrap(), Offload::default()).unwrap();
}

#[test]
fn nobody_is_harmed_before_the_client_has_proven_itself() {
    let mut out = Outbox::new();
    let mut opening = opening(&mut out);
    out.clear();
    assert!(!opening.clear_old_connection(77, &Limits::default(), &mut out) && out.is_empty());
    prove(&mut opening);
    assert!(opening.clear_old_connection(77, &Limits::default(), &mut out));
    let sent: Vec<_> = out.iter().map(|(bytes, _)| Seg::read(bytes)).collect();
    assert_eq!((sent[0].flags, sent[0].seq), (RST, 77));
    // Twice, or else the server would take the NIC's short leg for the path.
    assert!(sent.len() == 3 && sent[1..].iter().all(|syn| (syn.flags, syn.seq) == (SYN, C)));
}

#[test]
fn only_what_acknowledges_the_promise_is_held() {
    let opening = opening(&mut Outbox::new());
    let owns = |flags, ack| {
        let mut bytes = Seg::from_client(flags, C.wrapping_add(1), ack).bytes();
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        opening.owns(&Segment::parse(&mut packet).unwrap().tcp())
    };
    for flags in [ACK, ACK | PSH, FIN | ACK, RST | ACK] {
        assert!(owns(flags, S.wrapping_add(1)));
        assert!(!owns(flags, S) && !owns(flags, S.wrapping_add(2)) && !owns(flags, Y.wrapping_add(1)));
    }
    assert!(!owns(RST, S.wrapping_add(1)), "a reset without an acknowledgement");
}

/// The client aborts while its data is held: the server sees the same in the same order.
#[test]
fn what_is_held_is_released_in_order_and_smaller_than_the_servers_mss() {
    let (limits, counters, mut out) = (Limits::default(), Counters::default(), Outbox::new());
    let mut opening = opening(&mut out);
    let from_client =
        |flags, seq: u32| Seg::from_client(flags, C.wrapping_add(seq), S.wrapping_add(1)).ts(1, 9);
    hold(&mut opening, &from_client(ACK, 1));
    hold(&mut opening, &from_client(ACK | PSH, 1).payload(&[1; 1400]));
    hold(&mut opening, &from_client(RST | ACK, 1401));
    out.clear();
    let options = SynOptions { mss: Some(1000), ..linux(5000, 1) };
    let answer = SynAck { options, window: 1000, ecn: false };
    let context = Context { now: ms(1), limits: &limits, counters: &counters };
    let flow = opening.establish(Seq::new(Y), answer, &context, &mut out).unwrap();
    let sent: Vec<_> = out.iter().map(|(bytes, offload)| (Seg::read(bytes), offload.gso_size)).collect();
    let flags: Vec<_> = sent.iter().map(|(segment, _)| segment.flags).collect();
    assert_eq!(flags, [ACK | PSH, RST | ACK], "the ACK has given way to the data");
    assert!(sent.iter().all(|(segment, _)| segment.ack == Y.wrapping_add(1)));
    assert_eq!((sent[0].1, sent[1].1), (988, 0), "the MSS less the timestamps");
    assert!(flow.has_ended(), "by the client's reset");
    assert_eq!(counters.happened(Event::RepairedMss), 1);
}

/// Only an ACK that says nothing else, and only to data that say all that it did.
#[test]
fn an_ack_gives_way_to_the_data_behind_it_and_nothing_else_does() {
    let from_client =
        |flags, seq: u32| Seg::from_client(flags, C.wrapping_add(seq), S.wrapping_add(1)).ts(1, 9);
    let released = |segments: &[Vec<u8>]| {
        let (limits, counters, mut out) = (Limits::default(), Counters::default(), Outbox::new());
        let mut opening = opening(&mut out);
        for bytes in segments {
            let mut bytes = bytes.clone();
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            opening.hold(&Segment::parse(&mut packet).unwrap(), Offload::default()).unwrap();
        }
        out.clear();
        let context = Context { now: ms(1), limits: &limits, counters: &counters };
        let answer = SynAck { options: linux(5000, 1), window: 1000, ecn: false };
        opening.establish(Seq::new(Y), answer, &context, &mut out).unwrap();
        out.len()
    };
    let ack = from_client(ACK, 1).bytes();
    let data = from_client(ACK | PSH, 1).payload(b"data").bytes();
    let mut wrong = data.clone();
    *wrong.last_mut().unwrap() ^= 1;
    // An option of MPTCP's, which is said once, in the place of two NOPs.
    let mut odd = ack.clone();
    odd[40..42].copy_from_slice(&[30, 2]);
    let later = from_client(ACK, 2).payload(b"data").bytes();
    let fin = from_client(FIN | ACK, 1).payload(b"data").bytes();
    assert_eq!(released(&[ack.clone(), data.clone()]), 1);
    assert_eq!(released(&[ack.clone(), data.clone(), later.clone()]), 2);
    assert_eq!(released(&[ack.clone(), ack.clone(), data.clone()]), 2, "only the last");
    for kept in [wrong, later, fin, from_client(ACK, 1).bytes(), from_client(RST | ACK, 1).bytes()] {
        assert_eq!(released(&[ack.clone(), kept]), 2);
    }
    assert_eq!(released(&[odd, data.clone()]), 2);
    assert_eq!(released(&[data.clone(), ack.clone()]), 2);
    assert_eq!(released(&[data.clone(), data]), 2);
}

/// Pieces would get right checksums, and the server would believe them.
#[test]
fn what_came_with_a_wrong_checksum_is_not_cut() {
    let (limits, counters, mut out) = (Limits::default(), Counters::default(), Outbox::new());
    let mut opening = opening(&mut out);
    let mut bytes = Seg::from_client(ACK, C.wrapping_add(1), S.wrapping_add(1)).payload(&[1; 1400]).bytes();
    bytes[100] ^= 1;
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    opening.hold(&Segment::parse(&mut packet).unwrap(), Offload::default()).unwrap();
    out.clear();
    let answer =
        SynAck { options: SynOptions { mss: Some(1000), ..linux(5000, 1) }, window: 1000, ecn: false };
    let context = Context { now: ms(1), limits: &limits, counters: &counters };
    opening.establish(Seq::new(Y), answer, &context, &mut out).unwrap();
    assert_eq!(out.get(0).unwrap().1, Offload::default());
}

#[test]
fn an_old_connection_is_reset_no_more_often_than_a_syn_is_repeated() {
    let (limits, mut out) = (Limits::default(), Outbox::new());
    let mut opening = opening(&mut out);
    hold(&mut opening, &Seg::from_client(ACK, C.wrapping_add(1), S.wrapping_add(1)));
    let times = (0..100).filter(|n| opening.clear_old_connection(*n, &limits, &mut out)).count();
    assert_eq!(times, usize::from(limits.syn_repeats));
    // What it still had under way is not answered at all.
    assert_eq!(judge(&Seg::from_server(ACK, Y, 0x1234_5678).payload(b"old")), Reply::Stray);
}

//! Who may end a translated flow.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod packets;

use packets::*;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Promise;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::profile::SynAck;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::{Life, Translated};
use rtt0_core::wire::options::SynOptions;
use rtt0_core::wire::segment::Segment;
use std::time::Duration;

/// ISNs; the first byte of each end lies at or next to the wrap.
const C: u32 = u32::MAX;
const S: u32 = 0x1234_5678;
const Y: u32 = u32::MAX - 1;

fn flow() -> Translated {
    flow_with(Y)
}

fn flow_with(real_isn: u32) -> Translated {
    let promise = Promise { mss: 1460, ..Promise::default() };
    let options = SynOptions { mss: Some(1460), ..SynOptions::default() };
    let answer = SynAck { options, window: 500, ecn: false };
    let agreement = Agreement {
        promised_isn: Seq::new(S),
        real_isn: Seq::new(real_isn),
        promise: &promise,
        answer: &answer,
        client_window_scale: 0,
    };
    let (translation, _) = Translation::new(agreement, false).unwrap();
    Translated::new(translation, Seq::new(C), 0, answer, 0, &Limits::default(), ms(0))
}

/// Sequence numbers count from the ISN, `ack` from the other end's, as its sender knows it.
fn give(
    flow: &mut Translated,
    to: Direction,
    flags: rtt0_core::wire::tcp::Flags,
    seq: u32,
    ack: u32,
    length: usize,
) -> Life {
    let (from, other) = if to == Direction::ToServer { (C, S) } else { (Y, C) };
    let segment = Seg::new(to, flags, from.wrapping_add(seq), other.wrapping_add(ack));
    let mut bytes = segment.payload(&vec![0; length]).bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let mut segment = Segment::parse(&mut packet).unwrap();
    let limits = Limits::default();
    let life = match to {
        Direction::ToServer => flow.client_segment(&mut segment, &limits),
        Direction::ToClient => flow.server_segment(&mut segment, &limits, ms(1)).unwrap(),
    };
    assert!(segment.checksum_ok());
    life
}

use Direction::{ToClient, ToServer};

fn goes() -> Life {
    Life::Goes(Limits::default().idle)
}

/// A request of 100 bytes and an answer of 200.
fn talked() -> Translated {
    let mut flow = flow();
    assert_eq!(give(&mut flow, ToServer, ACK | PSH, 1, 1, 100), goes());
    assert_eq!(give(&mut flow, ToClient, ACK | PSH, 1, 101, 200), goes());
    assert_eq!(give(&mut flow, ToServer, ACK, 101, 201, 0), goes());
    flow
}

#[test]
fn fins_both_ways_end_it_and_one_does_not() {
    for (first, second) in [(ToServer, ToClient), (ToClient, ToServer)] {
        let mut flow = talked();
        let at = |to| if to == ToServer { (101, 201) } else { (201, 101) };
        let (seq, ack) = at(first);
        assert_eq!(give(&mut flow, first, FIN | ACK, seq, ack, 0), goes(), "half closed");
        // The other end has more to say.
        let (seq, ack) = at(second);
        assert_eq!(give(&mut flow, second, ACK, seq, ack + 1, 1000), goes());
        assert_eq!(give(&mut flow, first, FIN | ACK, at(first).0, ack, 0), goes(), "its FIN again");
        assert!(!flow.has_ended());
        let closed = Life::Ends(Limits::default().closed);
        assert_eq!(give(&mut flow, second, FIN | ACK, seq + 1000, ack + 1, 0), closed);
        assert!(flow.has_ended());
        // What got lost before it is repeated at up to a minute's distance.
        let goes_on = Life::Goes(Limits::default().closed);
        assert_eq!(give(&mut flow, first, ACK, at(first).0 + 1, 0, 0), goes_on);
        assert_eq!(give(&mut flow, second, FIN | ACK, seq + 1000, 0, 0), goes_on);
    }
}

#[test]
fn a_reset_where_the_end_stands_ends_it() {
    for (to, seq) in [(ToServer, 101), (ToClient, 201)] {
        for flags in [RST, RST | ACK] {
            let mut flow = talked();
            assert_eq!(give(&mut flow, to, flags, seq, 0, 0), Life::Ends(Limits::default().reset));
            assert!(flow.has_ended());
        }
    }
}

#[test]
fn a_reset_that_answers_data_stands_where_the_peer_acknowledged() {
    let mut flow = talked();
    // The server's next 500 bytes are on their way when its process dies and the client, whose
    // ACK crosses them, is told with the number it acknowledged.
    assert_eq!(give(&mut flow, ToClient, ACK, 201, 101, 500), goes());
    assert_eq!(give(&mut flow, ToClient, RST, 201, 0, 0), Life::Ends(Limits::default().reset));
}

/// A flipped bit makes a FIN or RST of an ordinary segment, with numbers that are right.
#[test]
fn fins_and_resets_with_a_wrong_checksum_change_nothing() {
    for (to, seq, ack) in [(ToServer, 101, 201), (ToClient, 201, 101)] {
        for flipped in [RST, FIN, RST | FIN] {
            let mut flow = talked();
            let (from, other) = if to == ToServer { (C, S) } else { (Y, C) };
            let mut bytes = Seg::new(to, ACK, from.wrapping_add(seq), other.wrapping_add(ack)).bytes();
            bytes[33] |= flipped.bits() as u8;
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            let mut segment = Segment::parse(&mut packet).unwrap();
            let limits = Limits::default();
            let life = match to {
                ToServer => flow.client_segment(&mut segment, &limits),
                ToClient => flow.server_segment(&mut segment, &limits, ms(1)).unwrap(),
            };
            assert!(!segment.checksum_ok());
            assert_eq!(life, goes());
            // The other end's FIN does not close what is not half closed.
            let (there, back) = if to == ToServer { (ToClient, (201, 101)) } else { (ToServer, (101, 201)) };
            assert_eq!(give(&mut flow, there, FIN | ACK, back.0, back.1, 0), goes());
            assert!(!flow.has_ended());
        }
    }
}

#[test]
fn blind_fins_and_resets_change_nothing() {
    for to in [ToServer, ToClient] {
        let own = if to == ToServer { 101 } else { 201 };
        for seq in [0, own - 1, own + 1, own + 40_000, 0x8000_0000, 0u32.wrapping_sub(5)] {
            let mut flow = talked();
            assert_eq!(give(&mut flow, to, RST, seq, 0, 0), goes(), "{seq}");
            assert_eq!(give(&mut flow, to, FIN, seq, 0, 0), goes(), "{seq}");
            assert!(!flow.has_ended());
        }
    }
}

/// What is left of a talk when the process that translated it is no more.
fn restored() -> Translated {
    Translated::restore(&talked().record(packets::flow()))
}

#[test]
fn after_a_restart_both_fins_end_a_flow_though_they_are_all_that_is_seen() {
    let mut flow = restored();
    assert_eq!(give(&mut flow, ToServer, FIN | ACK, 101, 201, 0), goes(), "half closed");
    let half_closed = flow.record(packets::flow());
    let mut flow = Translated::restore(&half_closed);
    let closed = Life::Ends(Limits::default().closed);
    assert_eq!(give(&mut flow, ToClient, FIN | ACK, 201, 102, 0), closed);
    assert!(Translated::restore(&flow.record(packets::flow())).has_ended());
}

#[test]
fn after_a_restart_in_the_end_repeats_do_not_make_a_newer_connection_of_what_follows() {
    let mut flow = restored();
    give(&mut flow, ToServer, FIN | ACK, 5101, 201, 0);
    give(&mut flow, ToServer, ACK, 101, 201, 1000);
    give(&mut flow, ToClient, FIN | ACK, 201, 101, 0);
    assert!(flow.has_ended());
    let mut bytes = Seg::from_client(ACK, C.wrapping_add(5102), S.wrapping_add(202)).bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let last = Segment::parse(&mut packet).unwrap();
    assert!(flow.is_afterthought(&last.tcp()), "it is the client's last ACK");
}

#[test]
fn after_a_restart_no_reset_is_believed_until_the_ends_are_known() {
    for to in [ToServer, ToClient] {
        let own = if to == ToServer { 101 } else { 201 };
        let mut flow = restored();
        assert_eq!(give(&mut flow, to, RST, own, 0, 0), goes());
        assert!(!flow.has_ended());
        // The next segment of either end tells: its own number, or what the other acknowledges.
        let other = if to == ToServer { ToClient } else { ToServer };
        let peer = if to == ToServer { 201 } else { 101 };
        give(&mut flow, other, ACK, peer, own, 0);
        assert_eq!(give(&mut flow, to, RST, own, 0, 0), Life::Ends(Limits::default().reset));
        assert!(Translated::restore(&flow.record(packets::flow())).has_ended());
    }
}

fn is_elsewhere(flow: &Translated, ack: u32) -> bool {
    let mut bytes = Seg::from_client(ACK, C.wrapping_add(101), ack).bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    flow.is_client_translated(&Segment::parse(&mut packet).unwrap().tcp())
}

#[test]
fn a_client_ahead_of_what_its_server_repeats_is_not_taken_for_untranslated() {
    // The promised numbers happen to lie just behind the real ones: one flow in a thousand.
    let real = S.wrapping_add(2_000_000);
    let mut flow = Translated::restore(&flow_with(real).record(packets::flow()));
    // The server repeats what went through just before the restart, and more.
    give(&mut flow, ToClient, ACK, real.wrapping_sub(Y).wrapping_add(10_000), 101, 1448);
    assert!(!is_elsewhere(&flow, S.wrapping_add(10_000)) && !is_elsewhere(&flow, S.wrapping_add(20_000)));
    let mut flow = restored();
    give(&mut flow, ToClient, ACK, 10_000, 101, 1448);
    assert!(is_elsewhere(&flow, Y.wrapping_add(10_000)) && is_elsewhere(&flow, Y.wrapping_add(20_000)));
}

/// Whether a segment with the server's first byte comes translated, in a flow with this real ISN.
fn comes_translated(real: u32, seq: u32, ack: u32) -> bool {
    let mut bytes = Seg::from_server(ACK, seq, ack).payload(b"220").bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    flow_with(real).is_server_translated(&Segment::parse(&mut packet).unwrap().tcp())
}

#[test]
fn a_first_flight_in_promised_numbers_comes_translated_and_one_in_real_numbers_never_does() {
    let first = C.wrapping_add(1);
    assert!(comes_translated(Y, S + 1, first));
    assert!(!comes_translated(Y, S + 1, first.wrapping_add(1)), "acknowledges what nobody sent");
    assert!(!comes_translated(Y, S.wrapping_sub(1), first) && !comes_translated(Y, S + (2 << 20), first));
    for distance in [0, 1, 1000, 1 << 20, 1 << 21, 1 << 31] {
        for real in [S.wrapping_add(distance), S.wrapping_sub(distance)] {
            assert!(!comes_translated(real, real.wrapping_add(1), first), "{distance}");
        }
    }
}

#[test]
fn after_a_restart_nothing_with_a_wrong_checksum_tells_how_far_an_end_has_come() {
    let mut flow = restored();
    give(&mut flow, ToClient, ACK, 201, 101, 0);
    let mut bytes = Seg::from_client(ACK, C.wrapping_add(0x4000_0000), S.wrapping_add(201)).bytes();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    flow.client_segment(&mut Segment::parse(&mut packet).unwrap(), &Limits::default());
    give(&mut flow, ToServer, FIN | ACK, 101, 201, 0);
    assert_eq!(flow.upload(), Some(100));
}

#[test]
fn after_a_restart_an_upload_is_known_once_the_client_speaks() {
    let mut flow = restored();
    give(&mut flow, ToClient, ACK, 201, 101, 0);
    assert_eq!(flow.upload(), None);
    give(&mut flow, ToServer, FIN | ACK, 5001, 201, 0);
    assert_eq!(flow.upload(), Some(5000));
}

#[test]
fn afterthoughts_are_told_from_a_newer_connection() {
    let mut flow = talked();
    give(&mut flow, ToServer, FIN | ACK, 101, 201, 0);
    give(&mut flow, ToClient, FIN | ACK, 201, 102, 0);
    let is_own = |seq: u32, ack: u32| {
        let mut bytes = Seg::from_client(ACK, C.wrapping_add(seq), S.wrapping_add(ack)).bytes();
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        flow.is_afterthought(&Segment::parse(&mut packet).unwrap().tcp())
    };
    assert!(is_own(102, 202) && is_own(101, 201) && is_own(1, 1));
    assert!(!is_own(103, 202) && !is_own(102, 203) && !is_own(1 << 30, 202) && !is_own(102, 1 << 30));
}

#[test]
fn after_a_restart_an_end_may_be_ahead_of_what_the_other_repeated() {
    let mut flow = restored();
    give(&mut flow, ToClient, FIN | ACK, 5001, 101, 0);
    give(&mut flow, ToServer, FIN | ACK, 101, 5002, 0);
    let mut flow = Translated::restore(&flow.record(packets::flow()));
    assert!(flow.has_ended());
    // The server repeats what the client has long had, and an old ACK of it confirms that.
    give(&mut flow, ToClient, ACK, 1001, 102, 1000);
    give(&mut flow, ToServer, ACK, 102, 2001, 0);
    let mut bytes = Seg::from_client(ACK, C.wrapping_add(102), S.wrapping_add(5002)).bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    assert!(flow.is_afterthought(&Segment::parse(&mut packet).unwrap().tcp()));
}

#[test]
fn an_end_that_goes_on_after_its_reset_was_not_reset() {
    for (to, own, peer) in [(ToServer, 101, 201), (ToClient, 201, 101)] {
        let mut flow = talked();
        assert_eq!(give(&mut flow, to, RST, own, 0, 0), Life::Ends(Limits::default().reset));
        // What the other end had under way says nothing.
        let other = if to == ToServer { ToClient } else { ToServer };
        assert_eq!(give(&mut flow, other, ACK, peer, own, 10), Life::Goes(Duration::ZERO));
        assert!(flow.has_ended());
        assert_eq!(give(&mut flow, to, ACK, own, peer + 10, 10), Life::Ends(Limits::default().idle));
        assert!(!flow.has_ended());
        assert_eq!(give(&mut flow, to, ACK, own + 10, peer + 10, 10), goes());
    }
}

/// Numbers that somebody far away would try: everywhere, at the edges of windows, at the wrap.
fn guesses() -> impl Iterator<Item = u32> {
    let spread = (0..200).map(|n: u32| n.wrapping_mul(0x9e37_79b9));
    let around = [0u32, 1 << 16, 1 << 17, 64 << 20, 1 << 30, 1 << 31].into_iter();
    spread.chain(around.flat_map(|n| [n, n.wrapping_neg(), n.wrapping_sub(1)]))
}

#[test]
fn what_is_made_up_blindly_does_not_move_an_end() {
    for to in [ToServer, ToClient] {
        let (own, peer) = if to == ToServer { (101, 201) } else { (201, 101) };
        for guess in guesses() {
            let mut flow = talked();
            // Right in one number is not enough.
            for (seq, ack) in [(own, guess), (guess, peer), (guess, guess)] {
                let accepted = (seq.wrapping_sub(own) as i32).unsigned_abs() <= 66_036
                    && peer.wrapping_sub(ack) <= 64 << 20;
                if accepted {
                    continue;
                }
                give(&mut flow, to, ACK, seq, ack, 100);
                give(&mut flow, to, RST, seq.wrapping_add(100), 0, 0);
                assert!(!flow.has_ended(), "{to:?} {seq} {ack}");
            }
        }
    }
}

#[test]
fn a_syn_ack_in_the_window_moves_no_end() {
    let mut flow = talked();
    for (to, seq, ack) in [(ToServer, 101, 201), (ToClient, 201, 101)] {
        // A receiver answers it with a challenge ACK, wherever in its window it is.
        assert_eq!(give(&mut flow, to, SYN | ACK, seq + 3, ack, 0), goes());
        // Where the end would stand if it had said that.
        assert_eq!(give(&mut flow, to, RST, seq + 4, ack, 0), goes());
        assert!(!flow.has_ended());
        // Where it does stand.
        assert_eq!(give(&mut flow, to, ACK, seq, ack, 0), goes());
    }
    assert_eq!(give(&mut flow, ToServer, RST, 101, 0, 0), Life::Ends(Limits::default().reset));
}

#[test]
fn data_behind_a_fin_shows_that_it_was_forged() {
    let mut flow = talked();
    assert_eq!(give(&mut flow, ToServer, FIN | ACK, 101, 201, 0), goes());
    assert_eq!(give(&mut flow, ToClient, FIN | ACK, 201, 101, 0), Life::Ends(Limits::default().closed));
    assert_eq!(give(&mut flow, ToServer, ACK, 101, 201, 50), Life::Ends(Limits::default().idle));
    assert_eq!(give(&mut flow, ToServer, ACK, 151, 201, 0), goes());
    assert!(!flow.has_ended());
    assert_eq!(flow.upload(), None);
    assert_eq!(give(&mut flow, ToServer, FIN | ACK, 151, 202, 0), Life::Ends(Limits::default().closed));
    assert_eq!(flow.upload(), Some(150));
}

#[test]
fn a_fin_amid_what_was_sent_was_forged() {
    for (first, second) in [(ToServer, ToClient), (ToClient, ToServer)] {
        let mut flow = talked();
        let at = |to| if to == ToServer { (101, 201) } else { (201, 101) };
        let (seq, ack) = at(first);
        give(&mut flow, first, ACK | PSH, seq, ack, 1000);
        // Before it is acknowledged, so that its receiver would look at the numbers.
        assert_eq!(give(&mut flow, first, FIN | ACK, seq + 99, ack, 0), goes());
        let (seq, ack) = at(second);
        assert_eq!(give(&mut flow, second, FIN | ACK, seq, ack + 1000, 0), goes(), "half closed");
        assert!(!flow.has_ended());
    }
}

#[test]
fn a_fin_counts_wherever_its_window_is_and_not_beyond() {
    // 500 bytes are open, and a window promised by a SYN-ACK is at most 65,535 wider.
    for (seq, counts) in [(201, true), (701, true), (65_000, true), (80_000, false)] {
        let mut flow = talked();
        give(&mut flow, ToServer, FIN | ACK, 101, 201, 0);
        let life = give(&mut flow, ToClient, FIN | ACK, seq, 101, 0);
        assert_eq!(life == Life::Ends(Limits::default().closed), counts, "{seq}");
    }
}

/// As [`give`], with another window.
fn give_window(flow: &mut Translated, seq: u32, ack: u32, window: u16) -> Life {
    let segment = Seg { window, ..Seg::new(ToServer, ACK, C.wrapping_add(seq), S.wrapping_add(ack)) };
    let mut bytes = segment.bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    flow.client_segment(&mut Segment::parse(&mut packet).unwrap(), &Limits::default())
}

#[test]
fn a_window_that_is_told_from_where_no_end_stands_counts_for_nothing() {
    // Beyond the 500 bytes that are open, and within what 65,535 would let in.
    let far = 201 + 65_536 + 40_000;
    for (seq, counts) in [(201, true), (200, false), (102, false)] {
        let mut flow = talked();
        // Under way, so that their receiver looks at the numbers of what comes from before their end.
        give(&mut flow, ToServer, ACK | PSH, 101, 201, 100);
        give_window(&mut flow, seq, 201, u16::MAX);
        give(&mut flow, ToServer, FIN | ACK, 201, 201, 0);
        let life = give(&mut flow, ToClient, FIN | ACK, far, 201, 0);
        assert_eq!(life == Life::Ends(Limits::default().closed), counts, "{seq}");
    }
}

/// Once each end's acknowledgement covers the other's FIN, only the last ACK can have to be repeated.
#[test]
fn what_both_ends_have_acknowledged_rests() {
    let (closed, rests) = (Limits::default().closed, Life::Rests(Limits::default().finished));
    for first in [ToServer, ToClient] {
        let mut flow = talked();
        let second = if first == ToServer { ToClient } else { ToServer };
        let ((at, ack), (other_at, other_ack)) =
            if first == ToServer { ((101, 201), (201, 101)) } else { ((201, 101), (101, 201)) };
        assert_eq!(give(&mut flow, first, FIN | ACK, at, ack, 0), goes());
        // The other end closes without having seen that FIN, then hears of it.
        assert_eq!(give(&mut flow, second, FIN | ACK, other_at, other_ack, 0), Life::Ends(closed));
        assert_eq!(
            give(&mut flow, second, ACK, other_at + 1, other_ack + 1, 0),
            Life::Goes(closed),
            "one of two"
        );
        assert_eq!(give(&mut flow, first, ACK, at + 1, ack, 0), Life::Goes(closed), "of the data only");
        assert_eq!(give(&mut flow, first, ACK, at + 1, ack + 1, 0), rests);
        // That ACK got lost: the other end repeats its FIN, and is answered.
        assert_eq!(give(&mut flow, second, FIN | ACK, other_at, other_ack + 1, 0), rests);
        assert_eq!(give(&mut flow, first, ACK, at + 1, ack + 1, 0), rests);
        // Who goes on was not the one who sent the FIN.
        let revived = give(&mut flow, first, ACK | PSH, at, ack + 1, 10);
        assert_eq!(revived, Life::Ends(Limits::default().idle));
    }
}

#[test]
fn a_reset_flow_does_not_rest() {
    let mut flow = talked();
    assert_eq!(give(&mut flow, ToServer, FIN | ACK, 101, 201, 0), goes());
    give(&mut flow, ToClient, FIN | ACK, 201, 102, 0);
    assert_eq!(give(&mut flow, ToServer, RST, 102, 0, 0), Life::Ends(Limits::default().reset));
    assert_eq!(give(&mut flow, ToServer, ACK, 102, 202, 0), Life::Goes(Duration::ZERO));
}

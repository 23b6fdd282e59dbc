//! ClientNIC's engine, segment by segment.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use clientnic::{Policy, SharedPolicy};
use packets::*;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::exclusions::Exclusions;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Found, Kind, Offer, Promise};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::seq::Seq;
use rtt0_core::wire::options::{Options, SynOptions};
use rtt0_core::wire::tcp::Flags;
use std::sync::Arc;

/// The client's ISN.
const C: u32 = 0xffff_ff00;
/// The server's ISN.
const Y: u32 = 0x8000_0000;
/// The server's clock at its SYN-ACK.
const TSVAL: u32 = 5_000;

fn engine(mode: Mode) -> ClientNic {
    engine_with(mode, Arc::new(Profiles::new(ProfileLimits::default())))
}

fn engine_with(mode: Mode, profiles: Arc<Profiles>) -> ClientNic {
    let settings = Settings { policy: mode.into(), mss_clamp: (1460, 1440), limits: Limits::default() };
    ClientNic::new(gateway(), keys(), profiles, settings)
}

fn isn_promised(client_isn: u32) -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(client_isn)).unwrap().get()
}

fn tsval_promised(client_isn: u32) -> u32 {
    keys().promised_tsval(1, &flow(), Seq::new(client_isn)).unwrap()
}

fn syn(isn: u32) -> Seg {
    Seg::from_client(SYN, isn, 0).options(linux(100, 0))
}

fn syn_ack(isn: u32) -> Seg {
    Seg { window: 65_160, ..Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(TSVAL, 100)) }
}

fn confirm(isn: u32) -> Vec<u8> {
    let offer = Offer { kind: Kind::Confirm, key: 1, promise: Promise::default() };
    offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap().to_vec()
}

fn signal(segment: &Seg, isn: u32) -> Found {
    Offer::find(Options::new(&segment.raw), &keys(), &flow(), Seq::new(isn))
}

fn request(isn: u32) -> Seg {
    Seg::from_client(ACK | PSH, isn.wrapping_add(1), isn_promised(isn).wrapping_add(1))
        .ts(101, tsval_promised(isn))
        .payload(b"GET /")
}

/// Lets a first connection teach the engine whether there is a ServerNIC.
fn taught(mode: Mode, paired: bool) -> ClientNic {
    let mut nic = engine(mode);
    give(&mut nic, ms(0), &syn(C));
    let raw = if paired { confirm(C) } else { vec![] };
    let answer = Seg { raw, ..syn_ack(C) };
    assert_eq!(give(&mut nic, ms(50), &answer), [syn_ack(C)], "the client sees a plain SYN-ACK");
    give(&mut nic, ms(60), &Seg::from_client(RST, C + 1, 0));
    nic
}

/// The ISN of the connection after the one that taught.
const D: u32 = 7;

#[test]
fn the_first_connection_is_learned_from_and_marked_with_a_probe() {
    let mut nic = engine(Mode::Auto);
    let sent = give(&mut nic, ms(0), &syn(C));
    assert_eq!(sent.len(), 1);
    assert!(matches!(signal(&sent[0], C), Found::Authentic(offer) if offer.kind == Kind::Probe));
    assert_eq!(Seg { raw: vec![], ..sent[0].clone() }, syn(C));
}

#[test]
fn a_known_destination_is_answered_early_and_offered() {
    let mut nic = taught(Mode::Auto, true);
    let sent = give(&mut nic, ms(100), &syn(D));
    assert_eq!(sent.len(), 2);
    let promised = linux(tsval_promised(D), 100);
    let expected = Seg { seq: isn_promised(D), ..syn_ack(D) }.options(promised);
    assert_eq!(sent[1], expected, "the spoofed SYN-ACK, behind what it must not be overtaken by");
    let Found::Authentic(offer) = signal(&sent[0], D) else { panic!("no offer") };
    assert_eq!(offer.kind, Kind::Spoofed);
    let promise =
        Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(tsval_promised(D)), ecn: false };
    assert_eq!(offer.promise, promise);
    assert_eq!(Seg { raw: vec![], ..sent[0].clone() }, syn(D), "the client's own SYN otherwise");
    // Data follows the SYN untouched; the confirm ends it all.
    assert_eq!(give(&mut nic, ms(101), &request(D)), [request(D)]);
    let confirmed = Seg { seq: isn_promised(D), raw: confirm(D), ..syn_ack(D) };
    assert!(give(&mut nic, ms(150), &confirmed).is_empty(), "consumed");
    assert_eq!(nic.counters().happened(Event::Confirmed), 1);
    assert!(pass_time(&mut nic, ms(30_000)).is_empty(), "nothing is repeated");
}

#[test]
fn without_a_confirm_it_translates_by_itself_and_loses_no_data() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    // The server saw the data before its handshake.
    let reset = Seg::from_server(RST, isn_promised(D).wrapping_add(1), 0);
    assert!(give(&mut nic, ms(149), &reset).is_empty());
    let sent = give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(sent, [Seg { ack: Y + 1, ts: Some((101, TSVAL)), ..request(D) }], "the copy, translated");
    assert!(give(&mut nic, ms(151), &reset).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::ResetOfEarlyData), 2);
    assert_eq!(nic.counters().happened(Event::FellBackToSolo), 1);
    let answer = Seg::from_server(ACK, Y + 1, D + 6).ts(TSVAL + 1, 101).payload(b"200");
    let seen = Seg {
        seq: isn_promised(D).wrapping_add(1),
        ts: Some((tsval_promised(D).wrapping_add(1), 101)),
        ..answer.clone()
    };
    assert_eq!(give(&mut nic, ms(200), &answer), [seen]);
    // The next connection is solo from the start.
    let other = Seg::from_client(RST, D + 6, isn_promised(D).wrapping_add(4));
    give(&mut nic, ms(201), &other);
    give(&mut nic, ms(300), &syn(900));
    assert_eq!(nic.counters().happened(Event::SpoofedSolo), 1);
}

#[test]
fn solo_holds_until_the_real_syn_ack() {
    let mut nic = taught(Mode::Solo, false);
    let sent = give(&mut nic, ms(100), &syn(D));
    assert_eq!((sent.len(), sent[0].raw.len()), (2, 0), "no offer in mode solo");
    assert!(give(&mut nic, ms(101), &request(D)).is_empty(), "held");
    let sent = give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(sent, [Seg { ack: Y + 1, ts: Some((101, TSVAL)), ..request(D) }]);
}

#[test]
fn a_server_nic_that_comes_later_is_found() {
    let mut nic = taught(Mode::Auto, false);
    let sent = give(&mut nic, ms(100), &syn(D));
    assert!(matches!(signal(&sent[0], D), Found::Authentic(offer) if offer.kind == Kind::Probe));
    give(&mut nic, ms(101), &request(D));
    let sent = give(&mut nic, ms(150), &Seg { raw: confirm(D), ..syn_ack(D) });
    assert_eq!(sent[0].ack, Y + 1, "this flow stays solo");
    give(&mut nic, ms(151), &Seg::from_client(RST, D + 6, Y));
    let other = Seg { seq: 900, ..syn(900) };
    let mut second = other.bytes();
    // Another client port, so that it is another flow.
    second[21] = 0x99;
    let mut packet = rtt0_core::packet::Packet { bytes: &mut second, offload: Default::default() };
    rtt0_core::wire::segment::Segment::parse(&mut packet).unwrap().fill_checksum();
    let mut out = rtt0_core::packet::Outbox::new();
    nic.handle(ms(200), &mut packet, &mut out);
    assert_eq!(nic.counters().happened(Event::SpoofedPaired), 1);
}

#[test]
fn mode_paired_never_spoofs_alone_and_off_never_at_all() {
    let mut nic = taught(Mode::Paired, false);
    let sent = give(&mut nic, ms(100), &syn(D));
    assert_eq!((sent.len(), sent[0].to), (1, syn(D).to));
    assert_eq!(nic.counters().passed(PassReason::Unpaired), 1);
    let mut nic = engine(Mode::Off);
    assert_eq!(give(&mut nic, ms(0), &syn(C)), [syn(C)]);
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn what_is_not_understood_passes_untouched() {
    let cases: [(Seg, PassReason); 6] = [
        (Seg { raw: vec![34, 4, 1, 2], ..syn(D) }, PassReason::UnknownOption),
        (Seg { raw: vec![30, 4, 0, 1], ..syn(D) }, PassReason::UnknownOption),
        (
            Seg { raw: vec![19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], ..syn(D) },
            PassReason::UnknownOption,
        ),
        (syn(D).payload(b"early"), PassReason::SynPayload),
        (Seg { flags: SYN | Flags::URG, ..syn(D) }, PassReason::OddSyn),
        (Seg { flags: SYN | Flags::ECN, ..syn(D) }, PassReason::AccurateEcn),
    ];
    for (odd, reason) in cases {
        let mut nic = taught(Mode::Auto, true);
        let mut bytes = odd.bytes();
        let mut sent = bytes.clone();
        rtt0_core::wire::ipv4::Ipv4::unverified(&mut sent[..]).unwrap().set_ttl(63);
        let mut out = rtt0_core::packet::Outbox::new();
        let mut packet = rtt0_core::packet::Packet { bytes: &mut bytes, offload: Default::default() };
        assert_eq!(nic.handle(ms(100), &mut packet, &mut out), rtt0_core::engine::Verdict::Forward);
        assert_eq!((packet.bytes.to_vec(), out.len()), (sent, 0), "{reason:?}");
        assert_eq!(nic.counters().passed(reason), 1, "{reason:?}");
    }
}

#[test]
fn a_corrupt_syn_is_not_answered() {
    let mut nic = taught(Mode::Auto, true);
    assert_eq!(give_corrupt(&mut nic, 100, &syn(D)), (Verdict::Forward, 0));
}

#[test]
fn an_option_the_server_was_never_asked_is_learned_first() {
    let mut nic = engine(Mode::Auto);
    let bare = SynOptions { mss: Some(1460), ..SynOptions::default() };
    give(&mut nic, ms(0), &syn(C).options(bare));
    give(&mut nic, ms(50), &Seg { raw: confirm(C), ..syn_ack(C).options(bare) });
    give(&mut nic, ms(60), &Seg::from_client(RST, C + 1, 0));
    let sent = give(&mut nic, ms(100), &syn(D));
    assert_eq!(sent.len(), 1, "nobody knows whether it does timestamps");
    give(&mut nic, ms(150), &Seg { raw: confirm(D), ..syn_ack(D) });
    give(&mut nic, ms(160), &Seg::from_client(RST, D + 1, 0));
    assert_eq!(give(&mut nic, ms(200), &syn(900)).len(), 2);
}

#[test]
fn a_closed_port_says_so_without_a_profile_and_after_one_reset_with_a_stale_one() {
    let mut nic = engine(Mode::Auto);
    give(&mut nic, ms(0), &syn(C));
    let refusal = Seg::from_server(RST | ACK, 0, C + 1);
    assert_eq!(give(&mut nic, ms(50), &refusal), [refusal]);
    // Stale: the client was told it is connected.
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    let from_nic = Seg { window: 0, ..Seg::from_server(RST | ACK, isn_promised(D).wrapping_add(1), D + 1) };
    assert_eq!(give(&mut nic, ms(150), &from_nic), [from_nic]);
    let again = give(&mut nic, ms(200), &syn(900));
    assert_eq!(again, [syn(900)], "refused lately: untouched");
    let later = give(&mut nic, ms(1200), &syn(901));
    assert_eq!(later.len(), 1, "then learned from");
}

#[test]
fn an_unreachable_server_refuses() {
    for (mode, paired) in [(Mode::Auto, true), (Mode::Solo, false)] {
        let mut nic = taught(mode, paired);
        give(&mut nic, ms(100), &syn(D));
        give(&mut nic, ms(101), &request(D));
        let (mut error, mut out) = (unreachable(&syn(D), 1), Outbox::new());
        let mut packet = Packet { bytes: &mut error, offload: Offload::default() };
        assert_eq!(nic.handle(ms(150), &mut packet, &mut out), Verdict::Taken);
        let reset = Seg { window: 0, ..Seg::from_server(RST | ACK, isn_promised(D).wrapping_add(1), D + 1) };
        assert_eq!(out.iter().map(|(bytes, _)| Seg::read(bytes)).collect::<Vec<_>>(), [reset]);
        assert_eq!(give(&mut nic, ms(200), &syn(900)), [syn(900)], "refused lately: untouched");
    }
}

#[test]
fn a_lost_syn_is_repeated_and_silence_is_reported() {
    let mut nic = taught(Mode::Auto, true);
    let offer = give(&mut nic, ms(100), &syn(D))[0].clone();
    give(&mut nic, ms(101), &request(D));
    let sent = pass_time(&mut nic, ms(40_000));
    let times: Vec<_> = sent.iter().map(|(at, _)| at.as_micros() / 1000).collect();
    // The long leg's RTT was measured as 50 ms; the wait is at least 200 ms.
    let expected = [300u64, 700, 1500, 3100, 6300, 15_100];
    assert_eq!(times.len(), expected.len(), "{times:?}");
    assert!(times.iter().zip(expected).all(|(at, due)| (due..due + 16).contains(at)), "{times:?}");
    assert!(sent[..5].iter().all(|(_, segment)| *segment == offer));
    assert_eq!((sent[5].1.flags, sent[5].1.seq), (RST | ACK, isn_promised(D).wrapping_add(1)));
    assert_eq!(nic.gauges().flows, 0);
    // The next connection sees the truth.
    assert_eq!(give(&mut nic, ms(41_000), &syn(900)).len(), 1);
}

#[test]
fn an_unproven_handshake_ends_in_silence() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    let sent = pass_time(&mut nic, ms(40_000));
    assert!(sent.iter().all(|(_, segment)| segment.flags == SYN), "no reset: perhaps a forgery");
    assert_eq!(give(&mut nic, ms(41_000), &syn(900)).len(), 2, "and the profile stays");
}

#[test]
fn a_repeated_syn_gets_the_same_answer() {
    let mut nic = taught(Mode::Auto, true);
    let first = give(&mut nic, ms(100), &syn(D));
    assert_eq!(give(&mut nic, ms(1100), &syn(D)), first, "and the server is asked again");
    assert_eq!(nic.counters().happened(Event::SpoofRepeated), 1);
    give(&mut nic, ms(1101), &request(D));
    assert_eq!(give(&mut nic, ms(1102), &syn(D)), first[1..], "a late copy");
}

/// Its answers got lost, and RTT and time-outs add up to more than a handshake waits.
#[test]
fn a_client_that_still_asks_is_still_known() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    for at in [1100, 3090] {
        pass_time(&mut nic, ms(at));
        give(&mut nic, ms(at), &syn(D));
    }
    pass_time(&mut nic, ms(3200));
    assert_eq!(give(&mut nic, ms(3200), &request(D)), [request(D)]);
    assert_eq!(nic.gauges().pending, 1);
    assert!(!pass_time(&mut nic, ms(4000)).is_empty(), "the offer is repeated");
    give(&mut nic, ms(4100), &Seg { seq: isn_promised(D), raw: confirm(D), ..syn_ack(D) });
    assert_eq!(nic.counters().happened(Event::Confirmed), 1);
}

/// The server's answer to an older copy of the SYN, one that went to it without offer, comes ahead of
/// ServerNIC's confirm.
#[test]
fn what_both_nics_translate_is_left_to_the_server_nic() {
    let confirmed = Seg { seq: isn_promised(D), raw: confirm(D), ..syn_ack(D) };
    let data =
        Seg::from_server(ACK, isn_promised(D).wrapping_add(1), D + 6).ts(TSVAL, 101).payload(b"200 OK");
    for confirm_comes in [true, false] {
        let mut nic = taught(Mode::Auto, true);
        give(&mut nic, ms(100), &syn(D));
        give(&mut nic, ms(101), &request(D));
        give(&mut nic, ms(150), &syn_ack(D));
        assert_eq!(nic.counters().happened(Event::FellBackToSolo), 1);
        if confirm_comes {
            assert!(give(&mut nic, ms(151), &confirmed).is_empty());
        }
        assert_eq!(give(&mut nic, ms(152), &data), std::slice::from_ref(&data), "not translated twice");
        assert_eq!(give(&mut nic, ms(153), &request(D)), [request(D)], "nor is what the client sends");
        assert_eq!(nic.counters().happened(Event::TranslatedElsewhere), 1);
    }
}

#[test]
fn a_reset_of_early_data_may_come_after_the_confirm() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    give(&mut nic, ms(150), &Seg { seq: isn_promised(D), raw: confirm(D), ..syn_ack(D) });
    let reset = Seg::from_server(RST, isn_promised(D).wrapping_add(1), 0);
    assert!(give(&mut nic, ms(400), &reset).is_empty());
    assert_eq!(nic.counters().dropped(DropReason::ResetOfEarlyData), 1);
    let own = Seg::from_server(RST | ACK, isn_promised(D).wrapping_add(1), D + 6);
    assert_eq!(give(&mut nic, ms(401), &own), [own], "a reset of the connection's own");
    assert_eq!(give(&mut nic, ms(1200), &reset), [reset], "the server insists");
}

#[test]
fn a_late_copy_of_a_syn_is_not_answered_when_its_client_has_closed() {
    let mut nic = engine(Mode::Auto);
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &syn_ack(C));
    let fin = Seg::from_client(FIN | ACK, C + 1, Y + 1);
    assert_eq!(give(&mut nic, ms(60), &fin), [fin]);
    assert_eq!(give(&mut nic, ms(70), &syn(C)), [syn(C)]);
    assert_eq!(give(&mut nic, ms(80), &syn(D)).len(), 2, "a newer one is");
}

#[test]
fn large_uploads_stop_spoofing() {
    let mut nic = engine(Mode::Auto);
    for round in 0..3u32 {
        let isn = C.wrapping_add(round * 1_000_000_000);
        give(&mut nic, ms(0), &syn(isn));
        if round < 1 {
            give(&mut nic, ms(50), &Seg { raw: confirm(isn), ..syn_ack(isn) });
        } else if round == 1 {
            assert_eq!(nic.counters().passed(PassReason::LargeUploads), 1);
            give(&mut nic, ms(50), &Seg { raw: confirm(isn), ..syn_ack(isn) });
        }
        let end = isn.wrapping_add(1 + 1_000_000);
        give(&mut nic, ms(90), &Seg::from_client(FIN | ACK, end, Y + 1));
    }
    assert_eq!(nic.counters().happened(Event::SpoofedPaired), 0);
}

/// The server closes while the client still sends: no FIN ever tells how much that was.
#[test]
fn large_uploads_cut_short_by_the_server_count() {
    const PIECE: u32 = 60_000;
    for paired in [true, false] {
        let mut nic = taught(Mode::Auto, paired);
        give(&mut nic, ms(100), &syn(D));
        give(&mut nic, ms(101), &request(D));
        let raw = if paired { confirm(D) } else { vec![] };
        give(&mut nic, ms(150), &Seg { raw, ..syn_ack(D) });
        let (ack, rst) = if paired { (isn_promised(D), isn_promised(D)) } else { (isn_promised(D), Y) };
        for piece in 0..5 {
            let data = Seg::from_client(ACK, D + 1 + piece * PIECE, ack.wrapping_add(1));
            give(&mut nic, ms(160), &data.payload(&vec![0; PIECE as usize]));
            let received = D + 1 + (piece + 1) * PIECE;
            give(&mut nic, ms(170), &Seg::from_server(ACK, rst.wrapping_add(1), received));
        }
        let reset = Seg::from_server(RST | ACK, rst.wrapping_add(1), D + 1 + PIECE);
        give(&mut nic, ms(200), &reset);
        give(&mut nic, ms(300), &syn(C.wrapping_add(9)));
        assert_eq!(nic.counters().passed(PassReason::LargeUploads), 1, "paired: {paired}");
    }
}

#[test]
fn a_translated_syn_ack_counts_as_a_confirm() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    // The confirm got lost; the server repeats its SYN-ACK, which ServerNIC translates.
    let translated = Seg { seq: isn_promised(D), ..syn_ack(D) };
    give(&mut nic, ms(1150), &translated);
    assert_eq!(nic.counters().happened(Event::Confirmed), 1);
    assert_eq!(nic.counters().happened(Event::FellBackToSolo), 0);
}

#[test]
fn a_newer_connection_replaces_a_solo_flow_when_the_server_accepts_it() {
    let mut nic = taught(Mode::Solo, false);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(give(&mut nic, ms(200), &syn(900)), [syn(900)], "the old flow may be alive");
    let accepted = Seg { seq: 77, ..syn_ack(900) };
    assert_eq!(give(&mut nic, ms(250), &accepted), [accepted]);
    let data = Seg::from_server(ACK, 78, 901).payload(b"x");
    assert_eq!(give(&mut nic, ms(251), &data), [data], "nothing is translated any more");
}

/// The probe may already have made a connection; no confirm of it may pass for one of a spoof.
#[test]
fn a_repeated_syn_is_learned_from_again_though_the_destination_is_known_by_now() {
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let [mut nic, mut other] = [0, 1].map(|_| engine_with(Mode::Auto, Arc::clone(&profiles)));
    let first = give(&mut nic, ms(0), &syn(C));
    give(&mut other, ms(1), &syn(D));
    give(&mut other, ms(50), &Seg { raw: confirm(D), ..syn_ack(D) });
    assert_eq!(give(&mut nic, ms(1000), &syn(C)), first, "the same probe");
    assert_eq!(nic.counters().happened(Event::SpoofedPaired), 0);
}

#[test]
fn a_late_copy_of_a_learned_syn_is_not_answered_here() {
    let mut nic = engine(Mode::Auto);
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &syn_ack(C));
    // The destination is known now, but the client has the server's own ISN already.
    assert_eq!(give(&mut nic, ms(60), &syn(C)), [syn(C)]);
    let answer = Seg::from_server(ACK | PSH, Y + 1, C + 1).payload(b"220 ready");
    assert_eq!(give(&mut nic, ms(110), &answer), [answer]);
}

#[test]
fn a_repeated_syn_ack_of_a_learned_flow_reaches_the_client() {
    let mut nic = engine(Mode::Auto);
    give(&mut nic, ms(0), &syn(C));
    let answer = Seg { raw: confirm(C), ..syn_ack(C) };
    assert_eq!(give(&mut nic, ms(50), &answer), [syn_ack(C)]);
    // The client's ACK got lost, and only its answer to this one can complete the handshake.
    assert_eq!(give(&mut nic, ms(1050), &answer), [syn_ack(C)]);
}

#[test]
fn a_late_copy_of_a_solo_syn_is_no_rival() {
    let mut nic = taught(Mode::Auto, false);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(150), &syn_ack(D));
    assert_eq!(give(&mut nic, ms(151), &syn(D)), [syn(D)]);
    let repeated = give(&mut nic, ms(200), &syn_ack(D));
    assert_eq!(repeated.len(), 1);
    assert_eq!(repeated[0].seq, isn_promised(D), "still translated");
    assert_eq!(nic.counters().happened(Event::FlowReplaced), 0);
}

#[test]
fn a_flow_whose_confirms_all_get_lost_is_not_reset() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    let answer = Seg::from_server(ACK | PSH, isn_promised(D).wrapping_add(1), D + 6).payload(b"200 OK");
    assert_eq!(give(&mut nic, ms(150), &answer), [answer]);
    let sent = pass_time(&mut nic, ms(30_000));
    assert!(sent.iter().all(|(_, segment)| segment.flags == SYN), "{sent:?}");
    assert_eq!(nic.gauges().pending, 0);
}

#[test]
fn a_flow_whose_replies_take_another_route_is_let_go_and_not_reset() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    let blind = Seg::from_client(ACK, D + 6, isn_promised(D).wrapping_sub(7)).ts(200, 1);
    give(&mut nic, ms(150), &blind);
    assert_eq!(nic.gauges().pending, 1, "acknowledges nothing that ServerNIC can have translated");
    let answered = Seg::from_client(ACK, D + 6, isn_promised(D).wrapping_add(7)).ts(200, 1);
    assert_eq!(give(&mut nic, ms(151), &answered), [answered]);
    assert_eq!(nic.gauges().pending, 0);
    let sent = pass_time(&mut nic, ms(30_000));
    assert!(sent.is_empty(), "neither offers nor a reset: {sent:?}");
}

#[test]
fn a_refused_destination_leaves_no_older_handshake_in_the_way() {
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let mut nic = engine_with(Mode::Solo, Arc::clone(&profiles));
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &syn_ack(C));
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(100), &request(D));
    give(&mut nic, ms(101), &Seg::from_client(RST | ACK, D + 6, isn_promised(D).wrapping_add(1)));
    // Another connection has found the port closed.
    profiles.refuse(&server(), ms(102));
    let reset = Seg { window: 0, ..Seg::from_client(RST, D + 1, 0) };
    assert_eq!(give(&mut nic, ms(103), &syn(D + 9)), [reset, syn(D + 9)], "passes, and finds nothing older");
    let answer = syn_ack(D + 9);
    assert_eq!(give(&mut nic, ms(150), &answer), [answer], "to the client, and no reset of it to the server");
}

#[test]
fn a_newer_solo_handshake_clears_an_abandoned_one_out_of_its_way() {
    let mut nic = taught(Mode::Solo, false);
    give(&mut nic, ms(100), &syn(D));
    let abort = Seg { flags: RST | ACK, payload: vec![], ..request(D) };
    assert!(give(&mut nic, ms(101), &abort).is_empty(), "held");
    let sent = give(&mut nic, ms(102), &syn(9_000));
    let reset = Seg { window: 0, ..Seg::from_client(RST, D + 1, 0) };
    assert_eq!(sent.len(), 3);
    assert_eq!((&sent[0], &sent[1]), (&reset, &syn(9_000)), "a server in SYN-RECEIVED would refuse the SYN");
    assert_eq!((sent[2].flags, sent[2].seq), (SYN | ACK, isn_promised(9_000)));
}

#[test]
fn a_newer_paired_handshake_leaves_the_abandoned_one_to_the_server_nic() {
    let mut nic = taught(Mode::Auto, true);
    give(&mut nic, ms(100), &syn(D));
    let abort = Seg { flags: RST | ACK, payload: vec![], ..request(D) };
    assert_eq!(give(&mut nic, ms(101), &abort).len(), 1, "sent on");
    let sent = give(&mut nic, ms(102), &syn(9_000));
    assert!(sent.iter().all(|segment| !segment.flags.contains(RST)), "{sent:?}");
}

#[test]
fn a_blind_syn_does_not_end_a_handshake() {
    for paired in [true, false] {
        let mut nic = taught(Mode::Auto, paired);
        let blind = |nic: &mut ClientNic| give(nic, ms(101), &syn(D.wrapping_add(0x1234_5678)));
        give(&mut nic, ms(100), &syn(D));
        assert_eq!(blind(&mut nic).len(), 1, "passes, unspoofed");
        give(&mut nic, ms(101), &request(D));
        assert_eq!(blind(&mut nic).len(), 1);
        let raw = if paired { confirm(D) } else { vec![] };
        give(&mut nic, ms(150), &Seg { raw, ..syn_ack(D) });
        let event = if paired { Event::Confirmed } else { Event::Established };
        assert_eq!(nic.counters().happened(event), 1);
        assert_eq!((nic.gauges().pending, nic.gauges().held), (0, 0));
    }
}

#[test]
fn a_syn_that_came_during_a_handshake_may_still_replace_the_flow() {
    let mut nic = taught(Mode::Solo, false);
    let newer = D.wrapping_add(0x1234_5678);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    assert_eq!(give(&mut nic, ms(102), &syn(newer)), [syn(newer)]);
    give(&mut nic, ms(150), &syn_ack(D));
    let accepted = Seg { seq: 77, ..syn_ack(newer) };
    assert_eq!(give(&mut nic, ms(152), &accepted), [accepted], "not translated with the older one's numbers");
}

/// Fast Open, MPTCP and the like pass, whatever there was before.
#[test]
fn a_syn_beyond_understanding_may_still_replace_a_flow() {
    let mut nic = taught(Mode::Solo, false);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    give(&mut nic, ms(150), &syn_ack(D));
    let odd = syn(900).payload(b"data");
    assert_eq!(give(&mut nic, ms(200), &odd), [odd]);
    let accepted = Seg { seq: 77, ..syn_ack(900) };
    assert_eq!(give(&mut nic, ms(250), &accepted), [accepted], "not translated with the older one's numbers");
}

/// A copy of a SYN that once passed untouched comes late, while its connection is in use.
#[test]
fn a_late_copy_of_a_passed_syn_does_not_break_its_connection() {
    let mut nic = taught(Mode::Solo, false);
    assert_eq!(give(&mut nic, ms(100), &syn(D)).len(), 2, "a SYN-ACK for nobody");
    // The server repeats its SYN-ACK, since it has not yet heard of the client.
    give(&mut nic, ms(150), &syn_ack(D));
    let challenge = Seg::from_server(ACK, Y + 1, D + 1).ts(TSVAL, 101);
    assert_ne!(give(&mut nic, ms(155), &challenge), [challenge], "anybody's SYN may have caused it");
    let data = Seg::from_server(ACK, Y + 1, D + 1).ts(TSVAL, 101).payload(b"220 ready");
    assert_eq!(give(&mut nic, ms(160), &data), [data], "in the numbers that the client has");
    let answer = Seg::from_client(ACK, D + 1, Y + 10).ts(102, TSVAL);
    assert_eq!(give(&mut nic, ms(170), &answer), [answer]);
}

#[test]
fn a_confirm_of_a_forgotten_spoof_is_kept_from_the_client() {
    let mut nic = engine(Mode::Auto);
    let promise = Promise { mss: 1460, ..Promise::default() };
    let raw = Offer { kind: Kind::Confirm, key: 1, promise }.encode(&keys(), &flow(), Seq::new(C)).unwrap();
    let late = Seg { seq: isn_promised(C), ..syn_ack(C) }.raw(&raw);
    assert!(give(&mut nic, ms(0), &late).is_empty(), "its TSval is the server's");
    assert_eq!(nic.counters().dropped(DropReason::Confirm), 1);
}

/// What comes out of an engine for a packet of which one bit of the window is flipped.
fn give_corrupt(nic: &mut ClientNic, at: u64, segment: &Seg) -> (Verdict, usize) {
    let mut bytes = segment.bytes();
    bytes[35] ^= 1;
    let mut out = Outbox::new();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    (nic.handle(ms(at), &mut packet, &mut out), out.len())
}

#[test]
fn a_confirm_of_a_forgotten_handshake_loses_its_option() {
    let mut nic = engine(Mode::Auto);
    let answer = Seg { raw: confirm(C), ..syn_ack(C) };
    assert_eq!(give(&mut nic, ms(0), &answer), [syn_ack(C)]);
    give(&mut nic, ms(1), &syn(D));
    assert_eq!(give(&mut nic, ms(2), &answer), [syn_ack(C)], "of an older SYN");
}

#[test]
fn a_syn_ack_with_a_wrong_checksum_keeps_it() {
    let mut nic = engine(Mode::Auto);
    let answer = Seg { raw: confirm(C), ..syn_ack(C) };
    // A copy without the option would have a right one.
    let as_it_is = (Verdict::Forward, 0);
    assert_eq!(give_corrupt(&mut nic, 0, &answer), as_it_is, "of an unknown flow");
    give(&mut nic, ms(1), &syn(C));
    assert_eq!(give_corrupt(&mut nic, 2, &answer), as_it_is, "the first");
    assert_eq!(give(&mut nic, ms(3), &answer), [syn_ack(C)]);
    assert_eq!(give_corrupt(&mut nic, 4, &answer), as_it_is, "a repeated one");
}

#[test]
fn a_corrupt_syn_ack_replaces_no_solo_flow() {
    let mut nic = taught(Mode::Solo, false);
    give(&mut nic, ms(100), &syn(D));
    give(&mut nic, ms(101), &request(D));
    give(&mut nic, ms(150), &syn_ack(D));
    give(&mut nic, ms(200), &syn(900));
    give_corrupt(&mut nic, 250, &Seg { seq: 77, ..syn_ack(900) });
    let data = Seg::from_server(ACK, Y + 1, 8).ts(TSVAL, 101).payload(b"x");
    assert_ne!(give(&mut nic, ms(251), &data), [data], "still translated");
}

#[test]
fn what_is_excluded_passes_untouched_until_that_changes() {
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let policy = SharedPolicy::from(Mode::Paired);
    let settings = Settings { policy: policy.clone(), mss_clamp: (1460, 1440), limits: Limits::default() };
    let mut nic = ClientNic::new(gateway(), keys(), profiles, settings);
    give(&mut nic, ms(0), &syn(C));
    give(&mut nic, ms(50), &Seg { raw: confirm(C), ..syn_ack(C) });
    let (client, server) = (flow().client(), flow().server());
    let of_client =
        Exclusions { sources: vec![client.0.to_string().parse().unwrap()], ..Exclusions::default() };
    let rule = format!("{}:{}", server.0, server.1).parse().unwrap();
    let of_server = Exclusions { destinations: vec![rule], ..Exclusions::default() };
    let mut isn = D;
    for (mode, exclusions, reason) in [
        (Mode::Paired, of_client, Some(PassReason::Excluded)),
        (Mode::Paired, of_server, Some(PassReason::Excluded)),
        (Mode::Off, Exclusions::default(), Some(PassReason::ModeOff)),
        (Mode::Paired, Exclusions::default(), None),
    ] {
        policy.replace(Policy { mode, exclusions });
        isn += 1_000_000;
        let sent = give(&mut nic, ms(100), &syn(isn));
        match reason {
            Some(reason) => {
                assert_eq!(sent, [syn(isn)], "{reason:?}");
                assert!(nic.counters().passed(reason) > 0);
            }
            None => assert_eq!(sent.len(), 2, "a SYN-ACK and an offer: {sent:?}"),
        }
    }
}

//! A ServerNIC whose kernel makes handshakes with servers by itself.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod connection;
#[path = "../../common/core/tests/packets/fast_path.rs"]
mod fast_path;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use connection::*;
use fast_path::Kept;
use packets::*;
use rtt0_core::accept::{AtOnce, Heard, Opened};
use rtt0_core::engine::Engine;
use rtt0_core::flow::FlowKey;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Found, Kind, Offer, Promise};
use rtt0_core::offload::{Applied, FastPath, Queued};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::Event;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::wire::options::{Options, Timestamps};
use rtt0_core::wire::segment::Segment;
use servernic::engine::ServerNic;

fn from_client(flags: rtt0_core::wire::tcp::Flags, seq: u32, ack: u32) -> Seg {
    Seg::from_client(flags, C.wrapping_add(seq), s().wrapping_add(ack)).ts(200, promised_tsval())
}

fn new(limits: Limits) -> (ServerNic, Kept) {
    let (mut nic, kept) = (ServerNic::new(gateway(), keys(), limits), Kept::default());
    kept.state().can_begin = true;
    nic.accelerate(Box::new(kept.clone()));
    nic.journal().unwrap().open();
    hear(&mut nic, ms(0));
    (nic, kept)
}

fn read<T>(seg: &Seg, look: impl FnOnce(&Segment<'_>) -> T) -> T {
    let mut bytes = seg.bytes();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    look(&Segment::parse(&mut packet).unwrap())
}

/// What the kernel does with a SYN, and with so many answers to the two it sends, at `at` ms.
fn open(kept: &Kept, answers: usize, at: u64) {
    let mut out = Outbox::new();
    let mut opening = read(&offered_syn(C), |syn| AtOnce::begin(flow(), syn, &keys(), &mut out)).unwrap();
    assert_eq!(out.iter().count(), 2);
    let mut opened = Opened { syn: offered_syn(C).bytes(), answer: None, is_made: false, at: ms(at) };
    for _ in 0..answers {
        opened.answer = Some(syn_ack().bytes());
        match read(&syn_ack(), |answer| opening.hear(answer)) {
            Heard::First => {}
            Heard::Made(flow) => {
                kept.clone().hand(&flow, Queued::Nothing);
                opened.is_made = true;
            }
            Heard::Other => panic!("it is a usual one"),
        }
    }
    kept.state().opened.push_back(opened);
}

fn happened(nic: &ServerNic, event: Event) -> u64 {
    nic.counters().happened(event)
}

/// What a confirm among these says.
fn confirmed(sent: &[Seg]) -> Option<Kind> {
    let seg = sent.iter().find(|seg| seg.flags == SYN | ACK && seg.seq == s())?;
    match read(seg, |seg| Offer::find(seg.tcp().options(), &keys(), &flow(), Seq::new(C))) {
        Found::Authentic(offer) => Some(offer.kind),
        _ => None,
    }
}

#[test]
fn a_handshake_that_the_kernel_has_made_is_confirmed_with_how_late_that_is() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    let sent = hear(&mut nic, ms(180));
    assert_eq!(sent.len(), 1);
    assert_eq!(confirmed(&sent), Some(Kind::LateConfirm(80_000)));
    assert_eq!(sent[0].syn_options.unwrap().timestamps, Some(Timestamps { value: TSVAL, echo: 100 }));
    assert_eq!((nic.gauges().flows, nic.gauges().pending, kept.state().flows.len()), (1, 0, 1));
    let counted =
        [Event::OfferAccepted, Event::OpenedAtOnce, Event::Handed].map(|event| happened(&nic, event));
    assert_eq!(counted, [1, 1, 1]);
    assert!(nic.journal().unwrap().drain().next().is_none(), "nobody may be there");
    // The client's request is the kernel's, and with it the client is there.
    assert_eq!(kept.forward(&request(), Direction::ToServer, 190), Applied::Forwarded);
    pass_time(&mut nic, ms(60_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (1, 1), "for as long as others that are idle");
    assert!(nic.journal().unwrap().drain().next().is_some());
}

#[test]
fn a_client_that_is_not_there_is_forgotten() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    hear(&mut nic, ms(110));
    pass_time(&mut nic, ms(60_000));
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (0, 0));
}

#[test]
fn the_engine_goes_on_with_what_is_not_made() {
    for answers in [0, 1] {
        let (mut nic, kept) = new(Limits::default());
        open(&kept, answers, 100);
        assert_eq!(hear(&mut nic, ms(180)), [], "the SYNs are on their way");
        assert_eq!((nic.gauges().pending, happened(&nic, Event::OpenedAtOnce)), (1, 1));
        let mut sent = give(&mut nic, ms(181), &request());
        assert_eq!(sent, [], "held");
        for _ in answers..2 {
            sent.extend(give(&mut nic, ms(182), &syn_ack()));
        }
        assert_eq!(confirmed(&sent), Some(Kind::Confirm), "{answers}");
        assert!(sent.iter().any(|seg| seg.payload == b"GET /" && seg.ack == Y + 1), "{answers}: {sent:?}");
    }
}

#[test]
fn a_syn_that_got_lost_is_sent_again() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 0, 100);
    hear(&mut nic, ms(150));
    let sent = pass_time(&mut nic, ms(400));
    let syns: Vec<_> = sent.iter().filter(|(_, seg)| seg.flags == SYN).map(|(at, _)| *at).collect();
    assert_eq!(syns, [ms(304)], "one: the client may not be there");
}

#[test]
fn data_that_came_first_are_released_and_prove_that_the_client_is_there() {
    let (mut nic, kept) = new(Limits::default());
    assert_eq!(give(&mut nic, ms(90), &request()), [], "an orphan");
    open(&kept, 2, 100);
    let sent = hear(&mut nic, ms(110));
    assert!(sent.iter().any(|seg| seg.payload == b"GET /" && seg.ack == Y + 1), "{sent:?}");
    assert!(confirmed(&sent).is_some());
    assert_eq!((nic.gauges().held, kept.state().flows.len()), (0, 1));
    assert_eq!(kept.state().queued.last(), Some(&Queued::ToServer), "what was released has still to leave");
    assert!(!kept.state().flows[&flow()].progress.is_opening());
    assert!(nic.journal().unwrap().drain().next().is_some());
}

#[test]
fn a_proof_that_only_the_engine_has_seen_counts_in_the_kernel_too() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    hear(&mut nic, ms(110));
    assert!(kept.state().flows[&flow()].progress.is_opening());
    let sent = give(&mut nic, ms(111), &request());
    assert_eq!((sent.len(), sent[0].ack), (1, Y + 1));
    nic.settle();
    assert!(!kept.state().flows[&flow()].progress.is_opening());
    let answer = Seg::from_server(ACK | PSH, Y + 1, C.wrapping_add(6)).ts(TSVAL + 9, 200).payload(b"200");
    assert_eq!(kept.forward(&answer, Direction::ToClient, 120), Applied::Forwarded);
}

#[test]
fn until_the_client_is_there_all_but_its_proof_is_the_engine_s() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    hear(&mut nic, ms(110));
    let probe = from_client(ACK, 1, 900);
    assert_eq!(kept.forward(&probe, Direction::ToServer, 120), Applied::ToEngine);
    let again = Seg::from_server(ACK, Y + 1, C.wrapping_add(1)).ts(TSVAL, 99);
    assert_eq!(kept.forward(&again, Direction::ToClient, 120), Applied::ToEngine);
    assert_eq!(kept.forward(&from_client(FIN | ACK, 1, 1), Direction::ToServer, 120), Applied::ToEngine);
    assert_eq!(kept.forward(&from_client(ACK, 1, 1), Direction::ToServer, 120), Applied::Forwarded);
    assert_eq!(kept.forward(&again, Direction::ToClient, 120), Applied::Forwarded);
}

#[test]
fn an_offer_that_is_repeated_is_confirmed_again() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    hear(&mut nic, ms(110));
    assert_eq!(confirmed(&give(&mut nic, ms(1_100), &offered_syn(C))), Some(Kind::Confirm));
    // The kernel has begun with the same one, and had to let it go: nothing becomes of that.
    open(&kept, 1, 1_200);
    assert_eq!(hear(&mut nic, ms(1_201)), []);
    assert_eq!((nic.gauges().flows, nic.gauges().pending), (1, 0));
}

#[test]
fn it_takes_the_place_of_an_older_flow() {
    let (mut nic, kept) = new(Limits::default());
    give(&mut nic, ms(1), &offered_syn(C.wrapping_sub(100_000)).options(linux(50, 0)));
    let older = Seg::from_server(SYN | ACK, 77, C.wrapping_sub(99_999)).options(linux(TSVAL, 49));
    (0..2).for_each(|_| drop(give(&mut nic, ms(2), &older)));
    assert_eq!(nic.gauges().flows, 1);
    open(&kept, 2, 100);
    assert!(confirmed(&hear(&mut nic, ms(110))).is_some());
    assert_eq!((nic.gauges().flows, happened(&nic, Event::FlowReplaced)), (1, 1));
    assert_eq!(kept.forward(&request(), Direction::ToServer, 120), Applied::Forwarded);
}

#[test]
fn what_a_key_does_not_vouch_for_any_more_is_given_up() {
    let (mut nic, kept) = new(Limits::default());
    open(&kept, 2, 100);
    nic.rekey(rtt0_core::offer::Keys::new((2, [9; 16]), None).unwrap());
    assert_eq!(hear(&mut nic, ms(110)), []);
    assert_eq!((nic.gauges().flows, kept.state().flows.len()), (0, 0));
    assert_eq!((happened(&nic, Event::Disowned), happened(&nic, Event::OpenedAtOnce)), (1, 0));
}

#[test]
fn the_kernel_may_begin_while_there_is_room_and_the_engine_wants_to() {
    let limits = Limits { flows: 8, ..Limits::default() };
    let (mut nic, kept) = new(limits);
    assert_eq!(kept.state().allowed, Some(ms(300)));
    pass_time(&mut nic, ms(1_000));
    assert_eq!(kept.state().allowed, Some(ms(1_300)), "again and again");
    nic.stand_back(true);
    assert_eq!(kept.state().allowed, None);
    nic.stand_back(false);
    hear(&mut nic, ms(1_000));
    assert!(kept.state().allowed.is_some());
    // Room is kept for half the flows of such a small table.
    for port in 1..=5 {
        let key = FlowKey::new((client().0, port), server(), Direction::ToServer);
        let probe = Offer { kind: Kind::Probe, key: 1, promise: Promise::default() };
        let probe = probe.encode(&keys(), &key, Seq::new(C)).unwrap();
        let mut bytes = Seg::from_client(SYN, C, 0).raw(&probe).options(linux(100, 0)).bytes();
        set_port(&mut bytes, 20, port);
        give_bytes(&mut nic, ms(1_001), &mut bytes);
        hear(&mut nic, ms(1_001));
        assert_eq!(kept.state().allowed.is_some(), port < 5, "{port}");
    }
}

#[test]
fn an_engine_that_had_not_heard_of_it_is_replaced_by_one_that_goes_on() {
    let (_, kept) = new(Limits::default());
    open(&kept, 2, 100);
    let unproven = kept.state().flows[&flow()];
    kept.forward(&request(), Direction::ToServer, 110);
    let proven = kept.state().flows[&flow()];
    let (mut next, _) = new(Limits::default());
    assert!(!next.adopt(ms(120), &unproven), "its client's NIC will offer again");
    assert!(next.adopt(ms(120), &proven));
    assert_eq!((next.gauges().flows, happened(&next, Event::Adopted)), (1, 1));
    let record = next.journal().unwrap().drain().last().unwrap().record.unwrap();
    assert_eq!(
        rtt0_core::record::Record::decode(&record.encode()),
        Ok(Some(record)),
        "it outlives that one, too"
    );
    // It has no confirm to repeat, and translates on.
    assert_eq!(give(&mut next, ms(130), &offered_syn(C)), []);
    let answer = Seg::from_server(ACK | PSH, Y + 1, C.wrapping_add(6)).ts(TSVAL + 9, 200).payload(b"200");
    let sent = give(&mut next, ms(140), &answer);
    assert_eq!((sent[0].seq, &sent[0].payload[..]), (s().wrapping_add(1), &b"200"[..]));
    let offers = Options::new(&sent[0].raw).map_while(Result::ok).filter(rtt0_core::offer::is_offer).count();
    assert_eq!(offers, 0);
}

//! A ServerNIC that goes on with the flows of one that was killed.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod connection;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use connection::*;
use packets::*;
use rtt0_core::engine::Engine;
use rtt0_core::journal::Slot;
use rtt0_core::limits::Limits;
use rtt0_core::reason::{Event, PassReason};
use rtt0_core::record::Record;
use servernic::engine::ServerNic;
use std::collections::BTreeMap;

/// What a daemon keeps in its file.
type File = BTreeMap<u32, Record>;

fn write_down(nic: &mut ServerNic, file: &mut File) -> usize {
    let changes: Vec<_> = nic.journal().unwrap().drain().collect();
    for change in &changes {
        match change.record {
            // By way of its bytes, as in the file.
            Some(record) => {
                let read = Record::decode(&record.encode()).unwrap().unwrap();
                file.insert(change.slot.number(), read);
            }
            None => drop(file.remove(&change.slot.number())),
        }
    }
    changes.len()
}

fn engine(file: &File, limits: Limits) -> ServerNic {
    let mut nic = ServerNic::new(gateway(), keys(), limits);
    nic.journal().unwrap().open();
    for (slot, record) in file {
        nic.restore(ms(60_000), Slot::new(*slot).unwrap(), record);
    }
    nic
}

/// A killed ServerNIC's file, with one flow established; what it released is lost.
fn killed() -> File {
    let mut file = File::new();
    let mut nic = engine(&file, Limits::default());
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    assert_eq!(write_down(&mut nic, &mut file), 0, "nothing is established yet");
    // To both of its SYNs.
    (0..2).for_each(|_| drop(give(&mut nic, ms(2), &syn_ack())));
    assert_eq!(write_down(&mut nic, &mut file), 1);
    file
}

fn restored() -> ServerNic {
    let nic = engine(&killed(), Limits::default());
    assert_eq!((nic.gauges().flows, nic.counters().happened(Event::Restored)), (1, 1));
    nic
}

fn from_client(seq: u32, ack: u32) -> Seg {
    Seg::from_client(ACK, C.wrapping_add(seq), s().wrapping_add(ack))
        .ts(200, promised_tsval().wrapping_add(9))
}

fn from_server(seq: u32, ack: u32) -> Seg {
    Seg::from_server(ACK, Y + seq, C.wrapping_add(ack)).ts(TSVAL + 9, 200)
}

#[test]
fn translates_on_whichever_end_speaks_first() {
    for client_first in [true, false] {
        let mut nic = restored();
        let there = || (from_client(900, 70_000), Seg { ack: Y + 70_000, ..from_client(900, 0) });
        let back =
            || (from_server(70_000, 900), Seg { seq: s().wrapping_add(70_000), ..from_server(0, 900) });
        let (first, second) = if client_first { (there(), back()) } else { (back(), there()) };
        for (at, (sent, mut seen)) in [first, second].into_iter().enumerate() {
            let tau = promised_tsval().wrapping_sub(TSVAL);
            seen.ts = seen.ts.map(|(value, echo)| match seen.to {
                rtt0_core::service::Direction::ToServer => (value, echo.wrapping_sub(tau)),
                rtt0_core::service::Direction::ToClient => (value.wrapping_add(tau), echo),
            });
            assert_eq!(give(&mut nic, ms(60_001 + at as u64), &sent), [seen]);
        }
    }
}

#[test]
fn early_data_lost_with_the_process_is_sent_again_by_the_client() {
    let mut nic = restored();
    let sent = give(&mut nic, ms(60_001), &request());
    assert_eq!(sent, [Seg { ack: Y + 1, ts: Some((101, 0)), ..request() }], "the echo stays hidden");
    // ClientNIC, without the confirm, repeats the offer.
    let confirm = give(&mut nic, ms(60_002), &offered_syn(C));
    assert_eq!((confirm.len(), confirm[0].flags, confirm[0].seq), (1, SYN | ACK, s()));
    // The server, which has not heard the end of its handshake: the client's answer must reach it.
    let again = give(&mut nic, ms(60_003), &syn_ack());
    assert_eq!((again.len(), again[0].seq), (1, s()));
}

#[test]
fn few_changes_are_noted_in_a_life_and_none_is_left() {
    let mut file = killed();
    let mut nic = engine(&file, Limits::default());
    let mut now = 60_001;
    for step in 0..100 {
        give(&mut nic, ms(now), &from_client(1 + step, 1));
        give(&mut nic, ms(now), &from_server(1, 1 + step));
        now += 1;
    }
    assert_eq!(write_down(&mut nic, &mut file), 0, "packets are not noted");
    give(&mut nic, ms(now), &Seg { flags: FIN | ACK, ..from_client(100, 1) });
    assert_eq!(write_down(&mut nic, &mut file), 1);
    assert_eq!(file[&0].stage.bits(), 0b01);
    give(&mut nic, ms(now), &Seg { flags: FIN | ACK, ..from_server(1, 101) });
    assert_eq!(write_down(&mut nic, &mut file), 1);
    assert_eq!(file[&0].stage.bits(), 0b11);
    pass_time(&mut nic, ms(now + 130_000));
    assert_eq!((write_down(&mut nic, &mut file), file.len(), nic.gauges().flows), (1, 0, 0));
}

#[test]
fn an_ended_flow_is_kept_for_as_long_as_ended_flows_are() {
    let mut file = killed();
    let mut nic = engine(&file, Limits::default());
    give(&mut nic, ms(60_001), &Seg { flags: FIN | ACK, ..from_client(6, 1) });
    give(&mut nic, ms(60_001), &Seg { flags: FIN | ACK, ..from_server(1, 7) });
    write_down(&mut nic, &mut file);
    let mut next = engine(&file, Limits::default());
    let last = give(&mut next, ms(60_002), &from_client(7, 2));
    assert_eq!(last[0].ack, Y + 2, "the last acknowledgement is translated");
    pass_time(&mut next, ms(60_000 + 121_000));
    assert_eq!(next.gauges().flows, 0);
}

#[test]
fn a_flow_idle_since_the_restart_is_kept_as_long_as_any() {
    let mut nic = restored();
    let idle = Limits::default().idle.as_millis() as u64;
    pass_time(&mut nic, ms(60_000 + idle - 1));
    assert_eq!(nic.gauges().flows, 1);
    pass_time(&mut nic, ms(60_000 + idle + 10));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn a_flow_that_clientnic_has_taken_over_is_let_go() {
    let mut nic = restored();
    // Both translate: what reaches the server acknowledges nonsense, and it says so.
    let doubled = Seg::from_client(ACK | PSH, C.wrapping_add(1), Y + 1).payload(b"GET /");
    assert_eq!(give(&mut nic, ms(60_001), &doubled).len(), 1);
    give(&mut nic, ms(60_002), &from_server(1, 1));
    assert_eq!(give(&mut nic, ms(60_003), &doubled), [doubled]);
    assert_eq!(nic.counters().happened(Event::TranslatedElsewhere), 1);
    assert_eq!((nic.gauges().flows, nic.counters().passed(PassReason::AlreadyTranslated)), (0, 1));
    let answer = from_server(1, 6);
    assert_eq!(give(&mut nic, ms(60_004), &answer), [answer]);
}

#[test]
fn a_flow_that_has_shown_itself_sound_is_not_let_go() {
    let mut nic = restored();
    give(&mut nic, ms(60_001), &from_server(500, 6).payload(b"200 OK"));
    give(&mut nic, ms(60_002), &from_client(6, 506));
    give(&mut nic, ms(60_003), &Seg::from_client(ACK, C.wrapping_add(6), Y + 506));
    assert_eq!((nic.gauges().flows, nic.counters().happened(Event::TranslatedElsewhere)), (1, 0));
}

#[test]
fn records_beyond_the_bound_and_doubles_are_refused_and_their_slots_used_again() {
    let mut file = killed();
    let record = file[&0];
    file.insert(7, record);
    let mut nic = engine(&file, Limits { flows: 1, ..Limits::default() });
    assert_eq!(nic.gauges().flows, 1);
    write_down(&mut nic, &mut file);
    assert_eq!(file.keys().collect::<Vec<_>>(), [&0], "the double is wiped");
    let none = engine(&file, Limits { flows: 0, ..Limits::default() });
    assert_eq!(none.gauges().flows, 0);
}

#[test]
fn without_a_journal_nothing_is_noted() {
    let mut nic = ServerNic::new(gateway(), keys(), Limits::default());
    give(&mut nic, ms(1), &offered_syn(C));
    give(&mut nic, ms(1), &request());
    // To both of its SYNs.
    (0..2).for_each(|_| drop(give(&mut nic, ms(2), &syn_ack())));
    assert_eq!((nic.gauges().flows, nic.journal().unwrap().drain().count()), (1, 0));
}

#[test]
fn new_keys_are_taken_and_flows_go_on() {
    let mut nic = restored();
    nic.rekey(rtt0_core::offer::Keys::new((2, [0x24; 16]), None).unwrap());
    assert_eq!(give(&mut nic, ms(60_001), &from_client(6, 506))[0].ack, Y + 506);
    // The old key's offers are now unknown.
    give(&mut nic, ms(60_002), &offered_syn(C));
    assert_eq!(nic.counters().happened(Event::OfferUnknown), 1);
}

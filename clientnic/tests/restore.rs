//! A ClientNIC that goes on with the solo flows of one that was killed.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use packets::*;
use rtt0_core::engine::Engine;
use rtt0_core::journal::Change;
use rtt0_core::limits::Limits;
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::record::Record;
use rtt0_core::seq::Seq;
use std::sync::Arc;

/// ISNs: of the connection that teaches, of the solo one, of the server.
const C: u32 = 0xffff_ff00;
const D: u32 = 7;
const Y: u32 = 0x8000_0000;

fn engine(profiles: &Arc<Profiles>) -> ClientNic {
    let settings = Settings { policy: Mode::Solo.into(), mss_clamp: (1460, 1440), limits: Limits::default() };
    let mut nic = ClientNic::new(gateway(), keys(), Arc::clone(profiles), settings);
    nic.journal().unwrap().open();
    nic
}

fn changes(nic: &mut ClientNic) -> Vec<Change> {
    nic.journal().unwrap().drain().collect()
}

fn syn_ack(isn: u32) -> Seg {
    Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(5_000, 100))
}

/// Establishes a solo flow in an engine and goes on with it in another.
fn restored() -> (ClientNic, Arc<Profiles>) {
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let mut nic = engine(&profiles);
    give(&mut nic, ms(0), &Seg::from_client(SYN, C, 0).options(linux(100, 0)));
    give(&mut nic, ms(50), &syn_ack(C));
    give(&mut nic, ms(60), &Seg::from_client(RST, C.wrapping_add(1), 0));
    give(&mut nic, ms(100), &Seg::from_client(SYN, D, 0).options(linux(100, 0)));
    give(&mut nic, ms(150), &syn_ack(D));
    assert!(changes(&mut nic).is_empty(), "a client that may not exist is not noted");
    give(&mut nic, ms(151), &Seg::from_client(ACK, D + 1, s().wrapping_add(1)));
    let [Change { slot, record: Some(record) }] = changes(&mut nic)[..] else { panic!("not one record") };
    let record = Record::decode(&record.encode()).unwrap().unwrap();
    let mut next = engine(&profiles);
    assert!(next.restore(ms(1000), slot, &record));
    (next, profiles)
}

fn s() -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(D)).unwrap().get()
}

#[test]
fn a_solo_flow_is_translated_on_until_its_end() {
    let (mut nic, _) = restored();
    let sent = give(&mut nic, ms(1001), &Seg::from_client(ACK, D + 900, s().wrapping_add(500)));
    assert_eq!((sent.len(), sent[0].ack), (1, Y + 500));
    let sent = give(&mut nic, ms(1002), &Seg::from_server(ACK, Y + 500, D + 900).payload(b"more"));
    assert_eq!((sent.len(), sent[0].seq), (1, s().wrapping_add(500)));
    assert!(changes(&mut nic).is_empty(), "packets are not noted");
    give(&mut nic, ms(1003), &Seg::from_client(RST, D + 900, 0));
    assert!(matches!(changes(&mut nic)[..], [Change { record: Some(_), .. }]), "closing");
    pass_time(&mut nic, ms(12_000));
    assert!(matches!(changes(&mut nic)[..], [Change { record: None, .. }]), "gone");
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn a_large_upload_is_counted_from_its_first_byte_also_across_a_restart() {
    let (mut nic, profiles) = restored();
    let fin = Seg::from_client(FIN | ACK, D + 1_000_000, s().wrapping_add(1));
    give(&mut nic, ms(1001), &fin);
    let outlook = profiles.outlook(&server(), ms(1002));
    assert_eq!(outlook, rtt0_core::profile::Outlook::LargeUploads);
}

//! Offers for clients that do not exist, and offers sent again: what they make the NIC send.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use packets::*;
use proptest::prelude::*;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use servernic::engine::ServerNic;
use std::time::Duration;

/// The server's ISN.
const Y: u32 = 0x8000_0000;

fn offered_syn(isn: u32) -> Seg {
    let promise = Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(9), ecn: false };
    let offer = Offer { kind: Kind::Spoofed, key: 1, promise };
    let raw = offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap();
    Seg::from_client(SYN, isn, 0).raw(&raw).options(linux(100, 0))
}

fn syn_ack(isn: u32) -> Seg {
    Seg::from_server(SYN | ACK, Y, isn.wrapping_add(1)).options(linux(5000, 100))
}

fn promised(isn: u32) -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(isn)).unwrap().get()
}

proptest! {
    /// An offer, made once or replayed, costs the server three SYNs at most, and the client one
    /// packet at most: the confirm, or the reset of a server that refuses.
    #[test]
    fn no_amplifier(
        isns in prop::collection::vec((0u32..3, 1usize..4, 0u64..5000, 0..3), 1..20),
    ) {
        let mut nic = ServerNic::new(gateway(), keys(), Limits::default());
        let (mut now, mut received, mut to_client, mut to_server) = (ms(100), 0, 0, 0);
        // What the server sends to the client is its own affair, translated or not.
        let mut count = |sent: &[Seg]| {
            let reset = |isn| promised(isn).wrapping_add(1);
            let ours = |segment: &&Seg| !segment.raw.is_empty() || (0..3).any(|isn| segment.seq == reset(isn));
            let (client, server): (Vec<_>, Vec<_>) = sent.iter().partition(|s| s.to == Direction::ToClient);
            to_client += client.into_iter().filter(ours).count();
            to_server += server.len();
        };
        for (isn, copies, wait, kind) in isns {
            for _ in 0..copies {
                received += 1;
                count(&give(&mut nic, now, &offered_syn(isn)));
            }
            now = now + Duration::from_millis(wait);
            let timed: Vec<Seg> = pass_time(&mut nic, now).into_iter().map(|(_, segment)| segment).collect();
            count(&timed);
            match kind {
                1 => (0..2).for_each(|_| count(&give(&mut nic, now, &syn_ack(isn)))),
                2 => count(&give(&mut nic, now, &Seg::from_server(RST | ACK, 0, isn.wrapping_add(1)))),
                _ => {}
            }
        }
        let rest: Vec<Seg> = pass_time(&mut nic, ms(1_000_000)).into_iter().map(|(_, s)| s).collect();
        count(&rest);
        prop_assert!(to_server <= 3 * received, "{to_server} packets to the server for {received} offers");
        prop_assert!(to_client <= received, "{to_client} packets to the client for {received} offers");
    }
}

#[test]
fn a_flow_of_nobody_is_forgotten_when_the_server_has_given_up_as_good_as() {
    let mut nic = ServerNic::new(gateway(), keys(), Limits::default());
    give(&mut nic, ms(1), &offered_syn(7));
    give(&mut nic, ms(2), &syn_ack(7));
    assert_eq!(nic.gauges().flows, 1);
    // Later SYN-ACKs are the client's, translated; they do not keep the flow.
    for at in [1000, 3000, 7000, 15_000] {
        let sent = give(&mut nic, ms(at), &syn_ack(7));
        assert_eq!((sent.len(), sent[0].seq), (1, promised(7)));
    }
    pass_time(&mut nic, ms(20_100));
    assert_eq!(nic.gauges().flows, 0);
}

#[test]
fn an_acknowledgement_keeps_the_flow() {
    let mut nic = ServerNic::new(gateway(), keys(), Limits::default());
    give(&mut nic, ms(1), &offered_syn(7));
    give(&mut nic, ms(2), &syn_ack(7));
    give(&mut nic, ms(3), &Seg::from_client(ACK, 8, promised(7).wrapping_add(1)).ts(101, 9));
    pass_time(&mut nic, ms(1_000_000));
    assert_eq!(nic.gauges().flows, 1);
}

//! The door: what is ours, what any router does, and its own ICMP errors.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod packets;

use packets::*;
use rtt0_core::engine::Verdict;
use rtt0_core::gateway::{Admitted, Gateway, RouterAddresses};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::{Counters, DropReason, PassReason};
use rtt0_core::service::{Direction, Services};
use rtt0_core::time::Instant;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::icmp::{Complaint, Quote, write_error};
use rtt0_core::wire::ipv4::Ipv4;
use std::net::IpAddr;
use std::sync::Arc;

fn data() -> Vec<u8> {
    Seg::from_client(ACK, u32::MAX, 1).payload(b"hello").bytes()
}

fn with_ttl(ttl: u8) -> Vec<u8> {
    let mut bytes = data();
    Ipv4::unverified(&mut bytes[..]).unwrap().set_ttl(ttl);
    bytes
}

/// Returns the verdict, the packet afterwards and what was sent besides.
fn admit(
    gateway: &mut Gateway,
    now: Instant,
    mut bytes: Vec<u8>,
) -> (Option<Verdict>, Vec<u8>, Vec<Vec<u8>>) {
    let mut out = Outbox::new();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let verdict = gateway.admit(now, &mut packet, &mut out).err();
    (verdict, bytes, out.iter().map(|(bytes, _)| bytes.to_vec()).collect())
}

#[test]
fn a_segment_comes_in_one_hop_older_with_right_checksums() {
    let mut gateway = gateway();
    let (verdict, bytes, sent) = admit(&mut gateway, ms(1), with_ttl(2));
    assert_eq!((verdict, sent.len()), (None, 0));
    assert_eq!(Ipv4::new(&bytes[..]).unwrap().ttl(), 1);
    assert_eq!(Seg::read(&bytes), Seg::read(&data()));
}

#[test]
fn the_last_hop_is_told_and_the_packet_quoted_as_it_came() {
    for ttl in [0, 1] {
        let (verdict, _, sent) = admit(&mut gateway(), ms(1), with_ttl(ttl));
        assert_eq!(verdict, Some(Verdict::Drop(DropReason::HopLimit)));
        assert_eq!(sent.len(), 1);
        assert_eq!(&sent[0][20..22], [11, 0], "time exceeded in transit");
        assert_eq!(sent[0][28..], with_ttl(ttl)[..]);
        let ip = Ipv4::new(&sent[0][..]).unwrap();
        assert_eq!((ip.source(), IpAddr::from(ip.destination())), ([10, 1, 1, 1].into(), client().0));
    }
}

#[test]
fn no_error_about_an_error() {
    let quoted = Seg::from_server(ACK, 1, 1).payload(b"hello").bytes();
    let mut error = Vec::new();
    write_error(Complaint::TooBig(1000), [10, 1, 0, 1].into(), &quoted, &mut error);
    let mut gateway = gateway();
    let mut packet = Packet { bytes: &mut error.clone(), offload: Offload::default() };
    let mut out = Outbox::new();
    let admitted = gateway.admit(ms(1), &mut packet, &mut out);
    assert!(matches!(admitted, Ok(Admitted::Quote(Direction::ToClient, key, _)) if key == flow()));
    Ipv4::unverified(&mut error[..]).unwrap().set_ttl(1);
    let (verdict, _, sent) = admit(&mut gateway, ms(1), error);
    assert_eq!((verdict, sent.len()), (Some(Verdict::Drop(DropReason::HopLimit)), 0));
}

#[test]
fn what_is_not_ours_or_malformed_ends_here_and_is_counted() {
    let mut gateway = gateway();
    let mut other_port = data();
    other_port[23] = 81;
    assert_eq!(admit(&mut gateway, ms(1), other_port).0, Some(Verdict::Drop(DropReason::Unclaimed)));
    assert_eq!(admit(&mut gateway, ms(1), vec![]).0, Some(Verdict::Drop(DropReason::Unclaimed)));
    let mut bad_sum = data();
    bad_sum[10] ^= 1;
    assert_eq!(admit(&mut gateway, ms(1), bad_sum).0, Some(Verdict::Drop(DropReason::MalformedIp)));
    let mut bad_tcp = data();
    bad_tcp[32] = 0x40;
    assert_eq!(admit(&mut gateway, ms(1), bad_tcp).0, Some(Verdict::Forward), "the endpoint's business");
    let counters = gateway.counters();
    assert_eq!(counters.dropped(DropReason::Unclaimed), 2);
    assert_eq!(counters.dropped(DropReason::MalformedIp), 1);
    assert_eq!(counters.passed(PassReason::MalformedTcp), 1);
}

#[test]
fn errors_are_bounded_to_a_thousand_a_second() {
    let mut gateway = gateway();
    let sent = |gateway: &mut Gateway, now| admit(gateway, now, with_ttl(1)).2.len();
    let first: usize = (0..1500).map(|_| sent(&mut gateway, ms(5000))).sum();
    assert_eq!(first, 1000);
    assert_eq!(sent(&mut gateway, ms(5999)), 0);
    assert_eq!(sent(&mut gateway, ms(6000)), 1);
}

#[test]
fn ipv6_likewise_and_without_an_address_in_silence() {
    let (client, server): (IpAddr, IpAddr) = ("fd00::10".parse().unwrap(), "fd01::10".parse().unwrap());
    let control = Control {
        source: (client, 40_000),
        destination: (server, 80),
        sequence: 7,
        acknowledgement: 0,
        flags: SYN,
        window: 1,
    };
    let mut bytes = Vec::new();
    control.write(&[], &mut bytes);
    bytes[7] = 1;
    for v6 in [Some("fd00::1".parse().unwrap()), None] {
        let services = Services::new(vec!["[fd01::/64]:80".parse().unwrap()], vec![]);
        let addresses = RouterAddresses { v4: Some([10, 1, 1, 1].into()), v6 };
        let mut gateway = Gateway::new(services, addresses, Arc::new(Counters::default()));
        let (verdict, _, mut sent) = admit(&mut gateway, ms(1), bytes.clone());
        assert_eq!(verdict, Some(Verdict::Drop(DropReason::HopLimit)));
        assert_eq!(sent.len(), usize::from(v6.is_some()));
        if let Some(error) = sent.first_mut() {
            assert_eq!(&error[40..42], [3, 0], "time exceeded");
            let quote = Quote::parse(error).unwrap();
            assert_eq!((quote.source(), quote.destination()), ((client, 40_000), (server, 80)));
        }
    }
}

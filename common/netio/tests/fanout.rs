//! Captures of a group: the kernel gives both directions of a flow, and the ICMP errors about it, to the
//! one that this process expects.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use rig::{End, eventually, frame_sender, join, namespaces};
use rtt0_core::service::Services;
use rtt0_netio::capture::spread::place;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::links::Links;

const WORKERS: usize = 3;
const SERVER: [u8; 4] = [10, 1, 2, 10];

fn server6() -> [u8; 16] {
    "fd00:2::10".parse::<Ipv6Addr>().unwrap().octets()
}

/// The ends of a flow, clients first.
fn flow(n: u16) -> ((IpAddr, u16), (IpAddr, u16)) {
    let port = 30_000 + n;
    match n % 2 {
        0 => (([10, 9, (n >> 3) as u8, n as u8].into(), port), (SERVER.into(), 443)),
        _ => {
            let mut client = [0xfd; 16];
            client[15] = n as u8;
            client[3] = (n >> 2) as u8;
            ((client.into(), port), (server6().into(), 443))
        }
    }
}

/// A segment, link header included.
fn segment(mac: [u8; 6], from: (IpAddr, u16), to: (IpAddr, u16), sequence: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2; 6], mac);
    match (from.0, to.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            ethernet.ipv4(a.octets(), b.octets(), 9).tcp(from.1, to.1, sequence, 9).write(&mut frame, b"data")
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            ethernet.ipv6(a.octets(), b.octets(), 9).tcp(from.1, to.1, sequence, 9).write(&mut frame, b"data")
        }
        _ => unreachable!("both ends are of one version"),
    }
    .unwrap();
    frame
}

/// An error about `quoted`, an IP packet, to its sender.
fn error(mac: [u8; 6], quoted: &[u8], to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2; 6], mac);
    match to {
        IpAddr::V4(to) => ethernet
            .ipv4([10, 7, 7, 7], to.octets(), 9)
            .icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host))
            .write(&mut frame, quoted),
        IpAddr::V6(to) => ethernet
            .ipv6([0xfd; 16], to.octets(), 9)
            .icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address))
            .write(&mut frame, quoted),
    }
    .unwrap();
    frame
}

#[test]
fn a_flow_has_one_worker_whichever_way_its_packets_go() {
    let Some([left, right]) = namespaces() else { return };
    join(
        End { namespace: &left, link: "left0", v4: [10, 1, 1, 1], v6: "fd00:1::1" },
        End { namespace: &right, link: "right0", v4: [10, 1, 1, 2], v6: "fd00:1::2" },
        1500,
    );
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let rules = ["10.1.2.0/24:443", "[fd00:2::/64]:443"];
    let services = Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new());
    let open = || Capture::open_group("right0", &services, &CaptureOptions::default(), WORKERS);
    let mut captures = right.enter(open).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");

    let mut expected: Vec<Vec<Vec<u8>>> = vec![Vec::new(); WORKERS];
    for n in 0..60 {
        let (client, server) = flow(n);
        let there = segment(mac, client, server, 1);
        let back = segment(mac, server, client, 2);
        let about_there = error(mac, &there[14..], client.0);
        let about_back = error(mac, &back[14..], server.0);
        for frame in [there, back, about_there, about_back] {
            sender.send_to(&frame, None).unwrap().unwrap();
            expected[place(client, server, WORKERS)].push(frame[14..].to_vec());
        }
    }
    assert!(expected.iter().all(|packets| packets.len() > 20), "each has some");
    let counters = IoCounters::default();
    let mut received: Vec<Vec<Vec<u8>>> = vec![Vec::new(); WORKERS];
    eventually("all must be captured", || {
        for (capture, packets) in captures.iter_mut().zip(&mut received) {
            capture.receive(&counters);
            packets.extend(capture.packets_mut().map(|packet| packet.bytes.to_vec()));
        }
        (received.iter().map(Vec::len).sum::<usize>() >= 240).then_some(())
    });
    assert!(received == expected, "each packet once, where it belongs, in order");
}

/// A packet of a tunnel, link header included, and what says which it is.
fn tunnelled(mac: [u8; 6], is_v4: bool, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2; 6], mac);
    match is_v4 {
        true => {
            ethernet.ipv4([10, 1, 1, 7], [10, 1, 1, 2], 9).udp(port, 4789).write(&mut frame, b"tunnelled")
        }
        false => ethernet.ipv6([0xfd; 16], server6(), 9).udp(port, 4789).write(&mut frame, b"tunnelled"),
    }
    .unwrap();
    frame
}

#[test]
fn a_group_shares_tunnels_by_their_source_ports() {
    let Some([near, far]) = namespaces() else { return };
    join(
        End { namespace: &near, link: "left0", v4: [10, 1, 1, 1], v6: "fd00:1::1" },
        End { namespace: &far, link: "right0", v4: [10, 1, 1, 2], v6: "fd00:1::2" },
        1500,
    );
    let mac = Links::open(&far).unwrap().mac("right0").unwrap();
    let options = CaptureOptions::default();
    let mut group =
        far.enter(|| Capture::open_tunnels_group("right0", &[4789], &options, WORKERS).unwrap()).unwrap();
    let mut sender = frame_sender(&near, "left0");
    for is_v4 in [true, false] {
        for port in 40_000..40_060 {
            for _ in 0..3 {
                sender.send_to(&tunnelled(mac, is_v4, port), None).unwrap().unwrap();
            }
        }
    }
    let counters = IoCounters::default();
    // Of each version and port: how many packets each member has got.
    let mut seen = std::collections::BTreeMap::<(bool, u16), [usize; WORKERS]>::new();
    let total =
        |seen: &std::collections::BTreeMap<_, [usize; WORKERS]>| seen.values().flatten().sum::<usize>();
    eventually("every packet arrives", || {
        for (member, capture) in group.iter_mut().enumerate() {
            capture.receive(&counters);
            for packet in capture.packets_mut() {
                let is_v4 = packet.bytes[0] >> 4 == 4;
                let at = if is_v4 { 20 } else { 40 };
                let port = u16::from_be_bytes([packet.bytes[at], packet.bytes[at + 1]]);
                seen.entry((is_v4, port)).or_default()[member] += 1;
            }
        }
        (total(&seen) == 2 * 60 * 3).then_some(())
    });
    for (flow, members) in &seen {
        assert!(members.contains(&3), "{flow:?} is split: {members:?}");
    }
    for member in 0..WORKERS {
        let flows = seen.values().filter(|members| members[member] > 0).count();
        assert!((20..60).contains(&flows), "member {member} has {flows} of 120 flows");
    }
}

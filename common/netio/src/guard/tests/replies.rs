//! A mirror's replies: what the capture takes is what the guard drops, packet by packet.

use std::net::IpAddr;

use super::super::MirrorGuard;
use super::*;
use crate::capture::{Capture, CaptureOptions};
use crate::counters::IoCounters;
use crate::replies::{Carried, Claimed, Ports, Reply};

const PORTS: Carried = Carried::Udp(Ports { low: 7999, high: 8010 });

fn reply(source: &str, carries: Carried, destination: Option<&str>) -> Reply {
    let address = |text: &str| text.parse().unwrap();
    Reply { source: address(source), carries, destination: destination.map(address) }
}

/// Of the pools of random packets; every kind of claim, to anybody and to one.
fn claimed() -> Claimed {
    let any = Ports { low: 0, high: u16::MAX };
    let mut replies = Vec::new();
    for (first, second, own) in
        [("10.1.0.10", "192.0.2.7", "10.1.2.1"), ("fd00:1::10", "2001:db8::7", "fd00:1:2::1")]
    {
        replies.extend([
            reply(first, PORTS, None),
            reply(first, Carried::Tcp(Ports { low: 443, high: 443 }), None),
            reply(first, Carried::EchoReply, None),
            reply(second, Carried::Tcp(any), Some(own)),
            reply(second, Carried::Tcp(Ports { low: 22, high: 22 }), None),
            reply(second, PORTS, Some(own)),
            reply(second, Carried::EchoReply, Some(own)),
        ]);
    }
    let local = ["10.1.2.1", "10.1.1.2", "fd00:1:2::1", "fd00:1:1::2"].map(|text| text.parse().unwrap());
    Claimed::new(replies, &local).unwrap()
}

/// Returns the numbers at the end of what is captured.
fn captured(capture: &mut Capture) -> HashSet<u32> {
    let (counters, mut numbers) = (IoCounters::default(), HashSet::new());
    loop {
        let more = capture.receive(&counters);
        numbers.extend(
            capture.packets_mut().map(|packet| u32::from_be_bytes(*packet.bytes.last_chunk().unwrap())),
        );
        if !more {
            return numbers;
        }
    }
}

/// Makes an ICMP message of the pools, an error mostly, an echo reply.
fn answer_echo(packet: &mut [u8]) {
    let (at, kind) = match packet.first().map(|first| (first >> 4, first & 15)) {
        Some((4, words)) if packet.get(9) == Some(&1) => (usize::from(words) * 4, 0),
        Some((6, _)) if packet.get(6) == Some(&58) => (40, 129),
        _ => return,
    };
    if let Some(byte) = packet.get_mut(at) {
        *byte = kind;
    }
}

#[test]
fn what_is_captured_is_what_the_kernel_does_not_get() {
    let Some(namespace) = veth() else { return };
    let links = Links::open(&namespace).unwrap();
    let mut random = Random(5);
    let mut kinds = HashMap::<(u8, u8), u64>::new();
    let mut spared = 0;
    let compare = || {
        let claimed = claimed();
        let mut capture = Capture::open_replies("far", &claimed, &CaptureOptions::default()).unwrap();
        let _guard = MirrorGuard::install("near", &[], &[], Some(("far", &claimed))).unwrap();
        let mut bench = Bench::new(&links);
        for turn in 0..1_000 {
            let mut batch = HashMap::new();
            for _ in 0..64 {
                let mut packet = random.packet();
                if turn % 2 == 0 {
                    answer_echo(&mut packet);
                }
                let number = bench.send(bench.far, &mut packet);
                batch.insert(number, packet);
            }
            let (before, behind) = bench.drain();
            let captured = captured(&mut capture);
            for (number, packet) in batch {
                assert!(before.contains(&number), "the tap missed a packet");
                let is_captured = captured.contains(&number);
                assert_eq!(!is_captured, behind.contains(&number), "packet {number}: {packet:02x?}");
                if is_captured {
                    let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
                    *kinds.entry((packet[0] >> 4, protocol)).or_default() += 1;
                }
                spared += u64::from(!is_captured);
            }
        }
    };
    namespace.enter(compare).unwrap();
    println!("captured by version and protocol: {kinds:?}; not captured: {spared}");
    for kind in [(4, 6), (4, 17), (4, 1), (6, 6), (6, 17), (6, 58)] {
        assert!(kinds.get(&kind).copied().unwrap_or(0) > 20, "too few of {kind:?}: {kinds:?}");
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

fn udp(source: &str, port: u16, destination: &str) -> Vec<u8> {
    let datagram = [port.to_be_bytes(), 40_000u16.to_be_bytes(), [0, 8], [0, 0]].concat();
    let mut packet = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packets::header_v4(source.octets(), destination.octets(), 17, 8)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packets::header_v6(source.octets(), destination.octets(), 17, 8)
        }
        _ => unreachable!("both are of one version"),
    };
    packet.extend(datagram);
    packet
}

#[test]
fn a_reply_is_whole_of_its_host_and_port_and_not_for_this_host() {
    let Some(namespace) = veth() else { return };
    let links = Links::open(&namespace).unwrap();
    let changed = |mut packet: Vec<u8>, at: usize, byte: u8| {
        packet[at] = byte;
        packet
    };
    let v4 = || udp("10.1.0.10", 8000, "198.51.100.7");
    let cases = [
        ("a reply", v4(), true),
        ("a reply over IPv6", udp("fd00:1::10", 8010, "2001:db8::1"), true),
        ("another port", udp("10.1.0.10", 8011, "198.51.100.7"), false),
        ("another host", udp("10.1.0.11", 8000, "198.51.100.7"), false),
        ("to this host", udp("10.1.0.10", 8000, "10.1.1.2"), false),
        ("to this host over IPv6", udp("fd00:1::10", 8000, "fd00:1:1::2"), false),
        ("to the address in the clients' place", udp("192.0.2.7", 8000, "10.1.2.1"), true),
        ("to another", udp("192.0.2.7", 8000, "10.1.2.2"), false),
        ("a first fragment", changed(v4(), 6, 0x20), false),
        ("a later fragment", changed(v4(), 7, 1), false),
        ("not to be fragmented", changed(v4(), 6, 0x40), true),
        ("longer than it is", changed(v4(), 3, 200), false),
        ("shorter than its header", changed(v4(), 3, 12), false),
        ("behind a fragment header", changed(udp("fd00:1::10", 8010, "2001:db8::1"), 6, 44), false),
    ];
    let look = || {
        let claimed = claimed();
        let mut capture = Capture::open_replies("far", &claimed, &CaptureOptions::default()).unwrap();
        let _guard = MirrorGuard::install("near", &[], &[], Some(("far", &claimed))).unwrap();
        let mut bench = Bench::new(&links);
        let numbers = cases.each_ref().map(|(_, packet, _)| bench.send(bench.far, &mut packet.clone()));
        let to_other = bench.send([0x02, 0, 0, 0, 0, 0x77], &mut v4());
        let (_, behind) = bench.drain();
        let captured = captured(&mut capture);
        for ((what, _, is_claimed), number) in cases.iter().zip(numbers) {
            assert_eq!(
                (captured.contains(&number), !behind.contains(&number)),
                (*is_claimed, *is_claimed),
                "{what}"
            );
        }
        assert!(!captured.contains(&to_other) && behind.contains(&to_other), "a frame for another host");
    };
    namespace.enter(look).unwrap();
}

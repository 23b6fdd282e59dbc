//! Captures on a real link what another namespace puts on it, with both backends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::Ipv6Addr;

use etherparse::{Icmpv4Type, PacketBuilder, PacketBuilderStep, icmpv4};
use rig::{End, eventually, frame_sender, join, namespaces};
use rtt0_core::service::Services;
use rtt0_netio::capture::{Backend, Capture, CaptureError, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const CLIENT: [u8; 4] = [10, 1, 1, 1];
const SERVER: [u8; 4] = [10, 1, 2, 10];

fn services() -> Services {
    let rules = ["10.1.2.0/24:443", "[fd00:2::/64]:443"];
    Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new())
}

fn options(backend: Backend) -> CaptureOptions {
    CaptureOptions { backend, ..CaptureOptions::default() }
}

fn pair(left: &Namespace, right: &Namespace) {
    join(
        End { namespace: left, link: "left0", v4: [10, 1, 1, 1], v6: "fd00:1::1" },
        End { namespace: right, link: "right0", v4: [10, 1, 1, 2], v6: "fd00:1::2" },
        1500,
    );
}

fn tcp4(mac: [u8; 6], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], mac).ipv4(CLIENT, SERVER, 64).tcp(ports.0, ports.1, 1, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn tcp6(mac: [u8; 6], port: u16) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ethernet2([2; 6], mac)
        .ipv6(octets("fd00:1::1"), octets("fd00:2::10"), 64)
        .tcp(50_000, port, 1, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"six").unwrap();
    frame
}

fn over_ip(
    mac: [u8; 6],
    write: impl FnOnce(PacketBuilderStep<etherparse::IpHeaders>, &mut Vec<u8>),
) -> Vec<u8> {
    let mut frame = Vec::new();
    write(PacketBuilder::ethernet2([2; 6], mac).ipv4(CLIENT, SERVER, 64), &mut frame);
    frame
}

/// Receives until `last` comes, and returns all packets up to it.
fn receive_until(capture: &mut Capture, last: &[u8], counters: &IoCounters) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    eventually("the last packet must be captured", || {
        capture.receive(counters);
        for packet in capture.packets_mut() {
            packets.push(packet.bytes.to_vec());
        }
        for index in 0.. {
            let Some((bytes, _)) = capture.packet(index) else { break };
            assert!(packets.iter().any(|packet| packet == bytes), "packet() and packets_mut() agree");
        }
        packets.last().is_some_and(|packet| packet == last).then_some(())
    });
    packets
}

fn takes_what_is_served_and_nothing_else(backend: Backend) {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let mut capture =
        right.enter(|| Capture::open("right0", &services(), &options(backend))).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");
    let mut send = |frame: &[u8]| sender.send_to(frame, None).unwrap().unwrap();

    let mut padded = tcp4(mac, (50_000, 443), b"");
    padded.resize(60, 0);
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host);
    let icmp = over_ip(mac, |ip, out| ip.icmpv4(unreachable).write(out, &[0; 28]).unwrap());
    let last = tcp4(mac, (443, 50_000), b"last");
    let served = [tcp4(mac, (50_000, 443), b"four"), tcp6(mac, 443), padded, icmp];
    let mut other_host = served[0].clone();
    other_host[0..6].copy_from_slice(&[6; 6]);
    let ignored = [
        tcp4(mac, (50_000, 80), b"other port"),
        tcp6(mac, 80),
        other_host,
        over_ip(mac, |ip, out| ip.udp(50_000, 443).write(out, b"udp").unwrap()),
    ];
    for frame in served.iter().chain(&ignored) {
        send(frame);
    }
    // Served because its source is: the rule is for the server's address.
    let mut from_server = last.clone();
    from_server[26..30].copy_from_slice(&SERVER);
    from_server[30..34].copy_from_slice(&CLIENT);
    send(&from_server);

    let counters = IoCounters::default();
    let packets = receive_until(&mut capture, &from_server[14..], &counters);
    let expected: Vec<&[u8]> = served.iter().chain([&from_server]).map(|frame| &frame[14..]).collect();
    assert_eq!(packets, expected);
    assert_eq!(counters.received.value(), 5);
    assert_eq!(counters.received_truncated.value(), 0);
    assert_eq!(capture.interface(), "right0");
}

#[test]
fn ring_takes_what_is_served_and_nothing_else() {
    takes_what_is_served_and_nothing_else(Backend::Ring);
}

#[test]
fn pnet_takes_what_is_served_and_nothing_else() {
    takes_what_is_served_and_nothing_else(Backend::Pnet);
}

fn never_takes_what_its_own_host_sends(backend: Backend) {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let (ours, peers) = (
        Links::open(&right).unwrap().mac("right0").unwrap(),
        Links::open(&left).unwrap().mac("left0").unwrap(),
    );
    let mut capture =
        right.enter(|| Capture::open("right0", &services(), &options(backend))).unwrap().unwrap();
    let mut own = frame_sender(&right, "right0");
    own.send_to(&tcp4(peers, (50_000, 443), b"own"), None).unwrap().unwrap();
    let foreign = tcp4(ours, (50_000, 443), b"foreign");
    frame_sender(&left, "left0").send_to(&foreign, None).unwrap().unwrap();
    let packets = receive_until(&mut capture, &foreign[14..], &IoCounters::default());
    assert_eq!(packets, [&foreign[14..]]);
}

#[test]
fn ring_never_takes_what_its_own_host_sends() {
    never_takes_what_its_own_host_sends(Backend::Ring);
}

#[test]
fn pnet_never_takes_what_its_own_host_sends() {
    never_takes_what_its_own_host_sends(Backend::Pnet);
}

#[test]
fn batches_keep_the_order_and_drops_are_counted() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let small = CaptureOptions { batch: 7, ring: 1 << 20, ..CaptureOptions::default() };
    let mut capture = right.enter(|| Capture::open("right0", &services(), &small)).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");
    let sent = 5000u32;
    for number in 0..sent {
        sender.send_to(&tcp4(mac, (50_000, 443), &number.to_be_bytes()), None).unwrap().unwrap();
    }
    let counters = IoCounters::default();
    let mut numbers: Vec<u32> = Vec::new();
    while capture.receive(&counters) {
        assert_eq!(capture.packets_mut().count(), 7);
        let number =
            |p: rtt0_core::packet::Packet<'_>| u32::from_be_bytes(p.bytes[40..44].try_into().unwrap());
        numbers.extend(capture.packets_mut().map(number));
    }
    numbers.extend(
        capture.packets_mut().map(|packet| u32::from_be_bytes(packet.bytes[40..44].try_into().unwrap())),
    );
    assert!(numbers.is_sorted(), "packets leave in the order they came");
    capture.check(&counters).unwrap();
    let (received, dropped) = (counters.received.value(), counters.received_overflow.value());
    assert_eq!(received, numbers.len() as u64);
    assert!(dropped > 0, "a ring of 1 MiB can't hold 5000 packets, yet {received} came");
    assert_eq!(received + dropped, sent.into());
}

/// Small packets lie in the ring and large ones in the socket's queue; the ring comes round more than once.
#[test]
fn what_exceeds_a_frame_keeps_its_place() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let tiny = CaptureOptions { ring: 1, packet: Some(100), ..CaptureOptions::default() };
    let mut capture = right.enter(|| Capture::open("right0", &services(), &tiny)).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");
    let counters = IoCounters::default();
    let payload = |number: u32| {
        let length = if number.is_multiple_of(3) { 1000 } else { 8 };
        number.to_be_bytes().repeat(length / 4)
    };
    let (rounds, each) = (50, 100);
    for round in 0..rounds {
        let numbers = round * each..(round + 1) * each;
        for number in numbers.clone() {
            sender.send_to(&tcp4(mac, (50_000, 443), &payload(number)), None).unwrap().unwrap();
        }
        let mut expected = numbers.map(payload);
        eventually("all of a round must be captured", || {
            capture.receive(&counters);
            for (index, packet) in capture.packets_mut().enumerate() {
                assert_eq!(Some(&packet.bytes[40..]), expected.next().as_deref(), "{index} of round {round}");
            }
            (expected.len() == 0).then_some(())
        });
    }
    assert_eq!(counters.received.value(), (rounds * each).into());
    assert_eq!((counters.received_truncated.value(), counters.received_overflow.value()), (0, 0));
}

#[test]
fn large_packets_without_room_are_counted() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let tiny = CaptureOptions { packet: Some(100), receive_buffer: 4096, ..CaptureOptions::default() };
    let mut capture = right.enter(|| Capture::open("right0", &services(), &tiny)).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");
    let sent = 200u8;
    for number in 0..sent {
        sender.send_to(&tcp4(mac, (50_000, 443), &[number; 1000]), None).unwrap().unwrap();
        // It has room, and its place is behind the large one's.
        sender.send_to(&tcp4(mac, (50_000, 443), &[number; 8]), None).unwrap().unwrap();
    }
    let counters = IoCounters::default();
    let small = tcp4(mac, (50_000, 443), &[sent - 1; 8]);
    let packets = receive_until(&mut capture, &small[14..], &counters);
    let (received, truncated) = (counters.received.value(), counters.received_truncated.value());
    assert_eq!(received, packets.len() as u64);
    assert!(truncated > 0, "4 KiB can't hold 200 packets of 1,040 bytes, yet {received} came");
    assert_eq!(received + truncated, 2 * u64::from(sent));
    assert!(packets.is_sorted_by_key(|packet| (packet[40], packet.len() < 100)));
}

/// The kernel tells an error ahead of what is queued.
#[test]
fn an_interface_that_goes_down_takes_no_queued_packet_along() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let links = Links::open(&right).unwrap();
    let mac = links.mac("right0").unwrap();
    let tiny = CaptureOptions { packet: Some(100), ..CaptureOptions::default() };
    let mut capture = right.enter(|| Capture::open("right0", &services(), &tiny)).unwrap().unwrap();
    let mut sender = frame_sender(&left, "left0");
    for number in 0..3u8 {
        sender.send_to(&tcp4(mac, (50_000, 443), &[number; 1000]), None).unwrap().unwrap();
    }
    links.take_down("right0").unwrap();
    let counters = IoCounters::default();
    assert!(capture.receive(&counters), "there is an error to be told");
    assert_eq!(capture.packets_mut().map(|packet| packet.bytes[40]).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(!capture.is_suspect());
    assert!(!capture.receive(&counters) && capture.is_suspect());
    assert_eq!((counters.received.value(), counters.receive_errors.value()), (3, 1));
}

/// Who waits for packets would otherwise not wait.
#[test]
fn a_batch_that_is_released_is_no_longer_waited_for() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mac = Links::open(&right).unwrap().mac("right0").unwrap();
    let mut capture =
        right.enter(|| Capture::open("right0", &services(), &CaptureOptions::default())).unwrap().unwrap();
    let (frame, mut sender) = (tcp4(mac, (50_000, 443), b"one"), frame_sender(&left, "left0"));
    sender.send_to(&frame, None).unwrap().unwrap();
    receive_until(&mut capture, &frame[14..], &IoCounters::default());
    let is_ready = |capture: &Capture| {
        let mut polled = [PollFd::new(capture, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    };
    assert!(is_ready(&capture));
    assert!(!capture.release(), "nothing has come meanwhile");
    assert!(!is_ready(&capture) && capture.packet(0).is_none());
    sender.send_to(&frame, None).unwrap().unwrap();
    receive_until(&mut capture, &frame[14..], &IoCounters::default());
    sender.send_to(&frame, None).unwrap().unwrap();
    eventually("another has come meanwhile", || capture.release().then_some(()));
}

#[test]
fn an_interface_that_vanishes_is_an_error() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right);
    let mut capture =
        right.enter(|| Capture::open("right0", &services(), &CaptureOptions::default())).unwrap().unwrap();
    // The veth pair goes with the namespace of either end.
    drop(left);
    let counters = IoCounters::default();
    let error = eventually("the deletion must be noticed", || {
        capture.receive(&counters);
        capture.check(&counters).err()
    });
    assert!(matches!(&error, CaptureError::Gone { interface } if interface == "right0"), "{error}");
    assert!(capture.is_suspect());
    assert_eq!(counters.receive_errors.value(), 1, "the kernel tells once");
}

#[test]
fn an_unknown_interface_is_named() {
    for name in ["nosuch0", "a name far too long for any interface", "nul\0byte"] {
        let error = Capture::open(name, &services(), &CaptureOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("interface '{name}' not found")), "{error}");
    }
}

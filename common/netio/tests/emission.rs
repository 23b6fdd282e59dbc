//! Sends through raw sockets into a real link and looks at what comes out at its other end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use rig::{End, eventually, join, namespaces};
use rtt0_core::packet::Offload;
use rtt0_core::service::Services;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;

const NEAR: [u8; 4] = [10, 1, 1, 1];
const FAR: [u8; 4] = [10, 1, 1, 2];
const NEAR6: &str = "fd00:1::1";
const FAR6: &str = "fd00:1::2";

/// A foreign source: what is emitted is never this host's own.
const SOURCE: [u8; 4] = [192, 0, 2, 7];

struct Bench {
    capture: Capture,
    emitter: Emitter,
    counters: IoCounters,
    _namespaces: [Namespace; 2],
}

impl Bench {
    fn new() -> Option<Self> {
        let namespaces = namespaces()?;
        let [near, far] = &namespaces;
        join(
            End { namespace: near, link: "near0", v4: NEAR, v6: NEAR6 },
            End { namespace: far, link: "far0", v4: FAR, v6: FAR6 },
            1500,
        );
        // Without neighbour resolution nothing is queued, reordered or lost for want of it.
        let mac = Links::open(far).unwrap().mac("far0").unwrap();
        let links = Links::open(near).unwrap();
        links.add_neighbour("near0", FAR.into(), mac).unwrap();
        links.add_neighbour("near0", FAR6.parse().unwrap(), mac).unwrap();
        let rules = ["0.0.0.0/0:443", "[::/0]:443"];
        let services = Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new());
        let capture =
            far.enter(|| Capture::open("far0", &services, &CaptureOptions::default())).unwrap().unwrap();
        let emitter = near.enter(|| Emitter::open_with(&[])).unwrap().unwrap();
        Some(Self { capture, emitter, counters: IoCounters::default(), _namespaces: namespaces })
    }

    fn send(&mut self, packets: &[(Vec<u8>, Offload)]) -> Vec<(Vec<u8>, u16)> {
        let mut refused = Vec::new();
        let packets = packets.iter().map(|(bytes, offload)| (bytes.as_slice(), *offload));
        self.emitter.send(packets, &self.counters, |packet, mtu| refused.push((packet.to_vec(), mtu)));
        refused
    }

    fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let counters = IoCounters::default();
        eventually("all packets must arrive", || {
            self.capture.receive(&counters);
            for packet in self.capture.packets_mut() {
                assert_eq!(packet.offload, Offload::default());
                packets.push(packet.bytes.to_vec());
            }
            (packets.len() >= count).then_some(())
        });
        packets
    }
}

fn v4(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(SOURCE, FAR, 60).tcp(50_000, 443, sequence, 9).psh();
    builder.write(&mut bytes, payload).unwrap();
    bytes[4..6].copy_from_slice(&7u16.to_be_bytes());
    fix_ipv4_checksum(&mut bytes);
    bytes
}

fn fix_ipv4_checksum(bytes: &mut [u8]) {
    let (mut header, _) = etherparse::Ipv4Header::from_slice(bytes).unwrap();
    header.header_checksum = header.calc_header_checksum();
    header.write(&mut &mut bytes[..20]).unwrap();
}

fn v6(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv6(octets("2001:db8::7"), octets(FAR6), 60).tcp(50_000, 443, sequence, 9);
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

/// Returns sequence number, payload and whether PSH is set, after checking the TCP checksum.
fn segment(packet: &[u8]) -> (u32, Vec<u8>, bool) {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP") };
    let payload = headers.payload.slice();
    let expected = match headers.net.as_ref().unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload).unwrap(),
        etherparse::NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload).unwrap(),
        _ => panic!("not IP"),
    };
    assert_eq!(tcp.checksum, expected);
    (tcp.sequence_number, payload.to_vec(), tcp.psh)
}

const PLAIN: Offload = Offload { needs_csum: false, gso_size: 0 };

#[test]
fn packets_leave_as_they_are_and_in_order() {
    let Some(mut bench) = Bench::new() else { return };
    let packets: Vec<_> = (0..300)
        .map(|n| {
            let mut packet = if n % 3 == 0 { v6(n, b"payload") } else { v4(n, b"payload") };
            // Link padding, which must not be sent.
            packet.extend(std::iter::repeat_n(0, n as usize % 7));
            (packet, PLAIN)
        })
        .collect();
    assert_eq!(bench.send(&packets), []);
    let received = bench.receive(300);
    for version in [4, 6] {
        let of_version = |p: &&Vec<u8>| p[0] >> 4 == version;
        let length = if version == 4 { 47 } else { 67 };
        let sent: Vec<_> = packets.iter().map(|(p, _)| p).filter(of_version).map(|p| &p[..length]).collect();
        let got: Vec<_> = received.iter().filter(of_version).collect();
        assert_eq!(got, sent);
    }
    assert_eq!(bench.counters.sent.value(), 300);
    assert_eq!(bench.counters.sent_bytes.value(), 200 * 47 + 100 * 67);
}

#[test]
fn super_packets_are_cut_and_partial_checksums_completed() {
    let Some(mut bench) = Bench::new() else { return };
    let payload: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let offload = Offload { needs_csum: true, gso_size: 1400 };
    for make in [v4, v6] {
        let mut first = make(1, b"first");
        let checksum = first.len() - 5 - 4;
        first[checksum..checksum + 2].fill(0x55);
        let partial = Offload { needs_csum: true, gso_size: 0 };
        let whole = make(100, &payload);
        bench.send(&[(first, partial), (whole, offload), (make(90_000, b"last"), PLAIN)]);
        let received = bench.receive(45);
        let segments: Vec<_> = received.iter().map(|packet| segment(packet)).collect();
        assert_eq!(segments[0].1, b"first");
        assert_eq!(segments[44].1, b"last");
        let cut = &segments[1..44];
        let expected = (0..43).map(|n| 100 + n * 1400);
        assert!(cut.iter().map(|(sequence, ..)| *sequence).eq(expected));
        assert_eq!(cut.iter().flat_map(|(_, data, _)| data.clone()).collect::<Vec<_>>(), payload);
        assert!(cut.iter().rev().skip(1).all(|(.., psh)| !psh), "PSH is left to the last");
    }
    assert_eq!(bench.counters.resegmented.value(), 2);
    assert_eq!(bench.counters.sent.value(), 90);
}

#[test]
fn what_exceeds_the_mtu_is_reported_once_and_the_rest_still_leaves() {
    let Some(mut bench) = Bench::new() else { return };
    let payload = vec![7u8; 4000];
    for make in [v4, v6] {
        let (big, small) = (make(2, &payload[..1461]), make(3, b"small"));
        let coarse = Offload { needs_csum: true, gso_size: 2000 };
        let refused = bench.send(&[
            (make(1, b"before"), PLAIN),
            (big.clone(), PLAIN),
            (small, PLAIN),
            (make(4, &payload), coarse),
            (make(5, b"after"), PLAIN),
        ]);
        let received = bench.receive(3);
        assert_eq!(received.iter().map(|p| segment(p).0).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(refused.len(), 2, "one for the packet, one for both segments of the super-packet");
        assert_eq!(refused[0], (big, 1500));
        assert_eq!(segment(&refused[1].0), (4, payload[..2000].to_vec(), false));
        assert_eq!(refused[1].1, 1500);
    }
    assert_eq!(bench.counters.send_too_big.value(), 6);
}

#[test]
fn failures_are_counted_by_cause() {
    let Some(mut bench) = Bench::new() else { return };
    let mut nowhere = v4(1, b"");
    nowhere[16..20].copy_from_slice(&[203, 0, 113, 1]);
    let mut cut = v4(1, b"12345");
    cut.truncate(42);
    let mut udp = v4(1, b"");
    udp[9] = 17;
    let partial = Offload { needs_csum: true, gso_size: 0 };
    bench.send(&[(nowhere, PLAIN), (cut, PLAIN), (udp, partial), (Vec::new(), PLAIN), (v4(9, b""), PLAIN)]);
    assert_eq!(segment(&bench.receive(1)[0]).0, 9);
    let counted: Vec<_> =
        bench.counters.iter().filter(|(label, count)| *count != 0 && label.starts_with("send_")).collect();
    assert_eq!(counted, [("send_malformed", 3), ("send_unreachable", 1)]);
}

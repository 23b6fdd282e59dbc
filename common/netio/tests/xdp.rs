//! Receives by AF_XDP what another namespace sends through a tunnel's port.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

#[path = "xdp/group.rs"]
mod group;
#[path = "xdp/life.rs"]
mod life;
#[path = "xdp/queues.rs"]
mod queues;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rig::{End, eventually, frame_sender, join, join_by_queues, namespaces};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rtt0_netio::xdp::{Fault, Mode, Options, Receiver, XdpError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

const VXLAN: u16 = 4789;
const LEFT: [u8; 4] = [10, 9, 1, 1];
const RIGHT: [u8; 4] = [10, 9, 1, 2];
const LEFT6: &str = "fd00:9::1";
const RIGHT6: &str = "fd00:9::2";

fn options(mode: Mode) -> Options {
    Options { ports: vec![VXLAN, 6081], mode, ..Options::default() }
}

fn ends<'a>(left: &'a Namespace, right: &'a Namespace) -> [End<'a>; 2] {
    [
        End { namespace: left, link: "left0", v4: LEFT, v6: LEFT6 },
        End { namespace: right, link: "right0", v4: RIGHT, v6: RIGHT6 },
    ]
}

fn pair(left: &Namespace, right: &Namespace, mtu: u32) {
    let [near, far] = ends(left, right);
    join(near, far, mtu);
}

fn pair_of_queues(left: &Namespace, right: &Namespace, queues: u32) {
    let [near, far] = ends(left, right);
    join_by_queues(near, far, 1500, queues);
}

fn open(namespace: &Namespace, options: &Options) -> Result<Receiver, XdpError> {
    namespace.enter(|| Receiver::open("right0", options)).unwrap()
}

fn udp(namespace: &Namespace, address: impl Into<IpAddr> + Send) -> UdpSocket {
    let address = SocketAddr::new(address.into(), 0);
    let socket = namespace.enter(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// The payload of an IP packet of 150 bytes over IPv4.
fn payload(number: u32) -> Vec<u8> {
    let byte = |at: u32| number.wrapping_mul(31).wrapping_add(at) as u8;
    number.to_be_bytes().into_iter().chain((4..122).map(byte)).collect()
}

/// Receives until there are `count` packets.
fn receive(receiver: &mut Receiver, count: usize, counters: &IoCounters) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    eventually("all packets must be received", || {
        receiver.receive(counters);
        for packet in receiver.packets_mut() {
            packets.push(packet.bytes.to_vec());
        }
        (packets.len() >= count).then_some(())
    });
    assert_eq!(packets.len(), count);
    packets
}

/// What a datagram of `from` is on the wire, written by hand from RFC 768, 791 and 8200; the checksums 0, and so is the
/// IPv4 identification.
fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + length).to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            ip.extend(source.octets());
            ip.extend(destination.octets());
            ip
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend(length.to_be_bytes());
            ip.extend([17, 64]);
            ip.extend(source.octets());
            ip.extend(destination.octets());
            ip
        }
        _ => unreachable!("both are of one version"),
    };
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// Sums up 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Takes out of a packet what the sender's kernel chose, after a look whether the IPv4 header's checksum is right. Returns
/// the UDP checksum.
fn blank(packet: &mut [u8]) -> u16 {
    let udp = if packet[0] >> 4 == 4 {
        assert_eq!(sum(&packet[..20]), 0xffff);
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        20
    } else {
        packet[1..4].fill(0);
        40
    };
    let checksum = u16::from_be_bytes([packet[udp + 6], packet[udp + 7]]);
    packet[udp + 6..udp + 8].fill(0);
    checksum
}

/// What a sender leaves in the UDP checksum's field for its NIC: the pseudo-header's sum.
fn partial(packet: &[u8]) -> u16 {
    let (addresses, udp) = if packet[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) };
    let mut pseudo = packet[addresses].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(&packet[udp + 4..udp + 6]);
    sum(&pseudo)
}

fn takes_the_tunnels_packets_byte_by_byte(mode: Mode, word: &str) {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let mut receiver = open(&right, &options(mode)).unwrap();
    let line = receiver.describe();
    assert!(line.starts_with(&format!("AF_XDP on right0: {word}")) && line.contains("queues 0"), "{line}");
    let counters = IoCounters::default();
    for (source, destination) in
        [(IpAddr::from(LEFT), IpAddr::from(RIGHT)), (LEFT6.parse().unwrap(), RIGHT6.parse().unwrap())]
    {
        let socket = udp(&left, source);
        let from = socket.local_addr().unwrap();
        // More than there are frames: each is used again.
        for round in 0..20u32 {
            let to = SocketAddr::new(destination, if round % 2 == 0 { VXLAN } else { 6081 });
            for number in 0..300 {
                socket.send_to(&payload(round * 300 + number), to).unwrap();
            }
            let packets = receive(&mut receiver, 300, &counters);
            for (number, mut packet) in (0..).zip(packets) {
                let checksum = blank(&mut packet);
                assert_eq!(packet, datagram(from, to, &payload(round * 300 + number)));
                assert_eq!(checksum, partial(&packet), "the kernel leaves a local sender's checksum partial");
            }
        }
    }
    assert_eq!(receiver.check(&counters), Ok(()));
    assert_eq!(receiver.check(&counters), Ok(()));
    let counts = receiver.program_counts().unwrap();
    assert_eq!((counts.redirected, counts.unserved, counts.too_long), (12_000, 0, 0));
    assert_eq!(counts.seen, counts.redirected + counts.passed);
    assert_eq!((counters.received.value(), counters.received_overflow.value()), (12_000, 0));
    assert_eq!(counters.received_bytes.value(), 6000 * 150 + 6000 * 170);
}

#[test]
fn native_takes_the_tunnels_packets_byte_by_byte() {
    takes_the_tunnels_packets_byte_by_byte(Mode::Native, "native (driver)");
}

#[test]
fn generic_takes_the_tunnels_packets_byte_by_byte() {
    takes_the_tunnels_packets_byte_by_byte(Mode::Generic, "generic (kernel stack), copied");
}

fn leaves_other_traffic_to_the_kernel(mode: Mode) {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let mut receiver = open(&right, &options(mode)).unwrap();
    let counters = IoCounters::default();
    // Neighbour discovery and UDP to another port, of both versions.
    for (source, destination) in
        [(IpAddr::from(LEFT), IpAddr::from(RIGHT)), (LEFT6.parse().unwrap(), RIGHT6.parse().unwrap())]
    {
        let server = udp(&right, destination);
        let client = udp(&left, source);
        client.send_to(b"to another port", server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"to another port"[..], client.local_addr().unwrap()));
    }
    // TCP, to a port that is a tunnel's in UDP.
    let listener = right.enter(|| TcpListener::bind((IpAddr::from(RIGHT), VXLAN))).unwrap().unwrap();
    let mut stream = left.enter(|| TcpStream::connect((IpAddr::from(RIGHT), VXLAN))).unwrap().unwrap();
    stream.write_all(&[7; 50_000]).unwrap();
    drop(stream);
    let mut read = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), 50_000);
    // A datagram in fragments arrives whole.
    let server = right.enter(|| UdpSocket::bind((IpAddr::from(RIGHT), VXLAN))).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    udp(&left, LEFT).send_to(&[9; 4000], (IpAddr::from(RIGHT), VXLAN)).unwrap();
    assert_eq!(server.recv(&mut [0; 5000]).unwrap(), 4000);
    receiver.receive(&counters);
    assert_eq!(receiver.packets_mut().count(), 0);
    let counts = receiver.program_counts().unwrap();
    assert_eq!((counts.redirected, counts.passed), (0, counts.seen));
    assert!(counts.seen > 10, "{counts:?}");
}

#[test]
fn native_leaves_other_traffic_to_the_kernel() {
    leaves_other_traffic_to_the_kernel(Mode::Native);
}

#[test]
fn generic_leaves_other_traffic_to_the_kernel() {
    leaves_other_traffic_to_the_kernel(Mode::Generic);
}

/// Frames by which the program could be led astray; each but the first is the kernel's.
#[test]
fn only_plain_packets_are_taken() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        pair(&left, &right, 1500);
        let mac = Links::open(&right).unwrap().mac("right0").unwrap();
        let mut receiver = open(&right, &options(mode)).unwrap();
        let counters = IoCounters::default();
        let (from, to) = (SocketAddr::from((LEFT, 50_000)), SocketAddr::from((RIGHT, VXLAN)));
        let six = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
        let frame = |kind: &[u8], packet: &[u8]| [&mac[..], &[2; 6], kind, packet].concat();
        let good = frame(&[8, 0], &datagram(from, to, &payload(1)));
        let good6 = frame(&[0x86, 0xdd], &datagram(six(LEFT6, 9), six(RIGHT6, VXLAN), &payload(2)));
        let changed = |frame: &[u8], at: usize, value: u8| {
            let mut frame = frame.to_vec();
            frame[at] = value;
            frame
        };
        let mut short = frame(&[8, 0], &datagram(from, to, &[]));
        short.truncate(14 + 20 + 7);
        let strange = [
            frame(&[0x81, 0, 0, 5, 8, 0], &datagram(from, to, &payload(1))),
            changed(&good, 14, 0x46),
            changed(&good, 14, 0x65),
            changed(&good, 20, 0x20),
            changed(&good, 21, 0x01),
            changed(&good, 23, 6),
            changed(&good, 36, 1),
            changed(&good6, 14, 0x40),
            changed(&good6, 20, 44),
            changed(&good6, 20, 60),
            changed(&good6, 56, 1),
            short,
        ];
        let mut sender = frame_sender(&left, "left0");
        for frame in strange.iter().chain([&good6, &good]) {
            sender.send_to(frame, None).unwrap().unwrap();
        }
        let packets = receive(&mut receiver, 2, &counters);
        assert_eq!(packets, [&good6[14..], &good[14..]], "{mode:?}");
        let counts = receiver.program_counts().unwrap();
        assert!(counts.redirected == 2 && counts.passed >= strange.len() as u64, "{counts:?}");
    }
}

#[test]
fn what_no_frame_holds_goes_to_the_kernel_and_is_told() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        pair(&left, &right, 3000);
        let mut receiver = open(&right, &options(mode)).unwrap();
        let counters = IoCounters::default();
        let server = right.enter(|| UdpSocket::bind((IpAddr::from(RIGHT), VXLAN))).unwrap().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let client = udp(&left, LEFT);
        // 2,048 less 256 less the headers of Ethernet, IPv4 and UDP.
        let largest = 2048 - 256 - 14 - 20 - 8;
        client.send_to(&vec![1; largest], (IpAddr::from(RIGHT), VXLAN)).unwrap();
        assert_eq!(receive(&mut receiver, 1, &counters)[0].len(), largest + 28);
        assert_eq!(receiver.check(&counters), Ok(()));
        client.send_to(&vec![1; largest + 1], (IpAddr::from(RIGHT), VXLAN)).unwrap();
        assert_eq!(server.recv(&mut [0; 5000]).unwrap(), largest + 1);
        assert_eq!(receiver.check(&counters), Err(Fault::TooLong { packets: 1 }));
        assert_eq!(receiver.check(&counters), Ok(()));
    }
}

#[test]
fn what_nobody_fetches_is_counted_as_overflow() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        pair(&left, &right, 1500);
        let small = Options { memory: 1, ..options(mode) };
        let mut receiver = open(&right, &small).unwrap();
        let client = udp(&left, LEFT);
        for number in 0..1000 {
            client.send_to(&payload(number), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        }
        let counters = IoCounters::default();
        eventually("all must have come", || {
            let _ = receiver.check(&counters);
            (receiver.program_counts().unwrap().redirected == 1000).then_some(())
        });
        let packets = receive(&mut receiver, 64, &counters);
        assert!((0..).zip(&packets).all(|(number, packet)| packet[28..] == payload(number)));
        eventually("drops must be counted", || {
            assert_eq!(receiver.check(&counters), Ok(()), "what is counted is no silent loss");
            (counters.received_overflow.value() == 936).then_some(())
        });
        // With the next batch the frames are free again.
        receiver.receive(&counters);
        client.send_to(&payload(5), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        let packets = receive(&mut receiver, 1, &counters);
        assert_eq!(packets[0][28..], payload(5));
    }
}

#[test]
fn a_socket_is_readable_while_packets_wait() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        pair(&left, &right, 1500);
        let mut receiver = open(&right, &options(mode)).unwrap();
        let is_readable = |receiver: &Receiver, seconds| {
            let to_poll = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
            let mut fds: Vec<_> = receiver.fds().map(to_poll).collect();
            poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() == 1
        };
        let counters = IoCounters::default();
        for number in 0..3 {
            assert!(!is_readable(&receiver, 0));
            udp(&left, LEFT).send_to(&payload(number), (IpAddr::from(RIGHT), VXLAN)).unwrap();
            assert!(is_readable(&receiver, 10));
            assert_eq!(receive(&mut receiver, 1, &counters)[0][28..], payload(number));
        }
        // What is changed in place is what is read afterwards.
        udp(&left, LEFT).send_to(&payload(9), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        assert!(is_readable(&receiver, 10));
        receiver.receive(&counters);
        receiver.packets_mut().for_each(|packet| packet.bytes[28] = 0xee);
        assert_eq!(receiver.packet(0).map(|(bytes, _)| bytes[28]), Some(0xee));
        assert_eq!(receiver.packet(1), None);
    }
}

//! Each reason is provoked by one change to a packet that passes without it.

use super::*;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, TcpHeader,
};

const V4: ([u8; 4], [u8; 4]) = ([10, 9, 8, 7], [10, 1, 1, 1]);
const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfc; 16]);

fn udp4() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(V4.0, V4.1, 33).udp(40_000, 31_765).write(&mut bytes, b"hello").unwrap();
    bytes
}

fn tcp4() -> Vec<u8> {
    let (mut bytes, mut tcp) = (Vec::new(), TcpHeader::new(40_000, 80, 1, 2));
    tcp.set_options_raw(&[1; 12]).unwrap();
    PacketBuilder::ipv4(V4.0, V4.1, 33).tcp_header(tcp).write(&mut bytes, b"hello").unwrap();
    bytes
}

fn icmp4() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(V4.0, V4.1, 33).icmpv4_echo_request(1, 2).write(&mut bytes, b"hello").unwrap();
    bytes
}

/// A packet with these extension headers.
fn udp6(mut extensions: Ipv6Extensions) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut ip = Ipv6Header { hop_limit: 33, source: V6.0, destination: V6.1, ..Default::default() };
    ip.next_header = extensions.set_next_headers(IpNumber::UDP);
    let builder = PacketBuilder::ip(IpHeaders::Ipv6(ip, extensions)).udp(40_000, 31_765);
    builder.write(&mut bytes, b"hello").unwrap();
    bytes
}

fn options() -> Ipv6Extensions {
    let header = |length: usize| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0; length]).unwrap();
    Ipv6Extensions {
        hop_by_hop_options: Some(header(6)),
        destination_options: Some(header(14)),
        ..Default::default()
    }
}

/// Overwrites bytes, and makes an IPv4 header's checksum right.
fn changed(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    if let Ok(mut ip) = Ipv4::unverified(&mut packet[..]) {
        ip.fill_checksum();
    }
    packet
}

#[test]
fn headers_are_read() {
    let inner = Inner {
        source: V4.0.into(),
        destination: V4.1.into(),
        transport: Transport::Udp,
        source_port: 40_000,
        destination_port: 31_765,
        upper: 20,
        length: 33,
        hop_limit: 33,
    };
    assert_eq!(parse(&udp4()), Ok(inner));
    assert_eq!(parse(&[udp4(), vec![0; 13]].concat()), Ok(inner), "an Ethernet frame's padding");
    let ends = Inner { source: V6.0.into(), destination: V6.1.into(), ..inner };
    assert_eq!(parse(&udp6(Ipv6Extensions::default())), Ok(Inner { upper: 40, length: 53, ..ends }));
    assert_eq!(parse(&udp6(options())), Ok(Inner { upper: 64, length: 77, ..ends }));
    let transport = Transport::Tcp;
    assert_eq!(parse(&tcp4()), Ok(Inner { transport, destination_port: 80, length: 57, ..inner }));
    let transport = Transport::Icmp;
    assert_eq!(parse(&icmp4()), Ok(Inner { transport, source_port: 0, destination_port: 0, ..inner }));
}

#[test]
fn malformed() {
    let malformed = Err(DropReason::InnerMalformed);
    assert_eq!(parse(&[]), malformed);
    assert_eq!(parse(&[0x50; 99]), malformed, "version 5");
    let mut wrong = udp4();
    wrong[8] -= 1;
    assert_eq!(parse(&wrong), malformed, "the header's checksum");
    assert!(parse(&changed(wrong, 8, &[])).is_ok());
    assert_eq!(parse(&changed(udp4(), 0, &[0x44])), malformed, "a header of 16 bytes");
    for (length, expected) in [(19, false), (20, false), (27, false), (32, false), (33, true)] {
        let result = parse(&changed(udp4(), 2, &[0, length]));
        assert_eq!(result.is_ok(), expected, "{length}");
        assert!(expected || result == malformed, "{length}");
    }
    let mut chain = udp6(options());
    chain[4..6].copy_from_slice(&23u16.to_be_bytes());
    assert_eq!(parse(&chain), malformed, "extension headers longer than the packet");
    assert_eq!(parse(&chain[..63]), malformed, "all of the packet has come");
    let offset = IpFragOffset::try_new(9).unwrap();
    let fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, false, 7));
    let mut behind = udp6(Ipv6Extensions { fragment, ..Default::default() });
    behind[5] = 4;
    assert_eq!(parse(&behind), malformed, "a fragment header that ends behind the packet");
    let mut chain = [60, 0, 0, 0, 0, 0, 0, 0].repeat(9);
    chain.splice(..0, udp6(Ipv6Extensions::default())[..40].to_vec());
    (chain[5], chain[6]) = (72, 60);
    assert_eq!(parse(&chain), malformed, "more extension headers than are followed");
}

#[test]
fn transports_lengths() {
    let udp = |length: u16| parse(&changed(udp4(), 24, &length.to_be_bytes()));
    for wrong in [0, 7, 14, u16::MAX] {
        assert_eq!(udp(wrong), Err(DropReason::InnerMalformed), "{wrong}");
    }
    assert!(udp(8).is_ok() && udp(13).is_ok(), "what follows a datagram is UDP options");
    let tcp = |offset: u8| parse(&changed(tcp4(), 32, &[offset << 4]));
    for wrong in [0, 4, 10, 15] {
        assert_eq!(tcp(wrong), Err(DropReason::InnerMalformed), "{wrong} words, and nine there are");
    }
    assert!(tcp(5).is_ok() && tcp(9).is_ok());
    let total = |packet: Vec<u8>, length: u8| parse(&changed(packet, 2, &[0, length]));
    assert_eq!(total(tcp4(), 39), Err(DropReason::InnerMalformed));
    assert_eq!(total(icmp4(), 27), Err(DropReason::InnerMalformed));
    assert!(total(icmp4(), 28).is_ok());
}

#[test]
fn fragments() {
    for (word, expected) in [(0x2000, false), (1, false), (0x3fff, false), (0x4000, true), (0, true)] {
        let result = parse(&changed(udp4(), 6, &u16::to_be_bytes(word)));
        assert_eq!(result.err(), (!expected).then_some(DropReason::InnerFragment), "{word:#x}");
    }
    for (offset, more, expected) in [(0, true, false), (9, false, false), (0, false, true)] {
        let offset = IpFragOffset::try_new(offset).unwrap();
        let fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 7));
        let packet = udp6(Ipv6Extensions { fragment, ..Default::default() });
        assert_eq!(parse(&packet).err(), (!expected).then_some(DropReason::InnerFragment));
        let cut = parse(&packet[..49]);
        assert_eq!(cut, Err(if expected { DropReason::Truncated } else { DropReason::InnerFragment }));
    }
}

#[test]
fn other_protocols() {
    for protocol in [2, 47, 50, 58, 132] {
        let packet = changed(udp4(), 9, &[protocol]);
        assert_eq!(parse(&packet), Err(DropReason::InnerProtocol), "{protocol}");
        assert_eq!(parse_cut(&packet[..20]), Err(DropReason::InnerProtocol), "{protocol}");
    }
    assert!(parse(&changed(icmp4(), 9, &[1])).is_ok());
    let mut packet = udp6(options());
    // The destination options' next header, once ICMPv6 and once ICMP.
    packet[48] = 58;
    assert_eq!(parse(&packet).unwrap().transport, Transport::Icmp);
    packet[48] = 1;
    assert_eq!(parse(&packet), Err(DropReason::InnerProtocol));
}

#[test]
fn a_cut_packet_is_told_from_a_wrong_one() {
    for (packet, headers) in [(udp4(), 28), (tcp4(), 52), (icmp4(), 28), (udp6(options()), 72)] {
        let whole = parse(&packet).unwrap();
        assert_eq!(parse_cut(&packet), Ok((whole, false)));
        for length in 1..packet.len() {
            assert_eq!(parse(&packet[..length]), Err(DropReason::Truncated), "{length}");
            let expected = if length < headers { Err(DropReason::Truncated) } else { Ok((whole, true)) };
            assert_eq!(parse_cut(&packet[..length]), expected, "{length}");
        }
    }
    let wrong = changed(udp4(), 24, &[0, 7]);
    assert_eq!(parse(&wrong[..30]), Err(DropReason::InnerMalformed));
    let wrong = changed(udp4(), 24, &[0, 14]);
    assert_eq!(parse_cut(&wrong[..30]), Err(DropReason::InnerMalformed), "longer than the IP header says");
    let mut options = Ipv4Header::new(0, 9, IpNumber::UDP, V4.0, V4.1).unwrap();
    options.options = [1u8; 8].into();
    options.total_len = 36;
    let bytes = options.to_bytes();
    assert_eq!(parse_cut(&bytes[..24]), Err(DropReason::Truncated), "within the IP options");
}

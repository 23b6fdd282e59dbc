//! All views against etherparse: what it builds is read, what is written it reads.

use super::build::Control;
use super::icmp::{Complaint, Quote, write_error};
use super::ipv4::Ipv4;
use super::ipv6::Ipv6;
use super::segment::{NotASegment, Segment};
use super::tcp::{Flags, Tcp};
use super::*;
use crate::packet::{Offload, Packet};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, NetSlice, PacketBuilder, SlicedPacket, TcpHeader,
    TcpSlice, TransportSlice,
};
use proptest::prelude::*;
use std::net::IpAddr;

const CLIENT: [u8; 4] = [10, 1, 0, 10];
const SERVER: [u8; 4] = [10, 1, 2, 10];
const CLIENT6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const SERVER6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// The last sequence number before the wrap.
const LAST: u32 = u32::MAX;

fn header(options: &[u8]) -> TcpHeader {
    let mut header = TcpHeader::new(40_000, 80, LAST, 502);
    header.acknowledgment_number = 1;
    header.ack = true;
    header.psh = true;
    header.set_options_raw(options).unwrap();
    header
}

fn written(ip: IpHeaders, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ip(ip).tcp_header(header(options)).write(&mut bytes, payload).unwrap();
    bytes
}

fn v4(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4Header::new(0, 64, IpNumber::TCP, CLIENT, SERVER).unwrap();
    written(IpHeaders::Ipv4(ip, Ipv4Extensions::default()), options, payload)
}

fn v4_with_options(payload: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, CLIENT, SERVER).unwrap();
    ip.options = [1u8; 8].into();
    written(IpHeaders::Ipv4(ip, Ipv4Extensions::default()), &[], payload)
}

fn v6(extensions: Ipv6Extensions, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut ip = Ipv6Header { hop_limit: 64, source: CLIENT6, destination: SERVER6, ..Default::default() };
    let mut extensions = extensions;
    ip.next_header = extensions.set_next_headers(IpNumber::TCP);
    written(IpHeaders::Ipv6(ip, extensions), options, payload)
}

/// Hop-by-hop, destination and routing headers.
fn extensions() -> Ipv6Extensions {
    let raw = |length: usize| Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![0; length]).unwrap();
    Ipv6Extensions {
        hop_by_hop_options: Some(raw(6)),
        destination_options: Some(raw(14)),
        routing: Some(Ipv6RoutingExtensions { routing: raw(22), final_destination_options: None }),
        ..Ipv6Extensions::default()
    }
}

fn packet(bytes: &mut [u8]) -> Packet<'_> {
    Packet { bytes, offload: Offload::default() }
}

/// The segment as etherparse reads it; panics unless both checksums are right.
fn oracle(bytes: &[u8]) -> (TcpHeader, Vec<u8>) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP: {bytes:02x?}") };
    let sum = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        }
        Some(NetSlice::Ipv6(ip)) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
        _ => panic!("no IP"),
    };
    assert_eq!(sum.unwrap(), tcp.checksum(), "TCP checksum");
    (tcp.to_header(), tcp.payload().to_vec())
}

#[test]
fn segments_are_found_behind_every_header() {
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    for mut bytes in [
        v4(&options, b"hello"),
        v4_with_options(b"hello"),
        v6(Ipv6Extensions::default(), &options, b"hello"),
        v6(extensions(), &options, b"hello"),
    ] {
        let (theirs, payload) = oracle(&bytes);
        let length = bytes.len();
        // Link padding is no part of it.
        bytes.extend_from_slice(&[0xee; 9]);
        let mut packet = packet(&mut bytes);
        let segment = Segment::parse(&mut packet).unwrap();
        let tcp = segment.tcp();
        assert_eq!(segment.bytes().len(), length);
        assert_eq!((segment.source().1, segment.destination().1), (40_000, 80));
        assert!(segment.source().0 == IpAddr::from(CLIENT) || segment.source().0 == IpAddr::from(CLIENT6));
        assert_eq!((tcp.sequence(), tcp.acknowledgement(), tcp.window()), (LAST, 1, 502));
        assert_eq!(tcp.flags(), Flags::ACK | Flags::PSH);
        assert_eq!(tcp.option_bytes(), theirs.options.as_slice());
        assert_eq!((tcp.payload(), segment.payload_length()), (&payload[..], 5));
        assert_eq!(tcp.sequence_length(), 5);
        assert!(segment.checksum_ok() && !segment.is_fragment());
    }
}

#[test]
fn every_truncation_is_an_error() {
    for whole in [v4(&[1; 40], b"x"), v4_with_options(b"x"), v6(extensions(), &[1; 40], b"x")] {
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            assert!(Segment::parse(&mut packet(&mut cut)).is_err(), "{length} of {} bytes", whole.len());
            assert!(Ipv4::new(&cut[..]).is_err() && Ipv6::new(&cut[..]).is_err());
        }
    }
    let tcp = header(&[1; 40]).to_bytes();
    for length in 0..60 {
        assert!(Tcp::new(&tcp[..length]).is_err());
    }
    assert!(Tcp::new(&tcp).is_ok());
}

#[test]
fn contradictions_are_named() {
    let parse = |at: usize, value: u8| {
        let mut bytes = v4(&[], b"xyz");
        bytes[at] = value;
        if let Ok(mut ip) = Ipv4::unverified(&mut bytes[..]) {
            ip.fill_checksum();
        }
        Segment::parse(&mut packet(&mut bytes)).err()
    };
    assert_eq!(parse(0, 0x55), Some(NotASegment::Ip(Malformed::Version)));
    assert_eq!(parse(0, 0x44), Some(NotASegment::Ip(Malformed::Length)), "IHL below 5");
    assert_eq!(parse(3, 19), Some(NotASegment::Ip(Malformed::Length)), "total length below the header");
    assert_eq!(parse(3, 200), Some(NotASegment::Ip(Malformed::Length)), "total length beyond the end");
    assert_eq!(parse(9, 17), Some(NotASegment::Protocol));
    assert_eq!(parse(32, 0x40), Some(NotASegment::Tcp(Malformed::Length)), "data offset below 5");
    assert_eq!(parse(32, 0xf0), Some(NotASegment::Tcp(Malformed::Length)), "data offset beyond the end");
    let mut bytes = v4(&[], b"");
    bytes[8] ^= 1;
    let error = Segment::parse(&mut packet(&mut bytes)).err();
    assert_eq!(error, Some(NotASegment::Ip(Malformed::HeaderChecksum)));
    assert_eq!(Segment::parse(&mut packet(&mut [])).err(), Some(NotASegment::Ip(Malformed::Truncated)));
}

#[test]
fn only_a_first_fragment_with_a_whole_header_is_a_segment() {
    let fragment = |offset: u8, more: bool| {
        let mut bytes = v4(&[], b"12345678");
        bytes[6] = if more { 0x20 } else { 0 };
        bytes[7] = offset;
        Ipv4::unverified(&mut bytes[..]).unwrap().fill_checksum();
        bytes
    };
    let mut first = fragment(0, true);
    let mut first = packet(&mut first);
    let segment = Segment::parse(&mut first).unwrap();
    assert!(segment.is_fragment() && segment.checksum_ok());
    let error = |mut bytes: Vec<u8>| Segment::parse(&mut packet(&mut bytes)).err();
    assert_eq!(error(fragment(1, true)), Some(NotASegment::Fragment));
    assert_eq!(error(fragment(3, false)), Some(NotASegment::Fragment), "the last");
    let mut short = fragment(0, true);
    short.truncate(36);
    Ipv4::unverified(&mut short[..]).unwrap().set_total_length(36);
    assert_eq!(error(short), Some(NotASegment::Fragment));
    let v6_fragment = |offset: u16| {
        let offset = IpFragOffset::try_new(offset).unwrap();
        let fragment = Some(Ipv6FragmentHeader::new(IpNumber::TCP, offset, true, 7));
        v6(Ipv6Extensions { fragment, ..extensions() }, &[], b"12345678")
    };
    assert_eq!(error(v6_fragment(0)), None);
    assert_eq!(error(v6_fragment(2)), Some(NotASegment::Fragment));
}

#[test]
fn a_chain_of_headers_that_never_ends_is_refused() {
    let mut bytes = v6(Ipv6Extensions::default(), &[], b"");
    bytes[6] = 60;
    bytes.truncate(40);
    bytes.extend_from_slice(&[60, 0, 0, 0, 0, 0, 0, 0].repeat(20));
    Ipv6::unverified(&mut bytes[..]).unwrap().set_payload_length(160);
    assert_eq!(Segment::parse(&mut packet(&mut bytes)).err(), Some(NotASegment::Ip(Malformed::Length)));
}

#[test]
fn control_segments_are_what_was_asked_for() {
    let options = [2, 4, 5, 0xb4];
    for (source, destination) in
        [(IpAddr::from(SERVER), IpAddr::from(CLIENT)), (IpAddr::from(SERVER6), IpAddr::from(CLIENT6))]
    {
        let control = Control {
            source: (source, 80),
            destination: (destination, 40_000),
            sequence: LAST,
            acknowledgement: 7,
            flags: Flags::SYN | Flags::ACK | Flags::ECE,
            window: 65_160,
        };
        let mut out = b"before".to_vec();
        control.write(&options, &mut out);
        let (tcp, payload) = oracle(&out[6..]);
        assert_eq!((tcp.source_port, tcp.destination_port), (80, 40_000));
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.window_size), (LAST, 7, 65_160));
        assert!(tcp.syn && tcp.ack && tcp.ece && !tcp.rst && !tcp.fin && !tcp.psh && !tcp.cwr);
        assert_eq!((tcp.options.as_slice(), payload.len()), (&options[..], 0));
    }
}

#[test]
fn other_options_leave_the_rest_alone() {
    for mut bytes in [v4(&[1; 8], b"data"), v4_with_options(b"data"), v6(extensions(), &[1; 8], b"data")] {
        let mut packet = packet(&mut bytes);
        let segment = Segment::parse(&mut packet).unwrap();
        for options in [&[][..], &[2, 4, 1, 2], &[1; 40]] {
            let mut out = vec![0xee];
            segment.write_with_options(options, Flags::SYN, &mut out);
            let (tcp, payload) = oracle(&out[1..]);
            assert_eq!((tcp.options.as_slice(), &payload[..]), (options, &b"data"[..]));
            assert_eq!((tcp.sequence_number, tcp.window_size), (LAST, 502));
            assert!(tcp.syn && !tcp.ack && !tcp.psh);
        }
    }
}

/// An ICMP error about `quoted` from a router; its quote's checksum follows the field changed.
#[test]
fn quotes_are_patched_with_all_their_checksums() {
    for (router, quoted) in [
        (IpAddr::from([10, 1, 1, 9]), v4_with_options(b"12345678")),
        (IpAddr::from([9; 16]), v6(extensions(), &[], b"x")),
    ] {
        let mut error = Vec::new();
        assert!(write_error(Complaint::TooBig(1300), router, &quoted, &mut error));
        icmp_is_right(&error, Some(1300));
        let mut quote = Quote::parse(&mut error).unwrap();
        assert_eq!((quote.source().1, quote.destination().1), (40_000, 80));
        assert_eq!((quote.sequence(), quote.acknowledgement()), (LAST, Some(1)));
        quote.set_sequence(5);
        quote.set_acknowledgement(LAST);
        icmp_is_right(&error, Some(1300));
        let inner = &error[error.len() - quoted.len()..];
        let (tcp, _) = oracle(inner);
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (5, LAST));
    }
}

/// Panics unless the ICMP checksum is right.
fn icmp_is_right(bytes: &[u8], mtu: Option<u32>) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let at = bytes.len() - sliced.ip_payload().unwrap().payload.len();
    let pseudo = match sliced.net {
        Some(NetSlice::Ipv6(ip)) => {
            let (source, destination) = (ip.header().source_addr(), ip.header().destination_addr());
            checksum::pseudo_header(source.into(), destination.into(), 58, bytes.len() - at)
        }
        _ => 0,
    };
    assert_eq!(checksum::add(pseudo, checksum::sum(&bytes[at..])), 0xffff, "ICMP checksum");
    if let Some(mtu) = mtu {
        assert_eq!(read_u32(bytes, at + 4), mtu);
    }
}

#[test]
fn a_short_quote_has_a_sequence_number_and_no_more() {
    let quoted = &v4(&[], b"")[..28];
    let mut error = Vec::new();
    assert!(write_error(Complaint::HopLimit, [10, 1, 1, 9].into(), quoted, &mut error));
    let mut quote = Quote::parse(&mut error).unwrap();
    assert_eq!((quote.sequence(), quote.acknowledgement()), (LAST, None));
    quote.set_acknowledgement(9);
    quote.set_sequence(3);
    assert_eq!(read_u32(&error, 20 + 8 + 20 + 4), 3);
    icmp_is_right(&error, Some(0));
    for length in 0..error.len() {
        assert!(Quote::parse(&mut error[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn errors_quote_as_much_as_the_rfcs_allow() {
    for (router, packet, most) in [
        (IpAddr::from([10, 1, 1, 9]), v4(&[], &[0; 1400]), 576),
        (IpAddr::from([9; 16]), v6(Ipv6Extensions::default(), &[], &[0; 1400]), 1280),
    ] {
        let mut error = Vec::new();
        assert!(write_error(Complaint::HopLimit, router, &packet, &mut error));
        assert_eq!(error.len(), most);
        icmp_is_right(&error, None);
        assert!(!write_error(Complaint::HopLimit, router, b"neither", &mut error));
    }
}

proptest! {
    #[test]
    fn any_ttl_keeps_the_header_checksum_right(ttl: u8, length in 40u16..=1500, id: u16) {
        let mut bytes = v4(&[], &[0; 1460]);
        let mut ip = Ipv4::new(&mut bytes[..]).unwrap();
        ip.set_ttl(ttl);
        ip.set_total_length(length);
        ip.set_identification(id);
        let ip = Ipv4::new(&bytes[..]).unwrap();
        prop_assert_eq!((ip.ttl(), ip.total_length(), ip.identification()), (ttl, length, id));
    }

    #[test]
    fn patches_at_any_offset_keep_the_checksum(
        at in 4usize..16, options_at in 0usize..38, new in prop::collection::vec(any::<u8>(), 1..3), payload: Vec<u8>,
    ) {
        let mut bytes = v4(&[1; 40], &payload);
        let mut packet = packet(&mut bytes);
        let mut segment = Segment::parse(&mut packet).unwrap();
        // Neither the data offset nor the checksum itself.
        if !(11..14).contains(&at) && at + new.len() <= 16 {
            segment.patch(at, &new);
        }
        segment.patch_options(options_at, &new);
        prop_assert!(segment.checksum_ok());
        let tcp = segment.tcp_offset();
        let read = TcpSlice::from_slice(&segment.bytes()[tcp..]).unwrap();
        prop_assert_eq!(&read.options()[options_at..options_at + new.len()], &new[..]);
        prop_assert_eq!(read.calc_checksum_ipv4(CLIENT, SERVER).unwrap(), read.checksum());
    }

    #[test]
    fn a_partial_checksum_stays_as_it_is(sequence: u32, window: u16) {
        let mut bytes = v4(&[], b"data");
        let before = bytes[36..38].to_vec();
        let mut packet = Packet { bytes: &mut bytes, offload: Offload { needs_csum: true, gso_size: 0 } };
        let mut segment = Segment::parse(&mut packet).unwrap();
        segment.set_sequence(sequence);
        segment.set_window(window);
        prop_assert_eq!(&segment.bytes()[36..38], &before[..]);
        prop_assert!(segment.checksum_ok());
        segment.fill_checksum();
        oracle(segment.bytes());
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(sequence: u32, error in 1u16..0xffff) {
        let mut bytes = v4(&[], b"data");
        let wrong = checksum::add(read_u16(&bytes, 36), error);
        bytes[36..38].copy_from_slice(&wrong.to_be_bytes());
        let mut packet = packet(&mut bytes);
        let mut segment = Segment::parse(&mut packet).unwrap();
        segment.set_sequence(sequence);
        prop_assert!(!segment.checksum_ok());
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = match version { 0 => 0x45, 1 => 0x60, _ => *first };
        }
        let _ = Quote::parse(&mut bytes.clone());
        if let Ok(mut ip) = Ipv4::unverified(&mut bytes[..]) {
            ip.fill_checksum();
        }
        let _ = Quote::parse(&mut bytes.clone());
        if let Ok(segment) = Segment::parse(&mut packet(&mut bytes)) {
            let _ = (segment.tcp().payload().len(), segment.checksum_ok());
        }
    }
}

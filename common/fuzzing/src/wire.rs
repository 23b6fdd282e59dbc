//! The views of packets: any bytes get an answer, and what is rewritten keeps its checksum as
//! right or wrong as it was.

use crate::number;

use rtt0_core::claim::{Bypass, claims};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Services;
use rtt0_core::wire::icmp::{Complaint, Quote, write_error};
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::{checksum, tcp::Tcp};
use std::net::IpAddr;

/// Bytes before the packet: numbers to write into it.
const NUMBERS: usize = 8;

/// Takes numbers to write (8 bytes) and an IP packet.
pub fn run(data: &[u8]) {
    let numbers: [u8; NUMBERS] = number(data);
    let packet = data.get(NUMBERS..).unwrap_or_default();
    assert_eq!(checksum::sum(packet), plain_sum(packet));

    let services =
        Services::new(vec!["0.0.0.0/0:8080".parse().unwrap(), "[::/0]:8080".parse().unwrap()], vec![]);
    let claimed = claims(&services, packet).is_some();
    assert!(claimed || !Bypass::Handshakes.includes(&services, packet), "bypassed, but not ours");
    views(packet);
    quoted(packet, numbers);
    for needs_csum in [false, true] {
        rewritten(packet, Offload { needs_csum, gso_size: 0 }, numbers);
    }
}

/// RFC 1071 §1, word by word.
fn plain_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fn views(packet: &[u8]) {
    if let Ok(ip) = Ipv4::new(packet) {
        assert!(ip.header_length() <= usize::from(ip.total_length()));
        assert!(usize::from(ip.total_length()) <= packet.len());
        assert_eq!(plain_sum(&packet[..ip.header_length()]), 0xffff);
    }
    if let Ok(ip) = Ipv6::new(packet) {
        assert!(ip.total_length() <= packet.len());
        let _ = ip.upper();
    }
    if let Ok(tcp) = Tcp::new(packet) {
        assert_eq!(tcp.header_length() + tcp.payload().len(), packet.len());
        assert!(tcp.options().count() <= 40);
    }
}

/// A quote that is rewritten there and back is what it was; an error about any packet can be read.
fn quoted(packet: &[u8], numbers: [u8; NUMBERS]) {
    let mut copy = packet.to_vec();
    if let Ok(mut quote) = Quote::parse(&mut copy) {
        let sequence = quote.sequence();
        quote.set_sequence(u32::from_be_bytes(number(&numbers)));
        quote.set_sequence(sequence);
        if let Some(acknowledgement) = quote.acknowledgement() {
            quote.set_acknowledgement(u32::from_be_bytes(number(&numbers[4..])));
            quote.set_acknowledgement(acknowledgement);
        }
        // Of a checksum, 0x0000 and 0xffff are the same; a rewrite may turn one into the other.
        let differing = copy.iter().zip(packet).filter(|(a, b)| a != b);
        assert!(differing.into_iter().all(|(a, b)| matches!((*a, *b), (0, 0xff) | (0xff, 0))));
    }
    let router: IpAddr = match packet.first().map(|byte| byte >> 4) {
        Some(4) => [10, 0, 0, 1].into(),
        _ => [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
    };
    let mut error = Vec::new();
    if write_error(Complaint::TooBig(1280), router, packet, &mut error) {
        assert!(error.len() <= 1280);
        assert!(Ipv4::new(&error[..]).is_ok() || Ipv6::new(&error[..]).is_ok());
    }
}

/// Numbers, window and options may be overwritten in any order; the checksum follows.
fn rewritten(packet: &[u8], offload: Offload, numbers: [u8; NUMBERS]) {
    let mut bytes = packet.to_vec();
    let mut packet = Packet { bytes: &mut bytes, offload };
    let Ok(mut segment) = Segment::parse(&mut packet) else { return };
    for filled in [false, true] {
        if filled {
            segment.fill_checksum();
            assert!(segment.checksum_ok());
        }
        let right = segment.checksum_ok();
        let (first, second) =
            (u32::from_be_bytes(number(&numbers)), u32::from_be_bytes(number(&numbers[4..])));
        segment.set_sequence(first);
        segment.set_acknowledgement(second);
        segment.set_window(first as u16);
        let room = segment.tcp().option_bytes().len();
        if room >= 4 {
            segment.patch_options(first as usize % (room - 3), &numbers[4..]);
        }
        assert_eq!((segment.tcp().sequence(), segment.tcp().acknowledgement()), (first, second));
        assert_eq!(segment.checksum_ok(), right, "{:02x?}", segment.bytes());
    }
    if segment.payload_length() <= 1000 {
        let (options, mut copy) = (vec![1; 4 * (numbers[0] as usize % 11)], Vec::new());
        segment.write_with_options(&options, segment.tcp().flags(), &mut copy);
        let mut packet = Packet { bytes: &mut copy, offload: Offload::default() };
        let copy = Segment::parse(&mut packet).unwrap();
        assert!(copy.checksum_ok() && copy.payload_length() == segment.payload_length());
        assert_eq!(copy.tcp().option_bytes(), options);
    }
}

//! What holds for every mirrored packet, for every cut of it, and for whatever becomes of it.

use crate::packets::{GENEVE_PORT, Mirrored, VXLAN_PORT, mirrored};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mirror::inner::{Inner, Transport, parse, parse_cut};
use mirror::reason::DropReason;
use mirror::tunnel::{Decapsulated, Kind, Listening, Tunnels, decapsulate};
use proptest::prelude::*;
use rtt0_core::packet::Offload;
use std::net::IpAddr;

fn tunnels() -> Tunnels {
    let vxlan = Listening { kind: Kind::Vxlan, port: VXLAN_PORT, vnis: vec![] };
    let geneve = Listening { kind: Kind::Geneve, port: GENEVE_PORT, vnis: vec![] };
    Tunnels::new(&[vxlan, geneve]).unwrap()
}

fn read(packet: &[u8]) -> Result<Decapsulated, DropReason> {
    decapsulate(packet, &tunnels(), Offload::default())
}

/// Addresses, protocol and ports as etherparse reads them; nothing if it refuses them.
fn oracle(packet: &[u8]) -> Option<(IpAddr, IpAddr, Option<Transport>, u16, u16)> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match sliced.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let (transport, from, to) = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (Some(Transport::Tcp), tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (Some(Transport::Udp), udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => (Some(Transport::Icmp), 0, 0),
        Some(_) | None => (None, 0, 0),
    };
    Some((source, destination, transport, from, to))
}

/// Whatever the bytes are: ranges lie within them, and what is read is what etherparse reads if it reads it.
fn is_sane(packet: &[u8]) {
    for offload in [Offload::default(), Offload { needs_csum: true, gso_size: 0 }] {
        let Ok(Decapsulated { inner, .. }) = decapsulate(packet, &tunnels(), offload) else { continue };
        assert!(inner.start < inner.end && inner.end <= packet.len(), "{inner:?} of {}", packet.len());
        let outer = oracle(packet).map(|(_, _, transport, _, port)| (transport, port));
        let expected = |port| (Some(Transport::Udp), port);
        assert!(outer.is_none_or(|outer| [VXLAN_PORT, GENEVE_PORT].map(expected).contains(&outer)));
        headers_are_sane(&packet[inner]);
    }
}

fn headers_are_sane(bytes: &[u8]) {
    let (whole, cut) = (parse(bytes), parse_cut(bytes));
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => assert_eq!((whole, false), cut),
        (Err(DropReason::Truncated), Ok((_, is_cut))) => assert!(is_cut),
        (whole, cut) => assert_eq!(whole.err(), cut.err()),
    }
    let Ok((inner, is_cut)) = cut else { return };
    let Inner { source, destination, transport, source_port, destination_port, upper, length, .. } = inner;
    assert!(upper >= 20 && upper + 8 <= bytes.len().min(length), "{inner:?} of {}", bytes.len());
    assert_eq!(is_cut, length > bytes.len());
    if let Some(read) = bytes.get(..length).and_then(oracle) {
        assert_eq!(read, (source, destination, Some(transport), source_port, destination_port));
    }
}

proptest! {
    #[test]
    fn what_was_mirrored_comes_out(mirrored in mirrored()) {
        let (packet, carried) = mirrored.around(&mirrored.carried());
        let start = carried.start + mirrored.frame_header().len();
        let Mirrored { vni, ref inner, .. } = mirrored;
        let found = Decapsulated { kind: mirrored.kind(), vni, inner: start..carried.end };
        prop_assert_eq!(read(&packet), Ok(found));
        let bytes = &packet[start..carried.end];
        prop_assert_eq!(&bytes[..bytes.len() - mirrored.padding], &inner.bytes()[..]);
        prop_assert_eq!(parse(bytes), Ok(inner.expected()));
        prop_assert!(oracle(&bytes[..bytes.len() - mirrored.padding]).is_some(), "etherparse reads it");
        is_sane(&packet);
    }

    #[test]
    fn a_capture_that_is_cut_is_malformed(mirrored in mirrored()) {
        let (packet, carried) = mirrored.around(&mirrored.carried());
        for length in 0..carried.end {
            prop_assert_eq!(read(&packet[..length]), Err(DropReason::OuterMalformed), "{}", length);
        }
    }

    #[test]
    fn what_the_mirror_has_cut_is_told_from_what_is_wrong(mirrored in mirrored()) {
        let (whole, header) = (mirrored.carried(), mirrored.frame_header().len());
        let (inner, expected) = (mirrored.inner.bytes().len(), mirrored.inner.expected());
        for length in 0..whole.len() {
            let (packet, carried) = mirrored.around(&whole[..length]);
            let found = read(&packet);
            let Some(left) = length.checked_sub(header) else {
                prop_assert_eq!(found, Err(DropReason::FrameMalformed), "{}", length);
                continue;
            };
            if left == 0 {
                prop_assert_eq!(found, Err(DropReason::InnerMalformed));
                continue;
            }
            let found = found.map(|found| found.inner);
            prop_assert_eq!(found, Ok(carried.start + header..carried.end), "{}", length);
            let bytes = &packet[carried.start + header..carried.end];
            let (all, headers) = (left >= inner, left >= mirrored.inner.headers());
            prop_assert_eq!(parse(bytes), if all { Ok(expected) } else { Err(DropReason::Truncated) });
            let cut = if headers { Ok((expected, !all)) } else { Err(DropReason::Truncated) };
            prop_assert_eq!(parse_cut(bytes), cut, "{}", length);
        }
    }

    #[test]
    fn a_tunnel_header_that_is_cut_is_malformed(mirrored in mirrored()) {
        let header = mirrored.tunnel_header();
        for length in 0..header.len() {
            let (packet, _) = mirrored.datagram(&header[..length]);
            prop_assert_eq!(read(&packet), Err(DropReason::TunnelMalformed), "{}", length);
        }
    }

    #[test]
    fn spoilt_packets_are_sane(
        mirrored in mirrored(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..40),
    ) {
        // Flips add up, and so reach what one alone would not.
        let (mut packet, _) = mirrored.around(&mirrored.carried());
        let mut inner = mirrored.inner.bytes();
        for (at, bit) in spoilt {
            let index = at.index(packet.len());
            packet[index] ^= 1 << bit;
            is_sane(&packet);
            let index = at.index(inner.len());
            inner[index] ^= 1 << bit;
            headers_are_sane(&inner);
        }
    }

    #[test]
    fn any_bytes_are_sane(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = match version { 0 => 0x45, 1 => 0x60, _ => *first };
        }
        is_sane(&bytes);
        headers_are_sane(&bytes);
    }
}

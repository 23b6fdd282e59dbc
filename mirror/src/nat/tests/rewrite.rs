use super::*;
use crate::inner;
use crate::reason::DropReason;
use rtt0_core::wire::checksum::{add, pseudo_header};

/// Where the transport's checksum stands.
fn field(inner: &Inner) -> usize {
    inner.upper
        + match inner.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
            Transport::Icmp => 2,
        }
}

fn read(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn write(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Returns a − b in ones' complement, where 0 and 0xffff are the same.
fn less(a: u16, b: u16) -> u16 {
    let difference = add(a, !b);
    if difference == 0xffff { 0 } else { difference }
}

/// The definition: the same packet, built anew with the other ends and one hop less.
fn expected(sketch: &Sketch, rule: &Rule) -> Vec<u8> {
    let port = |target: Target, port| match sketch.transport {
        Transport::Icmp => 0,
        _ => target.1.unwrap_or(port),
    };
    let mut new = sketch.clone();
    new.destination = (rule.to.0, port(rule.to, sketch.destination.1));
    if let Some(from) = rule.from {
        new.source = (from.0, port(from, sketch.source.1));
    }
    new.hop_limit -= 1;
    new.bytes()
}

fn case() -> impl Strategy<Value = (Sketch, Rule)> {
    any::<bool>().prop_flat_map(|v4| {
        (sketch(v4), target(v4), prop::option::of(target(v4)))
            .prop_map(|(sketch, to, from)| (sketch, rule(to, from)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn comes_to_what_is_built_anew((sketch, rule) in case(), padding in 0usize..3) {
        let mut bytes = sketch.bytes();
        bytes.resize(bytes.len() + padding, 0xaa);
        let before = bytes.clone();
        let inner = inner::parse(&bytes).unwrap();
        match rewrite(&mut bytes, &inner, &rule, false) {
            Err(reason) => {
                prop_assert_eq!((reason, sketch.hop_limit <= 1), (DropReason::HopLimit, true));
                prop_assert_eq!(bytes, before);
            }
            Ok(()) => {
                prop_assert!(sketch.hop_limit > 1);
                let mut expected = expected(&sketch, &rule);
                expected.resize(bytes.len(), 0xaa);
                prop_assert_eq!(bytes, expected);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much((sketch, rule) in case(), error in 1u16..0xffff) {
        prop_assume!(sketch.hop_limit > 1);
        let (mut bytes, mut expected) = (sketch.bytes(), expected(&sketch, &rule));
        let inner = inner::parse(&bytes).unwrap();
        let at = field(&inner);
        let right = read(&bytes, at);
        let wrong = add(right, error);
        // A zero of UDP would mean that there is none.
        prop_assume!(sketch.transport != Transport::Udp || wrong != 0);
        write(&mut bytes, at, wrong);
        rewrite(&mut bytes, &inner, &rule, false).unwrap();
        prop_assert_eq!(less(read(&bytes, at), read(&expected, at)), less(wrong, right));
        prop_assert!(less(wrong, right) != 0);
        write(&mut expected, at, 0);
        write(&mut bytes, at, 0);
        prop_assert_eq!(bytes, expected, "nothing else differs");
    }

    #[test]
    fn a_partial_checksum_follows_the_addresses_alone((sketch, rule) in case()) {
        prop_assume!(sketch.hop_limit > 1);
        let pseudo = |bytes: &[u8]| {
            let inner = inner::parse(bytes).unwrap();
            let protocol = match (inner.transport, inner.source.is_ipv4()) {
                (Transport::Tcp, _) => 6,
                (Transport::Udp, _) => 17,
                (Transport::Icmp, true) => return 0,
                (Transport::Icmp, false) => 58,
            };
            pseudo_header(inner.source, inner.destination, protocol, inner.length - inner.upper)
        };
        let (mut bytes, mut expected) = (sketch.bytes(), expected(&sketch, &rule));
        let inner = inner::parse(&bytes).unwrap();
        let at = field(&inner);
        let (before, after) = (pseudo(&bytes), pseudo(&expected));
        write(&mut bytes, at, before);
        rewrite(&mut bytes, &inner, &rule, true).unwrap();
        prop_assert_eq!(less(read(&bytes, at), after), 0);
        write(&mut bytes, at, 0);
        write(&mut expected, at, 0);
        prop_assert_eq!(bytes, expected);
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), upper in 0usize..90, length in 0usize..90) {
        let v4 = ip("192.0.2.1");
        for transport in [Transport::Tcp, Transport::Udp, Transport::Icmp] {
            for address in [v4, ip("2001:db8::1")] {
                let (source, destination) = (address, address);
                let inner = Inner {
                    source, destination, transport, source_port: 1, destination_port: 2, upper, length, hop_limit: 9,
                };
                let before = bytes.clone();
                if rewrite(&mut bytes, &inner, &rule((v4, Some(1)), None), false).is_err() {
                    prop_assert_eq!(&bytes, &before);
                }
            }
        }
    }
}

fn plain(is_ipv4: bool) -> Sketch {
    let address = if is_ipv4 { ip("192.0.2.1") } else { ip("2001:db8::1") };
    let (source, destination) = ((address, 1000), (address, 2000));
    let payload = b"data".to_vec();
    Sketch { transport: Transport::Udp, source, destination, hop_limit: 64, payload, has_options: false }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    for (is_ipv4, to) in [(true, ip("198.51.100.9")), (false, ip("2001:db8::9"))] {
        let mut bytes = plain(is_ipv4).bytes();
        let inner = inner::parse(&bytes).unwrap();
        write(&mut bytes, field(&inner), 0);
        rewrite(&mut bytes, &inner, &rule((to, Some(8081)), None), false).unwrap();
        assert_eq!(read(&bytes, field(&inner)), 0);
        assert_eq!(inner::parse(&bytes).unwrap().destination_port, 8081);
    }
}

#[test]
fn a_udp_checksum_never_comes_to_zero() {
    // For every port some checksum is a word; among all of them one comes to zero.
    let mut seen = 0;
    for port in 1..=u16::MAX {
        let mut bytes = plain(true).bytes();
        let inner = inner::parse(&bytes).unwrap();
        rewrite(&mut bytes, &inner, &rule((ip("198.51.100.9"), Some(port)), None), false).unwrap();
        let value = read(&bytes, field(&inner));
        assert_ne!(value, 0, "{port}");
        seen += u32::from(value == 0xffff);
    }
    assert_eq!(seen, 1);
}

#[test]
fn a_source_routed_packet_is_left_alone() {
    let mut routed = plain(false);
    routed.has_options = true;
    let mut bytes = routed.bytes();
    bytes[6] = 43;
    bytes[42..44].copy_from_slice(&[4, 1]);
    let (inner, before) = (inner::parse(&bytes).unwrap(), bytes.clone());
    let result = rewrite(&mut bytes, &inner, &rule((ip("2001:db8::9"), None), None), false);
    assert_eq!((result, &bytes), (Err(DropReason::InnerMalformed), &before));
    bytes[43] = 0;
    let inner = inner::parse(&bytes).unwrap();
    assert_eq!(rewrite(&mut bytes, &inner, &rule((ip("2001:db8::9"), None), None), false), Ok(()));
}

#[test]
fn the_packet_quoted_in_an_icmp_error_stays() {
    let quoted = plain(true).bytes();
    let mut bytes = Vec::new();
    let unreachable =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    PacketBuilder::ipv4([203, 0, 113, 1], [192, 0, 2, 1], 64)
        .icmpv4(unreachable)
        .write(&mut bytes, &quoted)
        .unwrap();
    let inner = inner::parse(&bytes).unwrap();
    rewrite(&mut bytes, &inner, &rule((ip("198.51.100.9"), None), None), false).unwrap();
    assert_eq!(inner::parse(&bytes).unwrap().destination, ip("198.51.100.9"));
    assert_eq!(bytes[inner.upper + 8..], quoted);
}

//! Runs the generated programs in an interpreter written from the kernel's documentation
//! (Documentation/networking/filter.rst), against packets built by etherparse.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};

use super::*;

struct Frame {
    bytes: Vec<u8>,
    packet_type: u32,
    protocol: u32,
}

impl Frame {
    /// Takes an Ethernet frame to this host.
    fn ethernet(bytes: Vec<u8>) -> Self {
        let protocol = u32::from(u16::from_be_bytes([bytes[12], bytes[13]]));
        Self { bytes, packet_type: PACKET_HOST, protocol }
    }

    fn without_link_header(mut self) -> Self {
        self.bytes.drain(..14);
        self
    }
}

/// Interprets `program`; a load outside the packet ends it with 0, as in the kernel.
fn run(program: &Program, frame: &Frame) -> u32 {
    let read = |offset: u32, size: u32| -> Option<u32> {
        match offset {
            AD_PROTOCOL => return Some(frame.protocol),
            AD_PKTTYPE => return Some(frame.packet_type),
            _ => {}
        }
        let bytes = frame.bytes.get(offset as usize..(offset + size) as usize)?;
        Some(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    };
    let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
    loop {
        let instruction = program.instructions()[pc];
        let k = instruction.k;
        pc += 1;
        let (size, offset) = match instruction.code {
            LOAD_WORD => (4, k),
            LOAD_WORD_INDEXED => (4, k + x),
            LOAD_HALF => (2, k),
            LOAD_BYTE => (1, k),
            LOAD_HALF_INDEXED => (2, k + x),
            LOAD_BYTE_INDEXED => (1, k + x),
            LOAD_X_HEADER_LENGTH => (1, k),
            _ => (0, 0),
        };
        let loaded = match (size, read(offset, size)) {
            (0, _) => 0,
            (_, Some(value)) => value,
            (_, None) => return 0,
        };
        let mut branch = |taken: bool| pc += usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            LOAD_X_HEADER_LENGTH => x = 4 * (loaded & 0xf),
            LOAD_X => x = k,
            LOAD_LENGTH => a = frame.bytes.len() as u32,
            SUBTRACT_X => a = a.wrapping_sub(x),
            _ if size != 0 => a = loaded,
            AND => a &= k,
            JUMP_IF_EQUAL => branch(a == k),
            JUMP_IF_GREATER => branch(a > k),
            JUMP_IF_NOT_LESS => branch(a >= k),
            JUMP_IF_ANY_BIT => branch(a & k != 0),
            0x05 => pc += k as usize,
            RETURN => return k,
            code => panic!("the interpreter doesn't know opcode {code:#x}"),
        }
    }
}

fn services(rules: &[&str]) -> Services {
    Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new())
}

fn tcp4(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Frame {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source.0, destination.0, 64).tcp(
        source.1,
        destination.1,
        1,
        1000,
    );
    build(|bytes| builder.write(bytes, b"data").unwrap())
}

fn tcp6(source: (&str, u16), destination: (&str, u16)) -> Frame {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(octets(source.0), octets(destination.0), 64)
        .tcp(source.1, destination.1, 1, 1000);
    build(|bytes| builder.write(bytes, b"data").unwrap())
}

fn build(write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut bytes = Vec::new();
    write(&mut bytes);
    Frame::ethernet(bytes)
}

#[track_caller]
fn check(rules: &[&str], frame: Frame, accepted: bool) {
    let services = services(rules);
    let expected = if accepted { KEEP_ALL } else { 0 };
    assert_eq!(run(&Program::new(&services, 14).unwrap(), &frame), expected, "with a link header");
    let mut frame = frame.without_link_header();
    assert_eq!(run(&Program::new(&services, 0).unwrap(), &frame), expected, "without a link header");
    if frame.packet_type == PACKET_HOST {
        let of_sent = Program::of_sent(&services, 0).unwrap();
        assert_eq!(run(&of_sent, &frame), 0, "received, not sent");
        frame.packet_type = PACKET_OUTGOING;
        assert_eq!(run(&of_sent, &frame), expected, "sent");
    }
}

const V4: &[&str] = &["10.1.2.0/24:443", "10.1.3.7:8000-8010"];
const V6: &[&str] = &["[fd00:1:2::/64]:443", "[fd00:1:3::7]:8000-8010"];

#[test]
fn takes_tcp_from_and_to_a_service() {
    check(V4, tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 200], 443)), true);
    check(V4, tcp4(([10, 1, 2, 200], 443), ([10, 9, 9, 9], 50_000)), true);
    check(V6, tcp6(("fd09::1", 50_000), ("fd00:1:2::200", 443)), true);
    check(V6, tcp6(("fd00:1:2::200", 443), ("fd09::1", 50_000)), true);
}

#[test]
fn takes_exactly_the_port_range() {
    for (port, inside) in [(7999, false), (8000, true), (8005, true), (8010, true), (8011, false)] {
        check(V4, tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 3, 7], port)), inside);
        check(V6, tcp6(("fd00:1:3::7", port), ("fd09::1", 50_000)), inside);
    }
}

#[test]
fn refuses_other_prefixes_and_a_port_on_the_wrong_end() {
    check(V4, tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 4, 200], 443)), false);
    check(V4, tcp4(([10, 9, 9, 9], 443), ([10, 1, 2, 200], 50_000)), false);
    check(V6, tcp6(("fd09::1", 50_000), ("fd00:1:4::200", 443)), false);
    check(V6, tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 200], 443)), false);
    check(V4, tcp6(("fd09::1", 50_000), ("fd00:1:2::200", 443)), false);
}

#[test]
fn takes_every_address_for_an_empty_prefix() {
    check(&["0.0.0.0/0:443"], tcp4(([1, 2, 3, 4], 9), ([255, 0, 255, 0], 443)), true);
    check(&["[::/0]:443"], tcp6(("fd09::1", 9), ("2001:db8::1", 443)), true);
}

#[test]
fn follows_a_variable_header_length() {
    let options = etherparse::Ipv4Options::try_from(&[1u8; 12][..]).unwrap();
    let tcp = etherparse::TcpHeader::new(50_000, 443, 1, 1000);
    let mut ip =
        etherparse::Ipv4Header::new(20, 64, etherparse::IpNumber::TCP, [10, 9, 9, 9], [10, 1, 2, 3]).unwrap();
    ip.options = options;
    let frame = build(|bytes| {
        bytes.extend([2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 0]);
        ip.write(bytes).unwrap();
        tcp.write(bytes).unwrap();
    });
    check(V4, frame, true);
}

#[test]
fn refuses_later_fragments_but_takes_the_first() {
    for (flags, accepted) in [([0x20, 0x00], true), ([0x20, 0xb9], false), ([0x00, 0xb9], false)] {
        let mut frame = tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 3], 443));
        frame.bytes[20..22].copy_from_slice(&flags);
        check(V4, frame, accepted);
    }
}

#[test]
fn refuses_frames_to_others_and_other_protocols() {
    let mut frame = tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 3], 443));
    // PACKET_BROADCAST, _MULTICAST, _OTHERHOST, _OUTGOING
    for packet_type in 1..=4 {
        frame.packet_type = packet_type;
        check(V4, Frame { bytes: frame.bytes.clone(), ..frame }, false);
    }
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], [10, 1, 2, 3], 64).udp(50_000, 443);
    check(V4, build(|bytes| builder.write(bytes, b"data").unwrap()), false);
    let mut arp = tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 3], 443));
    arp.protocol = 0x0806;
    check(V4, arp, false);
}

#[test]
fn takes_the_icmp_errors_that_may_quote_a_translated_segment() {
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host);
    let exceeded = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
    for (kind, accepted) in [(unreachable, true), (exceeded, false)] {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([9; 4], [8; 4], 64).icmpv4(kind);
        check(V4, build(|bytes| builder.write(bytes, &[0; 28]).unwrap()), accepted);
    }
    let unreachable = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute);
    let too_big = Icmpv6Type::PacketTooBig { mtu: 1400 };
    let exceeded = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
    for (kind, accepted) in [(unreachable, true), (too_big, true), (exceeded, false)] {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([9; 16], [8; 16], 64).icmpv6(kind);
        check(V6, build(|bytes| builder.write(bytes, &[0; 48]).unwrap()), accepted);
    }
}

#[test]
fn takes_ipv6_with_extension_headers() {
    for (next_header, accepted) in [(0, true), (43, true), (44, true), (60, true), (51, false), (59, false)] {
        let mut frame = tcp6(("fd09::1", 1), ("fd0a::1", 2));
        frame.bytes[20] = next_header;
        check(V6, frame, accepted);
    }
}

#[test]
fn cut_frames_are_refused_at_every_length() {
    for whole in [
        tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 3], 443)),
        tcp6(("fd09::1", 50_000), ("fd00:1:2::200", 443)),
    ] {
        let ports_end = if whole.protocol == IPV4 { 14 + 24 } else { 14 + 44 };
        let rules: Vec<&str> = V4.iter().chain(V6).copied().collect();
        for length in 14..ports_end {
            check(&rules, Frame { bytes: whole.bytes[..length].to_vec(), ..whole }, false);
        }
    }
}

/// Whatever [`Services::direction`] claims must pass; the rules lie close together so that the
/// edges are hit often.
#[test]
fn accepts_whatever_the_services_claim() {
    let rules = services(&[
        "10.0.0.0/31:1-2",
        "10.0.0.4/30:3",
        "10.0.0.6:5-6",
        "[fd00::/127]:1-2",
        "[fd00::4/126]:3",
        "[fd00:0:0:1::/64]:4",
    ]);
    let program = Program::new(&rules, 14).unwrap();
    let mut claimed = 0;
    for low in 0..8u8 {
        for port in 0..8u16 {
            for (tail, far) in [(0u8, 0u8), (0, 1), (1, 0)] {
                let v4 = ([10, 0, tail, low], port);
                let v6 = (format!("fd00:0:0:{tail}::{low}"), port);
                let other4 = ([10, 0, far, 5], 3);
                let other6 = (format!("fd00:0:0:{far}::5"), 3);
                let cases = [
                    (v4.0.into(), other4.0.into(), tcp4(v4, other4)),
                    (
                        v6.0.parse().unwrap(),
                        other6.0.parse().unwrap(),
                        tcp6((v6.0.as_str(), port), (other6.0.as_str(), 3)),
                    ),
                ];
                for (source, destination, frame) in cases {
                    if rules.direction((source, port), (destination, 3)).is_some() {
                        claimed += 1;
                        assert_eq!(run(&program, &frame), KEEP_ALL, "{source}:{port} > {destination}:3");
                    }
                }
            }
        }
    }
    assert!(claimed > 50, "the sweep must hit services, and hit only {claimed}");
}

#[test]
fn many_rules_work_and_too_many_are_refused() {
    let rule = |index: u32| Service {
        prefix: rtt0_core::service::Prefix::new(IpAddr::from((0x0a00_0000 + index).to_be_bytes()), 32)
            .unwrap(),
        ports: 1..=2,
    };
    let many = Services::new((0..290).map(rule).collect(), Vec::new());
    let frame = tcp4(([9, 9, 9, 9], 50_000), ([10, 0, 1, 33], 2));
    assert_eq!(run(&Program::new(&many, 14).unwrap(), &frame), KEEP_ALL);

    let error = Program::new(&Services::new((0..400).map(rule).collect(), Vec::new()), 14).unwrap_err();
    assert!(error.to_string().starts_with("400 rules need"), "{error}");
}

/// Every truncation of SYNs and their kin, both directions: what is left out is what the bypass
/// includes, and nothing else changes.
#[test]
fn leaves_out_what_is_bypassed_and_nothing_else() {
    let rules = ["10.1.2.0/24:443", "[fd00:1:2::/64]:443"];
    let services = services(&rules);
    let frames = [
        tcp4(([10, 9, 9, 9], 50_000), ([10, 1, 2, 200], 443)),
        tcp4(([10, 1, 2, 200], 443), ([10, 9, 9, 9], 50_000)),
        tcp6(("fd09::1", 50_000), ("fd00:1:2::200", 443)),
        tcp6(("fd00:1:2::200", 443), ("fd09::1", 50_000)),
    ];
    let all: Vec<Frame> = frames.iter().flat_map(kin).collect();
    for (bypass, least) in [(Bypass::Nothing, 0), (Bypass::Syns, 100), (Bypass::Handshakes, 200)] {
        let program = Program::without(&services, 14, bypass).unwrap();
        let mut left_out = 0;
        for frame in &all {
            let included = bypass.includes(&services, &frame.bytes[14..]);
            if claim::claims(&services, &frame.bytes[14..]).is_some() {
                assert_eq!(run(&program, frame) == 0, included, "{bypass:?}: {:02x?}", frame.bytes);
            }
            left_out += usize::from(included);
        }
        assert!(left_out >= least, "only {left_out} left out by {bypass:?}");
    }
}

/// The segment with all flags, with and without options, cut at various lengths.
fn kin(frame: &Frame) -> Vec<Frame> {
    let signed = [253, 20, 0x5a, 0x52];
    let options = [(5, signed), (6, signed), (6, [2, 4, 5, 0xb4]), (10, signed), (4, [1; 4])];
    let tcp = if frame.protocol == IPV4 { 34 } else { 54 };
    let mut kin = Vec::new();
    for (flags, (words, options)) in (0..=0xff_u8).flat_map(|flags| options.map(|option| (flags, option))) {
        let mut bytes = frame.bytes[..tcp + 20].to_vec();
        bytes.extend(options);
        (bytes[tcp + 12], bytes[tcp + 13]) = (words << 4, flags);
        for length in [tcp + 13, tcp + 14, tcp + 20, tcp + 23, tcp + 24] {
            let mut bytes = bytes[..length].to_vec();
            let ip_length = (length - 14) as u16;
            if tcp == 34 {
                bytes[16..18].copy_from_slice(&ip_length.to_be_bytes());
            } else {
                bytes[18..20].copy_from_slice(&(ip_length - 40).to_be_bytes());
            }
            kin.push(Frame::ethernet(bytes));
        }
    }
    kin
}

fn udp(port: u16, is_v4: bool) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = if is_v4 {
        link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(50_000, port)
    } else {
        link.ipv6([1; 16], [2; 16], 64).udp(50_000, port)
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"tunnelled").unwrap();
    frame
}

#[test]
fn tunnels_are_taken_by_their_ports() {
    let program = Program::of_tunnels(&[4789, 6081], 14).unwrap();
    let bare = Program::of_tunnels(&[4789, 6081], 0).unwrap();
    let any = Program::of_tunnels(&[], 14).unwrap();
    for is_v4 in [true, false] {
        for (port, is_taken) in [(4789, true), (6081, true), (4788, false), (53, false)] {
            let frame = Frame::ethernet(udp(port, is_v4));
            assert_eq!(run(&program, &frame) != 0, is_taken, "{port}, IPv4 {is_v4}");
            assert_ne!(run(&any, &frame), 0);
            assert_eq!(run(&bare, &frame.without_link_header()) != 0, is_taken);
            let elsewhere = Frame { packet_type: PACKET_OUTGOING, ..Frame::ethernet(udp(port, is_v4)) };
            assert_eq!((run(&program, &elsewhere), run(&any, &elsewhere)), (0, 0));
        }
    }
    // TCP at such a port is no tunnel, and a fragment of UDP may be one.
    let mut frame = udp(4789, true);
    frame[14 + 9] = 6;
    assert_eq!(run(&program, &Frame::ethernet(frame)), 0);
    let mut fragment = udp(53, true);
    fragment[14 + 7] = 1;
    assert_ne!(run(&program, &Frame::ethernet(fragment)), 0);
    let mut extended = udp(53, false);
    extended[14 + 6] = 0;
    assert_ne!(run(&program, &Frame::ethernet(extended)), 0);
    assert!(Program::of_tunnels(&(1..=3000).collect::<Vec<_>>(), 14).is_err());
}

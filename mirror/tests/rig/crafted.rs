//! Tunnelled packets, made by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};

/// The mirrored port of the field.
pub const FIELD_PORT: u16 = 31_765;
/// Where mirrored packets were addressed to before they were mirrored.
pub const ORIGINAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The same over IPv6.
pub const ORIGINAL_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

type Step = PacketBuilderStep<etherparse::IpHeaders>;

fn from(source: IpAddr) -> Step {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    match source {
        IpAddr::V4(source) => link.ipv4(source.octets(), ORIGINAL.octets(), 64),
        IpAddr::V6(source) => link.ipv6(source.octets(), ORIGINAL_6.octets(), 64),
    }
}

/// An Ethernet frame with UDP from `source` to `port`.
pub fn udp(source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from(source).udp(40_000, port).write(&mut frame, payload).unwrap();
    frame
}

/// An Ethernet frame with a VLAN tag, and UDP as [`udp`].
pub fn tagged_udp(source: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .single_vlan(VlanId::try_new(7).unwrap())
        .ipv4(source, ORIGINAL.octets(), 64)
        .udp(40_000, port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An Ethernet frame with a TCP segment of an established connection.
pub fn tcp(source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from(source).tcp(40_000, port, 1_000, 500).ack(77).psh().write(&mut frame, payload).unwrap();
    frame
}

/// An Ethernet frame with a SYN from port `source_port`.
pub fn syn(source: IpAddr, source_port: u16, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    from(source).tcp(source_port, port, 1_000, 64_000).syn().write(&mut frame, &[]).unwrap();
    frame
}

/// An Ethernet frame with an echo request.
pub fn ping(source: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    match source {
        IpAddr::V4(_) => from(source).icmpv4_echo_request(7, 1).write(&mut frame, payload).unwrap(),
        IpAddr::V6(_) => from(source).icmpv6_echo_request(7, 1).write(&mut frame, payload).unwrap(),
    }
    frame
}

/// Puts a frame behind a VXLAN header (RFC 7348 §5).
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[0x08, 0, 0, 0, a, b, c, 0], frame].concat()
}

/// Puts a frame behind a GENEVE header with `options`, whole words (RFC 8926 §3.4).
pub fn geneve(vni: u32, options: &[u8], frame: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let [_, a, b, c] = vni.to_be_bytes();
    let words = (options.len() / 4) as u8;
    // 0x6558: Ethernet follows.
    [&[words, 0, 0x65, 0x58, a, b, c, 0], options, frame].concat()
}

/// Returns a frame's bytes from the IP header on, in octets as the rules count them.
pub fn ip_length(frame: &[u8]) -> u64 {
    frame.len() as u64 - 14
}

/// Tells whether all checksums of an IP packet are right, by adding everything up once more (RFC 1071).
pub fn checksums_hold(packet: &[u8]) -> bool {
    let (header, pseudo, protocol) = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let header = usize::from(packet[0] & 15) * 4;
            if sum(&packet[..header]) != 0xffff {
                return false;
            }
            (header, packet[12..20].to_vec(), packet[9])
        }
        Some(6) => (40, packet[8..40].to_vec(), packet[6]),
        _ => return false,
    };
    let upper = &packet[header..];
    let length = (upper.len() as u32).to_be_bytes();
    let pseudo = [&pseudo[..], &length, &[0, 0, 0, protocol]].concat();
    match protocol {
        1 => sum(upper) == 0xffff,
        17 if upper[6..8] == [0, 0] => true,
        6 | 17 | 58 => sum(&[&pseudo[..], upper].concat()) == 0xffff,
        _ => false,
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

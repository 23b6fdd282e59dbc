mod replies;
mod rewrite;
mod rules;

use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;
use rtt0_core::wire::ipv4::Ipv4;

/// What a packet is built of, from nothing and by another's code.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    pub(super) transport: Transport,
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    pub(super) hop_limit: u8,
    pub(super) payload: Vec<u8>,
    /// IPv4 options or an extension header.
    pub(super) has_options: bool,
}

impl Sketch {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (sp, dp, payload) = (self.source.1, self.destination.1, &self.payload);
        let mut bytes = Vec::new();
        let written = match (self.source.0, self.destination.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let ip = PacketBuilder::ipv4(s.octets(), d.octets(), self.hop_limit);
                match self.transport {
                    Transport::Tcp => ip.tcp(sp, dp, 7, 9).ack(3).write(&mut bytes, payload),
                    Transport::Udp => ip.udp(sp, dp).write(&mut bytes, payload),
                    Transport::Icmp => ip.icmpv4_echo_request(5, 6).write(&mut bytes, payload),
                }
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let ip = PacketBuilder::ipv6(s.octets(), d.octets(), self.hop_limit);
                match self.transport {
                    Transport::Tcp => ip.tcp(sp, dp, 7, 9).ack(3).write(&mut bytes, payload),
                    Transport::Udp => ip.udp(sp, dp).write(&mut bytes, payload),
                    Transport::Icmp => ip.icmpv6_echo_request(5, 6).write(&mut bytes, payload),
                }
            }
            _ => panic!("two IP versions"),
        };
        written.unwrap();
        if self.has_options { with_options(bytes) } else { bytes }
    }
}

/// Puts eight bytes that no checksum of the transport covers behind the IP header.
fn with_options(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        bytes.splice(20..20, [1; 8]);
        bytes[0] += 2;
        let length = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let mut view = Ipv4::unverified(bytes.as_mut_slice()).unwrap();
        view.fill_checksum();
    } else {
        let next = std::mem::replace(&mut bytes[6], 60);
        bytes.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
        let length = bytes.len() as u16 - 40;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

/// Addresses of one version, few enough that prefixes and flows meet, and now and then any.
pub(super) fn address(is_ipv4: bool) -> BoxedStrategy<IpAddr> {
    let few4 = (0u8..4).prop_map(|n| IpAddr::from([192, 0, 2, n]));
    let few6 = (0u16..4).prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]));
    match is_ipv4 {
        true => prop_oneof![4 => few4, 1 => any::<[u8; 4]>().prop_map(IpAddr::from)].boxed(),
        false => prop_oneof![4 => few6, 1 => any::<[u8; 16]>().prop_map(IpAddr::from)].boxed(),
    }
}

pub(super) fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), Just(Transport::Icmp)]
}

pub(super) fn port() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..5, Just(u16::MAX), 1u16..]
}

pub(super) fn target(is_ipv4: bool) -> impl Strategy<Value = Target> {
    (address(is_ipv4), prop::option::of(port()))
}

pub(super) fn sketch(is_ipv4: bool) -> impl Strategy<Value = Sketch> {
    let ends = (address(is_ipv4), port(), address(is_ipv4), port());
    // Empty, odd and even lengths, and words that sum to all ones.
    let payload =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(Just(0xff), 0..9)];
    (transport(), ends, any::<u8>(), payload, any::<bool>()).prop_map(
        |(transport, (sa, sp, da, dp), hop_limit, payload, has_options)| {
            let port = |port| if transport == Transport::Icmp { 0 } else { port };
            let (source, destination) = ((sa, port(sp)), (da, port(dp)));
            Sketch { transport, source, destination, hop_limit, payload, has_options }
        },
    )
}

/// A rule that is for everything of the version of `to`.
pub(super) fn rule(to: Target, from: Option<Target>) -> Rule {
    Rule { name: "rule".into(), matching: Matching::default(), to, from, replies: false }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

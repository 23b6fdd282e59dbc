//! Mirrored packets, drawn at random and written by etherparse, but for the headers it has not: VXLAN and GENEVE.

use etherparse::{
    EtherType, Ethernet2Header, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, SingleVlanHeader, TcpHeader, VlanId, VlanPcp,
};
use mirror::inner::{Inner, Transport};
use mirror::tunnel::Kind;
use proptest::prelude::*;
use std::net::IpAddr;
use std::ops::Range;

/// Ports at which tunnels are expected.
pub(crate) const VXLAN_PORT: u16 = 4789;
pub(crate) const GENEVE_PORT: u16 = 6081;

/// A tunnel's header.
#[derive(Debug, Clone)]
pub(crate) enum Tunnel {
    /// With bits that are ignored.
    Vxlan { reserved: [u8; 5] },
    /// With options (class, type, words of data), and whether it carries frames.
    Geneve { reserved: [u8; 2], options: Vec<(u16, u8, u8)>, frames: bool },
}

/// An IP header with a header behind it or options, or without.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    pub(crate) addresses: [[u8; 16]; 2],
    pub(crate) is_v6: bool,
    pub(crate) more: bool,
    pub(crate) hop_limit: u8,
}

/// The inner packet.
#[derive(Debug, Clone)]
pub(crate) struct Innermost {
    pub(crate) ip: Ip,
    pub(crate) transport: Transport,
    pub(crate) ports: (u16, u16),
    /// Words of TCP options.
    pub(crate) options: usize,
    pub(crate) payload: Vec<u8>,
}

/// A mirrored packet.
#[derive(Debug, Clone)]
pub(crate) struct Mirrored {
    pub(crate) outer: Ip,
    pub(crate) has_checksum: bool,
    pub(crate) tunnel: Tunnel,
    pub(crate) vni: u32,
    /// VLAN tags: whether each is of 802.1ad.
    pub(crate) tags: Vec<bool>,
    pub(crate) inner: Innermost,
    /// Bytes behind the inner packet, as in a short frame.
    pub(crate) padding: usize,
    /// Bytes behind the outer packet.
    pub(crate) link_padding: usize,
}

impl Ip {
    fn headers(&self, protocol: IpNumber) -> IpHeaders {
        let [source, destination] = self.addresses;
        if self.is_v6 {
            let mut extensions = Ipv6Extensions::default();
            if self.more {
                let raw = |length| Ipv6RawExtHeader::new_raw(protocol, &vec![0; length]).unwrap();
                extensions.hop_by_hop_options = Some(raw(6));
                extensions.destination_options = Some(raw(22));
            }
            let next_header = extensions.set_next_headers(protocol);
            let hop_limit = self.hop_limit;
            let ip = Ipv6Header { hop_limit, source, destination, next_header, ..Default::default() };
            return IpHeaders::Ipv6(ip, extensions);
        }
        let [source, destination] = self.addresses.map(first_four);
        let mut ip = Ipv4Header::new(0, self.hop_limit, protocol, source, destination).unwrap();
        if self.more {
            ip.options = [1u8; 12].into();
        }
        IpHeaders::Ipv4(ip, Ipv4Extensions::default())
    }

    fn length(&self) -> usize {
        match (self.is_v6, self.more) {
            (false, false) => 20,
            (false, true) => 32,
            (true, false) => 40,
            (true, true) => 40 + 8 + 24,
        }
    }

    fn ends(&self) -> [IpAddr; 2] {
        self.addresses.map(|a| if self.is_v6 { a.into() } else { first_four(a).into() })
    }
}

fn first_four(address: [u8; 16]) -> [u8; 4] {
    [address[0], address[1], address[2], address[3]]
}

impl Innermost {
    /// The packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (mut bytes, (source, destination)) = (Vec::new(), self.ports);
        match (self.transport, self.ip.is_v6) {
            (Transport::Tcp, _) => {
                let mut tcp = TcpHeader::new(source, destination, 1, 2);
                tcp.set_options_raw(&vec![1; self.options * 4]).unwrap();
                let builder = PacketBuilder::ip(self.ip.headers(IpNumber::TCP)).tcp_header(tcp);
                builder.write(&mut bytes, &self.payload)
            }
            (Transport::Udp, _) => {
                let builder = PacketBuilder::ip(self.ip.headers(IpNumber::UDP)).udp(source, destination);
                builder.write(&mut bytes, &self.payload)
            }
            (Transport::Icmp, false) => {
                let builder = PacketBuilder::ip(self.ip.headers(IpNumber::ICMP));
                builder.icmpv4_echo_request(source, destination).write(&mut bytes, &self.payload)
            }
            (Transport::Icmp, true) => {
                let builder = PacketBuilder::ip(self.ip.headers(IpNumber::IPV6_ICMP));
                builder.icmpv6_echo_request(source, destination).write(&mut bytes, &self.payload)
            }
        }
        .unwrap();
        bytes
    }

    /// The length of its headers in bytes.
    pub(crate) fn headers(&self) -> usize {
        self.ip.length() + if self.transport == Transport::Tcp { 20 + self.options * 4 } else { 8 }
    }

    /// What is to be read of it.
    pub(crate) fn expected(&self) -> Inner {
        let [source, destination] = self.ip.ends();
        let (source_port, destination_port) =
            if self.transport == Transport::Icmp { (0, 0) } else { self.ports };
        Inner {
            source,
            destination,
            transport: self.transport,
            source_port,
            destination_port,
            upper: self.ip.length(),
            length: self.headers() + self.payload.len(),
            hop_limit: self.ip.hop_limit,
        }
    }
}

impl Mirrored {
    pub(crate) fn kind(&self) -> Kind {
        match self.tunnel {
            Tunnel::Vxlan { .. } => Kind::Vxlan,
            Tunnel::Geneve { .. } => Kind::Geneve,
        }
    }

    fn has_frames(&self) -> bool {
        matches!(self.tunnel, Tunnel::Vxlan { .. } | Tunnel::Geneve { frames: true, .. })
    }

    /// The Ethernet header with its tags; nothing if the tunnel carries IP.
    pub(crate) fn frame_header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.has_frames() {
            return bytes;
        }
        let kind = |service: &bool| if *service { EtherType(0x88a8) } else { EtherType(0x8100) };
        let mut kinds: Vec<_> = self.tags.iter().map(kind).collect();
        kinds.push(if self.inner.ip.is_v6 { EtherType::IPV6 } else { EtherType::IPV4 });
        let (source, destination) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        Ethernet2Header { source, destination, ether_type: kinds[0] }.write(&mut bytes).unwrap();
        for ether_type in &kinds[1..] {
            let tag = SingleVlanHeader {
                pcp: VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(77).unwrap(),
                ether_type: *ether_type,
            };
            tag.write(&mut bytes).unwrap();
        }
        bytes
    }

    /// The tunnel's header with its options.
    pub(crate) fn tunnel_header(&self) -> Vec<u8> {
        let [_, v0, v1, v2] = self.vni.to_be_bytes();
        match &self.tunnel {
            Tunnel::Vxlan { reserved: [flags, a, b, c, d] } => vec![flags | 8, *a, *b, *c, v0, v1, v2, *d],
            Tunnel::Geneve { reserved: [a, b], options, frames } => {
                let mut list = Vec::new();
                for (class, kind, words) in options {
                    list.extend(class.to_be_bytes());
                    list.extend([*kind, a & 0xe0 | words]);
                    list.extend(vec![0xff; usize::from(*words) * 4]);
                }
                let protocol: u16 = match (frames, self.inner.ip.is_v6) {
                    (true, _) => 0x6558,
                    (false, false) => 0x0800,
                    (false, true) => 0x86dd,
                };
                let [p0, p1] = protocol.to_be_bytes();
                let mut bytes = vec![(list.len() / 4) as u8, a & 0x3f, p0, p1, v0, v1, v2, *b];
                bytes.append(&mut list);
                bytes
            }
        }
    }

    /// The outer packet around what the mirror has left of the frame or packet, and where that lies within it.
    pub(crate) fn around(&self, carried: &[u8]) -> (Vec<u8>, Range<usize>) {
        let (bytes, payload) = self.datagram(&[&self.tunnel_header(), carried].concat());
        (bytes, payload.end - carried.len()..payload.end)
    }

    /// The outer packet around this payload of UDP, and where that lies within it.
    pub(crate) fn datagram(&self, payload: &[u8]) -> (Vec<u8>, Range<usize>) {
        let mut bytes = Vec::new();
        let port = if self.kind() == Kind::Vxlan { VXLAN_PORT } else { GENEVE_PORT };
        let builder = PacketBuilder::ip(self.outer.headers(IpNumber::UDP)).udp(40_000, port);
        builder.write(&mut bytes, payload).unwrap();
        if !self.has_checksum {
            let at = self.outer.length() + 6;
            bytes[at..at + 2].fill(0);
        }
        let end = bytes.len();
        bytes.resize(end + self.link_padding, 0xaa);
        (bytes, end - payload.len()..end)
    }

    /// The frame or packet that the mirror saw.
    pub(crate) fn carried(&self) -> Vec<u8> {
        [self.frame_header(), self.inner.bytes(), vec![0; self.padding]].concat()
    }
}

fn ip() -> impl Strategy<Value = Ip> {
    (any::<[[u8; 16]; 2]>(), any::<bool>(), any::<bool>(), any::<u8>())
        .prop_map(|(addresses, is_v6, more, hop_limit)| Ip { addresses, is_v6, more, hop_limit })
}

fn innermost() -> impl Strategy<Value = Innermost> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), Just(Transport::Icmp)];
    let payload = prop::collection::vec(any::<u8>(), 0..60);
    (ip(), transport, any::<(u16, u16)>(), 0usize..=10, payload).prop_map(
        |(ip, transport, ports, options, payload)| Innermost { ip, transport, ports, options, payload },
    )
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let option = (any::<u16>(), 0u8..0x80, 0u8..9);
    let options = prop::collection::vec(option, 0..=7);
    prop_oneof![
        any::<[u8; 5]>().prop_map(|reserved| Tunnel::Vxlan { reserved }),
        (any::<[u8; 2]>(), options, any::<bool>()).prop_map(|(reserved, options, frames)| Tunnel::Geneve {
            reserved,
            options,
            frames
        }),
    ]
}

pub(crate) fn mirrored() -> impl Strategy<Value = Mirrored> {
    let headers = (ip(), any::<bool>(), tunnel(), 0u32..1 << 24);
    let rest = (prop::collection::vec(any::<bool>(), 0..=2), innermost(), 0usize..20, 0usize..20);
    (headers, rest).prop_map(|(headers, rest)| {
        let (outer, has_checksum, tunnel, vni) = headers;
        let (tags, inner, padding, link_padding) = rest;
        Mirrored { outer, has_checksum, tunnel, vni, tags, inner, padding, link_padding }
    })
}

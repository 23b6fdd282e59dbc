//! The guard's rules as data: made once from the services, then written as netlink
//! expressions or as `nft` text, so that what is printed is what is installed.

use std::net::IpAddr;

use rtt0_core::service::{Prefix, Service, Services};
use rtt0_core::{claim, offer};

use crate::emit;

/// Where a payload field's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Network,
    Transport,
}

/// A field of the packet, at most 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) base: Base,
    /// In bytes.
    pub(crate) offset: u8,
    /// In bytes.
    pub(crate) length: u8,
    /// What `nft` calls it, if it has a name.
    pub(crate) name: Option<&'static str>,
}

/// What the kernel knows of a packet besides its bytes. Values are in the byte order that the
/// kernel keeps them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    /// The frame is addressed to this host.
    PacketTypeHost,
    /// The EtherType.
    Protocol(u16),
    /// The IP protocol, after any IPv6 extension headers.
    TransportProtocol(u8),
    /// `SO_MARK`.
    Mark(u32),
    /// The name of the device that it arrived on begins like this.
    InputPrefix(&'static str),
    /// It leaves by another device than the one of this index.
    LeavesElsewhere(u32),
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    Meta(Meta),
    /// The address in `field` lies within the prefix.
    Within(Field, Prefix),
    /// `field` holds this address.
    Is(Field, IpAddr),
    /// The big-endian number in `field` lies in the range.
    Between(Field, u16, u16),
    /// `field & mask == value`, bytes.
    Masked(Field, &'static [u8], &'static [u8]),
    /// The bytes of `field` are not these.
    Differs(Field, &'static [u8]),
    /// The packet reaches as far as the end of `field`: a load beyond the end never matches.
    Present(Field),
    /// The IPv6 packet has no fragment header.
    NoFragmentHeader,
}

/// What a rule does when all its conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    /// Count, then accept.
    CountedAccept,
    /// Count, then drop.
    CountedDrop,
    /// Go through another chain, and on here unless that decides.
    Jump(&'static str),
    /// Go on in another chain, never to return.
    Goto(&'static str),
    /// Keep connection tracking away.
    Notrack,
    /// Give it this mark, and go on with the next rule.
    SetMark(u32),
}

/// The chains that let unsigned SYNs and SYN-ACKs through while the kernel is to forward them; else
/// they are empty.
pub(super) const BYPASS: [&str; 2] = ["bypass_syn", "bypass_syn_ack"];

/// What is in these chains then: what [`claim::Bypass::includes`] says. The first rule knows the
/// segment without options, since a load behind the end of a packet matches nothing.
pub(super) fn bypass() -> [[Rule; 2]; 2] {
    [unsigned(&[0x50, claim::SYN]), unsigned(&[0x50, claim::SYN_ACK])]
}

fn unsigned(length_and_flags: &'static [u8; 2]) -> [Rule; 2] {
    const KIN: &[u8] = &[0xf0, claim::SYN_AND_KIN];
    let rule = |matches| Rule { matches, action: Action::CountedAccept };
    [
        rule(vec![Match::Masked(transport(12, 2), KIN, length_and_flags)]),
        rule(vec![
            Match::Masked(transport(13, 1), &KIN[1..], &length_and_flags[1..]),
            Match::Differs(transport(20, 4), &offer::PREFIX),
        ]),
    ]
}

/// One rule: conditions, all of which must hold, and an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
}

/// A chain without a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) rules: Vec<Rule>,
}

/// The whole guard of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// In an order in which every chain stands before those that go to it.
    pub(super) chains: Vec<Chain>,
    /// The rules of each ingress hook.
    pub(super) ingress: Vec<Rule>,
    /// The rules of the output hook.
    pub(super) output: Vec<Rule>,
    /// The rules of the prerouting hook.
    pub(super) prerouting: Vec<Rule>,
}

impl Ruleset {
    pub(super) fn new(services: &Services, mark: u32, is_offloaded: bool) -> Self {
        let mut chains = BYPASS.map(|name| Chain { name, rules: Vec::new() }).to_vec();
        let mut ingress = Vec::new();
        for version in [&V4, &V6] {
            if services.rules().iter().any(|service| version.owns(service.prefix.address())) {
                version.push_chains(services, &mut chains);
                ingress.push(Rule {
                    matches: vec![
                        Match::Meta(Meta::PacketTypeHost),
                        Match::Meta(Meta::Protocol(version.ether_type)),
                    ],
                    action: Action::Goto(version.entry),
                });
            }
        }
        let output = vec![Rule { matches: vec![Match::Meta(Meta::Mark(mark))], action: Action::Notrack }];
        // What is emitted through a device of ours is routed and tracked as what leaves by a socket.
        let emitted =
            |action| Rule { matches: vec![Match::Meta(Meta::InputPrefix(emit::DEVICE_PREFIX))], action };
        // So is what the kernel's program has rewritten; the guard lets it go on.
        let marked = |action| Rule { matches: vec![Match::Meta(Meta::Mark(mark))], action };
        let prerouting = vec![emitted(Action::SetMark(mark)), marked(Action::Notrack)];
        if is_offloaded {
            ingress.insert(0, marked(Action::Accept));
        }
        Self { chains, ingress, output, prerouting }
    }
}

const fn network(offset: u8, length: u8, name: &'static str) -> Field {
    Field { base: Base::Network, offset, length, name: Some(name) }
}

const fn transport(offset: u8, length: u8) -> Field {
    Field { base: Base::Transport, offset, length, name: None }
}

/// The fields that name a flow: of the packet itself or of the one an ICMP error quotes.
struct FlowFields {
    source: Field,
    destination: Field,
    source_port: Field,
    destination_port: Field,
}

/// Chain names of one flow judgement: entry, destination served, source served.
struct Names {
    entry: &'static str,
    to_service: &'static str,
    from_service: &'static str,
}

/// A field, a mask and the value that the masked field must have.
type Bytes = (Field, &'static [u8], &'static [u8]);

/// What differs between the IP versions.
pub(super) struct Version {
    pub(super) ether_type: u16,
    entry: &'static str,
    icmp_protocol: u8,
    icmp_types: &'static [&'static [u8]],
    /// What keeps out fragments whose transport header is not where nf_tables looks for it.
    pub(super) whole: Match,
    /// The TCP header is where the capture's filter finds it.
    next_is_tcp: Match,
    tcp: FlowFields,
    quoted: FlowFields,
    /// Fixed bytes of the quoted packet.
    quote: &'static [Bytes],
    /// The sequence number of the quoted segment.
    quoted_sequence: Field,
    tcp_names: Names,
    icmp_names: Names,
}

const TCP: u8 = 6;
const TCP_SOURCE_PORT: Field = Field { base: Base::Transport, offset: 0, length: 2, name: Some("tcp sport") };
const TCP_DESTINATION_PORT: Field =
    Field { base: Base::Transport, offset: 2, length: 2, name: Some("tcp dport") };
/// The last field of the fixed TCP header: if it is there, all of it is (RFC 9293 §3.1).
const TCP_URGENT_POINTER: Field =
    Field { base: Base::Transport, offset: 18, length: 2, name: Some("tcp urgptr") };
/// Where the quoted packet begins behind the ICMP header (RFC 792, RFC 4443).
const QUOTE: u8 = 8;

pub(super) static V4: Version = Version {
    ether_type: 0x0800,
    entry: "ipv4",
    icmp_protocol: 1,
    icmp_types: &[&[3]],
    // nf_tables loads transport fields of later fragments as well (seen on 6.18).
    whole: Match::Masked(network(6, 2, "ip frag-off"), &[0x1f, 0xff], &[0, 0]),
    next_is_tcp: Match::Masked(network(9, 1, "ip protocol"), &[0xff], &[TCP]),
    tcp: FlowFields {
        source: network(12, 4, "ip saddr"),
        destination: network(16, 4, "ip daddr"),
        source_port: TCP_SOURCE_PORT,
        destination_port: TCP_DESTINATION_PORT,
    },
    quoted: FlowFields {
        source: transport(QUOTE + 12, 4),
        destination: transport(QUOTE + 16, 4),
        source_port: transport(QUOTE + 20, 2),
        destination_port: transport(QUOTE + 22, 2),
    },
    quote: &[
        (transport(QUOTE, 1), &[0xff], &[0x45]),
        (transport(QUOTE + 6, 2), &[0x1f, 0xff], &[0, 0]),
        (transport(QUOTE + 9, 1), &[0xff], &[TCP]),
    ],
    quoted_sequence: transport(QUOTE + 24, 4),
    tcp_names: Names { entry: "tcp4", to_service: "tcp4_to_service", from_service: "tcp4_from_service" },
    icmp_names: Names { entry: "icmp4", to_service: "icmp4_to_service", from_service: "icmp4_from_service" },
};

pub(super) static V6: Version = Version {
    ether_type: 0x86dd,
    entry: "ipv6",
    icmp_protocol: 58,
    icmp_types: &[&[1], &[2]],
    // Of a later fragment nf_tables takes the IPv6 header for the transport header (6.18).
    whole: Match::NoFragmentHeader,
    next_is_tcp: Match::Masked(network(6, 1, "ip6 nexthdr"), &[0xff], &[TCP]),
    tcp: FlowFields {
        source: network(8, 16, "ip6 saddr"),
        destination: network(24, 16, "ip6 daddr"),
        source_port: TCP_SOURCE_PORT,
        destination_port: TCP_DESTINATION_PORT,
    },
    quoted: FlowFields {
        source: transport(QUOTE + 8, 16),
        destination: transport(QUOTE + 24, 16),
        source_port: transport(QUOTE + 40, 2),
        destination_port: transport(QUOTE + 42, 2),
    },
    quote: &[(transport(QUOTE, 1), &[0xf0], &[0x60]), (transport(QUOTE + 6, 1), &[0xff], &[TCP])],
    quoted_sequence: transport(QUOTE + 44, 4),
    tcp_names: Names { entry: "tcp6", to_service: "tcp6_to_service", from_service: "tcp6_from_service" },
    icmp_names: Names { entry: "icmp6", to_service: "icmp6_to_service", from_service: "icmp6_from_service" },
};

impl Version {
    fn owns(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.ether_type == V4.ether_type)
    }

    fn push_chains(&self, services: &Services, chains: &mut Vec<Chain>) {
        self.push_judgement(services, &self.tcp, &self.tcp_names, Vec::new(), chains);
        // An error addressed to this host is for its own sockets.
        let to_us = self.accept_local(services, self.tcp.destination);
        self.push_judgement(services, &self.quoted, &self.icmp_names, to_us, chains);

        let whole = |protocol| vec![Match::Meta(Meta::TransportProtocol(protocol)), self.whole.clone()];
        let mut matches = whole(TCP);
        matches.push(Match::Present(TCP_URGENT_POINTER));
        let mut rules = vec![Rule { matches, action: Action::Goto(self.tcp_names.entry) }];
        for kind in self.icmp_types {
            let mut matches = whole(self.icmp_protocol);
            matches.push(Match::Masked(transport(0, 1), &[0xff], kind));
            matches.extend(self.quote.iter().map(|(field, mask, value)| Match::Masked(*field, mask, value)));
            matches.push(Match::Present(self.quoted_sequence));
            rules.push(Rule { matches, action: Action::Goto(self.icmp_names.entry) });
        }
        chains.push(Chain { name: self.entry, rules });
    }

    /// Pushes the three chains that say of a flow what `Services::direction` says of it.
    fn push_judgement(
        &self,
        services: &Services,
        flow: &FlowFields,
        names: &Names,
        first: Vec<Rule>,
        chains: &mut Vec<Chain>,
    ) {
        let mut local = self.accept_local(services, flow.source);
        local.extend(self.accept_local(services, flow.destination));
        let drop = || Rule { matches: Vec::new(), action: Action::CountedDrop };
        let source_served = |action| self.served(services, flow.source, flow.source_port, action);

        let mut from_service = local.clone();
        let mut to_service = local;
        // Both ends are services: nobody can tell who the client is.
        to_service.extend(source_served(Action::Accept));
        if names.entry == self.tcp_names.entry {
            let jump = |chain| Rule { matches: vec![self.next_is_tcp.clone()], action: Action::Jump(chain) };
            to_service.push(jump(BYPASS[0]));
            from_service.push(jump(BYPASS[1]));
        }
        from_service.push(drop());
        to_service.push(drop());

        let mut entry = first;
        entry.extend(self.served(
            services,
            flow.destination,
            flow.destination_port,
            Action::Goto(names.to_service),
        ));
        entry.extend(source_served(Action::Goto(names.from_service)));

        chains.push(Chain { name: names.to_service, rules: to_service });
        chains.push(Chain { name: names.from_service, rules: from_service });
        chains.push(Chain { name: names.entry, rules: entry });
    }

    /// Makes one rule per service of this IP version.
    fn served(&self, services: &Services, address: Field, port: Field, action: Action) -> Vec<Rule> {
        let own = services.rules().iter().filter(|service| self.owns(service.prefix.address()));
        own.map(|Service { prefix, ports }| Rule {
            matches: vec![
                Match::Within(address, *prefix),
                Match::Between(port, *ports.start(), *ports.end()),
            ],
            action: action.clone(),
        })
        .collect()
    }

    /// Makes one rule per address of the NIC host itself.
    fn accept_local(&self, services: &Services, field: Field) -> Vec<Rule> {
        let own = services.local().iter().filter(|address| self.owns(**address));
        own.filter_map(|address| Prefix::new(*address, 8 * field.length))
            .map(|host| Rule { matches: vec![Match::Within(field, host)], action: Action::Accept })
            .collect()
    }
}

//! From IP version, transport and destination port to the few rules that may match.

use super::{Rule, RuleId};
use crate::inner::{Inner, Transport};

/// The rules by IP version and transport: one table of ports for each.
#[derive(Debug, Clone)]
pub(super) struct Index([[Ports; TRANSPORTS.len()]; 2]);

const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Icmp];

/// Returns the place of a transport among three.
pub(super) fn place(transport: Transport) -> usize {
    match transport {
        Transport::Tcp => 0,
        Transport::Udp => 1,
        Transport::Icmp => 2,
    }
}

/// All ports in ranges within which the same rules may match, found by binary search.
#[derive(Debug, Clone)]
struct Ports {
    /// Where each range begins; the first is 0.
    starts: Box<[u16]>,
    /// The rules of each, in their order. None follows one that takes every address.
    candidates: Box<[Box<[RuleId]>]>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let ports = |is_ipv4, transport| {
            let is_for = |rule: &Rule| rule.to.0.is_ipv4() == is_ipv4 && rule.is_for(transport);
            let ids = (0..).map(RuleId::new).zip(rules);
            Ports::new(&ids.filter(|(_, rule)| is_for(rule)).collect::<Vec<_>>())
        };
        Self([false, true].map(|is_ipv4| TRANSPORTS.map(|transport| ports(is_ipv4, transport))))
    }

    /// Returns the rules whose version, transport and ports match, in their order.
    #[inline]
    pub(super) fn candidates(&self, inner: &Inner) -> &[RuleId] {
        let ports = &self.0[usize::from(inner.destination.is_ipv4())][place(inner.transport)];
        let behind = ports.starts.partition_point(|start| *start <= inner.destination_port);
        ports.candidates.get(behind.wrapping_sub(1)).map_or(&[], |candidates| candidates)
    }

    /// Tells whether there is a port for which this rule is looked at.
    pub(super) fn has(&self, id: RuleId) -> bool {
        let mut candidates = self.0.as_flattened().iter().flat_map(|ports| ports.candidates.iter());
        candidates.any(|rules| rules.contains(&id))
    }
}

impl Ports {
    fn new(rules: &[(RuleId, &Rule)]) -> Self {
        let ports = |rule: &Rule| rule.matching.ports.clone().unwrap_or(0..=u16::MAX);
        let ends =
            rules.iter().flat_map(|(_, rule)| [Some(*ports(rule).start()), ports(rule).end().checked_add(1)]);
        let mut starts: Vec<u16> = ends.flatten().chain([0]).collect();
        starts.sort_unstable();
        starts.dedup();
        let candidates = starts.iter().map(|start| {
            let mut of_port: Vec<RuleId> = Vec::new();
            for (id, rule) in rules.iter().filter(|(_, rule)| ports(rule).contains(start)) {
                of_port.push(*id);
                if rule.matching.source.is_none() && rule.matching.destination.is_none() {
                    break;
                }
            }
            of_port.into()
        });
        Self { candidates: candidates.collect(), starts: starts.into() }
    }
}

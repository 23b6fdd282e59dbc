//! Where an allowed packet goes instead: rules that translate its destination and, if asked for, its source.
//!
//! ```text
//!  inner ──► Rules::find ──► Replies::note ──► rewrite ──► emit
//!            first match     where replies     addresses, ports, hop limit, checksums
//!                            are wanted
//!  reply ──────────────────► Replies::restore ───────────► emit
//! ```
//!
//! Fields are patched and never rebuilt, and checksums follow by the difference (RFC 1624): a packet that was damaged
//! before it was mirrored arrives as damaged, so that the analyser sees what the receiver saw.
//!
//! *ICMP* has no ports, so rules that name one never match it; others translate its addresses. The packet that an ICMP
//! error quotes stays as it is: its addresses are those of the mirrored network, as the analyser's operator knows them,
//! and no host behind a rule has a connection that the error could be about.

mod index;
mod replies;
mod rewrite;
mod routed;
mod rules;
mod shared;
#[cfg(test)]
mod tests;

pub use replies::{IDLE, MOST_FLOWS, Replies, RepliesCount};
pub use rewrite::rewrite;
pub use rules::{MOST_RULES, RuleId, Rules, RulesError};
pub use shared::SharedReplies;

use crate::inner::{Inner, Transport};
use rtt0_core::service::Prefix;
use rtt0_core::wire::segment::Endpoint;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// An address and, unless the port stays as it is, a port.
pub type Target = (IpAddr, Option<u16>);

/// Which packets a rule is for. What is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matching {
    /// What the packet carries.
    pub transport: Option<Transport>,
    /// Where it comes from.
    pub source: Option<Prefix>,
    /// Where it goes to.
    pub destination: Option<Prefix>,
    /// Its destination ports, 1–65,535: TCP's and UDP's.
    pub ports: Option<RangeInclusive<u16>>,
}

/// What is done with which packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// By which operators know it.
    pub name: String,
    /// Which packets it is for: of those, the ones of the IP version of `to`. A rule in which any port is named is not
    /// for ICMP.
    pub matching: Matching,
    /// The destination that takes the place of the packet's.
    pub to: Target,
    /// The source that takes the place of the packet's, if it is to be another.
    pub from: Option<Target>,
    /// Whether what the new destination answers is translated back.
    pub replies: bool,
}

impl Rule {
    /// Returns source and destination of `inner` as this rule translates them. Ports of ICMP stay 0.
    #[inline]
    pub fn translated(&self, inner: &Inner) -> (Endpoint, Endpoint) {
        let has_ports = inner.transport != Transport::Icmp;
        let apply = |target: Target, port| (target.0, target.1.filter(|_| has_ports).unwrap_or(port));
        let source = match self.from {
            Some(from) => apply(from, inner.source_port),
            None => (inner.source, inner.source_port),
        };
        (source, apply(self.to, inner.destination_port))
    }

    /// Tells whether the addresses are right; the index has seen to version, transport and port.
    #[inline]
    fn is_for_addresses_of(&self, inner: &Inner) -> bool {
        let holds = |prefix: &Option<Prefix>, address| prefix.is_none_or(|prefix| prefix.contains(address));
        holds(&self.matching.source, inner.source) && holds(&self.matching.destination, inner.destination)
    }

    fn names_a_port(&self) -> bool {
        self.matching.ports.is_some() || self.to.1.is_some() || self.from.is_some_and(|from| from.1.is_some())
    }

    /// Tells whether packets of this transport may match.
    pub fn is_for(&self, transport: Transport) -> bool {
        match self.matching.transport {
            Some(only) => only == transport,
            None => transport != Transport::Icmp || !self.names_a_port(),
        }
    }
}

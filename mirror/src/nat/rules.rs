//! The rules, checked once at the door.

use super::index::Index;
use super::{Rule, Target};
use crate::inner::{Inner, Transport};
use std::collections::HashSet;
use std::net::IpAddr;

/// The most rules.
pub const MOST_RULES: usize = 1_024;
/// The longest name of a rule, in bytes.
const LONGEST_NAME: usize = 64;

/// A rule of one set, in the set's order from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u16);

impl RuleId {
    pub(super) const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Returns its place in the set, 0–1,023.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Why rules can't be used: which one, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// More rules than [`MOST_RULES`].
    #[error("there are {0} rules; there may be {MOST_RULES}")]
    TooMany(usize),
    /// No name, a long one, or one that would break a line of the log.
    #[error("the name of rule {0} is empty, longer than {LONGEST_NAME} bytes, or has control characters")]
    Name(usize),
    /// Two rules of one name.
    #[error("there are two rules '{0}'; counters go by the name: give one of them another")]
    SameName(String),
    /// Something in one rule is wrong.
    #[error("rule '{name}': {problem}")]
    Rule {
        /// Its name.
        name: String,
        /// Its place in the set, from 0.
        index: usize,
        /// What is wrong.
        problem: RuleProblem,
    },
}

/// What may be wrong with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// IPv4 can't become IPv6.
    #[error("source, destination, to and from have to be of one IP version; write a rule for each")]
    Versions,
    /// A rule for ICMP names a port.
    #[error("ICMP has no ports; leave the port out, or write a rule for tcp or udp")]
    IcmpPort,
    /// Port 0, or a range that ends before it begins.
    #[error("a port is a number from 1 to 65535, and a range begins with the lower one")]
    Ports,
    /// Nobody can be reached at this address, or too many.
    #[error("{0} is no address of a single host that could be reached by the egress; write the analyser's")]
    Target(IpAddr),
    /// Nobody sends from this address.
    #[error("{0} can't be a packet's source; write an address of this host, or leave it out")]
    Source(IpAddr),
    /// Replies to all flows would be the same.
    #[error(
        "with one source port for all flows no reply could be told whose it is; leave out the port of 'from', or replies"
    )]
    RepliesToOnePort,
}

/// A set of rules, of which the first that matches is taken.
///
/// A look-up is a binary search for the port and then a look at the rules with this IP version, transport and port, in
/// their order.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    index: Index,
}

impl Rules {
    /// Checks and compiles rules.
    ///
    /// # Errors
    /// [`RulesError`] says which rule and why.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RulesError> {
        if rules.len() > MOST_RULES {
            return Err(RulesError::TooMany(rules.len()));
        }
        let mut names = HashSet::new();
        for (index, rule) in rules.iter().enumerate() {
            let name = &rule.name;
            if name.trim().is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
                return Err(RulesError::Name(index + 1));
            }
            if !names.insert(name) {
                return Err(RulesError::SameName(name.clone()));
            }
            if let Some(problem) = problem(rule) {
                return Err(RulesError::Rule { name: name.clone(), index, problem });
            }
        }
        let index = Index::new(&rules);
        Ok(Self { rules, index })
    }

    /// Returns the first rule that matches.
    #[inline]
    pub fn find(&self, inner: &Inner) -> Option<RuleId> {
        let is_it = |id: &&RuleId| self.rule(**id).is_some_and(|rule| rule.is_for_addresses_of(inner));
        self.index.candidates(inner).iter().find(is_it).copied()
    }

    /// Returns a rule of this set.
    #[inline]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.index())
    }

    /// Iterates over the rules in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (RuleId, &Rule)> {
        self.rules.iter().enumerate().map(|(index, rule)| (RuleId(index as u16), rule))
    }

    /// Returns the number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Tells whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Iterates over rules that no packet comes to, since rules without addresses before them take all of their ports:
    /// worth a warning.
    pub fn never_reached(&self) -> impl Iterator<Item = &Rule> {
        self.iter().filter(|(id, _)| !self.index.has(*id)).map(|(_, rule)| rule)
    }
}

fn problem(rule: &Rule) -> Option<RuleProblem> {
    let matching = &rule.matching;
    let is_ipv4 = rule.to.0.is_ipv4();
    let prefixes =
        [matching.source, matching.destination].into_iter().flatten().map(|prefix| prefix.address());
    if prefixes.chain(rule.from.map(|from| from.0)).any(|address| address.is_ipv4() != is_ipv4) {
        return Some(RuleProblem::Versions);
    }
    if matching.transport == Some(Transport::Icmp) && rule.names_a_port() {
        return Some(RuleProblem::IcmpPort);
    }
    let is_zero = |target: Target| target.1 == Some(0);
    let ports = matching.ports.as_ref();
    if ports.is_some_and(|ports| ports.is_empty() || *ports.start() == 0)
        || is_zero(rule.to)
        || rule.from.is_some_and(is_zero)
    {
        return Some(RuleProblem::Ports);
    }
    if !is_single_host(rule.to.0) {
        return Some(RuleProblem::Target(rule.to.0));
    }
    if let Some((address, _)) = rule.from.filter(|from| !is_single_host(from.0)) {
        return Some(RuleProblem::Source(address));
    }
    (rule.replies && rule.from.is_some_and(|from| from.1.is_some())).then_some(RuleProblem::RepliesToOnePort)
}

fn is_single_host(address: IpAddr) -> bool {
    let is_mapped_or_broadcast = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_mapped_or_broadcast)
}

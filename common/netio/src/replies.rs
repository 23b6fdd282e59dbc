//! Which packets a traffic mirror claims as replies.
//!
//! [`Claimed`] is the one description of them. The filter of their capture and the rules of the guard are both made of
//! its clauses, so that what is captured is exactly what the kernel does not get. A reply is claimed if
//!
//! - its frame is addressed to this host, and its IP packet is whole: no fragment, and as long as its header says;
//! - it comes from one of the hosts that are sent to, by the transport that is sent, from a port that is sent to. (Of
//!   ICMP only echo replies: neighbour discovery and errors stay the kernel's.) In IPv6 the transport's header follows the
//!   IP header at once;
//! - it goes to the address that was put in the clients' place. Where none was, it goes anywhere but to an address that
//!   this host had when the description was made.

use std::fmt;
use std::net::IpAddr;

use crate::capture::filter::{Program, TooManyRules};
use crate::guard::ruleset::{Action, Base, Field, Match, Meta, Rule};

/// What replies of one kind look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reply {
    /// Who answers.
    pub source: IpAddr,
    /// What the packet carries.
    pub carries: Carried,
    /// Whom it is sent to, of the same IP version; `None` for anybody but this host.
    pub destination: Option<IpAddr>,
}

/// What a reply carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carried {
    /// TCP from one of these ports.
    Tcp(Ports),
    /// UDP from one of these ports.
    Udp(Ports),
    /// The answer to an echo request of ICMP or ICMPv6.
    EchoReply,
}

/// Ports from the lowest to the highest, 0–65,535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.carries {
            Carried::Tcp(ports) => write!(f, "TCP from {}, {ports}", self.source)?,
            Carried::Udp(ports) => write!(f, "UDP from {}, {ports}", self.source)?,
            Carried::EchoReply => write!(f, "echo replies from {}", self.source)?,
        }
        match self.destination {
            Some(destination) => write!(f, ", to {destination}"),
            None => f.write_str(", to other hosts"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.low, self.high) {
            (0 | 1, u16::MAX) => f.write_str("any port"),
            (low, high) if low == high => write!(f, "port {low}"),
            (low, high) => write!(f, "ports {low}-{high}"),
        }
    }
}

/// One condition on a packet.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// `field & mask == value`, one or two bytes.
    Masked(Field, &'static [u8], &'static [u8]),
    /// The address in the field is this one.
    Is(Field, IpAddr),
    /// The port in the field is one of these.
    Among(Field, Ports),
}

/// Conditions, all of which must hold; the first clause of which they do says whose the packet is.
#[derive(Debug, Clone)]
pub(crate) struct Clause {
    pub(crate) conditions: Vec<Condition>,
    /// Whether it is claimed; else it is the kernel's.
    pub(crate) is_claimed: bool,
}

/// All replies that are claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    v4: Vec<Clause>,
    v6: Vec<Clause>,
}

impl Claimed {
    /// Describes `replies`, on a host that has the addresses `local`.
    ///
    /// # Errors
    /// They need a longer filter than the kernel takes: about 250 kinds of replies over IPv4, or 120 over IPv6.
    pub fn new(mut replies: Vec<Reply>, local: &[IpAddr]) -> Result<Self, TooManyRules> {
        replies.sort_unstable();
        replies.dedup();
        let claimed = Self { v4: V4.clauses(&replies, local), v6: V6.clauses(&replies, local) };
        // It is as long for every kind of link.
        claimed.filter(0)?;
        Ok(claimed)
    }

    /// Makes the filter that takes exactly what is claimed, behind a link header of so many bytes.
    pub(crate) fn filter(&self, link_header: u32) -> Result<Program, TooManyRules> {
        Program::of_clauses(&self.v4, &self.v6, link_header)
    }

    /// Makes the rules that drop exactly what is claimed, at an ingress hook.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        let of = |version: &Version, clause: &Clause| {
            let frame = [Match::Meta(Meta::PacketTypeHost), Match::Meta(Meta::Protocol(version.ether_type))];
            let action = if clause.is_claimed { Action::CountedDrop } else { Action::Accept };
            Rule {
                matches: frame.into_iter().chain(clause.conditions.iter().map(Match::from)).collect(),
                action,
            }
        };
        let v4 = self.v4.iter().map(|clause| of(&V4, clause));
        v4.chain(self.v6.iter().map(|clause| of(&V6, clause))).collect()
    }
}

impl From<&Condition> for Match {
    fn from(condition: &Condition) -> Self {
        match *condition {
            Condition::Masked(field, mask, value) => Self::Masked(field, mask, value),
            Condition::Is(field, address) => Self::Is(field, address),
            Condition::Among(field, Ports { low, high }) => Self::Between(field, low, high),
        }
    }
}

/// What differs between the IP versions.
struct Version {
    ether_type: u16,
    source: Field,
    destination: Field,
    protocol: Field,
    /// What keeps out fragments, if the protocol doesn't.
    whole: Option<Condition>,
    icmp: &'static [u8],
    echo_reply: &'static [u8],
}

const fn field(base: Base, offset: u8, length: u8) -> Field {
    Field { base, offset, length, name: None }
}

const SOURCE_PORT: Field = field(Base::Transport, 0, 2);
const ICMP_TYPE: Field = field(Base::Transport, 0, 1);
const WHOLE_BYTE: &[u8] = &[0xff];

/// RFC 791 §3.1, RFC 792.
static V4: Version = Version {
    ether_type: 0x0800,
    source: field(Base::Network, 12, 4),
    destination: field(Base::Network, 16, 4),
    protocol: field(Base::Network, 9, 1),
    // Neither an offset nor more fragments to come.
    whole: Some(Condition::Masked(field(Base::Network, 6, 2), &[0x3f, 0xff], &[0, 0])),
    icmp: &[1],
    echo_reply: &[0],
};

/// RFC 8200 §3, RFC 4443 §4.2. A fragment has a header of its own, which is no transport's.
static V6: Version = Version {
    ether_type: 0x86dd,
    source: field(Base::Network, 8, 16),
    destination: field(Base::Network, 24, 16),
    protocol: field(Base::Network, 6, 1),
    whole: None,
    icmp: &[58],
    echo_reply: &[129],
};

impl Version {
    fn owns(&self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self.ether_type == V4.ether_type)
    }

    fn clauses(&self, replies: &[Reply], local: &[IpAddr]) -> Vec<Clause> {
        let own = || replies.iter().filter(|reply| self.owns(&reply.source));
        let to_one = own().filter(|reply| reply.destination.is_some()).map(|reply| self.claim(reply));
        let to_any: Vec<_> =
            own().filter(|reply| reply.destination.is_none()).map(|reply| self.claim(reply)).collect();
        let is_needed = !to_any.is_empty();
        let to_us = local.iter().filter(|address| is_needed && self.owns(address)).map(|address| Clause {
            conditions: vec![Condition::Is(self.destination, *address)],
            is_claimed: false,
        });
        to_one.chain(to_us).chain(to_any).collect()
    }

    fn claim(&self, reply: &Reply) -> Clause {
        let mut conditions = vec![Condition::Is(self.source, reply.source)];
        let protocol = match reply.carries {
            Carried::Tcp(_) => &[6],
            Carried::Udp(_) => &[17],
            Carried::EchoReply => self.icmp,
        };
        conditions.push(Condition::Masked(self.protocol, WHOLE_BYTE, protocol));
        conditions.extend(self.whole.clone());
        conditions.extend(reply.destination.map(|address| Condition::Is(self.destination, address)));
        // Always a look at the transport: where a packet ends before it, all clauses say the same.
        conditions.push(match reply.carries {
            Carried::Tcp(ports) | Carried::Udp(ports) => Condition::Among(SOURCE_PORT, ports),
            Carried::EchoReply => Condition::Masked(ICMP_TYPE, WHOLE_BYTE, self.echo_reply),
        });
        Clause { conditions, is_claimed: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(source: &str, carries: Carried, destination: Option<&str>) -> Reply {
        let address = |text: &str| text.parse().unwrap();
        Reply { source: address(source), carries, destination: destination.map(address) }
    }

    #[test]
    fn replies_are_described_for_people() {
        let ports = |low, high| Ports { low, high };
        for (reply, text) in [
            (
                reply("192.0.2.95", Carried::Udp(ports(8081, 8081)), None),
                "UDP from 192.0.2.95, port 8081, to other hosts",
            ),
            (
                reply("2001:db8::95", Carried::Tcp(ports(80, 90)), Some("2001:db8::1")),
                "TCP from 2001:db8::95, ports 80-90, to 2001:db8::1",
            ),
            (
                reply("192.0.2.95", Carried::Tcp(ports(0, 65_535)), None),
                "TCP from 192.0.2.95, any port, to other hosts",
            ),
            (
                reply("192.0.2.95", Carried::EchoReply, Some("192.0.2.1")),
                "echo replies from 192.0.2.95, to 192.0.2.1",
            ),
        ] {
            assert_eq!(reply.to_string(), text);
        }
    }

    #[test]
    fn too_many_are_refused_and_the_same_one_counts_once() {
        let replies = |count: u32, bits: fn(u32) -> IpAddr| -> Vec<Reply> {
            let carries = Carried::Udp(Ports { low: 8081, high: 8081 });
            (0..count).map(|n| Reply { source: bits(n), carries, destination: None }).collect()
        };
        let v4 = |n: u32| IpAddr::from(n.to_be_bytes());
        let v6 = |n: u32| IpAddr::from(u128::from(n).to_be_bytes());
        let local = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert!(Claimed::new(replies(250, v4), &local).is_ok());
        assert!(Claimed::new(replies(120, v6), &local).is_ok());
        assert!(Claimed::new(replies(1_024, v4), &local).unwrap_err().to_string().contains("4096"));
        let same = replies(1, v4).repeat(1_000);
        assert_eq!(Claimed::new(same, &local).unwrap().rules().len(), 2);
    }
}

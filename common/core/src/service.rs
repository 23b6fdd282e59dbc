//! Which destinations are served, and which way a packet goes.
//!
//! Direction is read from the service rules, never from an interface, so that a NIC with a
//! single interface works like one with two.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An IP prefix such as `10.1.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Makes a prefix; host bits of `address` are cleared. `None` if `length` exceeds 32 (IPv4)
    /// or 128 (IPv6) bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if length <= 32 => IpAddr::from((u32::from(a) & mask32(length)).to_be_bytes()),
            IpAddr::V6(a) if length <= 128 => IpAddr::from((u128::from(a) & mask128(length)).to_be_bytes()),
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// Returns the network address: host bits are zero.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the length in bits, 0–32 or 0–128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Tells whether `address` lies within. Never true across IP versions.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(a)) => u32::from(a) & mask32(self.length) == u32::from(net),
            (IpAddr::V6(net), IpAddr::V6(a)) => u128::from(a) & mask128(self.length) == u128::from(net),
            _ => false,
        }
    }
}

fn mask32(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask128(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// One served destination: a prefix and a range of TCP ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Addresses of the servers.
    pub prefix: Prefix,
    /// Their TCP ports.
    pub ports: RangeInclusive<u16>,
}

impl Service {
    /// Tells whether `address`:`port` is served by this rule.
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        self.ports.contains(&port) && self.prefix.contains(address)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.address {
            IpAddr::V4(a) => write!(f, "{a}/{}", self.prefix.length)?,
            IpAddr::V6(a) => write!(f, "[{a}/{}]", self.prefix.length)?,
        }
        match (self.ports.start(), self.ports.end()) {
            (low, high) if low == high => write!(f, ":{low}"),
            (low, high) => write!(f, ":{low}-{high}"),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A prefix that can't be read; says what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("prefix '{text}': {problem}; write an address or ADDRESS/BITS, for example 10.1.0.0/24 or fd00::/64")]
pub struct PrefixError {
    text: String,
    problem: &'static str,
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `ADDRESS/BITS`; a missing length means a single host.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        read_prefix(text).map_err(|problem| PrefixError { text: text.to_owned(), problem })
    }
}

fn read_prefix(text: &str) -> Result<Prefix, &'static str> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "the address is not an IP address")?;
    let length = match length {
        Some(length) => length.parse().map_err(|_| "the prefix length is not a number")?,
        None if address.is_ipv4() => 32,
        None => 128,
    };
    Prefix::new(address, length).ok_or("the prefix length is too large")
}

/// A service rule that can't be read; says what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "service '{text}': {problem}; write PREFIX:PORT, for example 10.1.2.0/24:443, 10.1.2.7:8000-8010 or [fd00::/64]:443"
)]
pub struct ServiceError {
    text: String,
    problem: &'static str,
}

impl FromStr for Service {
    type Err = ServiceError;

    /// Reads `PREFIX:PORT` or `PREFIX:LOW-HIGH`; an IPv6 prefix stands in brackets; a missing
    /// length means a single host.
    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let fail = |problem| ServiceError { text: text.to_owned(), problem };
        let (prefix, ports) = text.rsplit_once(':').ok_or_else(|| fail("no port given"))?;
        let prefix = match prefix.strip_prefix('[') {
            // Both [fd00::/64] and [fd00::]/64 are written in the wild.
            Some(rest) if rest.contains(']') => rest.replacen(']', "", 1),
            Some(_) => return Err(fail("the bracket is not closed")),
            None if prefix.contains(':') => return Err(fail("an IPv6 prefix needs brackets")),
            None => prefix.to_owned(),
        };
        let prefix = read_prefix(&prefix).map_err(fail)?;
        let port = |text: &str| match text.parse::<u16>() {
            Ok(0) | Err(_) => Err(fail("a port is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        let ports = match ports.split_once('-') {
            Some((low, high)) => port(low)?..=port(high)?,
            None => port(ports)?..=port(ports)?,
        };
        if ports.is_empty() {
            return Err(fail("the port range is empty"));
        }
        Ok(Self { prefix, ports })
    }
}

/// Which way a packet travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client towards the server.
    ToServer,
    /// From the server towards the client.
    ToClient,
}

/// All service rules of a NIC and the addresses that are the NIC's own.
///
/// The kernel guard is made from the same value, and what the guard drops is exactly what
/// [`Services::direction`] claims: a packet in the one but not the other would be lost or sent
/// twice.
#[derive(Debug, Clone, Default)]
pub struct Services {
    rules: Vec<Service>,
    local: Vec<IpAddr>,
}

impl Services {
    /// Makes the rule set. Traffic from or to a `local` address is never claimed: it belongs to
    /// the NIC host itself.
    pub fn new(rules: Vec<Service>, local: Vec<IpAddr>) -> Self {
        Self { rules, local }
    }

    /// Returns the rules in the order given.
    pub fn rules(&self) -> &[Service] {
        &self.rules
    }

    /// Returns the NIC's own addresses.
    pub fn local(&self) -> &[IpAddr] {
        &self.local
    }

    /// Returns which way a segment from `source` to `destination` goes, or `None` if it is not
    /// ours. If both ends are services, the destination decides for a flow's first direction
    /// only if the source isn't served; such flows are left alone, since nobody can tell who
    /// the client is.
    pub fn direction(&self, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Option<Direction> {
        if self.local.contains(&source.0) || self.local.contains(&destination.0) {
            return None;
        }
        let serves = |(address, port)| self.rules.iter().any(|rule| rule.contains(address, port));
        match (serves(source), serves(destination)) {
            (false, true) => Some(Direction::ToServer),
            (true, false) => Some(Direction::ToClient),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rules_read_back_as_they_are_shown() {
        for (text, shown) in [
            ("10.1.2.0/24:443", "10.1.2.0/24:443"),
            ("10.1.2.7/24:443", "10.1.2.0/24:443"),
            ("10.1.2.7:8000-8010", "10.1.2.7/32:8000-8010"),
            ("0.0.0.0/0:1-65535", "0.0.0.0/0:1-65535"),
            ("[fd00::/64]:443", "[fd00::/64]:443"),
            ("[fd00::]/64:443", "[fd00::/64]:443"),
            ("[fd00::1]:80", "[fd00::1/128]:80"),
            ("[::/0]:80-80", "[::/0]:80"),
        ] {
            let service: Service = text.parse().unwrap();
            assert_eq!(service.to_string(), shown);
            assert_eq!(shown.parse(), Ok(service));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("10.1.2.0", "no port given"),
            ("", "no port given"),
            ("fd00::/64:443", "an IPv6 prefix needs brackets"),
            ("10.1.2/24:443", "the address is not an IP address"),
            ("[fd00::/64:443", "the bracket is not closed"),
            ("[fd00::/64]]:443", "the prefix length is not a number"),
            ("10.1.2.0/x:443", "the prefix length is not a number"),
            ("10.1.2.0/-1:443", "the prefix length is not a number"),
            ("10.1.2.0/33:443", "the prefix length is too large"),
            ("[fd00::/129]:443", "the prefix length is too large"),
            ("10.1.2.0/24:0", "a port is a number from 1 to 65535"),
            ("10.1.2.0/24:65536", "a port is a number from 1 to 65535"),
            ("10.1.2.0/24:", "a port is a number from 1 to 65535"),
            ("10.1.2.0/24:443-80", "the port range is empty"),
        ] {
            let error = text.parse::<Service>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("service '{text}': {problem}; write PREFIX:PORT")), "{error}");
        }
    }

    #[test]
    fn prefixes_read_back_as_they_are_shown() {
        for (text, shown) in
            [("10.1.2.7/24", "10.1.2.0/24"), ("10.1.2.7", "10.1.2.7/32"), ("fd00::/64", "fd00::/64")]
        {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), shown);
            assert_eq!(shown.parse(), Ok(prefix));
        }
        for text in ["", "10.1.2", "10.1.2.0/33", "10.1.2.0/", "[fd00::1]", "10.1.2.0/24:443"] {
            let error = text.parse::<Prefix>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("prefix '{text}': ")), "{error}");
        }
    }

    #[test]
    fn prefixes_end_where_they_say() {
        let all = Prefix::new(ip("1.2.3.4"), 0).unwrap();
        assert!(all.contains(ip("255.255.255.255")) && !all.contains(ip("::")));
        let one = Prefix::new(ip("fd00::1"), 128).unwrap();
        assert!(one.contains(ip("fd00::1")) && !one.contains(ip("fd00::2")));
        let host = Prefix::new(ip("10.0.0.1"), 32).unwrap();
        assert!(host.contains(ip("10.0.0.1")) && !host.contains(ip("10.0.0.0")));
    }

    proptest! {
        #[test]
        fn a_prefix_contains_what_agrees_in_its_bits(net: u128, other: u128, length in 0u8..=128) {
            let prefix = Prefix::new(IpAddr::V6(net.into()), length).unwrap();
            let agree = length == 0 || (net ^ other) >> (128 - u32::from(length)) == 0;
            prop_assert_eq!(prefix.contains(IpAddr::V6(other.into())), agree);
            prop_assert!(prefix.contains(IpAddr::V6(net.into())));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:./\\[\\]-]{0,24}") {
            let _ = text.parse::<Service>();
        }
    }

    #[test]
    fn the_served_end_is_the_server() {
        let rules = vec!["10.1.2.0/24:80-90".parse().unwrap()];
        let services = Services::new(rules, vec![ip("10.1.2.1")]);
        let (client, server) = ((ip("10.1.0.10"), 40_000), (ip("10.1.2.10"), 80));
        assert_eq!(services.direction(client, server), Some(Direction::ToServer));
        assert_eq!(services.direction(server, client), Some(Direction::ToClient));
        assert_eq!(services.direction(client, (server.0, 91)), None, "another port");
        assert_eq!(services.direction(client, (client.0, 80)), None, "another address");
        assert_eq!(services.direction((ip("10.1.2.11"), 81), server), None, "both ends are served");
        let neighbour = (ip("10.1.2.11"), 40_000);
        assert_eq!(services.direction(neighbour, server), Some(Direction::ToServer), "by its port a client");
        for local in [(ip("10.1.2.1"), 80), (ip("10.1.2.1"), 40_000)] {
            assert_eq!(services.direction(client, local), None);
            assert_eq!(services.direction(local, server), None, "the NIC's own");
        }
    }
}

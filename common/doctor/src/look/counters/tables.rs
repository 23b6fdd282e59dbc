//! The counters of IP, ICMP, TCP and UDP: `/proc/net/snmp`, `netstat` and `snmp6`.

use std::collections::BTreeMap;

use super::{Seen, proc_net};

/// Counters by the name that nstat(8) gives them: the table's and their own, such as `TcpRetransSegs`, `TcpExtListenDrops`,
/// `IpExtInNoRoutes` or `Udp6NoPorts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<String, u64>);

impl Tables {
    /// Returns a counter, or none if this kernel does not keep it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Tells whether there are counters of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.0.contains_key("Ip6InReceives")
    }
}

impl<const N: usize> From<[(&str, u64); N]> for Tables {
    fn from(counters: [(&str, u64); N]) -> Self {
        Self(counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Reads them. A host without IPv6 has none of that.
pub(super) fn read() -> Seen<Tables> {
    let mut counters = Tables::default();
    pairs(&proc_net("snmp")?, &mut counters);
    pairs(&proc_net("netstat")?, &mut counters);
    if let Ok(text) = proc_net("snmp6") {
        singles(&text, &mut counters);
    }
    if counters.0.is_empty() { Err("/proc/net/snmp is empty".to_owned()) } else { Ok(counters) }
}

/// Parses pairs of lines, the first with the names and the second with the values, both after the table's name.
fn pairs(text: &str, counters: &mut Tables) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((table, names)), Some((same, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        if table != same {
            continue;
        }
        for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
            // Some are settings, of which -1 is one (MaxConn).
            if let Ok(value) = value.parse() {
                counters.0.insert(format!("{table}{name}"), value);
            }
        }
    }
}

/// Parses lines of a name and a value.
fn singles(text: &str, counters: &mut Tables) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            counters.0.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_nstat() {
        let mut counters = Tables::default();
        pairs("Tcp: RtoMin MaxConn InSegs\nTcp: 200 -1 16304\nIpExt: InNoRoutes\nIpExt: 3\n", &mut counters);
        singles("Ip6InReceives                   \t7\nUdp6NoPorts\t2\n", &mut counters);
        assert_eq!(counters.number("TcpInSegs"), Some(16304));
        assert_eq!(counters.number("IpExtInNoRoutes"), Some(3));
        assert_eq!(counters.number("Udp6NoPorts"), Some(2));
        assert_eq!(counters.number("TcpMaxConn"), None);
        assert_eq!(counters.number("TcpExtListenDrops"), None);
        assert!(counters.has_ipv6());
    }

    #[test]
    fn this_kernel_has_them() {
        let counters = read().unwrap();
        for name in ["IpInReceives", "TcpOutSegs", "UdpNoPorts", "TcpExtListenOverflows", "IpExtInOctets"] {
            assert!(counters.number(name).is_some(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(Tcp:|Udp:|[a-z0-9: \\-]|\n)*") {
            let mut counters = Tables::default();
            pairs(&text, &mut counters);
            singles(&text, &mut counters);
        }
    }
}

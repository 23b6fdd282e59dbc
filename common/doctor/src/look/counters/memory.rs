//! Memory of sockets and fragments: `/proc/net/sockstat`, `sockstat6` and their limits.

use std::collections::BTreeMap;

use rtt0_netio::sysctl;

use super::{Seen, proc_net};

/// What sockets hold, and what they may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The numbers by table and name, such as `TCP.orphan` or `FRAG6.inuse`. The kernel keeps `mem` and `orphan` for all
    /// network namespaces together.
    pub numbers: BTreeMap<String, u64>,
    /// `net.ipv4.tcp_mem` in pages: below the first nothing is done, above the second TCP saves memory, above the third it
    /// has none. Only the first network namespace has it.
    pub tcp_limits: Option<[u64; 3]>,
    /// `net.ipv4.tcp_max_orphans`. Only the first network namespace has it.
    pub orphans_limit: Option<u64>,
}

impl Memory {
    /// Returns a number, or none if this kernel does not keep it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }
}

/// Reads it.
pub(super) fn read() -> Seen<Memory> {
    let mut numbers = BTreeMap::new();
    parse(&proc_net("sockstat")?, &mut numbers);
    if let Ok(text) = proc_net("sockstat6") {
        parse(&text, &mut numbers);
    }
    let parameter = |name| sysctl::read_here(name).ok();
    let tcp_limits = parameter("net.ipv4.tcp_mem").and_then(|text| limits(&text));
    let orphans_limit = parameter("net.ipv4.tcp_max_orphans").and_then(|text| text.parse().ok());
    Ok(Memory { numbers, tcp_limits, orphans_limit })
}

/// Parses lines such as `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0`.
fn parse(text: &str, numbers: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let Some((table, rest)) = line.split_once(':') else { continue };
        let mut words = rest.split_ascii_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if let Ok(value) = value.parse() {
                numbers.insert(format!("{table}.{name}"), value);
            }
        }
    }
}

fn limits(text: &str) -> Option<[u64; 3]> {
    let numbers: Vec<u64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_found_by_table_and_name() {
        let mut numbers = BTreeMap::new();
        parse(
            "sockets: used 14\nTCP: inuse 1 orphan 2 tw 0 alloc 1 mem 3\nFRAG: inuse 4 memory 5\n",
            &mut numbers,
        );
        assert_eq!((numbers["TCP.orphan"], numbers["TCP.mem"], numbers["FRAG.inuse"]), (2, 3, 4));
        assert_eq!(limits("287898\t383866\t575796"), Some([287_898, 383_866, 575_796]));
        assert_eq!(limits("1 2"), None);
    }

    #[test]
    fn this_kernel_has_them() {
        assert!(read().unwrap().number("TCP.mem").is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "([A-Z:a-z0-9 ]|\n)*") {
            parse(&text, &mut BTreeMap::new());
            limits(&text);
        }
    }
}

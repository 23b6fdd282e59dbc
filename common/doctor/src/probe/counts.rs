//! The kernel's own counters of IP and UDP, as far as they say why packets do not arrive.

use std::collections::HashMap;
use std::fs;

/// Counters by name, such as `Udp.NoPorts`.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(HashMap<String, u64>);

impl Counts {
    /// Reads those of the calling thread's network namespace.
    pub(super) fn read() -> Self {
        let mut counts = Self::default();
        for file in ["snmp", "netstat", "snmp6"] {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            counts.add(&text);
        }
        counts
    }

    /// Takes lines in pairs (`Udp: Name …`, `Udp: 1 …`), or a name and a number each.
    fn add(&mut self, text: &str) {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some((group, names)) = line.split_once(':') {
                let values = lines.next_if(|next| next.starts_with(&format!("{group}:"))).unwrap_or_default();
                let values = values.split_ascii_whitespace().skip(1);
                for (name, value) in names.split_ascii_whitespace().zip(values) {
                    if let Ok(value) = value.parse() {
                        self.0.insert(format!("{group}.{name}"), value);
                    }
                }
            } else if let Some((name, value)) = line.split_once(char::is_whitespace)
                && let Ok(value) = value.trim().parse()
            {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    /// Returns how much the counter has grown since `before`.
    pub(super) fn growth(&self, before: &Self, name: &str) -> u64 {
        let value = |counts: &Self| counts.0.get(name).copied().unwrap_or(0);
        value(self).saturating_sub(value(before))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_stands_there_is_read(text in "[A-Za-z0-9: \\n\t.-]{0,200}") {
            Counts::default().add(&text);
        }
    }

    #[test]
    fn both_forms_are_read() {
        let mut counts = Counts::default();
        counts.add("Ip: Forwarding InDiscards\nIp: 1 7\nUdp: NoPorts\nUdp: 3\n");
        counts.add("Udp6NoPorts                     \t4\nbroken\nOdd: A B\nNext: C\nNext: 5\n");
        let zero = Counts::default();
        for (name, value) in
            [("Ip.InDiscards", 7), ("Udp.NoPorts", 3), ("Udp6NoPorts", 4), ("Next.C", 5), ("Odd.A", 0)]
        {
            assert_eq!(counts.growth(&zero, name), value, "{name}");
        }
    }
}

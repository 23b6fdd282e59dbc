//! IPv4 packets that were not for this host, or came from nowhere: `Ip: InAddrErrors` of `/proc/net/snmp` (RFC 4293).

use std::fs;

/// Reads how many there were, in the network namespace of the calling thread.
pub fn read() -> Option<u64> {
    parse(&fs::read_to_string("/proc/thread-self/net/snmp").ok()?)
}

/// A line of names, then one of numbers.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let position = names.split(' ').position(|name| name == "InAddrErrors")?;
    numbers.split(' ').nth(position)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_by_its_name() {
        let text = "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors\nIp: 1 64 100 2 37\nIcmp: InMsgs\nIcmp: 5\n";
        assert_eq!(parse(text), Some(37));
        assert_eq!(parse("Ip: Forwarding\nIp: 1\n"), None);
        assert_eq!(parse(""), None);
        assert!(read().is_some());
    }
}

//! Takes out what tells whose host it is: IPv4 addresses are cut to 24 bits, IPv6 to 48, Ethernet addresses to their vendor's
//! half, and the host's name is left out.
//!
//! It knows no formats: wherever an address can be read in a text one is taken to be there. So a few other things
//! that look like one are cut too, and the same becomes the same in every file.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest text of an IPv6 address (with an IPv4 one at its end), of an IPv4 and of an Ethernet address.
const LONGEST_V6: usize = 45;
const LONGEST_V4: usize = 15;
/// An IPv6 address as the kernel writes it: digits alone.
const BARE_V6: usize = 32;
/// Digits of those that stay.
const BARE_KEPT: usize = 12;
const ETHERNET_GROUPS: usize = 6;
const VENDOR_GROUPS: usize = 3;

/// Redacts texts.
#[derive(Debug)]
pub(super) struct Redactor {
    names: Vec<String>,
}

impl Redactor {
    /// Makes one that knows this host's names.
    pub(super) fn of_this_host() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        Self::new(&[read("hostname").trim(), read("domainname").trim()])
    }

    /// Makes one that knows these host names; a dotted one also by its first part.
    fn new(names: &[&str]) -> Self {
        let parts = names.iter().flat_map(|name| [Some(*name), name.split('.').next()]).flatten();
        let telling = parts.filter(|name| !["", "localhost", "(none)"].contains(name));
        let mut names: Vec<_> = telling.map(str::to_ascii_lowercase).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.dedup();
        Self { names }
    }

    /// Returns the text without what is to be left out.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let run = rest.len() - rest.trim_start_matches(is_of_address).len();
            if run == 0 {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            } else {
                redact_run(&rest[..run], &mut out);
                rest = &rest[run..];
            }
        }
        self.names.iter().fold(out, |text, name| without_name(&text, name))
    }
}

fn is_of_address(c: char) -> bool {
    c.is_ascii_hexdigit() || c == ':' || c == '.'
}

/// Redacts a text of nothing but hexadecimal digits, colons and dots.
fn redact_run(run: &str, out: &mut String) {
    let mut rest = run;
    while !rest.is_empty() {
        let length = match v6(rest).or_else(|| v4(rest)) {
            Some((address, length)) => {
                cut(address, &rest[..length], out);
                length
            }
            None => ethernet(rest, out).or_else(|| bare_v6(rest, out)).unwrap_or_else(|| {
                out.push_str(&rest[..1]);
                1
            }),
        };
        rest = &rest[length..];
    }
}

/// Finds the longest IPv6 address that a text begins with.
fn v6(text: &str) -> Option<(IpAddr, usize)> {
    let text = &text[..text.len().min(LONGEST_V6)];
    if text.bytes().filter(|byte| *byte == b':').count() < 2 {
        return None;
    }
    let lengths = (2..=text.len()).rev();
    lengths.into_iter().find_map(|length| Some((text[..length].parse::<Ipv6Addr>().ok()?.into(), length)))
}

/// Finds the longest IPv4 address that a text begins with.
fn v4(text: &str) -> Option<(IpAddr, usize)> {
    let text = &text[..text.len().min(LONGEST_V4)];
    let lengths = (7..=text.len()).rev();
    lengths.into_iter().find_map(|length| Some((text[..length].parse::<Ipv4Addr>().ok()?.into(), length)))
}

fn cut(address: IpAddr, text: &str, out: &mut String) {
    // Writing to a string does not fail.
    let _ = match address {
        // Everybody has these.
        address if address.is_loopback() || address.is_unspecified() => write!(out, "{text}"),
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            write!(out, "{a}.{b}.{c}.x")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            write!(out, "{a:x}:{b:x}:{c:x}::x")
        }
    };
}

/// Six groups of one or two digits.
fn ethernet(text: &str, out: &mut String) -> Option<usize> {
    let mut length = 0;
    let mut kept = 0;
    for (index, group) in text.split(':').take(ETHERNET_GROUPS).enumerate() {
        let is_last = index + 1 == ETHERNET_GROUPS;
        let digits = group.bytes().take_while(u8::is_ascii_hexdigit).count();
        let digits = if is_last { digits.min(2) } else { digits };
        if !(1..=2).contains(&digits) || (!is_last && digits != group.len()) {
            return None;
        }
        length += digits;
        if is_last {
            out.push_str(&text[..kept]);
            out.push_str("xx:xx:xx");
            return Some(length);
        }
        length += 1;
        if index < VENDOR_GROUPS {
            kept = length;
        }
    }
    None
}

fn bare_v6(text: &str, out: &mut String) -> Option<usize> {
    let digits = text.get(..BARE_V6).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    out.push_str(&digits[..BARE_KEPT]);
    out.push_str(&"x".repeat(BARE_V6 - BARE_KEPT));
    Some(BARE_V6)
}

/// Replaces a name where it stands as a word of its own.
fn without_name(text: &str, name: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in lower.match_indices(name) {
        let end = at + name.len();
        if is_word(lower[..at].chars().next_back()) || is_word(lower[end..].chars().next()) {
            continue;
        }
        out.push_str(&text[done..at]);
        out.push_str("HOST");
        done = end;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redacted(text: &str) -> String {
        Redactor::new(&["box.example"]).redact(text)
    }

    #[test]
    fn addresses_are_cut_to_their_networks() {
        for (text, expected) in [
            ("inet 10.1.2.3/24 brd 10.1.2.255", "inet 10.1.2.x/24 brd 10.1.2.x"),
            ("from 10.1.2.3:80: reset", "from 10.1.2.x:80: reset"),
            ("[fd00:1:2:3::4]:80", "[fd00:1:2::x]:80"),
            ("inet6 fe80::ff:fe00:1%eth0", "inet6 fe80:0:0::x%eth0"),
            ("fd00::1.53 > fd00::2.99:", "fd00:0:0::x.53 > fd00:0:0::x.99:"),
            ("::ffff:10.1.2.3", "0:0:0::x"),
            ("link/ether 02:42:ac:11:00:02 brd", "link/ether 02:42:ac:xx:xx:xx brd"),
            ("root 8000.2:42:ac:11:0:2", "root 8000.2:42:ac:xx:xx:xx"),
            ("20010db8000100020003000400050006 02", "20010db80001xxxxxxxxxxxxxxxxxxxx 02"),
            ("at Box: up, box.example", "at HOST: up, HOST"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "127.0.0.1 and ::1 and 0.0.0.0 and ::",
            "Linux 6.18.44",
            "12:34:56",
            "boxes, inbox, box_1",
            "a.b.c",
            "",
            "Überlänge 1.2.3",
            "{\"a\":1,\"b\":[2,3]}",
            "0x1f 4096",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    fn separator() -> impl Strategy<Value = String> {
        prop_oneof!["[ \\t\\n,;=/()\"%|>-]{1,3}", "\\PC{0,6}", Just(": ".to_owned()), Just("] [".to_owned())]
    }

    fn address() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).to_string()),
            any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).to_string()),
            (any::<u64>(), 1..7u32).prop_map(|(bits, net)| {
                Ipv6Addr::from((0xfd00u128 + u128::from(net)) << 112 | u128::from(bits >> 32)).to_string()
            }),
            any::<[u8; 6]>().prop_map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":")),
        ]
    }

    fn is_everybodys(address: &str) -> bool {
        address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address.is_unspecified())
    }

    proptest! {
        #[test]
        fn no_full_address_that_goes_in_comes_out(
            parts in prop::collection::vec((address(), separator()), 1..8),
        ) {
            let text: String = parts.iter().flat_map(|(address, separator)| [address.as_str(), separator]).collect();
            let out = redacted(&text);
            for (address, _) in parts.iter().filter(|(address, _)| !is_everybodys(address)) {
                prop_assert!(!out.contains(address.as_str()), "{} in {:?} of {:?}", address, out, text);
            }
        }

        #[test]
        fn any_text_can_be_redacted(text in "\\PC{0,200}") {
            let _ = redacted(&text);
        }

        #[test]
        fn json_stays_json(address in address(), other in "\\PC{0,20}") {
            let value = serde_json::json!({ "address": address, "other": other, "number": 12.5 });
            let out = redacted(&value.to_string());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{}", out);
        }
    }
}

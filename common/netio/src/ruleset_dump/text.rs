//! Rules in words, nearly as `nft` writes them: enough to find the rule, not to load it again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_bindings::nftables::{
    CmpOps, CtKeys, ExprOps, IterableExprAttrs, IterableExprCmpAttrs, MetaKeys, PayloadBase,
};

use super::Verdict;
use super::read::{CT_INVALID, host_word, lookup_registers};

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loaded {
    name: String,
    kind: Kind,
}

/// How its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In network byte order.
    Number,
    /// In the host's.
    Word,
    V4,
    V6,
    Name,
    Protocol,
    CtState,
    Bytes,
}

/// Takes a rule's expressions one by one.
#[derive(Debug, Default)]
pub(super) struct Writer {
    text: String,
    registers: HashMap<u32, Loaded>,
    /// The last one loaded, with the mask that was put over it.
    mask: Option<Vec<u8>>,
    has_ct_state: bool,
    is_of_invalid: bool,
}

impl Writer {
    /// Adds what `expression` says.
    pub(super) fn push(&mut self, expression: &IterableExprAttrs<'_>) {
        match expression.get_data() {
            Ok(ExprOps::Meta(meta)) => {
                if let (Ok(register), Ok(key)) = (meta.get_dreg(), meta.get_key()) {
                    self.load(register, meta_name(key));
                }
            }
            Ok(ExprOps::Ct(ct)) => {
                if let (Ok(register), Ok(key)) = (ct.get_dreg(), ct.get_key()) {
                    self.has_ct_state |= key == CtKeys::State as u32;
                    let is_state = key == CtKeys::State as u32;
                    let (name, kind) =
                        if is_state { ("ct state", Kind::CtState) } else { ("ct", Kind::Bytes) };
                    self.load(register, Loaded { name: name.to_owned(), kind });
                }
            }
            Ok(ExprOps::Payload(payload)) => {
                if let (Ok(register), Ok(base)) = (payload.get_dreg(), payload.get_base()) {
                    let (offset, length) =
                        (payload.get_offset().unwrap_or(0), payload.get_len().unwrap_or(0));
                    self.load(register, payload_name(base, offset, length));
                }
            }
            Ok(ExprOps::Bitwise(bitwise)) => {
                self.mask =
                    bitwise.get_mask().ok().and_then(|mask| mask.get_value().ok()).map(<[u8]>::to_vec);
            }
            Ok(ExprOps::Cmp(compare)) => self.compare(&compare),
            Ok(ExprOps::Range(range)) => {
                let bound = |data: Result<netlink_bindings::nftables::IterableDataAttrs<'_>, _>| {
                    data.ok().and_then(|data| data.get_value().ok().map(<[u8]>::to_vec)).unwrap_or_default()
                };
                let loaded =
                    range.get_sreg().ok().and_then(|register| self.registers.get(&register)).cloned();
                let Some(Loaded { name, kind }) = loaded else { return };
                let (low, high) =
                    (value(kind, &bound(range.get_from_data())), value(kind, &bound(range.get_to_data())));
                let _ = write!(self.text, "{name} {low}-{high} ");
            }
            Ok(ExprOps::Lookup(lookup)) => {
                let (read, _) = lookup_registers(&lookup);
                let loaded = read.and_then(|register| self.registers.get(&register));
                let name = loaded.map_or("(several)", |loaded| &loaded.name);
                let set = lookup.get_set().map(|set| set.to_string_lossy().into_owned()).unwrap_or_default();
                let _ = write!(self.text, "{name} @{set} ");
            }
            Ok(ExprOps::Match(matching)) => {
                let name = matching.get_name().map(|name| name.to_string_lossy().into_owned());
                let _ = write!(self.text, "xt match {} ", name.unwrap_or_default());
            }
            Ok(ExprOps::Counter(_)) => self.text.push_str("counter "),
            // Those that change or note something say nothing of who is matched.
            _ => {
                if let Ok(name) = expression.get_name() {
                    let _ = write!(self.text, "({}) ", name.to_string_lossy());
                }
            }
        }
    }

    fn load(&mut self, register: u32, loaded: Loaded) {
        self.mask = None;
        // A rule has few; whoever names many is not read on.
        if self.registers.len() < 64 {
            self.registers.insert(register, loaded);
        }
    }

    fn compare(&mut self, compare: &IterableExprCmpAttrs<'_>) {
        let mask = self.mask.take();
        let Some(Loaded { name, kind }) =
            compare.get_sreg().ok().and_then(|register| self.registers.get(&register)).cloned()
        else {
            return;
        };
        let bytes = compare.get_data().ok().and_then(|data| data.get_value().ok()).unwrap_or_default();
        let operator = compare.get_op().unwrap_or(0);
        if kind == Kind::CtState {
            // `ct state x` is: the state's bits, masked with x, are not zero.
            let bits = mask.as_deref().and_then(host_word).or_else(|| host_word(bytes)).unwrap_or(0);
            let is_any_of = (operator == CmpOps::Neq as u32) == mask.is_some();
            self.is_of_invalid |= is_any_of && bits & CT_INVALID != 0;
            let not = if is_any_of { "" } else { "!= " };
            let _ = write!(self.text, "{name} {not}{} ", ct_states(bits));
            return;
        }
        let sign = match operator {
            code if code == CmpOps::Neq as u32 => "!= ",
            code if code == CmpOps::Lt as u32 => "< ",
            code if code == CmpOps::Lte as u32 => "<= ",
            code if code == CmpOps::Gt as u32 => "> ",
            code if code == CmpOps::Gte as u32 => ">= ",
            _ => "",
        };
        let mask = mask.map_or_else(String::new, |mask| format!("& {} ", value(Kind::Bytes, &mask)));
        let _ = write!(self.text, "{name} {mask}{sign}{} ", value(kind, bytes));
    }

    /// Adds that a verdict map decides.
    pub(super) fn finish_map(&mut self, drops_invalid: bool) {
        self.is_of_invalid |= self.has_ct_state && drops_invalid;
        self.text.push_str("vmap ");
    }

    /// Returns whether the rule is about what connection tracking calls invalid, and the text.
    pub(super) fn finish(mut self, verdict: &Verdict) -> (bool, String) {
        match verdict {
            Verdict::Continue | Verdict::Other | Verdict::Map(_) => {}
            Verdict::Accept => self.text.push_str("accept"),
            Verdict::Drop => self.text.push_str("drop"),
            Verdict::Reject => self.text.push_str("reject"),
            Verdict::Jump(chain) => self.text.push_str(&format!("jump {chain}")),
            Verdict::Goto(chain) => self.text.push_str(&format!("goto {chain}")),
        }
        let mut text = self.text.trim_end().to_owned();
        for protocol in ["tcp", "udp"] {
            let asked = format!("meta l4proto {protocol} th ");
            if text.contains(&asked) {
                text =
                    text.replace(&asked, &format!("{protocol} ")).replace(" th ", &format!(" {protocol} "));
            }
        }
        (self.is_of_invalid, text)
    }
}

fn meta_name(key: u32) -> Loaded {
    let (name, kind) = match key {
        code if code == MetaKeys::L4Proto as u32 => ("meta l4proto", Kind::Protocol),
        code if code == MetaKeys::Iifname as u32 => ("iifname", Kind::Name),
        code if code == MetaKeys::Oifname as u32 => ("oifname", Kind::Name),
        code if code == MetaKeys::Iif as u32 => ("iif", Kind::Word),
        code if code == MetaKeys::Oif as u32 => ("oif", Kind::Word),
        code if code == MetaKeys::Mark as u32 => ("meta mark", Kind::Word),
        code if code == MetaKeys::Protocol as u32 => ("meta protocol", Kind::Bytes),
        code if code == MetaKeys::Nfproto as u32 => ("meta nfproto", Kind::Bytes),
        code if code == MetaKeys::Pkttype as u32 => ("meta pkttype", Kind::Bytes),
        code if code == MetaKeys::Skuid as u32 => ("meta skuid", Kind::Word),
        code if code == MetaKeys::Len as u32 => ("meta length", Kind::Word),
        _ => ("meta", Kind::Bytes),
    };
    Loaded { name: name.to_owned(), kind }
}

fn payload_name(base: u32, offset: u32, length: u32) -> Loaded {
    let is = |known: PayloadBase| base == known as u32;
    let (network, transport) = (is(PayloadBase::NetworkHeader), is(PayloadBase::TransportHeader));
    let (name, kind) = match (offset, length) {
        (9, 1) if network => ("ip protocol", Kind::Protocol),
        (12, 4) if network => ("ip saddr", Kind::V4),
        (16, 4) if network => ("ip daddr", Kind::V4),
        (8, 16) if network => ("ip6 saddr", Kind::V6),
        (24, 16) if network => ("ip6 daddr", Kind::V6),
        (0, 2) if transport => ("th sport", Kind::Number),
        (2, 2) if transport => ("th dport", Kind::Number),
        (13, 1) if transport => ("tcp flags", Kind::Bytes),
        _ => {
            let base = if transport {
                "th"
            } else if network {
                "nh"
            } else {
                "ll"
            };
            let name = format!("@{base},{},{}", offset.saturating_mul(8), length.saturating_mul(8));
            return Loaded { name, kind: Kind::Bytes };
        }
    };
    Loaded { name: name.to_owned(), kind }
}

fn value(kind: Kind, bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| bytes.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    match kind {
        Kind::Number => number(bytes).to_string(),
        Kind::Word => host_word(bytes).map_or_else(String::new, |word| word.to_string()),
        Kind::V4 => {
            bytes.try_into().map_or_else(|_| hex(bytes), |octets: [u8; 4]| Ipv4Addr::from(octets).to_string())
        }
        Kind::V6 => bytes
            .try_into()
            .map_or_else(|_| hex(bytes), |octets: [u8; 16]| Ipv6Addr::from(octets).to_string()),
        Kind::Name => {
            let name: Vec<_> = bytes.iter().copied().take_while(|byte| *byte != 0).collect();
            format!("\"{}\"", String::from_utf8_lossy(&name))
        }
        Kind::Protocol => match bytes {
            [1] => "icmp".to_owned(),
            [6] => "tcp".to_owned(),
            [17] => "udp".to_owned(),
            [58] => "icmpv6".to_owned(),
            other => number(other).to_string(),
        },
        Kind::CtState => ct_states(host_word(bytes).unwrap_or(0)),
        Kind::Bytes => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn ct_states(bits: u32) -> String {
    const NAMES: [(u32, &str); 5] =
        [(CT_INVALID, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    let names: Vec<_> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        assert_eq!(value(Kind::Number, &[0x1e, 0x61]), "7777");
        assert_eq!(value(Kind::V4, &[10, 0, 0, 1]), "10.0.0.1");
        assert_eq!(value(Kind::V4, &[10]), "0x0a");
        assert_eq!(value(Kind::Name, b"eth0\0\0"), "\"eth0\"");
        assert_eq!(value(Kind::Protocol, &[17]), "udp");
        assert_eq!(ct_states(3), "invalid,established");
        assert_eq!(payload_name(2, 2, 2).name, "th dport");
        assert_eq!(payload_name(2, 4, 3).name, "@th,32,24");
    }
}

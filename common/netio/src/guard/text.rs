//! The guard's rules in `nft` syntax, for people.

use std::fmt;
use std::net::IpAddr;

use super::ruleset::{Action, Base, Field, Match, Meta, Rule, Ruleset};

/// Both tables as `nft` would list them. What a name exists for is written by its name.
pub(super) struct Text<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) table: &'a str,
    pub(super) interfaces: &'a [String],
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table netdev {} {{\n\tflags owner", self.table)?;
        for chain in &self.ruleset.chains {
            write_chain(f, chain.name, None, &chain.rules)?;
        }
        for (index, interface) in self.interfaces.iter().enumerate() {
            let hook =
                format!("type filter hook ingress device \"{interface}\" priority -300; policy accept;");
            write_chain(f, &format!("ingress{index}"), Some(&hook), &self.ruleset.ingress)?;
        }
        writeln!(f, "}}\ntable inet {} {{\n\tflags owner", self.table)?;
        let hook = "type filter hook output priority -300; policy accept;";
        write_chain(f, "output", Some(hook), &self.ruleset.output)?;
        let hook = "type filter hook prerouting priority -300; policy accept;";
        write_chain(f, "prerouting", Some(hook), &self.ruleset.prerouting)?;
        f.write_str("}\n")
    }
}

fn write_chain(out: &mut fmt::Formatter<'_>, name: &str, hook: Option<&str>, rules: &[Rule]) -> fmt::Result {
    writeln!(out, "\tchain {name} {{")?;
    if let Some(hook) = hook {
        writeln!(out, "\t\t{hook}")?;
    }
    for rule in rules {
        out.write_str("\t\t")?;
        for condition in &rule.matches {
            write_match(out, condition)?;
            out.write_str(" ")?;
        }
        match &rule.action {
            Action::Accept => out.write_str("accept\n"),
            Action::CountedAccept => out.write_str("counter accept\n"),
            Action::CountedDrop => out.write_str("counter drop\n"),
            Action::Goto(chain) => writeln!(out, "goto {chain}"),
            Action::Jump(chain) => writeln!(out, "jump {chain}"),
            Action::Notrack => out.write_str("notrack\n"),
            Action::SetMark(mark) => writeln!(out, "meta mark set {mark:#010x}"),
        }?;
    }
    writeln!(out, "\t}}")
}

fn write_match(out: &mut fmt::Formatter<'_>, condition: &Match) -> fmt::Result {
    match condition {
        Match::Meta(Meta::PacketTypeHost) => out.write_str("meta pkttype host"),
        Match::Meta(Meta::Protocol(0x0800)) => out.write_str("meta protocol ip"),
        Match::Meta(Meta::Protocol(0x86dd)) => out.write_str("meta protocol ip6"),
        Match::Meta(Meta::Protocol(other)) => write!(out, "meta protocol {other:#06x}"),
        Match::Meta(Meta::TransportProtocol(protocol)) => write!(out, "meta l4proto {protocol}"),
        Match::Meta(Meta::Mark(mark)) => write!(out, "meta mark {mark:#010x}"),
        Match::Meta(Meta::LeavesElsewhere(index)) => write!(out, "oif != {index}"),
        Match::Meta(Meta::InputPrefix(prefix)) => write!(out, "iifname \"{prefix}*\""),
        Match::Within(field, prefix) if field.name.is_some() => {
            write!(out, "{} {}/{}", spelled(field), prefix.address(), prefix.length())
        }
        Match::Within(field, prefix) => match prefix.address() {
            IpAddr::V4(a) => write_masked(out, field, &mask(prefix.length(), 4), &a.octets()),
            IpAddr::V6(a) => write_masked(out, field, &mask(prefix.length(), 16), &a.octets()),
        },
        Match::Is(field, address) => write!(out, "{} {address}", spelled(field)),
        Match::Between(field, low, high) if low == high => write!(out, "{} {low}", spelled(field)),
        Match::Between(field, low, high) => write!(out, "{} {low}-{high}", spelled(field)),
        Match::Masked(field, mask, value) => write_masked(out, field, mask, value),
        Match::Differs(field, value) => write!(out, "{} != 0x{}", spelled(field), hex(value)),
        Match::NoFragmentHeader => out.write_str("exthdr frag missing"),
        Match::Present(field) => write!(out, "{} >= 0", spelled(field)),
    }
}

/// Writes a comparison of bytes; a full mask is left out.
fn write_masked(out: &mut fmt::Formatter<'_>, field: &Field, mask: &[u8], value: &[u8]) -> fmt::Result {
    write!(out, "{}", spelled(field))?;
    if mask.iter().any(|byte| *byte != 0xff) {
        write!(out, " & 0x{} ==", hex(mask))?;
    }
    write!(out, " 0x{}", hex(value))
}

/// Returns the field's name, or its place in bits.
fn spelled(field: &Field) -> String {
    let base = match field.base {
        Base::Network => "nh",
        Base::Transport => "th",
    };
    let bits = |bytes: u8| 8 * u16::from(bytes);
    field.name.map_or_else(|| format!("@{base},{},{}", bits(field.offset), bits(field.length)), str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns `length` bytes of which the first `bits` bits are set.
pub(super) fn mask(bits: u8, length: u8) -> Vec<u8> {
    let byte = |index: u8| match bits.saturating_sub(8 * index) {
        0 => 0,
        set @ 1..8 => !(0xff >> set),
        _ => 0xff,
    };
    (0..length).map(byte).collect()
}

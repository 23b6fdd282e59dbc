//! What nf_tables holds: chains, rules and verdict maps of every program's tables, iptables-nft's included.
//!
//! Read over netlink, without the `nft` program; nothing is changed. Needs `CAP_NET_ADMIN` in the network namespace's
//! user namespace: the kernel takes no nf_tables message from others, not even a question.

mod read;
mod text;

pub(crate) use read::devices;
pub use read::dump;

#[cfg(test)]
mod tests;

/// Where a chain is hooked into the way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// Arrived, not yet routed.
    Prerouting,
    /// For this host.
    Input,
    /// For another host.
    Forward,
    /// From this host.
    Output,
    /// Routed, about to leave.
    Postrouting,
    /// At a device, arriving.
    Ingress,
    /// At a device, leaving (Linux 5.16).
    Egress,
    /// A hook of a newer kernel's, or of a bridge's own.
    Other,
}

/// How a base chain is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub point: Point,
    /// In what order with others there: the smallest first.
    pub priority: i32,
    /// The devices, of a hook at devices.
    pub devices: Vec<String>,
    /// Whether a packet that no rule decides is dropped.
    pub drops: bool,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Such as `inet`, `ip`, `ip6`, `netdev`, `bridge`, `arp`.
    pub family: &'static str,
    /// The table that it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// None of a chain that only other chains lead to.
    pub hook: Option<Hook>,
}

/// What becomes of a packet that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with the next rule.
    Continue,
    /// It goes on to the next chain of the hook.
    Accept,
    /// It vanishes.
    Drop,
    /// It vanishes, and its sender is told.
    Reject,
    /// It goes on in another chain, and comes back from there.
    Jump(String),
    /// It goes on in another chain.
    Goto(String),
    /// A verdict map decides: all verdicts that it holds.
    Map(Vec<Verdict>),
    /// Something else ends its way through the chain, such as `return` or `queue`.
    Other,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its table's family.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// Packets that it has counted, if it counts.
    pub counter: Option<u64>,
    /// What becomes of a packet that it matches.
    pub verdict: Verdict,
    /// Whether it sends packets on, out of another device (`fwd`).
    pub forwards: bool,
    /// Whether it matches what connection tracking calls invalid.
    pub is_of_invalid: bool,
    /// What it says, nearly as `nft` writes it.
    pub text: String,
}

/// All of it. Sets and their elements are left out; what a verdict map may say stands in its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// All chains.
    pub chains: Vec<Chain>,
    /// All rules, in the order of their chains.
    pub rules: Vec<Rule>,
}

//! Netfilter: what may drop at which hook.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use rtt0_netio::guard;
use rtt0_netio::ruleset_dump::{self, Chain, Hook, Point, Rule, Ruleset, Verdict};
use rtt0_netio::sighting::TABLE_PREFIX;

use super::counters::conntrack;
use super::ingress::{self, Forwarder};
use crate::finding::Layer;

/// How deep chains that lead to chains are followed; the kernel allows 16.
const DEEPEST: usize = 16;

/// Netfilter's chains in the way of packets.
#[derive(Debug, Clone, Default)]
pub struct Firewall {
    /// The base chains of every program's tables but our own.
    pub chains: Vec<BaseChain>,
    /// Chains that send packets on at a device's ingress, past everything behind it.
    pub forwarders: Vec<Forwarder>,
    /// Tables of the old xtables interface, whose rules only its own program can list.
    pub legacy_tables: Vec<String>,
    /// Whether connection tracking has no room for another connection: then it drops at its own hooks.
    pub is_conntrack_full: bool,
    /// Why the rules could not be read.
    pub trouble: Option<Trouble>,
}

/// Why the rules could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// This kernel has no nf_tables, so there are no rules.
    NoTables,
    /// It refuses to tell: what it says.
    Refused(String),
}

/// A chain at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Where it is.
    pub layer: Layer,
    /// Such as `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// In what order with others of the layer.
    pub priority: i32,
    /// The devices, of a hook at devices.
    pub devices: Vec<String>,
    /// Whether it drops what no rule decides.
    pub policy_drops: bool,
    /// Whether any rule accepts, or might.
    pub accepts: bool,
    /// Rules that drop or reject, also those of chains that it leads to.
    pub suspects: Vec<Suspect>,
}

/// A rule that drops or rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The chain that it is in.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// Packets that it has counted; only of a rule that counts, and whose packets all go the same way.
    pub counter: Option<u64>,
    /// Whether it drops what connection tracking calls invalid.
    pub is_of_invalid: bool,
    /// What it says.
    pub text: String,
}

impl BaseChain {
    /// Returns what it is called, such as `inet filter input`.
    pub fn title(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }

    /// Returns what one of its suspects is called, such as `inet filter input handle 4`.
    pub fn rule_title(&self, suspect: &Suspect) -> String {
        format!("{} {} {} handle {}", self.family, self.table, suspect.chain, suspect.handle)
    }

    /// Tells whether packets may vanish here.
    pub fn may_drop(&self) -> bool {
        self.policy_drops || !self.suspects.is_empty()
    }

    /// Says who may drop here, a line each.
    pub fn suspects_in_words(&self) -> Vec<String> {
        let rules =
            self.suspects.iter().map(|suspect| format!("{}: {}", self.rule_title(suspect), suspect.text));
        let policy = self.policy_drops.then(|| format!("{}: policy drop", self.title()));
        rules.chain(policy).collect()
    }
}

/// A chain's family, table and name.
type Names<'a> = (&'static str, &'a str, &'a str);

/// Rules by their chains.
type Rules<'a> = HashMap<Names<'a>, Vec<&'a Rule>>;

impl Firewall {
    /// Reads it.
    pub fn read() -> Self {
        let mut firewall = match ruleset_dump::dump() {
            Ok(ruleset) => Self::of(&ruleset),
            Err(error) => Self { trouble: Some(trouble(&error)), ..Self::default() },
        };
        firewall.legacy_tables = legacy_tables();
        firewall.is_conntrack_full =
            conntrack::read().is_ok_and(|conntrack| conntrack.is_some_and(|it| it.is_full()));
        firewall
    }

    /// Finds out who may drop at which hook. The middlebox' guard and the doctor's own counters are left out.
    pub fn of(ruleset: &Ruleset) -> Self {
        let mut rules: Rules<'_> = HashMap::new();
        for rule in &ruleset.rules {
            rules.entry((rule.family, &rule.table, &rule.chain)).or_default().push(rule);
        }
        let chains = ruleset.chains.iter().filter(|chain| !is_ours(&chain.table));
        let chains = chains.filter_map(|chain| base_chain(&rules, chain, chain.hook.as_ref()?)).collect();
        Self { chains, forwarders: ingress::chains(ruleset), ..Self::default() }
    }

    /// Returns those that may drop packets at `layer`, and at `device` if that has hooks of its own.
    pub fn suspects<'a>(&'a self, layer: Layer, device: &'a str) -> impl Iterator<Item = &'a BaseChain> {
        let at_device = matches!(layer, Layer::NetdevIngress | Layer::NetdevEgress);
        self.chains.iter().filter(move |chain| {
            chain.layer == layer
                && chain.may_drop()
                && (!at_device || chain.devices.is_empty() || chain.devices.iter().any(|name| name == device))
        })
    }

    /// Returns the counts of all rules that have one, by their family, table and number.
    pub fn counters(&self) -> HashMap<(&'static str, &str, u64), u64> {
        let mut counters = HashMap::new();
        for chain in &self.chains {
            for suspect in &chain.suspects {
                if let Some(count) = suspect.counter {
                    counters.insert((chain.family, chain.table.as_str(), suspect.handle), count);
                }
            }
        }
        counters
    }
}

/// Tells whether a table is the guard's or the doctor's.
fn is_ours(table: &str) -> bool {
    guard::is_name(table) || table.starts_with(TABLE_PREFIX)
}

fn layer(point: Point) -> Option<Layer> {
    match point {
        Point::Prerouting => Some(Layer::Prerouting),
        Point::Input => Some(Layer::Input),
        Point::Forward => Some(Layer::Forward),
        Point::Output => Some(Layer::Output),
        Point::Postrouting => Some(Layer::Postrouting),
        Point::Ingress => Some(Layer::NetdevIngress),
        Point::Egress => Some(Layer::NetdevEgress),
        Point::Other => None,
    }
}

fn base_chain<'a>(rules: &Rules<'a>, chain: &'a Chain, hook: &Hook) -> Option<BaseChain> {
    let mut base = BaseChain {
        layer: layer(hook.point)?,
        family: chain.family,
        table: chain.table.clone(),
        name: chain.name.clone(),
        priority: hook.priority,
        devices: hook.devices.clone(),
        policy_drops: hook.drops,
        accepts: false,
        suspects: Vec::new(),
    };
    let start = (chain.family, chain.table.as_str(), chain.name.as_str());
    walk(rules, start, DEEPEST, &mut HashSet::new(), &mut base);
    Some(base)
}

fn walk<'a>(
    rules: &Rules<'a>,
    chain: Names<'a>,
    depth: usize,
    seen: &mut HashSet<Names<'a>>,
    base: &mut BaseChain,
) {
    if depth == 0 || !seen.insert(chain) {
        return;
    }
    let own = rules.get(&chain).into_iter().flatten();
    let (family, table, _) = chain;
    for rule in own {
        let verdicts = match &rule.verdict {
            Verdict::Map(verdicts) => verdicts.as_slice(),
            verdict => std::slice::from_ref(verdict),
        };
        if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Drop | Verdict::Reject)) {
            base.suspects.push(suspect(rule, verdicts.len() == 1));
        }
        for verdict in verdicts {
            match verdict {
                Verdict::Accept | Verdict::Other => base.accepts = true,
                Verdict::Jump(next) | Verdict::Goto(next) => {
                    walk(rules, (family, table, next), depth - 1, seen, base);
                }
                Verdict::Continue | Verdict::Drop | Verdict::Reject | Verdict::Map(_) => {}
            }
        }
    }
}

fn suspect(rule: &Rule, is_sole: bool) -> Suspect {
    Suspect {
        chain: rule.chain.clone(),
        handle: rule.handle,
        counter: rule.counter.filter(|_| is_sole),
        is_of_invalid: rule.is_of_invalid,
        text: rule.text.clone(),
    }
}

fn trouble(error: &io::Error) -> Trouble {
    // EPROTONOSUPPORT, EAFNOSUPPORT, EOPNOTSUPP, EINVAL of a socket or subsystem that is not there.
    match error.raw_os_error() {
        Some(93 | 97 | 95 | 22) => Trouble::NoTables,
        _ => Trouble::Refused(error.to_string()),
    }
}

fn legacy_tables() -> Vec<String> {
    let files = ["ip", "ip6"].map(|family| (family, format!("/proc/thread-self/net/{family}_tables_names")));
    let mut tables = Vec::new();
    for (family, file) in files {
        for name in fs::read_to_string(file).unwrap_or_default().lines().take(16) {
            tables.push(format!("{family} {name}"));
        }
    }
    tables
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A rule of `inet filter`.
    pub(crate) fn rule(chain: &str, handle: u64, counter: Option<u64>, verdict: Verdict) -> Rule {
        Rule {
            family: "inet",
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            handle,
            counter,
            verdict,
            forwards: false,
            is_of_invalid: false,
            text: format!("rule {handle}"),
        }
    }

    /// A chain of `inet filter`.
    pub(crate) fn chain(name: &str, hook: Option<(Point, bool)>) -> Chain {
        let hook = hook.map(|(point, drops)| Hook { point, priority: 0, devices: Vec::new(), drops });
        Chain { family: "inet", table: "filter".to_owned(), name: name.to_owned(), hook }
    }

    #[test]
    fn rules_are_suspects_where_jumps_lead_to_them() {
        let ruleset = Ruleset {
            chains: vec![
                chain("input", Some((Point::Input, false))),
                chain("deep", None),
                chain("alone", None),
            ],
            rules: vec![
                rule("input", 1, None, Verdict::Map(vec![Verdict::Accept, Verdict::Jump("deep".to_owned())])),
                rule("deep", 2, Some(7), Verdict::Drop),
                rule("deep", 3, None, Verdict::Goto("input".to_owned())),
                rule("alone", 4, None, Verdict::Drop),
            ],
        };
        let firewall = Firewall::of(&ruleset);
        let [base] = &firewall.chains[..] else { panic!("{firewall:?}") };
        assert!(base.accepts && base.may_drop());
        let handles: Vec<_> = base.suspects.iter().map(|suspect| (suspect.handle, suspect.counter)).collect();
        assert_eq!(handles, [(2, Some(7))]);
        assert_eq!(firewall.suspects(Layer::Input, "eth0").count(), 1);
        assert_eq!(firewall.suspects(Layer::Output, "eth0").count(), 0);
    }

    #[test]
    fn what_counts_for_several_verdicts_accuses_nobody() {
        let verdict = Verdict::Map(vec![Verdict::Accept, Verdict::Drop]);
        let ruleset = Ruleset {
            chains: vec![chain("input", Some((Point::Input, false)))],
            rules: vec![rule("input", 1, Some(9), verdict)],
        };
        assert_eq!(Firewall::of(&ruleset).chains[0].suspects[0].counter, None);
    }

    #[test]
    fn our_own_tables_are_no_suspects() {
        for (name, ours) in [("rtt0_12", true), ("rtt0_12_3", true), ("doctor_1_0", true), ("rtt0_x", false)]
        {
            assert_eq!(is_ours(name), ours, "{name}");
        }
    }
}

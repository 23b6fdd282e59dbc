//! What packets are held against. It is replaced as a whole when the configuration is read again.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::allowlist::Allowlist;
use crate::inner::Inner;
use crate::nat::{Rule, Rules};
use crate::reason::DropReason;
use crate::snapshot::RuleCount;
use crate::tunnel::Tunnels;

/// Tunnels, allowlist and rules that belong together.
#[derive(Debug)]
pub struct Judgement {
    /// The tunnels that are expected.
    pub tunnels: Tunnels,
    /// Whose packets are sent on; everybody's if there is none.
    pub allowlist: Option<Allowlist>,
    rules: Rules,
    /// As long as the rules.
    tallies: Vec<Arc<Tally>>,
}

/// Counts what a rule has translated. Several workers add.
#[derive(Debug, Default)]
struct Tally {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Judgement {
    /// Joins the parts. A rule that `before` has too, by its name, goes on counting from there.
    pub fn new(tunnels: Tunnels, allowlist: Option<Allowlist>, rules: Rules, before: Option<&Self>) -> Self {
        let known = |name: &str| {
            let before = before?;
            let place = before.rules.iter().position(|rule| rule.name == name)?;
            before.tallies.get(place).cloned()
        };
        let tallies = rules.iter().map(|rule| known(&rule.name).unwrap_or_default()).collect();
        Self { tunnels, allowlist, rules, tallies }
    }

    /// Returns the rule that says where a packet goes, and counts it there.
    ///
    /// # Errors
    /// Its source is not allowed, or no rule matches.
    pub fn judge(&self, inner: &Inner) -> Result<&Rule, DropReason> {
        let is_allowed = |source: IpAddr| self.allowlist.as_ref().is_none_or(|list| list.owner(source).is_some());
        if !is_allowed(inner.source) {
            return Err(DropReason::NotAllowed);
        }
        let id = self.rules.find(inner).ok_or(DropReason::NoRule)?;
        if let Some(tally) = self.tallies.get(id.index()) {
            tally.packets.fetch_add(1, Ordering::Relaxed);
            tally.bytes.fetch_add(inner.length as u64, Ordering::Relaxed);
        }
        Ok(self.rules.rule(id))
    }

    /// Returns what each rule has translated.
    pub fn counts(&self) -> Vec<RuleCount> {
        let count = |(rule, tally): (&Rule, &Arc<Tally>)| RuleCount {
            name: rule.name.clone(),
            packets: tally.packets.load(Ordering::Relaxed),
            bytes: tally.bytes.load(Ordering::Relaxed),
        };
        self.rules.iter().zip(&self.tallies).map(count).collect()
    }
}

//! What the program says that it has counted.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One line of its output.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Counted {
    pub captured: u64,
    pub sent: u64,
    pub dropped: BTreeMap<String, u64>,
    pub overflow: u64,
    pub rules: Vec<RuleCounted>,
    pub backend: String,
    #[serde(default)]
    pub strayed: u64,
    /// Only if any rule wants replies.
    pub replies: Option<RepliesCounted>,
    #[serde(rename = "final", default)]
    pub is_final: bool,
}

/// What has become of replies.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RepliesCounted {
    pub captured: u64,
    pub sent: u64,
    pub dropped: BTreeMap<String, u64>,
    pub overflow: u64,
    pub flows: BTreeMap<String, u64>,
    pub replaced: u64,
    pub ambiguous: u64,
}

/// What one rule has translated.
#[derive(Debug, Clone, Deserialize)]
pub struct RuleCounted {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}

impl Counted {
    /// How many packets ended for this reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }

    /// What has become of replies; nothing if none are wanted.
    pub fn replies(&self) -> RepliesCounted {
        self.replies.clone().unwrap_or_default()
    }

    /// Packets and bytes of a rule.
    #[track_caller]
    pub fn rule(&self, name: &str) -> (u64, u64) {
        let rule = self.rules.iter().find(|rule| rule.name == name);
        rule.map(|rule| (rule.packets, rule.bytes)).unwrap_or_else(|| panic!("rule {name} in {self:?}"))
    }

    /// Every packet that came in ended in exactly one place.
    #[track_caller]
    pub fn must_add_up(&self) {
        let labels = mirror::reason::DropReason::ALL.iter().map(|reason| reason.label());
        let known: Vec<_> = labels.collect();
        let replies = self.replies();
        let mut all = self.dropped.keys().chain(replies.dropped.keys());
        assert!(all.all(|label| known.contains(&&**label)), "{self:?}");
        assert_eq!(replies.captured, replies.sent + replies.dropped.values().sum::<u64>(), "{self:?}");
        assert_eq!(self.captured, self.sent + self.dropped.values().sum::<u64>(), "{self:?}");
    }
}

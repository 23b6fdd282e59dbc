//! What a flow is at a moment: the rows of the table above, for whoever watches the engine.

use super::ClientNic;
use crate::flow::{Flow, Pending};
use rtt0_core::flow::FlowKey;
use rtt0_core::seq::{Client, Seq};

/// A row of the engine's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Phase {
    /// Nothing is known of it.
    None,
    /// Its SYN passed unspoofed.
    Learning,
    /// Spoofed; a ServerNIC is expected to translate.
    OpeningPaired,
    /// Spoofed; translated here.
    OpeningSolo,
    /// Translated here.
    Translated,
    /// Watched for the size of its upload.
    Watching,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Learning,
        Self::OpeningPaired,
        Self::OpeningSolo,
        Self::Translated,
        Self::Watching,
    ];

    /// Returns what operators read: lower case, words joined by `_`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Learning => "learning",
            Self::OpeningPaired => "opening_paired",
            Self::OpeningSolo => "opening_solo",
            Self::Translated => "translated",
            Self::Watching => "watching",
        }
    }

    pub(super) fn of_pending(pending: &Pending) -> Self {
        if pending.paired { Self::OpeningPaired } else { Self::OpeningSolo }
    }

    pub(super) fn of(flow: &Flow) -> Self {
        match flow {
            Flow::Learning(_) => Self::Learning,
            Flow::Opening(pending) => Self::of_pending(pending),
            Flow::Translated { .. } => Self::Translated,
            Flow::Watching(_) => Self::Watching,
        }
    }
}

/// A flow as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its row.
    pub phase: Phase,
    /// The ISN of its client, if it has one.
    pub client_isn: Option<Seq<Client>>,
}

impl ClientNic {
    /// Looks at a flow without touching it.
    pub fn view(&self, key: &FlowKey) -> View {
        let Some(entry) = self.flows.get(key) else {
            return View { phase: Phase::None, client_isn: None };
        };
        let isn = match &entry.value {
            Flow::Learning(learning) => learning.isn,
            Flow::Opening(pending) => pending.opening.start().client_isn,
            Flow::Translated { flow, .. } => flow.client_isn(),
            Flow::Watching(watched) => watched.isn,
        };
        View { phase: Phase::of(&entry.value), client_isn: Some(isn) }
    }
}

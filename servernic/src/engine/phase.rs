//! What a flow is at a moment: the rows of the table above, for whoever watches the engine.

use super::ServerNic;
use crate::flow::Flow;
use rtt0_core::flow::FlowKey;
use rtt0_core::seq::{Client, Seq};

/// A row of the engine's table; that of translated flows is split by what stands beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Phase {
    /// Nothing is known of it.
    None,
    /// Data that overtook its offer.
    Orphan,
    /// A probe went to the server.
    Probed,
    /// A handshake is under way.
    Opening,
    /// Translated.
    Translated,
    /// Translated, while a newer handshake of the 4-tuple is under way.
    Succeeded,
    /// Translated, while a newer SYN of the 4-tuple has gone to the server unspoofed.
    Rivalled,
    /// Translated until it ended.
    Ended,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Orphan,
        Self::Probed,
        Self::Opening,
        Self::Translated,
        Self::Succeeded,
        Self::Rivalled,
        Self::Ended,
    ];

    /// Returns what operators read: lower case, words joined by `_`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Orphan => "orphan",
            Self::Probed => "probed",
            Self::Opening => "opening",
            Self::Translated => "translated",
            Self::Succeeded => "succeeded",
            Self::Rivalled => "rivalled",
            Self::Ended => "ended",
        }
    }

    pub(super) fn of(flow: &Flow) -> Self {
        match flow {
            Flow::Orphan(_) => Self::Orphan,
            Flow::Probed(_) => Self::Probed,
            Flow::Opening { .. } => Self::Opening,
            Flow::Translated { successor: Some(_), .. } => Self::Succeeded,
            Flow::Translated { rival: Some(_), .. } => Self::Rivalled,
            Flow::Translated { flow, .. } if flow.has_ended() => Self::Ended,
            Flow::Translated { .. } => Self::Translated,
        }
    }
}

/// A flow as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its row.
    pub phase: Phase,
    /// The ISN of its client, if it is known.
    pub client_isn: Option<Seq<Client>>,
    /// The ISN of the newer SYN that stands beside a handshake or a translated flow.
    pub newer_isn: Option<Seq<Client>>,
}

impl ServerNic {
    /// Looks at a flow without touching it.
    pub fn view(&self, key: &FlowKey) -> View {
        let Some(entry) = self.flows.get(key) else {
            return View { phase: Phase::None, client_isn: None, newer_isn: None };
        };
        let (client_isn, newer_isn) = match &entry.value {
            Flow::Orphan(_) => (None, None),
            Flow::Probed(probe) => (Some(probe.isn), None),
            Flow::Opening { opening, rival } => {
                (Some(opening.start().client_isn), rival.map(|newer| newer.rival.isn()))
            }
            Flow::Translated { flow, successor, rival, .. } => {
                let successor = successor.as_ref().map(|next| next.start().client_isn);
                (Some(flow.client_isn()), successor.or(rival.map(|newer| newer.rival.isn())))
            }
        };
        View { phase: Phase::of(&entry.value), client_isn, newer_isn }
    }
}

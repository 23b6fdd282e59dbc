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
        let view = |phase, client_isn, newer_isn| View { phase, client_isn, newer_isn };
        let Some(entry) = self.flows.get(key) else { return view(Phase::None, None, None) };
        match &entry.value {
            Flow::Orphan(_) => view(Phase::Orphan, None, None),
            Flow::Probed(probe) => view(Phase::Probed, Some(probe.isn), None),
            Flow::Opening { opening, rival } => {
                let newer = rival.map(|newer| newer.rival.isn());
                view(Phase::Opening, Some(opening.start().client_isn), newer)
            }
            Flow::Translated { flow, successor, rival, .. } => {
                let isn = Some(flow.client_isn());
                match (successor, rival) {
                    (Some(next), _) => view(Phase::Succeeded, isn, Some(next.start().client_isn)),
                    (None, Some(newer)) => view(Phase::Rivalled, isn, Some(newer.rival.isn())),
                    (None, None) if flow.has_ended() => view(Phase::Ended, isn, None),
                    (None, None) => view(Phase::Translated, isn, None),
                }
            }
        }
    }
}

//! What a flow can be to ServerNIC.

use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::Opening;
use rtt0_core::held::Held;
use rtt0_core::journal::Kept;
use rtt0_core::offer::KeyId;
use rtt0_core::offload::{Offloadable, Offloaded, Progress, Share};
use rtt0_core::rival::Rival;
use rtt0_core::seq::{Client, Promised, Seq};
use rtt0_core::translate::Translation;
use rtt0_core::translated::Translated;
use rtt0_core::wire::tcp::{Flags, Tcp};

/// A flow. Handshakes are boxed: they are rare and large, established flows many and small.
#[derive(Debug)]
pub(crate) enum Flow {
    /// Data that overtook its offer.
    Orphan(Orphan),
    /// A probe went to the server; its SYN-ACK gets a confirm.
    Probed(Probe),
    /// A handshake on the client's behalf.
    Opening {
        /// The handshake.
        opening: Box<Opening>,
        /// A newer SYN of the same 4-tuple that went to the server unspoofed.
        rival: Option<Newer>,
    },
    /// An established flow.
    Translated {
        /// The flow.
        flow: Translated,
        /// A newer handshake of the same 4-tuple that will replace it if the server accepts.
        successor: Option<Box<Opening>>,
        /// A newer SYN of the same 4-tuple that went to the server unspoofed.
        rival: Option<Newer>,
        /// What the journal knows of it.
        kept: Kept,
        /// Whether the client has acknowledged the promised ISN.
        proven: bool,
        /// Whether the kernel forwards it.
        share: Share,
    },
}

/// Early data without an offer yet.
#[derive(Debug)]
pub(crate) struct Orphan {
    /// What is held.
    pub(crate) held: Held,
    /// The ISN `S` that the data acknowledges.
    pub(crate) promised: Seq<Promised>,
    /// The client, or ClientNIC on its behalf, has gone on in other numbers.
    pub(crate) moot: bool,
}

impl Orphan {
    /// Tells whether a segment belongs to the same handshake.
    pub(crate) fn owns(&self, tcp: &Tcp<'_>) -> bool {
        tcp.flags().contains(Flags::ACK) && tcp.acknowledgement() == self.promised.plus(1).get()
    }
}

/// An unspoofed SYN that asked for a confirm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    /// The client's ISN.
    pub(crate) isn: Seq<Client>,
    /// The key that signed it.
    pub(crate) key: KeyId,
}

/// An unspoofed SYN on the 4-tuple of another connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newer {
    /// The SYN, and its answer.
    pub(crate) rival: Rival,
    /// The key of its probe, if it carried one.
    pub(crate) probe: Option<KeyId>,
}

impl Newer {
    /// Returns its probe, if it carried one.
    pub(crate) fn probe(&self) -> Option<Probe> {
        self.probe.map(|key| Probe { isn: self.rival.isn(), key })
    }
}

impl Flow {
    /// An established flow as it begins; `rival` has come while its handshake lasted.
    pub(crate) fn translated(flow: Translated, rival: Option<Newer>, kept: Kept, proven: bool) -> Self {
        Self::Translated { flow, successor: None, rival, kept, proven, share: Share::default() }
    }

    /// Returns the newer SYN that went to the server unspoofed, if there is one.
    pub(crate) fn rival(&self) -> Option<Newer> {
        match self {
            Self::Opening { rival, .. } | Self::Translated { rival, .. } => *rival,
            Self::Orphan(_) | Self::Probed(_) => None,
        }
    }

    /// Returns the handshake under way, if there is one.
    pub(crate) fn opening_mut(&mut self) -> Option<&mut Opening> {
        match self {
            Self::Opening { opening, .. } => Some(opening),
            Self::Translated { successor, .. } => successor.as_deref_mut(),
            _ => None,
        }
    }

    /// Returns its translation, if it has one.
    pub(crate) fn translation(&self) -> Option<&Translation> {
        match self {
            Self::Translated { flow, .. } => Some(flow.translation()),
            _ => None,
        }
    }

    /// Reads some of each part of an established flow, see `FlowTable::look_ahead`.
    pub(crate) fn touch(&self) -> u32 {
        match self {
            Self::Translated { flow, proven, .. } => flow.touch() ^ u32::from(*proven),
            _ => 0,
        }
    }

    /// Returns what the journal knows of it.
    pub(crate) fn kept(&self) -> Kept {
        match self {
            Self::Translated { kept, .. } => *kept,
            _ => Kept::default(),
        }
    }

    /// Returns how many servers' answers a client that exists waits for.
    pub(crate) fn awaited(&self) -> usize {
        let opening = match self {
            Self::Opening { opening, .. } => Some(opening),
            Self::Translated { successor, .. } => successor.as_ref(),
            _ => None,
        };
        usize::from(opening.is_some_and(|opening| opening.is_proven()))
    }

    /// Returns how many pending handshakes it counts for.
    pub(crate) fn pending(&self) -> usize {
        match self {
            Self::Opening { .. } | Self::Orphan(_) => 1,
            Self::Translated { successor: Some(_), .. } => 1,
            _ => 0,
        }
    }
}

impl Offloadable for Flow {
    fn share(&self) -> Option<&Share> {
        match self {
            Self::Translated { share, .. } => Some(share),
            _ => None,
        }
    }

    fn share_mut(&mut self) -> Option<&mut Share> {
        match self {
            Self::Translated { share, .. } => Some(share),
            _ => None,
        }
    }

    fn offloaded(&self, key: FlowKey) -> Option<Offloaded> {
        match self {
            Self::Translated { flow, successor: None, rival, proven: true, .. } => {
                flow.offloaded(key).filter(|_| rival.is_none_or(|newer| !newer.rival.is_answered()))
            }
            _ => None,
        }
    }

    fn resume(&mut self, progress: &Progress) {
        if let Self::Translated { flow, proven, .. } = self {
            flow.resume(progress);
            *proven |= !progress.is_opening();
        }
    }

    fn is_same(&self, offloaded: &Offloaded) -> bool {
        matches!(self, Self::Translated { flow, .. } if flow.is_same(offloaded))
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Translated { flow, .. } if flow.has_ended())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::flow::Entry;

    #[test]
    fn an_established_flow_takes_less_than_256_bytes() {
        // In the table's slots, of whole cache lines.
        let bytes = size_of::<Entry<Flow>>().next_multiple_of(64);
        // The table adds at most 54: two cells of its index, its timer, its place among those at rest.
        assert!(bytes + 54 < 256, "{bytes} bytes");
    }
}

//! What drives a packet's way as the NICs' worker wants it driven, and counts where packets end.

use std::sync::Arc;

use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::time::Instant;

use crate::counts::Counts;
use crate::examples::Examples;
use crate::reason::DropReason;

/// A way of packets through the mirror.
pub trait Way {
    /// Leads one packet along; may change it in place. A packet to forward lies at the beginning of its bytes then.
    ///
    /// # Errors
    /// Where it has ended before its time.
    fn lead(&mut self, now: Instant, packet: &mut Packet<'_>) -> Result<Fate, DropReason>;
}

/// What becomes of a packet that goes all the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is emitted.
    Forwarded,
    /// It was looked at, as was asked for.
    Observed,
}

/// A way, as an engine.
#[derive(Debug)]
pub struct Pipeline<W> {
    way: W,
    counts: Arc<Counts>,
    examples: Arc<Examples>,
    /// Those of the contract, which count nothing here.
    none: Counters,
}

impl<W> Pipeline<W> {
    /// Makes one that counts in `counts`, and shows `examples` what is of no use.
    pub fn new(way: W, counts: Arc<Counts>, examples: Arc<Examples>) -> Self {
        Self { way, counts, examples, none: Counters::default() }
    }
}

impl<W: Way> Engine for Pipeline<W> {
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        match self.way.lead(now, packet) {
            Ok(Fate::Forwarded) => return Verdict::Forward,
            Ok(Fate::Observed) => self.counts.observe(),
            Err(reason) => {
                self.counts.discard(reason);
                self.examples.offer(packet.bytes);
            }
        }
        Verdict::Taken
    }

    /// Its sender is no neighbour of ours and wants no answer; the emission counts it.
    fn too_big(&mut self, _: Instant, _: &[u8], _: u16, _: &mut Outbox) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}

    fn counters(&self) -> &Counters {
        &self.none
    }
}

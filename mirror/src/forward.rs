//! The way of a packet through the mirror, between capture and emission.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::time::Instant;

use crate::counts::Counts;
use crate::examples::Examples;
use crate::judgement::Judgement;
use crate::reason::DropReason;
use crate::{inner, nat, tunnel};

/// Where the present judgement is found.
pub type Shared = Arc<ArcSwap<Judgement>>;

/// Takes packets out of their tunnels, judges and translates them.
pub struct Forward {
    judgement: Cache<Shared, Arc<Judgement>>,
    counts: Arc<Counts>,
    examples: Arc<Examples>,
    /// Those of the contract, which count nothing here.
    none: Counters,
}

impl Forward {
    /// Makes one that counts in `counts`, and shows `examples` what is of no use.
    pub fn new(judgement: Shared, counts: Arc<Counts>, examples: Arc<Examples>) -> Self {
        Self { judgement: Cache::new(judgement), counts, examples, none: Counters::default() }
    }

    /// Leaves the translated inner packet at the beginning of `packet`, or says where it ends. One judgement is used for
    /// all of it.
    fn translate(&mut self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let judgement = self.judgement.load();
        let found = tunnel::decapsulate(packet.bytes, &judgement.tunnels, packet.offload)?;
        let came = packet.bytes.get(found.inner.clone()).ok_or(DropReason::OuterMalformed)?;
        let inner = inner::parse(came)?;
        let rule = judgement.judge(&inner)?;
        // To the front, from where it is emitted: the emission goes by the length that the IP header says.
        packet.bytes.copy_within(found.inner, 0);
        let bytes = packet.bytes.get_mut(..inner.length).ok_or(DropReason::InnerMalformed)?;
        if packet.offload.needs_csum {
            inner::complete_checksum(bytes, &inner);
        }
        nat::rewrite(bytes, &inner, rule, false)?;
        packet.offload = Offload::default();
        Ok(())
    }
}

impl Engine for Forward {
    fn handle(&mut self, _: Instant, packet: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        match self.translate(packet) {
            Ok(()) => Verdict::Forward,
            Err(reason) => {
                self.counts.discard(reason);
                self.examples.offer(packet.bytes);
                Verdict::Taken
            }
        }
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

//! The way of a packet that is only looked at.

use std::sync::{Arc, Mutex, PoisonError};

use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::time::Instant;

use crate::counts::Counts;
use crate::examples::Examples;
use crate::forward::Shared;
use crate::inner::{self, Transport};
use crate::observe::{Observer, Report};
use crate::reason::DropReason;
use crate::tunnel;

/// Where the report is left when the packets have ended.
pub type Conclusion = Arc<Mutex<Option<Report>>>;

/// Takes packets out of their tunnels and shows the TCP among them to an [`Observer`].
pub struct Observing {
    judgement: Shared,
    counts: Arc<Counts>,
    examples: Arc<Examples>,
    observer: Observer,
    last: Instant,
    conclusion: Conclusion,
    /// Those of the contract, which count nothing here.
    none: Counters,
}

impl Observing {
    /// Makes one that counts in `counts`, shows `examples` what is of no use, and leaves its report in `conclusion`.
    pub fn new(
        judgement: Shared,
        counts: Arc<Counts>,
        examples: Arc<Examples>,
        observer: Observer,
        conclusion: Conclusion,
    ) -> Self {
        let (last, none) = (Instant::default(), Counters::default());
        Self { judgement, counts, examples, observer, last, conclusion, none }
    }

    fn observe(&mut self, now: Instant, packet: &Packet<'_>) -> Result<(), DropReason> {
        let judgement = self.judgement.load();
        let found = tunnel::decapsulate(packet.bytes, &judgement.tunnels, packet.offload)?;
        let bytes = packet.bytes.get(found.inner).ok_or(DropReason::OuterMalformed)?;
        // What a mirror has cut tells as much, if its headers are there.
        let (inner, _) = inner::parse_cut(bytes)?;
        if inner.transport == Transport::Tcp {
            self.observer.segment(now, bytes, &inner);
        }
        Ok(())
    }
}

impl Engine for Observing {
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        self.last = now;
        match self.observe(now, packet) {
            Ok(()) => self.counts.observe(),
            Err(reason) => {
                self.counts.discard(reason);
                self.examples.offer(packet.bytes);
            }
        }
        Verdict::Taken
    }

    fn too_big(&mut self, _: Instant, _: &[u8], _: u16, _: &mut Outbox) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}

    fn counters(&self) -> &Counters {
        &self.none
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let report = self.observer.report(self.last);
        *self.conclusion.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

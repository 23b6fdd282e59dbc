//! The way of a packet that is only looked at.

use std::sync::{Arc, Mutex, PoisonError};

use rtt0_core::packet::Packet;
use rtt0_core::time::Instant;

use crate::forward::Shared;
use crate::inner::{self, Transport};
use crate::observe::{Observer, Report};
use crate::pipeline::{Fate, Way};
use crate::reason::DropReason;
use crate::tunnel;

/// Where the report is left when the packets have ended.
pub type Conclusion = Arc<Mutex<Option<Report>>>;

/// Takes packets out of their tunnels and shows the TCP among them to an [`Observer`].
pub struct Observing {
    judgement: Shared,
    observer: Observer,
    last: Instant,
    conclusion: Conclusion,
}

impl Observing {
    /// Makes one that leaves its report in `conclusion` when it is dropped.
    pub fn new(judgement: Shared, observer: Observer, conclusion: Conclusion) -> Self {
        Self { judgement, observer, last: Instant::default(), conclusion }
    }
}

impl Way for Observing {
    fn lead(&mut self, now: Instant, packet: &mut Packet<'_>) -> Result<Fate, DropReason> {
        self.last = now;
        let judgement = self.judgement.load();
        let found = tunnel::decapsulate(packet.bytes, &judgement.tunnels, packet.offload)?;
        let bytes = packet.bytes.get(found.inner).ok_or(DropReason::OuterMalformed)?;
        // What a mirror has cut tells as much, if its headers are there.
        let (inner, _) = inner::parse_cut(bytes)?;
        if inner.transport == Transport::Tcp {
            self.observer.segment(now, bytes, &inner);
        }
        Ok(Fate::Observed)
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let report = self.observer.report(self.last);
        *self.conclusion.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

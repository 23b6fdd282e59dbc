//! The way of a packet that is sent on.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::time::Instant;

use crate::judgement::Judgement;
use crate::nat::SharedReplies;
use crate::pipeline::{Fate, Way};
use crate::reason::DropReason;
use crate::{inner, nat, tunnel};

/// Where the present judgement is found.
pub type Shared = Arc<ArcSwap<Judgement>>;

/// Takes packets out of their tunnels, judges and translates them.
#[derive(Debug)]
pub struct Forward {
    judgement: Cache<Shared, Arc<Judgement>>,
    replies: SharedReplies,
}

impl Forward {
    /// Makes one that judges by what `judgement` holds at the time, and remembers in `replies` what may be answered.
    pub fn new(judgement: Shared, replies: SharedReplies) -> Self {
        Self { judgement: Cache::new(judgement), replies }
    }
}

impl Way for Forward {
    /// Leaves the translated inner packet at the beginning of `packet`. One judgement is used for all of it.
    fn lead(&mut self, now: Instant, packet: &mut Packet<'_>) -> Result<Fate, DropReason> {
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
        self.replies.note(now, &inner, rule);
        nat::rewrite(bytes, &inner, rule, false)?;
        packet.offload = Offload::default();
        Ok(Fate::Forwarded)
    }
}

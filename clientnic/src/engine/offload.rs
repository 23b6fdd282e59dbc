//! Flows that the kernel forwards: handed over, looked at, taken back.

use super::ClientNic;
use crate::flow::{Flow, Watched};
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::Offloaded;
use rtt0_core::reason::Event;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::Flags;

impl ClientNic {
    /// Counts a segment of a flow, and hands the flow over if it is worth it, if there is a fast path
    /// and nothing about the flow is open.
    pub(super) fn hand_when_due(&mut self, key: &FlowKey) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let Some(flow) = self.flows.get_mut(key).map(|entry| &mut entry.value) else { return };
        if flow.share().is_some_and(|share| share.is_due())
            && let Some(offloaded) = flow.offloaded(*key)
            && let Some(share) = flow.share()
        {
            fast_path.hand(&offloaded);
            share.hand();
            self.gateway.counters().event(Event::Handed);
        }
    }

    /// Lets the fast path take over what was handed; what it refuses stays here, and is handed again later.
    pub(super) fn settle_handed(&mut self) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let (flows, counters) = (&mut self.flows, self.gateway.counters());
        fast_path.settle(&mut |key| {
            if let Some(share) = flows.get_mut(key).and_then(|entry| entry.value.share()) {
                share.recall();
            }
            counters.event(Event::HandRefused);
        });
    }

    /// Learns how far a handed flow has come before one of its segments is judged here. What may
    /// begin or end a connection takes it back.
    pub(super) fn consult(&mut self, now: Instant, key: &FlowKey, flags: Flags) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let Some(entry) = self.flows.get_mut(key).filter(|entry| entry.value.is_handed()) else { return };
        let is_recalled = flags.intersects(Flags::SYN | Flags::FIN | Flags::RST);
        let progress = if is_recalled { fast_path.recall(key) } else { fast_path.look(key) };
        if let Some(progress) = &progress {
            entry.value.resume(progress);
        }
        if is_recalled && let Some(share) = entry.value.share() {
            share.recall();
            entry.postpone(now + self.settings.limits.idle);
            self.gateway.counters().event(Event::Recalled);
        }
    }

    /// Tells whether the kernel has forwarded a segment of a flow lately that seems idle here.
    pub(super) fn is_in_use(&mut self, now: Instant, key: &FlowKey) -> bool {
        let Some(fast_path) = &mut self.fast_path else { return false };
        if !self.flows.get(key).is_some_and(|entry| entry.value.is_handed()) {
            return false;
        }
        let Some(progress) = fast_path.look(key) else { return false };
        let idle = progress.last_used + self.settings.limits.idle;
        if idle > now {
            self.flows.set_deadline(key, idle);
        }
        idle > now
    }

    /// Goes on with a flow where the kernel has brought it: a solo flow that was restored, or one that
    /// only passes by.
    pub(super) fn take_over(&mut self, now: Instant, offloaded: &Offloaded) -> bool {
        let limits = self.settings.limits;
        if !offloaded.is_translated() {
            let watched = Flow::Watching(Watched::adopted(offloaded));
            let is_new = self.flows.restore(offloaded.key, watched, now, now + limits.idle);
            if is_new {
                self.counters().event(Event::Adopted);
            }
            return is_new;
        }
        let Some(entry) = self.flows.get_mut(&offloaded.key) else { return false };
        let Flow::Translated { flow, share, .. } = &mut entry.value else { return false };
        if !flow.is_same(offloaded) {
            return false;
        }
        flow.resume(&offloaded.progress);
        share.hand();
        let has_ended = flow.has_ended();
        self.counters().event(Event::Adopted);
        if has_ended {
            // With nobody there both ends have closed.
            self.flows.set_deadline(&offloaded.key, now + limits.closed);
        }
        self.keep(&offloaded.key);
        true
    }
}

//! Flows that the kernel forwards: handed over, looked at, taken back.

use super::ServerNic;
use crate::flow::Flow;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::Offloaded;
use rtt0_core::reason::Event;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::Flags;

impl ServerNic {
    /// Hands a flow over if there is a fast path and nothing about the flow is open.
    pub(super) fn hand(&mut self, key: &FlowKey) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let Some(entry) = self.flows.get_mut(key) else { return };
        if let Flow::Translated { flow, successor: None, rival, proven: true, share, .. } = &mut entry.value
            && rival.is_none_or(|newer| !newer.rival.is_answered())
            && let Some(offloaded) = flow.offloaded(*key)
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
            if let Some(Flow::Translated { share, .. }) = flows.get_mut(key).map(|entry| &mut entry.value) {
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
        let Flow::Translated { flow, share, .. } = &mut entry.value else { return };
        let is_recalled = flags.intersects(Flags::SYN | Flags::FIN | Flags::RST);
        let progress = if is_recalled { fast_path.recall(key) } else { fast_path.look(key) };
        if let Some(progress) = &progress {
            flow.resume(progress);
        }
        if is_recalled {
            share.recall();
            entry.postpone(now + self.limits.idle);
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
        let idle = progress.last_used + self.limits.idle;
        if idle > now {
            self.flows.set_deadline(key, idle);
        }
        idle > now
    }

    /// Goes on with a restored flow where the kernel has brought it.
    pub(super) fn take_over(&mut self, now: Instant, offloaded: &Offloaded) -> bool {
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
            self.flows.set_deadline(&offloaded.key, now + self.limits.closed);
        }
        self.keep(&offloaded.key);
        true
    }
}

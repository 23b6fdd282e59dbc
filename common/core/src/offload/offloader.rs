//! How an engine and its fast path share the flows of a table.

use super::{Begun, FastPath, Offloaded, Progress, Queued, Share};
use crate::accept::Opened;
use crate::flow::{FlowKey, FlowTable};
use crate::reason::{Counters, Event};
use crate::seq::{Client, Seq};
use crate::time::Instant;
use crate::wire::tcp::Flags;
use std::mem;
use std::time::Duration;

/// How long a flow that has been closed stays with the fast path, for the acknowledgements of its FINs.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a fast path may begin handshakes by itself after it has last been allowed to: whoever has died or hangs allows nothing.
const ALLOWED: Duration = Duration::from_millis(300);
/// When it is allowed to again, and its engine hears what it has begun.
const ALLOW_AGAIN: Duration = Duration::from_millis(100);

/// A flow of an engine's table, of whatever kind.
pub trait Offloadable {
    /// Returns who forwards it; `None` while that can only be the engine.
    fn share(&self) -> Option<&Share>;

    /// Tells whether it was handed to a fast path.
    fn is_handed(&self) -> bool {
        self.share().is_some_and(|share| share.is_handed())
    }

    /// Returns who forwards it, to be changed.
    fn share_mut(&mut self) -> Option<&mut Share>;

    /// Returns what a fast path needs of it, `None` while it has to stay.
    fn offloaded(&self, key: FlowKey) -> Option<Offloaded>;

    /// Takes over what a fast path knows of how far it has come.
    fn resume(&mut self, progress: &Progress);

    /// Tells whether a fast path has this very flow.
    fn is_same(&self, offloaded: &Offloaded) -> bool;

    /// Tells whether both ends have closed it, or one has reset it.
    fn has_ended(&self) -> bool;
}

/// An engine's fast path, if it has one. All of its methods do nothing if not.
#[derive(Debug, Default)]
pub struct Offloader {
    fast_path: Option<Box<dyn FastPath>>,
    /// Flows to be handed over as soon as what was forwarded of them has left.
    waiting: Vec<FlowKey>,
    /// A direction that was handed over waits for the worker.
    is_waited_for: bool,
    /// When the fast path has to be allowed again to begin handshakes, if it may.
    allow_again: Option<Instant>,
}

impl Offloader {
    /// Hands flows to `fast_path` from now on.
    pub fn accelerate(&mut self, fast_path: Box<dyn FastPath>) {
        self.fast_path = Some(fast_path);
    }

    /// Tells whether there is one.
    pub fn is_accelerated(&self) -> bool {
        self.fast_path.is_some()
    }

    /// Lets the fast path begin handshakes by itself for a moment, if it can, or no more.
    pub fn allow(&mut self, now: Instant, is_wanted: bool) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let can = fast_path.allow(is_wanted.then(|| now + ALLOWED));
        self.allow_again = (is_wanted && can).then(|| now + ALLOW_AGAIN);
    }

    /// Lets the fast path begin no handshake from now on, until it is allowed to again.
    pub fn forbid(&mut self) {
        self.allow(Instant::ZERO, false);
    }

    /// Returns when [`Offloader::allow`] is to be called again, if it is.
    pub fn allow_again(&self) -> Option<Instant> {
        self.allow_again
    }

    /// Returns the next handshake that the fast path has begun by itself.
    pub fn begun(&mut self) -> Option<Begun> {
        self.fast_path.as_mut()?.begun()
    }

    /// Returns the next handshake with a server that the fast path has begun by itself, and maybe made.
    pub fn opened(&mut self) -> Option<Opened> {
        self.fast_path.as_mut()?.opened()
    }

    /// Gives up a flow that the fast path has begun, and of which the engine will not know.
    pub fn disown(&mut self, key: &FlowKey) {
        if let Some(fast_path) = &mut self.fast_path {
            let _ = fast_path.recall(key);
        }
    }

    /// Counts a segment of a flow, and has the flow handed over with the next [`Offloader::settle`] if it is due
    /// and nothing about it is open.
    pub fn hand_when_due<F: Offloadable>(&mut self, flows: &mut FlowTable<F>, key: &FlowKey) {
        if self.fast_path.is_none() {
            return;
        }
        let Some(flow) = flows.get_mut(key).map(|entry| &mut entry.value) else { return };
        if flow.share_mut().is_some_and(Share::is_due)
            && flow.offloaded(*key).is_some()
            && let Some(share) = flow.share_mut()
        {
            share.hand();
            self.waiting.push(*key);
        }
    }

    /// Hands a flow over at once, if nothing about it is open: before what was forwarded of it has left, of the directions
    /// that are `queued`.
    pub fn hand_at_once<F: Offloadable>(
        &mut self,
        flows: &mut FlowTable<F>,
        key: &FlowKey,
        queued: Queued,
        counters: &Counters,
    ) {
        let Some(fast_path) = &mut self.fast_path else { return };
        let Some(flow) = flows.get_mut(key).map(|entry| &mut entry.value) else { return };
        if !flow.is_handed() && hand(fast_path.as_mut(), flow, key, queued, counters) {
            self.is_waited_for |= queued != Queued::Nothing;
        }
    }

    /// Hears of what has been closed at the fast path, and tells `closed`, with the number behind the last byte that the client
    /// has sent. Such a flow is due two seconds later, to be taken back.
    pub fn hear<F: Offloadable>(
        &mut self,
        flows: &mut FlowTable<F>,
        now: Instant,
        mut closed: impl FnMut(&FlowKey, &mut F, Seq<Client>),
    ) {
        let Some(fast_path) = &mut self.fast_path else { return };
        while let Some((key, client_end)) = fast_path.closed() {
            let Some(flow) = flows.get_mut(&key).map(|entry| &mut entry.value) else { continue };
            if let Some(share) = flow.share_mut().filter(|share| share.is_handed()) {
                share.close();
                closed(&key, flow, client_end);
                flows.set_deadline(&key, now + LAST_WORDS);
            }
        }
    }

    /// Hands over what is due, now that all packets handed in before have left. What the fast path refuses stays
    /// with the engine, and is handed again later.
    pub fn settle<F: Offloadable>(&mut self, flows: &mut FlowTable<F>, counters: &Counters) {
        let Some(fast_path) = &mut self.fast_path else { return };
        for key in self.waiting.drain(..) {
            // It may have been taken back, or more may have become open about it.
            let Some(flow) = flows.get_mut(&key).map(|entry| &mut entry.value) else { continue };
            if flow.is_handed() {
                self.is_waited_for |= hand(fast_path.as_mut(), flow, &key, Queued::BothWays, counters);
            }
        }
    }

    /// Returns whether a direction was handed over, since it was last asked, of which something may have been queued.
    pub fn is_waited_for(&mut self) -> bool {
        mem::take(&mut self.is_waited_for)
    }

    /// Learns how far a handed flow has come before the engine judges one of its segments.
    pub fn look<F: Offloadable>(&mut self, flows: &mut FlowTable<F>, key: &FlowKey) -> Option<Progress> {
        let fast_path = self.fast_path.as_mut()?;
        let entry = flows.get_mut(key).filter(|entry| entry.value.is_handed())?;
        let progress = fast_path.look(key)?;
        entry.value.resume(&progress);
        Some(progress)
    }

    /// Takes a flow back that is due because it has been closed; returns whether it was that.
    pub fn recall_closed<F: Offloadable>(
        &mut self,
        flows: &mut FlowTable<F>,
        key: &FlowKey,
        counters: &Counters,
    ) -> bool {
        let share = flows.get(key).and_then(|entry| entry.value.share());
        share.is_some_and(|share| share.is_closed) && self.recall(flows, key, counters)
    }

    /// Takes a flow back that was handed over, and learns how far it has come; returns whether it was.
    pub fn recall<F: Offloadable>(
        &mut self,
        flows: &mut FlowTable<F>,
        key: &FlowKey,
        counters: &Counters,
    ) -> bool {
        let Some(fast_path) = &mut self.fast_path else { return false };
        let Some(entry) = flows.get_mut(key).filter(|entry| entry.value.is_handed()) else { return false };
        if let Some(progress) = fast_path.recall(key) {
            entry.value.resume(&progress);
        }
        entry.value.share_mut().into_iter().for_each(Share::recall);
        counters.event(Event::Recalled);
        true
    }

    /// Likewise before the engine judges a segment: what may begin or end a connection (`flags`) takes the flow back, to
    /// stay until `idle`.
    pub fn consult<F: Offloadable>(
        &mut self,
        flows: &mut FlowTable<F>,
        key: &FlowKey,
        flags: Flags,
        idle: Instant,
        counters: &Counters,
    ) {
        if !flags.intersects(Flags::SYN | Flags::FIN | Flags::RST) {
            self.look(flows, key);
        } else if self.recall(flows, key, counters)
            && let Some(entry) = flows.get_mut(key)
        {
            entry.postpone(idle);
        }
    }

    /// Goes on with a restored flow where the fast path has brought it; one that has ended meanwhile, with
    /// nobody there, goes at `closed`. Returns whether the table has that flow.
    pub fn adopt<F: Offloadable>(
        &self,
        flows: &mut FlowTable<F>,
        offloaded: &Offloaded,
        closed: Instant,
        counters: &Counters,
    ) -> bool {
        let entry = flows.get_mut(&offloaded.key).filter(|entry| entry.value.is_same(offloaded));
        let Some(flow) = entry.map(|entry| &mut entry.value) else { return false };
        flow.resume(&offloaded.progress);
        if let Some(share) = flow.share_mut() {
            share.hand();
        }
        let has_ended = flow.has_ended();
        if has_ended {
            flows.set_deadline(&offloaded.key, closed);
        }
        counters.event(Event::Adopted);
        true
    }

    /// Takes a flow back that leaves the table.
    pub fn forget(&mut self, key: &FlowKey, flow: &impl Offloadable) {
        if let Some(fast_path) = self.fast_path.as_mut().filter(|_| flow.is_handed()) {
            let _ = fast_path.recall(key);
        }
    }
}

/// Tells whether a fast path has forwarded a segment of a flow within the last `idle`; then the flow's deadline is moved to
/// the end of that time.
pub fn is_in_use<F>(
    flows: &mut FlowTable<F>,
    key: &FlowKey,
    progress: &Progress,
    now: Instant,
    idle: Duration,
) -> bool {
    let end = progress.last_used + idle;
    if end > now {
        flows.set_deadline(key, end);
    }
    end > now
}

/// Hands a flow over; returns whether that was possible. If not, it stays with the engine.
fn hand(
    fast_path: &mut dyn FastPath,
    flow: &mut impl Offloadable,
    key: &FlowKey,
    queued: Queued,
    counters: &Counters,
) -> bool {
    let outcome = flow.offloaded(*key).map(|offloaded| fast_path.hand(&offloaded, queued));
    let Some(share) = flow.share_mut() else { return false };
    match outcome {
        Some(true) => {
            share.hand();
            counters.event(Event::Handed);
        }
        Some(false) => {
            share.recall();
            counters.event(Event::HandRefused);
        }
        None => share.recall(),
    }
    outcome == Some(true)
}

//! ServerNIC's engine: accepts offers, holds early data, makes the real handshake, translates.
//!
//! What a flow can be here, and what moves it:
//!
//! The fast path may make a handshake by itself; then the engine hears of an Opening or a Translated flow.
//!
//! | flow | SYN + offer | SYN + probe | SYN alone | client data | SYN-ACK | RST to SYN |
//! |---|---|---|---|---|---|---|
//! | none | Opening | Probed | pass | verified: Orphan | pass | pass |
//! | Orphan | Opening | Probed | pass | held | pass | pass |
//! | Probed | Opening | Probed | forgotten | verified: Orphan | confirm added | forgotten |
//! | Opening | same ISN: dropped; else waits | rival | rival | held | Translated, or rival's: replaced | refused |
//! | Translated | same ISN: confirm; else successor | rival | rival | translated; rival's: replaced | rival's: passed | translated |

mod client;
mod opened;
mod phase;
mod server;

pub use phase::{Phase, View};

use crate::flow::{Flow, Orphan};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::gateway::{Admitted, Gateway};
use rtt0_core::gauges::Gauges;
use rtt0_core::handshake::Opening;
use rtt0_core::held::HoldBudget;
use rtt0_core::journal::{Journal, Slot};
use rtt0_core::limits::Limits;
use rtt0_core::notice::Notices;
use rtt0_core::offer::Keys;
use rtt0_core::offload::{self, FastPath, Offloaded, Offloader, Queued};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::{Counters, Event, PassReason};
use rtt0_core::record::Record;
use rtt0_core::service::Direction;
use rtt0_core::survey::{self, Page};
use rtt0_core::time::Instant;
use rtt0_core::translated::{Life, Translated};
use rtt0_core::wire::tcp::Flags;
use std::sync::Arc;

/// Timers handled in one call, so that packets wait no longer than that.
const TIMERS_PER_CALL: usize = 256;

/// The engine of a ServerNIC.
#[derive(Debug)]
pub struct ServerNic {
    gateway: Gateway,
    keys: Keys,
    limits: Limits,
    flows: FlowTable<Flow>,
    pending: usize,
    awaited: usize,
    standing_back: bool,
    budget: Arc<HoldBudget>,
    journal: Journal,
    offloader: Offloader,
}

impl ServerNic {
    /// Makes an engine that knows no flow.
    pub fn new(gateway: Gateway, keys: Keys, limits: Limits) -> Self {
        let (flows, budget) = (FlowTable::new(limits.flows), HoldBudget::new(&limits));
        Self {
            gateway,
            keys,
            limits,
            flows,
            pending: 0,
            awaited: 0,
            standing_back: false,
            budget,
            journal: Journal::default(),
            offloader: Offloader::default(),
        }
    }

    fn counters(&self) -> &Counters {
        self.gateway.counters()
    }

    fn insert(
        &mut self,
        now: Instant,
        key: FlowKey,
        flow: Flow,
        deadline: Instant,
    ) -> Result<(), PassReason> {
        let (pending, awaited) = (flow.pending(), flow.awaited());
        if self.pending + pending > self.limits.pending {
            return Err(PassReason::PendingFull);
        }
        self.make_room(now, &key);
        let old = self.flows.insert(key, flow, deadline).map_err(|_| PassReason::FlowTableFull)?;
        self.pending += pending;
        self.awaited += awaited;
        if let Some(old) = old {
            self.forget(&key, &old);
        }
        self.keep(&key);
        Ok(())
    }

    /// Makes room for a flow if the table is full: the one that both ends have closed for longest goes
    /// before its time. One that is alive never does.
    fn make_room(&mut self, now: Instant, key: &FlowKey) {
        if !self.flows.is_full() || self.flows.get(key).is_some() {
            return;
        }
        let limits = &self.limits;
        let spared = limits.finished.saturating_sub(limits.finished_least);
        if let Some(oldest) = self.flows.longest_at_rest(now + spared) {
            self.remove(&oldest);
            self.counters().event(Event::MadeRoom);
        }
    }

    fn remove(&mut self, key: &FlowKey) -> Option<Flow> {
        let flow = self.flows.remove(key)?;
        self.forget(key, &flow);
        Some(flow)
    }

    /// Takes a flow that has left the table off the accounts.
    fn forget(&mut self, key: &FlowKey, flow: &Flow) {
        self.offloader.forget(key, flow);
        self.pending -= flow.pending();
        self.awaited -= flow.awaited();
        self.journal.forget(flow.kept());
    }

    /// Notes in the journal how an established flow stands, if that is news. One whose client
    /// may not exist is nothing to be remembered.
    fn keep(&mut self, key: &FlowKey) {
        if let Some(Flow::Translated { flow, kept, proven: true, .. }) =
            self.flows.get_mut(key).map(|e| &mut e.value)
        {
            self.journal.keep(kept, key, flow);
        }
    }

    /// Takes a handshake out: the flow itself, or the successor of a translated one.
    fn take_opening(&mut self, now: Instant, key: FlowKey) -> Option<Opening> {
        if let Some(Flow::Translated { successor, flow, proven, .. }) =
            self.flows.get_mut(&key).map(|e| &mut e.value)
        {
            let opening = successor.take()?;
            let rest = match (flow.has_ended(), *proven) {
                (true, _) => self.limits.closed,
                (false, true) => self.limits.idle,
                (false, false) => self.limits.unacknowledged,
            };
            self.pending -= 1;
            self.awaited -= usize::from(opening.is_proven());
            self.flows.set_deadline(&key, now + rest);
            return Some(*opening);
        }
        match self.remove(&key)? {
            Flow::Opening { opening, .. } => Some(*opening),
            _ => None,
        }
    }

    /// Counts and notes what has happened to a flow, with what the flow is now.
    fn happened(&self, key: &FlowKey, event: Event) {
        self.counters().event(event);
        self.gateway.note(key, self.view(key).phase.label(), event);
    }

    /// Learns from the fast path what it knows of a flow before one of its segments is judged.
    fn consult(&mut self, now: Instant, key: &FlowKey, flags: Flags) {
        let idle = now + self.limits.idle;
        self.offloader.consult(&mut self.flows, key, flags, idle, self.gateway.counters());
    }

    /// Hands a flow to the fast path of which the server has had nothing yet, so that nothing from it can be queued here.
    fn hand_begun(&mut self, key: &FlowKey) {
        self.offloader.hand_at_once(&mut self.flows, key, Queued::ToServer, self.gateway.counters());
    }

    /// Hands a flow that lives on to the fast path, once that is worth it.
    fn hand_when_due(&mut self, key: &FlowKey) {
        self.offloader.hand_when_due(&mut self.flows, key);
    }

    fn live(&mut self, now: Instant, key: FlowKey, life: Life) {
        self.keep(&key);
        let Some(entry) = self.flows.get_mut(&key) else { return };
        match life {
            // The deadline is the successor's for as long as there is one.
            _ if entry.value.opening_mut().is_some() => {}
            // Whatever the server says to a client that may not exist keeps nothing alive.
            Life::Goes(_) if matches!(entry.value, Flow::Translated { proven: false, .. }) => {}
            Life::Goes(time) => entry.postpone(now + time),
            Life::Ends(time) => self.flows.set_deadline(&key, now + time),
            Life::Rests(time) => self.flows.rest(&key, now + time),
        }
    }

    /// Lets data go on whose offer has not come. ClientNIC may know of no such handshake any more, say
    /// because it was refused and the reset that told the client got lost: then the server's
    /// reset tells it. If ClientNIC does know of it, it keeps that reset to itself.
    fn send_on(&self, mut orphan: Orphan, out: &mut Outbox) {
        if orphan.moot {
            return;
        }
        orphan.held.for_each(|packet| {
            self.counters().pass(PassReason::NoFlow);
            out.push(packet.bytes, packet.offload);
        });
    }

    fn due(&mut self, now: Instant, key: FlowKey, out: &mut Outbox) {
        if self.offloader.recall_closed(&mut self.flows, &key, self.gateway.counters()) {
            if let Some(Flow::Translated { flow, .. }) = self.flows.get(&key).map(|entry| &entry.value) {
                let life = flow.rest(&self.limits);
                self.live(now, key, life);
            }
            return;
        }
        if let Some(progress) = self.offloader.look(&mut self.flows, &key)
            && !progress.is_opening()
            && offload::is_in_use(&mut self.flows, &key, &progress, now, self.limits.idle)
        {
            self.keep(&key);
            return;
        }
        let Some(entry) = self.flows.get_mut(&key) else { return };
        let Some(opening) = entry.value.opening_mut() else {
            self.counters().event(Event::Expired);
            if let Some(Flow::Orphan(orphan)) = self.remove(&key) {
                self.send_on(orphan, out);
            }
            return;
        };
        if let Some((isn, answer)) = opening.without_twin(now) {
            self.accepted(now, key, isn, answer, out);
            return;
        }
        let sent = out.len();
        if opening.on_timer(now, &self.limits, out) {
            let due = opening.due(&self.limits);
            self.flows.set_deadline(&key, due);
            if out.len() > sent {
                self.counters().event(Event::SynResent);
            }
            return;
        }
        // ClientNIC has waited as long and tells the client.
        self.happened(&key, Event::TimedOut);
        self.take_opening(now, key);
    }
}

/// A verdict, and into what size of segments a packet is to be cut.
struct Decision {
    verdict: Verdict,
    gso_size: u16,
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, gso_size: 0 }
    }
}

impl Engine for ServerNic {
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, out: &mut Outbox) -> Verdict {
        let offload = packet.offload;
        let decision = match self.gateway.admit(now, packet, out) {
            Err(verdict) => verdict.into(),
            Ok(Admitted::Segment(Direction::ToServer, key, segment)) => {
                self.client_segment(now, key, segment, offload, out)
            }
            Ok(Admitted::Segment(Direction::ToClient, key, segment)) => {
                self.server_segment(now, key, segment, out).into()
            }
            Ok(Admitted::Quote(quoted, key, quote)) => self.quoted(now, key, quoted, quote, out).into(),
        };
        if decision.gso_size != 0 {
            packet.offload.gso_size = decision.gso_size;
        }
        decision.verdict
    }

    fn look_ahead(&mut self, packets: &mut dyn Iterator<Item = &[u8]>) {
        self.flows.look_ahead(packets.filter_map(|packet| self.gateway.flow_ahead(packet)), Flow::touch);
    }

    fn too_big(&mut self, now: Instant, packet: &[u8], mtu: u16, out: &mut Outbox) {
        let flows = &mut self.flows;
        self.gateway.too_big(now, packet, mtu, out, |key| flows.get_mut(key)?.value.translation());
    }

    fn next_timeout(&self) -> Option<Instant> {
        [self.flows.next_deadline(), self.offloader.allow_again()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        if self.offloader.allow_again().is_some_and(|due| due <= now) {
            self.hear(now, out);
        }
        for _ in 0..TIMERS_PER_CALL {
            let Some(key) = self.flows.pop_due(now) else { return };
            self.due(now, key, out);
        }
    }

    fn counters(&self) -> &Counters {
        self.gateway.counters()
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }

    fn restore(&mut self, now: Instant, slot: Slot, record: &Record) -> bool {
        let Some(kept) = self.journal.adopt(slot, record.stage) else { return false };
        let flow = Translated::restore(record);
        let rest = if flow.has_ended() { self.limits.closed } else { self.limits.idle };
        let restored =
            self.flows.restore(record.key, Flow::translated(flow, None, kept, true), now, now + rest);
        if restored {
            self.counters().event(Event::Restored);
        } else {
            self.journal.forget(kept);
        }
        restored
    }

    fn accelerate(&mut self, fast_path: Box<dyn FastPath>) {
        self.offloader.accelerate(fast_path);
    }

    fn hear(&mut self, now: Instant, out: &mut Outbox) -> usize {
        let heard = self.hear_opened(now, out);
        self.offloader.hear(&mut self.flows, now, |_, _, _| {});
        heard
    }

    fn settle(&mut self) {
        self.offloader.settle(&mut self.flows, self.gateway.counters());
    }

    fn is_waited_for(&mut self) -> bool {
        self.offloader.is_waited_for()
    }

    fn adopt(&mut self, now: Instant, flow: &Offloaded) -> bool {
        let closed = now + self.limits.closed;
        let is_known = self.offloader.adopt(&mut self.flows, flow, closed, self.gateway.counters());
        if is_known {
            self.keep(&flow.key);
            return true;
        }
        self.adopt_made(now, flow)
    }

    fn stand_back(&mut self, back: bool) {
        self.standing_back = back;
        self.reconsider();
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            flows: self.flows.len(),
            pending: self.pending,
            half_open: 0,
            awaited: self.awaited,
            held: self.budget.used(),
        }
    }

    fn notices(&mut self) -> Option<&mut Notices> {
        Some(self.gateway.notices())
    }

    fn survey(&self, from: u32) -> Page {
        survey::page(&self.flows, from, |flow| Phase::of(flow).label())
    }

    fn rekey(&mut self, keys: Keys) {
        self.keys = keys;
    }
}

//! ClientNIC's engine: spoofs, offers, learns; translates where there is no ServerNIC.
//!
//! What a flow can be here, and what moves it:
//!
//! | flow | SYN | client data | SYN-ACK + confirm | SYN-ACK alone | RST to the SYN | silence |
//! |---|---|---|---|---|---|---|
//! | none | Opening or Learning | pass | pass | pass | pass | – |
//! | Learning | again | pass | learned: Watching | learned: Watching | refused | forgotten |
//! | Opening, paired | same ISN: SYN-ACK and offer again; else rival | copied, sent on | Watching | Translated | refused | given up |
//! | Opening, solo | same ISN: SYN-ACK and SYN again; else rival | held | Translated | Translated | refused | given up |
//! | Translated | same ISN: pass; else rival | translated | Watching | translated | translated | – |
//! | Watching | same ISN, passed: pass; else as none | pass | consumed | pass | pass | – |

mod client;
mod phase;
mod server;

pub use phase::{Phase, View};

use crate::flow::{Flow, Pending, Watched};
use crate::policy::SharedPolicy;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::gateway::{Admitted, Gateway};
use rtt0_core::gauges::Gauges;
use rtt0_core::held::HoldBudget;
use rtt0_core::journal::{Journal, Slot};
use rtt0_core::limits::Limits;
use rtt0_core::notice::Notices;
use rtt0_core::offer::Keys;
use rtt0_core::offload::{self, FastPath, MOST_BEGUN, Offloadable, Offloaded, Offloader, Progress, Queued};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::profile::Profiles;
use rtt0_core::reason::{Counters, Event, PassReason};
use rtt0_core::record::Record;
use rtt0_core::service::Direction;
use rtt0_core::survey::{self, Page};
use rtt0_core::time::Instant;
use rtt0_core::translated::{Life, Translated};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::sync::Arc;

/// Timers handled in one call, so that packets wait no longer than that.
const TIMERS_PER_CALL: usize = 256;

/// While more than this share of the clients that may be half open are, handshakes are handed to the kernel only when they
/// are confirmed: in a flood of SYNs each of them would cost two system calls for nobody.
const SHARE_OF_HALF_OPEN: usize = 4;

/// Which flows are spoofed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// With a ServerNIC where there is one, else by ClientNIC alone
    #[default]
    Auto,
    /// Only where there is a ServerNIC
    Paired,
    /// By ClientNIC alone, even where there is a ServerNIC
    Solo,
    /// None: every packet passes untouched
    Off,
}

/// How a ClientNIC behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which flows are spoofed.
    pub policy: SharedPolicy,
    /// Largest MSS to promise in bytes, for (IPv4, IPv6): what the egress MTUs carry.
    pub mss_clamp: (u16, u16),
    /// The bounds.
    pub limits: Limits,
}

/// The engine of a ClientNIC.
#[derive(Debug)]
pub struct ClientNic {
    gateway: Gateway,
    keys: Keys,
    profiles: Arc<Profiles>,
    settings: Settings,
    flows: FlowTable<Flow>,
    pending: usize,
    half_open: usize,
    awaited: usize,
    standing_back: bool,
    budget: Arc<HoldBudget>,
    journal: Journal,
    offloader: Offloader,
}

impl ClientNic {
    /// Makes an engine that knows no flow.
    pub fn new(gateway: Gateway, keys: Keys, profiles: Arc<Profiles>, settings: Settings) -> Self {
        let limits = &settings.limits;
        let (flows, budget) = (FlowTable::new(limits.flows), HoldBudget::new(limits));
        let journal = Journal::default();
        Self {
            gateway,
            keys,
            profiles,
            settings,
            flows,
            pending: 0,
            half_open: 0,
            awaited: 0,
            standing_back: false,
            budget,
            journal,
            offloader: Offloader::default(),
        }
    }

    fn counters(&self) -> &Counters {
        self.gateway.counters()
    }

    fn mode(&self) -> Mode {
        self.settings.policy.now().mode
    }

    fn insert(
        &mut self,
        now: Instant,
        key: FlowKey,
        flow: Flow,
        deadline: Instant,
    ) -> Result<(), PassReason> {
        let (pending, half_open, awaited) = (flow.pending(), flow.half_open(), flow.awaited());
        if self.pending + pending > self.settings.limits.pending {
            return Err(PassReason::PendingFull);
        }
        if self.half_open + half_open > self.settings.limits.half_open {
            return Err(PassReason::HalfOpenFull);
        }
        self.make_room(now, &key);
        let old = self.flows.insert(key, flow, deadline).map_err(|_| PassReason::FlowTableFull)?;
        self.pending += pending;
        self.half_open += half_open;
        self.awaited += awaited;
        if let Some(old) = old {
            self.forget(&key, &old);
        }
        self.keep(&key);
        Ok(())
    }

    /// Puts an established or watched flow in the place of its handshake.
    fn replace(&mut self, key: FlowKey, flow: Flow, now: Instant) {
        let limits = &self.settings.limits;
        let rest = match &flow {
            flow if flow.half_open() == 0 => limits.idle,
            Flow::Translated { .. } => limits.unacknowledged,
            _ => limits.unproven,
        };
        self.remove(&key);
        // A flow that finds no room passes untouched or, solo, is repaired by nobody: but its
        // handshake has just made room.
        let _ = self.insert(now, key, flow, now + rest);
    }

    /// Makes room for a flow if the table is full: the one that both ends have closed for longest goes
    /// before its time. One that is alive never does.
    fn make_room(&mut self, now: Instant, key: &FlowKey) {
        if !self.flows.is_full() || self.flows.get(key).is_some() {
            return;
        }
        let limits = &self.settings.limits;
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
        self.half_open -= flow.half_open();
        self.awaited -= flow.awaited();
        self.journal.forget(flow.kept());
    }

    /// Notes in the journal how a solo flow stands, if that is news. One whose client
    /// may not exist is nothing to be remembered.
    fn keep(&mut self, key: &FlowKey) {
        if let Some(Flow::Translated { flow, kept, proven: true, .. }) =
            self.flows.get_mut(key).map(|e| &mut e.value)
        {
            self.journal.keep(kept, key, flow);
        }
    }

    /// Forgets a flow of which the client wants no more. Where nobody else would do it, its
    /// unfinished handshake is cleared out of the newer one's way.
    fn make_way(&mut self, key: &FlowKey, out: &mut Outbox) {
        if let Some(Flow::Opening(pending)) = self.remove(key)
            && !pending.paired
        {
            pending.opening.abandon(out);
        }
    }

    fn take_pending(&mut self, key: &FlowKey) -> Option<Box<Pending>> {
        match self.remove(key)? {
            Flow::Opening(pending) => Some(pending),
            _ => None,
        }
    }

    /// Leaves a handshake to ServerNIC, which shows that it has made it. Returns what it was.
    fn hand_over(&mut self, now: Instant, key: FlowKey) -> Option<Box<Pending>> {
        // What the kernel forwards of it already it goes on with.
        let share = self.changing(&key, |nic| match &mut nic.flows.get_mut(&key)?.value {
            Flow::Opening(pending) => Some(std::mem::take(&mut pending.share)),
            _ => None,
        })?;
        let mut pending = self.take_pending(&key)?;
        pending.share = share;
        self.replace(key, Flow::Watching(pending.watched(now, &self.settings.limits)), now);
        Some(pending)
    }

    /// Does what may change how a flow counts: its client may turn out to exist.
    fn changing<R>(&mut self, key: &FlowKey, change: impl FnOnce(&mut Self) -> R) -> R {
        let counts = |nic: &Self| {
            nic.flows.get(key).map_or((0, 0), |entry| (entry.value.half_open(), entry.value.awaited()))
        };
        let before = counts(self);
        let result = change(self);
        let after = counts(self);
        self.half_open = self.half_open + after.0 - before.0;
        self.awaited = self.awaited + after.1 - before.1;
        result
    }

    /// The ends have a newer connection, so the older one is no more.
    fn rival_wins(&mut self, key: &FlowKey) -> Verdict {
        self.remove(key);
        self.counters().event(Event::FlowReplaced);
        self.gateway.pass(PassReason::NoFlow)
    }

    /// Counts and notes what has happened to a flow, with what the flow is now.
    fn happened(&self, key: &FlowKey, event: Event) {
        self.counters().event(event);
        self.gateway.note(key, self.view(key).phase.label(), event);
    }

    /// Learns from the fast path what it knows of a flow before one of its segments is judged. A handshake is taken back if
    /// its client begins or ends something; the server's answers leave it there.
    fn consult(&mut self, now: Instant, key: &FlowKey, direction: Direction, flags: Flags) {
        if !self.offloader.is_accelerated() {
            return;
        }
        let Some(entry) = self.flows.get(key).filter(|entry| entry.value.is_handed()) else { return };
        if matches!(entry.value, Flow::Opening(_)) {
            let is_turn = flags.intersects(Flags::SYN | Flags::FIN | Flags::RST);
            let progress = self.look(key);
            if !is_turn || direction == Direction::ToClient {
                return;
            }
            if !self.is_taken_over(key, progress.as_ref()) {
                self.recall(key);
                return;
            }
            // The connection is over before its confirm has come.
            self.hand_over(now, *key);
        }
        let idle = now + self.settings.limits.idle;
        self.changing(key, |nic| {
            nic.offloader.consult(&mut nic.flows, key, flags, idle, nic.gateway.counters());
        });
    }

    /// Tells whether a flow is a handshake that ServerNIC has made, by what the fast path has seen of it.
    fn is_taken_over(&self, key: &FlowKey, progress: Option<&Progress>) -> bool {
        let opening = match self.flows.get(key).map(|entry| &entry.value) {
            Some(Flow::Opening(pending)) => Some(pending),
            _ => None,
        };
        opening.zip(progress).is_some_and(|(pending, progress)| pending.is_taken_over(progress))
    }

    /// Learns from the fast path how far a flow has come.
    fn look(&mut self, key: &FlowKey) -> Option<Progress> {
        self.changing(key, |nic| nic.offloader.look(&mut nic.flows, key))
    }

    /// Takes a handshake back from the fast path.
    fn recall(&mut self, key: &FlowKey) {
        self.changing(key, |nic| nic.offloader.recall(&mut nic.flows, key, nic.gateway.counters()));
    }

    /// Has the fast path forward what the client of a handshake sends, which ServerNIC will translate: before that
    /// client is answered, so that nothing of it is queued. But not for all of those who may not exist.
    fn hand_opening(&mut self, key: &FlowKey) {
        if self.half_open <= self.settings.limits.half_open / SHARE_OF_HALF_OPEN {
            self.changing(key, |nic| {
                nic.offloader.hand_at_once(&mut nic.flows, key, Queued::Nothing, nic.gateway.counters());
            });
        }
    }

    /// Tells whether the fast path may answer SYNs by itself: where every SYN to a known destination would be answered here, and
    /// there is room enough for those of which this engine has not heard.
    fn may_answer_at_once(&self) -> bool {
        let (policy, limits) = (self.settings.policy.now(), &self.settings.limits);
        matches!(policy.mode, Mode::Auto | Mode::Paired)
            && policy.exclusions.is_empty()
            && !self.standing_back
            && self.half_open <= limits.half_open / SHARE_OF_HALF_OPEN
            && self.pending <= limits.pending / 2
            && !self.flows.is_full()
    }

    /// Has the fast path answer no more SYNs at once, if it may not any longer.
    fn reconsider(&mut self) {
        if !self.may_answer_at_once() {
            self.offloader.forbid();
        }
    }

    /// Hands a flow that lives on to the fast path, once that is worth it.
    fn hand_when_due(&mut self, key: &FlowKey) {
        self.offloader.hand_when_due(&mut self.flows, key);
    }

    fn live(&mut self, now: Instant, key: FlowKey, life: Life) {
        self.keep(&key);
        match life {
            Life::Goes(time) => {
                // Whatever the server says to a client that may not exist keeps nothing alive.
                if let Some(entry) = self.flows.get_mut(&key).filter(|entry| entry.value.half_open() == 0) {
                    entry.postpone(now + time);
                }
            }
            Life::Ends(time) => self.flows.set_deadline(&key, now + time),
            Life::Rests(time) => self.flows.rest(&key, now + time),
        }
    }

    /// Takes note of a segment of a flow that nobody translates here. The client's FIN ends its
    /// upload, and a reset of either end the flow.
    fn watch(&mut self, now: Instant, key: FlowKey, segment: &Segment<'_>, ending: Flags) {
        let limits = self.settings.limits;
        let Some(entry) = self.flows.get_mut(&key) else { return };
        if entry.value.lives_on() {
            entry.postpone(now + limits.idle);
        }
        if segment.tcp().flags().intersects(ending)
            && segment.checksum_ok()
            && let Flow::Watching(watched) = &mut entry.value
            && let Some(upload) = watched.ends()
        {
            self.flows.set_deadline(&key, now + limits.reset);
            self.note_upload(&key, Some(upload));
        }
    }

    /// Goes on with a flow that has been closed at the fast path, and was taken back.
    fn closed(&mut self, now: Instant, key: FlowKey) {
        let limits = self.settings.limits;
        // If the confirm got lost: the server's answer to it all has passed.
        self.hand_over(now, key);
        let life = match self.flows.get(&key).map(|entry| &entry.value) {
            Some(Flow::Watching(_)) => Life::Ends(limits.reset),
            Some(Flow::Translated { flow, .. }) => flow.rest(&limits),
            _ => return,
        };
        self.live(now, key, life);
    }

    fn due(&mut self, now: Instant, key: FlowKey, out: &mut Outbox) {
        let limits = self.settings.limits;
        if self
            .changing(&key, |nic| nic.offloader.recall_closed(&mut nic.flows, &key, nic.gateway.counters()))
        {
            self.closed(now, key);
            return;
        }
        let progress = self.look(&key);
        if self.is_taken_over(&key, progress.as_ref()) {
            self.hand_over(now, key);
            return;
        }
        let Some(entry) = self.flows.get(&key) else { return };
        match (&entry.value, progress) {
            (Flow::Opening(_), _) | (_, None) => {}
            (flow, Some(progress)) => {
                if flow.half_open() == 0
                    && offload::is_in_use(&mut self.flows, &key, &progress, now, limits.idle)
                {
                    return;
                }
            }
        }
        let Some(entry) = self.flows.get_mut(&key) else { return };
        let Flow::Opening(pending) = &mut entry.value else {
            self.counters().event(Event::Expired);
            self.remove(&key);
            return;
        };
        let sent = out.len();
        if !pending.refused && pending.opening.on_timer(now, &limits, out) {
            let due = pending.opening.due(&limits);
            self.flows.set_deadline(&key, due);
            if out.len() > sent {
                self.counters().event(Event::SynResent);
            }
        } else if let Some(pending) = self.take_pending(&key)
            && !pending.refused
        {
            self.give_up(now, &key, &pending, Event::TimedOut, out);
        }
    }
}

impl Engine for ClientNic {
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, out: &mut Outbox) -> Verdict {
        if self.offloader.is_accelerated() && self.copied(now, packet, out) {
            return Verdict::Taken;
        }
        let offload = packet.offload;
        let (verdict, offload) = match self.gateway.admit(now, packet, out) {
            Err(verdict) => (verdict, offload),
            Ok(Admitted::Segment(Direction::ToServer, key, segment)) => {
                self.client_segment(now, key, segment, offload, out)
            }
            Ok(Admitted::Segment(Direction::ToClient, key, segment)) => {
                (self.server_segment(now, key, segment, out), offload)
            }
            Ok(Admitted::Quote(quoted, key, quote)) => (self.quoted(now, key, quoted, quote, out), offload),
        };
        packet.offload = offload;
        verdict
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
        let (flow, limits) = (Translated::restore(record), &self.settings.limits);
        let rest = if flow.has_ended() { limits.closed } else { limits.idle };
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

    fn hear(&mut self, now: Instant, _: &mut Outbox) -> usize {
        let mut heard = 0;
        while heard < MOST_BEGUN
            && let Some(begun) = self.offloader.begun()
        {
            self.begun(now, begun);
            heard += 1;
        }
        let profiles = &self.profiles;
        self.offloader.hear(&mut self.flows, now, |key, flow, client_end| {
            if let Some(upload) = flow.closes(client_end) {
                profiles.uploaded(&key.server(), upload);
            }
        });
        // Behind all that: it may be a reason not to.
        if self.offloader.is_accelerated() {
            self.offloader.allow(now, self.may_answer_at_once());
        }
        heard
    }

    fn settle(&mut self) {
        self.offloader.settle(&mut self.flows, self.gateway.counters());
    }

    fn is_waited_for(&mut self) -> bool {
        self.offloader.is_waited_for()
    }

    fn adopt(&mut self, now: Instant, flow: &Offloaded) -> bool {
        if !flow.is_translated() {
            let watched = Flow::Watching(Watched::adopted(flow));
            let limits = &self.settings.limits;
            let rest = if flow.progress.has_client_ended() { limits.reset } else { limits.idle };
            let is_new = self.flows.restore(flow.key, watched, now, now + rest);
            if is_new {
                self.counters().event(Event::Adopted);
            }
            return is_new;
        }
        let closed = now + self.settings.limits.closed;
        let is_known = self.offloader.adopt(&mut self.flows, flow, closed, self.gateway.counters());
        if is_known {
            self.keep(&flow.key);
        }
        is_known
    }

    fn stand_back(&mut self, back: bool) {
        self.standing_back = back;
        self.reconsider();
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            flows: self.flows.len(),
            pending: self.pending,
            half_open: self.half_open,
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
        self.reconsider();
    }
}

//! Handshakes with servers that the fast path has begun by itself.

use super::ServerNic;
use crate::flow::Flow;
use rtt0_core::accept::{Opened, accept};
use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{Context, Opening, Start, read_syn_ack};
use rtt0_core::journal::Kept;
use rtt0_core::offer::{Found, Kind, Offer};
use rtt0_core::offload::{MOST_BEGUN, Offloadable, Offloaded, Share};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::SynAck;
use rtt0_core::reason::Event;
use rtt0_core::seq::{Real, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::translated::Translated;
use rtt0_core::wire::segment::Segment;

/// Places of the table that are kept for handshakes of which nothing is heard yet: of those and of a batch of packets there are
/// fewer. In a small table it is half of them.
const SPARE: usize = 1024;

impl ServerNic {
    /// Tells whether the fast path may begin handshakes by itself: where every offer would be accepted here, and there is room
    /// enough for those of which this engine has not heard.
    fn may_open_at_once(&self) -> bool {
        let spare = SPARE.min(self.limits.flows / 2);
        !self.standing_back && self.pending <= self.limits.pending / 2 && self.flows.room() >= spare
    }

    /// Has the fast path begin no more handshakes, if it may not any longer.
    pub(super) fn reconsider(&mut self) {
        if !self.may_open_at_once() {
            self.offloader.forbid();
        }
    }

    /// Hears of the handshakes that the fast path has begun, and lets it begin more, if it may. Returns how many there were.
    pub(super) fn hear_opened(&mut self, now: Instant, out: &mut Outbox) -> usize {
        let mut heard = 0;
        while heard < MOST_BEGUN
            && let Some(opened) = self.offloader.opened()
        {
            self.opened(now, opened, out);
            heard += 1;
        }
        if self.offloader.is_accelerated() {
            self.offloader.allow(now, self.may_open_at_once());
        }
        heard
    }

    /// Takes charge of a handshake. Of one whose offer is not authentic any more nothing is left.
    fn opened(&mut self, now: Instant, mut opened: Opened, out: &mut Outbox) {
        let offload = Offload { needs_csum: true, ..Offload::default() };
        let mut packet = Packet { bytes: &mut opened.syn, offload };
        let Ok(syn) = Segment::parse(&mut packet) else { return };
        let key = FlowKey::new(syn.source(), syn.destination(), Direction::ToServer);
        let isn = Seq::new(syn.tcp().sequence());
        let start = match Offer::find(syn.tcp().options(), &self.keys, &key, isn) {
            Found::Authentic(offer) if offer.kind == Kind::Spoofed => {
                accept(key, isn, offer, &syn, &self.keys)
            }
            _ => None,
        };
        let Some(start) = start else {
            if opened.is_made {
                self.offloader.disown(&key);
            }
            self.counters().event(Event::Disowned);
            return;
        };
        self.counters().event(Event::OfferAccepted);
        self.counters().event(Event::OpenedAtOnce);
        // The fast path has judged it.
        let answer = opened.answer.as_mut().and_then(|bytes| {
            let mut packet = Packet { bytes, offload };
            let segment = Segment::parse(&mut packet).ok()?;
            Some((Seq::new(segment.tcp().sequence()), read_syn_ack(&segment.tcp())?))
        });
        match answer {
            Some(answer) if opened.is_made => self.made(now, key, start, answer, opened.at, out),
            answer => self.go_on(now, key, start, answer, opened.at, out),
        }
    }

    /// Goes on with a handshake that is not made.
    fn go_on(
        &mut self,
        now: Instant,
        key: FlowKey,
        start: Start,
        first: Option<(Seq<Real>, SynAck)>,
        began: Instant,
        out: &mut Outbox,
    ) {
        let in_the_way = match self.flows.get(&key).map(|entry| &entry.value) {
            Some(Flow::Opening { opening, .. }) => Some(opening),
            // Its client's NIC asks again, and will be told.
            Some(Flow::Translated { flow, .. }) if flow.client_isn() == start.client_isn => return,
            Some(Flow::Translated { successor, .. }) => successor.as_ref(),
            _ => None,
        };
        if in_the_way.is_some_and(|other| other.is_wanted() || other.start().client_isn == start.client_isn) {
            return;
        }
        let isns = (start.client_isn, start.promised_isn);
        let begin = |held, _: &mut Outbox| {
            let mut opening = Opening::begun(start, held, began);
            if let Some((isn, mut answer)) = first {
                opening.awaits_twin(now, isn, &mut answer);
            }
            opening
        };
        self.open(now, key, isns, begin, out);
    }

    /// Takes charge of a flow whose handshake the fast path has made at `at`, and tells ClientNIC.
    fn made(
        &mut self,
        now: Instant,
        key: FlowKey,
        start: Start,
        (isn, answer): (Seq<Real>, SynAck),
        at: Instant,
        out: &mut Outbox,
    ) {
        // It may be known here, too, with data that are held.
        let is_same = |opening: &Opening| opening.start().client_isn == start.client_isn;
        let known =
            self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut()).filter(|o| is_same(o));
        let known = if known.is_some() { self.take_opening(now, key) } else { None };
        if let Some(share) = self.flows.get_mut(&key).and_then(|entry| entry.value.share_mut()) {
            // What the fast path has is another flow.
            share.recall();
        }
        let rival = self.flows.get(&key).and_then(|entry| entry.value.rival());
        let rival = rival.filter(|newer| newer.rival.isn() != start.client_isn);
        let old = self.remove(&key);
        let held = self.inherit(old, start.promised_isn);
        let (client_isn, promised) = (start.client_isn, start.promised_isn);
        let offer = Offer {
            kind: Kind::LateConfirm((now - at).as_micros().try_into().unwrap_or(u32::MAX)),
            key: start.key,
            promise: Default::default(),
        };
        let mut opening = known.unwrap_or_else(|| Opening::begun(start, held, at));
        // The first of the two said the same; the second has what the client would have got.
        let (mut first, mut heard) = (answer, answer);
        opening.awaits_twin(at, isn, &mut first);
        opening.awaits_twin(at, isn, &mut heard);
        let is_proven = opening.is_proven();
        let context = Context { now, limits: &self.limits, counters: self.gateway.counters() };
        let Ok(flow) = opening.establish(isn, heard, &context, out) else {
            self.offloader.disown(&key);
            return;
        };
        let mut flow = Flow::translated(flow, rival, Kept::default(), is_proven);
        flow.share_mut().into_iter().for_each(Share::hand);
        if self.insert(now, key, flow, now + self.limits.unacknowledged).is_err() {
            self.offloader.disown(&key);
            self.counters().event(Event::Disowned);
            return;
        }
        self.confirm(key, client_isn, offer, promised.get(), &heard, out);
        self.counters().event(Event::Handed);
        self.offloader.look(&mut self.flows, &key);
        self.settle_proof(now, key, is_proven);
    }

    /// Takes charge of a flow whose handshake the fast path has made, and of which the engine before this one had not heard. It takes the
    /// place of another, which is older: the fast path does not have that one any more. One whose client may not exist is
    /// given up: that client's NIC has got no confirm, and repeats its offer.
    pub(super) fn adopt_made(&mut self, now: Instant, offloaded: &Offloaded) -> bool {
        let Some(made) = Translated::adopted(offloaded) else { return false };
        let rest = if made.has_ended() { self.limits.closed } else { self.limits.idle };
        let mut flow = Flow::translated(made, None, Kept::default(), true);
        flow.share_mut().into_iter().for_each(Share::hand);
        let key = offloaded.key;
        if self.remove(&key).is_some() {
            self.counters().event(Event::FlowReplaced);
        }
        let is_new = self.flows.restore(key, flow, now, now + rest);
        if is_new {
            self.counters().event(Event::Restored);
            self.counters().event(Event::Adopted);
            self.keep(&key);
        }
        is_new
    }

    /// Keeps a flow for longer whose client has proven that it exists.
    fn settle_proof(&mut self, now: Instant, key: FlowKey, is_released: bool) {
        let Some(Flow::Translated { proven: true, .. }) = self.flows.get(&key).map(|entry| &entry.value)
        else {
            return;
        };
        self.keep(&key);
        self.flows.set_deadline(&key, now + self.limits.idle);
        if is_released {
            // What was released has not gone by there.
            self.offloader.recall(&mut self.flows, &key, self.gateway.counters());
            self.hand_begun(&key);
        }
    }
}

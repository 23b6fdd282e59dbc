//! What comes from the client's side: offers and probes, early data to hold, segments to translate.

use super::{Decision, ServerNic};
use crate::flow::{Flow, Newer, Orphan};
use rtt0_core::accept::accept;
use rtt0_core::engine::Verdict;
use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{Opening, limit_payload};
use rtt0_core::held::Held;
use rtt0_core::offer::{Found, Kind, Offer};
use rtt0_core::packet::{Offload, Outbox};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::rival::Rival;
use rtt0_core::seq::{Client, Promised, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, Tcp};

impl ServerNic {
    pub(super) fn client_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: Segment<'_>,
        offload: Offload,
        out: &mut Outbox,
    ) -> Decision {
        if segment.tcp().flags().is_syn() {
            self.consult(now, &key, Flags::SYN);
            return self.syn(now, key, &segment, out).into();
        }
        self.consult(now, &key, segment.tcp().flags());
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Translated { flow, successor: Some(next), .. })
                if next.owns(&segment.tcp())
                    && flow.translation().promised_isn() != next.start().promised_isn =>
            {
                self.hold(key, &segment, offload).into()
            }
            Some(Flow::Translated { rival: Some(newer), .. })
                if newer.rival.is_carried_on(&segment.tcp(), Direction::ToServer)
                    && segment.checksum_ok() =>
            {
                self.rival_wins(&key);
                self.gateway.pass(PassReason::NoFlow).into()
            }
            Some(Flow::Translated { flow, .. }) if flow.is_client_translated(&segment.tcp()) => {
                if flow.is_doubtful() {
                    self.remove(&key);
                    self.counters().event(Event::TranslatedElsewhere);
                }
                self.gateway.pass(PassReason::AlreadyTranslated).into()
            }
            Some(Flow::Translated { flow, .. }) if !flow.has_ended() => {
                self.translate_client(now, key, segment, offload)
            }
            Some(Flow::Opening { opening, .. }) if opening.owns(&segment.tcp()) => {
                self.hold(key, &segment, offload).into()
            }
            Some(Flow::Orphan(orphan)) if orphan.owns(&segment.tcp()) => {
                match orphan.held.push(segment.bytes(), offload) {
                    Ok(()) => Verdict::Taken.into(),
                    Err(reason) => self.gateway.drop(reason).into(),
                }
            }
            Some(Flow::Orphan(orphan)) => {
                orphan.moot = true;
                self.gateway.pass(PassReason::NoFlow).into()
            }
            Some(Flow::Opening { opening, .. })
                if opening.is_answered_elsewhere(&segment.tcp()) && segment.checksum_ok() =>
            {
                self.remove(&key);
                self.counters().event(Event::TranslatedElsewhere);
                self.gateway.pass(PassReason::NoFlow).into()
            }
            Some(Flow::Opening { .. }) => self.gateway.pass(PassReason::NoFlow).into(),
            ended_or_none => {
                if let Some(Flow::Translated { flow, .. }) = ended_or_none
                    && flow.is_afterthought(&segment.tcp())
                {
                    return self.translate_client(now, key, segment, offload);
                }
                // Ends that have closed have their last ACKs to repeat: no copy of an older connection's
                // data takes their flow's place.
                let client_isn = Seq::<Client>::new(segment.tcp().sequence()).minus(1);
                let is_older = matches!(ended_or_none,
                    Some(Flow::Translated { flow, .. }) if client_isn.beyond(flow.client_isn()) < 0);
                match self.promised_to(key, &segment.tcp()).filter(|_| !is_older) {
                    Some(promised) => self.overtaking(now, key, promised, &segment, offload).into(),
                    None => self.gateway.pass(PassReason::NoFlow).into(),
                }
            }
        }
    }

    /// Holds a segment for the handshake under way.
    fn hold(&mut self, key: FlowKey, segment: &Segment<'_>, offload: Offload) -> Verdict {
        let opening = self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut());
        let Some(opening) = opening else { return Verdict::Forward };
        let proven = opening.is_proven();
        let held = opening.hold(segment, offload);
        if !proven {
            self.awaited += 1;
            // Now it is worth more patience, and what was put off may be due at once.
            let due = opening.due(&self.limits);
            self.flows.set_deadline(&key, due);
        }
        match held {
            Ok(()) => Verdict::Taken,
            Err(reason) => self.gateway.drop(reason),
        }
    }

    /// Returns the ISN that the client was promised if the numbers of this segment, its first,
    /// prove that it was.
    fn promised_to(&self, key: FlowKey, tcp: &Tcp<'_>) -> Option<Seq<Promised>> {
        let client_isn = Seq::<Client>::new(tcp.sequence()).minus(1);
        let acknowledged = Seq::<Promised>::new(tcp.acknowledgement()).minus(1);
        let promised = |id| self.keys.promised_isn(id, &key, client_isn) == Some(acknowledged);
        (tcp.flags().contains(Flags::ACK) && self.keys.ids().any(promised)).then_some(acknowledged)
    }

    /// A segment whose numbers prove that the client was promised something, though no offer has
    /// come: its SYN was lost or overtaken. It is held for a while.
    fn overtaking(
        &mut self,
        now: Instant,
        key: FlowKey,
        promised: Seq<Promised>,
        segment: &Segment<'_>,
        offload: Offload,
    ) -> Verdict {
        let mut held = Held::new(&self.budget);
        if held.push(segment.bytes(), offload).is_err() {
            // The server must hear of what can never be held, if only to refuse it.
            return self.gateway.pass(PassReason::NoRoomToHold);
        }
        let orphan = Flow::Orphan(Orphan { held, promised, moot: false });
        if let Err(reason) = self.insert(now, key, orphan, now + self.limits.orphan) {
            return self.gateway.pass(reason);
        }
        self.counters().event(Event::HeldForOffer);
        Verdict::Taken
    }

    fn syn(&mut self, now: Instant, key: FlowKey, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        let tcp = segment.tcp();
        if segment.is_fragment() || !segment.checksum_ok() {
            return self.gateway.pass(PassReason::OddSyn);
        }
        let isn = Seq::new(tcp.sequence());
        match Offer::find(tcp.options(), &self.keys, &key, isn) {
            Found::Authentic(offer) if offer.kind == Kind::Spoofed => {
                self.spoofed_syn(now, key, isn, offer, segment, out)
            }
            Found::Authentic(offer) if offer.kind == Kind::Probe => {
                // Who stands back does not see the answer.
                let probe = Some(offer.key).filter(|_| !self.standing_back);
                self.plain_syn(now, key, Newer { rival: Rival::new(isn), probe }, out);
                self.forward_stripped(segment, out)
            }
            Found::Nothing => {
                let queued = out.len();
                self.plain_syn(now, key, Newer { rival: Rival::new(isn), probe: None }, out);
                let verdict = self.gateway.pass(PassReason::Learning);
                // Behind the reset that makes way for it, if one was needed.
                if out.len() > queued { self.forward_stripped(segment, out) } else { verdict }
            }
            found => {
                // An option of ours that proves nothing: the server must not see it either.
                let event = if found == Found::Unknown { Event::OfferUnknown } else { Event::OfferForged };
                self.happened(&key, event);
                self.plain_syn(now, key, Newer { rival: Rival::new(isn), probe: None }, out);
                self.forward_stripped(segment, out)
            }
        }
    }

    /// A SYN that the client has not been answered: the server will do it.
    fn plain_syn(&mut self, now: Instant, key: FlowKey, newer: Newer, out: &mut Outbox) {
        let isn = newer.rival.isn();
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Translated { rival: slot, flow, .. }) if flow.client_isn() != isn => {
                // Anybody can send a SYN: the flow goes on until an end goes on with the new one. A copy of that
                // does not undo its answer.
                if slot.is_none_or(|known| known.rival.isn() != isn) {
                    *slot = Some(newer);
                }
                self.counters().pass(PassReason::RivalSyn);
            }
            Some(Flow::Translated { .. }) => {}
            Some(Flow::Opening { opening, rival: slot }) if opening.outlives(isn) => {
                *slot = Some(newer);
                self.counters().pass(PassReason::RivalSyn);
            }
            Some(_) | None => {
                if let Some(Flow::Opening { opening, .. }) = self.remove(&key) {
                    opening.abandon(out);
                }
                if let Some(probe) = newer.probe()
                    && let Err(reason) =
                        self.insert(now, key, Flow::Probed(probe), now + self.limits.learning)
                {
                    self.counters().pass(reason);
                }
            }
        }
    }

    /// A SYN that ClientNIC has answered on the server's behalf.
    fn spoofed_syn(
        &mut self,
        now: Instant,
        key: FlowKey,
        isn: Seq<Client>,
        offer: Offer,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        if let Some(opening) = self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut())
            && opening.start().client_isn == isn
        {
            opening.wait_on(now);
            let due = opening.due(&self.limits);
            self.flows.set_deadline(&key, due);
            return self.gateway.drop(DropReason::DuplicateSyn);
        }
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Opening { opening, .. }) if opening.is_wanted() => {
                return self.gateway.drop(DropReason::OfferTooEarly);
            }
            Some(Flow::Translated { flow, .. }) if flow.client_isn() == isn => {
                let (answer, promised) = (flow.answer().copied(), flow.translation().promised_isn());
                self.counters().event(Event::OfferRepeated);
                let offer = Offer { kind: Kind::Confirm, ..offer };
                if let Some(answer) = answer {
                    self.confirm(key, isn, offer, promised.get(), &answer, out);
                }
                return Verdict::Taken;
            }
            Some(Flow::Translated { successor: Some(next), .. }) if next.is_wanted() => {
                return self.gateway.drop(DropReason::OfferTooEarly);
            }
            _ => {}
        }
        let Some(start) = accept(key, isn, offer, segment, &self.keys) else {
            return self.gateway.pass(PassReason::OddSyn);
        };
        if self.standing_back {
            // As if there were no ServerNIC.
            self.counters().pass(PassReason::StandingBack);
            return self.forward_stripped(segment, out);
        }
        if self.pending >= self.limits.pending {
            // ClientNIC sees a SYN-ACK without confirm and translates by itself.
            self.counters().pass(PassReason::PendingFull);
            return self.forward_stripped(segment, out);
        }
        self.counters().event(Event::OfferAccepted);
        let isns = (start.client_isn, start.promised_isn);
        if self.open(now, key, isns, |held, out| Opening::begin(start, held, now, out), out) {
            return Verdict::Taken;
        }
        self.counters().pass(PassReason::FlowTableFull);
        self.forward_stripped(segment, out)
    }

    /// Begins a handshake with `begin`, which gets the client's data that overtook their offer. Returns whether there is room for it.
    pub(super) fn open(
        &mut self,
        now: Instant,
        key: FlowKey,
        (client_isn, promised_isn): (Seq<Client>, Seq<Promised>),
        begin: impl FnOnce(Held, &mut Outbox) -> Opening,
        out: &mut Outbox,
    ) -> bool {
        if let Some(Flow::Translated { flow, successor, .. }) =
            self.flows.get_mut(&key).map(|entry| &mut entry.value)
            && (!flow.has_ended() || client_isn.beyond(flow.client_isn()) < 0)
        {
            // The old flow may well be alive and this SYN not the client's: it is replaced when
            // the server accepts the new one, not before. So it is where both ends have closed, since
            // they may have lost data to repeat, and the SYN is an older connection's, come late.
            if let Some(abandoned) = successor {
                abandoned.abandon(out);
            }
            let opening = begin(Held::new(&self.budget), out);
            let due = opening.due(&self.limits);
            match successor.replace(Box::new(opening)) {
                Some(abandoned) => self.awaited -= usize::from(abandoned.is_proven()),
                None => self.pending += 1,
            }
            self.flows.set_deadline(&key, due);
            return true;
        }
        let old = self.remove(&key);
        if let Some(Flow::Opening { opening, .. }) = &old {
            opening.abandon(out);
        }
        let held = self.inherit(old, promised_isn);
        self.make_room(now, &key);
        if self.flows.is_full() {
            return false;
        }
        let opening = begin(held, out);
        let due = opening.due(&self.limits);
        // There is room: it was just looked.
        let _ = self.insert(now, key, Flow::Opening { opening: Box::new(opening), rival: None }, due);
        true
    }

    /// Returns what a flow that another takes the place of, of the ISN `promised`, leaves to that: its data that overtook their offer.
    pub(super) fn inherit(&self, old: Option<Flow>, promised: Seq<Promised>) -> Held {
        match old {
            Some(Flow::Orphan(orphan)) if orphan.promised == promised => return orphan.held,
            Some(Flow::Translated { .. }) => self.counters().event(Event::FlowReplaced),
            _ => {}
        }
        Held::new(&self.budget)
    }

    fn forward_stripped(&self, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        let flags = segment.tcp().flags();
        out.build(Offload::default(), |bytes| {
            segment.write_with_options(&rtt0_core::offer::strip(&segment.tcp()), flags, bytes);
        });
        Verdict::Taken
    }

    fn translate_client(
        &mut self,
        now: Instant,
        key: FlowKey,
        mut segment: Segment<'_>,
        offload: Offload,
    ) -> Decision {
        let Some(entry) = self.flows.get_mut(&key) else { return Verdict::Forward.into() };
        let Flow::Translated { flow, proven, .. } = &mut entry.value else {
            return Verdict::Forward.into();
        };
        let is_proof = !*proven && flow.is_proof(&segment.tcp());
        *proven |= is_proof;
        let life = flow.client_segment(&mut segment, &self.limits);
        let offload = limit_payload(offload, &segment, flow);
        self.counters().event(Event::Translated);
        self.live(now, key, life);
        if is_proof {
            // If the fast path has made this handshake, it has missed the proof.
            self.offloader.recall(&mut self.flows, &key, self.gateway.counters());
            self.hand_begun(&key);
        } else {
            self.hand_when_due(&key);
        }
        Decision { verdict: Verdict::Forward, gso_size: offload.gso_size }
    }
}

//! ServerNIC's engine: accepts offers, holds early data, makes the real handshake, translates.
//!
//! What a flow can be here, and what moves it:
//!
//! | flow | SYN + offer | SYN + probe | SYN alone | client data | SYN-ACK | RST to SYN |
//! |---|---|---|---|---|---|---|
//! | none | Opening | Probed | pass | verified: Orphan | pass | pass |
//! | Orphan | Opening | Probed | pass | held | pass | pass |
//! | Probed | Opening | Probed | forgotten | verified: Orphan | confirm added | forgotten |
//! | Opening | same ISN: dropped | Probed | forgotten | held | Translated | refused |
//! | Translated | same ISN: confirm; else successor | rival | rival | translated | rival's: replaced | translated |

use crate::flow::{Flow, Orphan, Probe, Rival};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::gateway::{Admitted, Gateway};
use rtt0_core::handshake::{Context, Opening, Reply, Start, empty_hold, limit_payload};
use rtt0_core::held::HoldBudget;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Found, Keys, Kind, Offer};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{Offered, SynAck};
use rtt0_core::reason::{Counters, DropReason, Event, PassReason};
use rtt0_core::seq::{Client, Promised, Real, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::translated::Life;
use rtt0_core::wire::icmp::{Complaint, Quote};
use rtt0_core::wire::options::SynOptions;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, Tcp};
use std::sync::Arc;
use std::time::Duration;

/// First repeat of the SYN on the server's leg: the shortest RTO Linux uses.
const SYN_REPEAT: Duration = Duration::from_millis(200);
/// SYNs sent at once; two hide the short leg's RTT from the server (RTT honesty).
const SYN_COPIES: u8 = 2;
/// A SYN-ACK up to this length in bytes gets a confirm: with it, it still fits any IPv6 link.
const LARGEST_SYN_ACK: usize = 1200;
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
    budget: Arc<HoldBudget>,
}

impl ServerNic {
    /// Makes an engine that knows no flow.
    pub fn new(gateway: Gateway, keys: Keys, limits: Limits) -> Self {
        let (flows, budget) = (FlowTable::new(limits.flows), HoldBudget::new(&limits));
        Self { gateway, keys, limits, flows, pending: 0, budget }
    }

    /// Returns the number of flows known.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Returns the number of handshakes pending.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Returns how many bytes of early data are held.
    pub fn held(&self) -> usize {
        self.budget.used()
    }

    fn counters(&self) -> &Counters {
        self.gateway.counters()
    }

    // ---- from the client ----------------------------------------------------------------

    fn client_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: Segment<'_>,
        offload: Offload,
        out: &mut Outbox,
    ) -> Decision {
        if segment.tcp().flags().is_syn() {
            return self.syn(now, key, &segment, out).into();
        }
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Translated { flow, successor: Some(next), .. })
                if next.owns(&segment.tcp())
                    && flow.translation().promised_isn() != next.start().promised_isn =>
            {
                hold(&self.gateway, next, &segment, offload).into()
            }
            Some(Flow::Translated { flow, .. }) if !flow.has_ended() => {
                self.translate_client(now, key, segment, offload)
            }
            Some(Flow::Opening(opening)) if opening.owns(&segment.tcp()) => {
                hold(&self.gateway, opening, &segment, offload).into()
            }
            Some(Flow::Orphan(orphan)) if orphan.owns(&segment.tcp()) => {
                match orphan.held.push(segment.bytes(), offload) {
                    Ok(()) => Verdict::Taken.into(),
                    Err(reason) => self.gateway.drop(reason).into(),
                }
            }
            Some(Flow::Opening(_) | Flow::Orphan(_)) => self.gateway.pass(PassReason::NoFlow).into(),
            ended_or_none => {
                if let Some(Flow::Translated { flow, .. }) = ended_or_none
                    && flow.is_afterthought(&segment.tcp())
                {
                    return self.translate_client(now, key, segment, offload);
                }
                match self.promised_to(key, &segment.tcp()) {
                    Some(promised) => self.overtaking(now, key, promised, &segment, offload).into(),
                    None => self.gateway.pass(PassReason::NoFlow).into(),
                }
            }
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
        let mut held = empty_hold(&self.budget);
        if let Err(reason) = held.push(segment.bytes(), offload) {
            return self.gateway.drop(reason);
        }
        let orphan = Flow::Orphan(Orphan { held, promised });
        if let Err(reason) = self.insert(key, orphan, now + self.limits.orphan) {
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
                self.plain_syn(now, key, Rival { isn, probe: Some(offer.key) }, out);
                self.forward_stripped(segment, out)
            }
            Found::Nothing => {
                let queued = out.len();
                self.plain_syn(now, key, Rival { isn, probe: None }, out);
                let verdict = self.gateway.pass(PassReason::Learning);
                // Behind the reset that makes way for it, if one was needed.
                if out.len() > queued { self.forward_stripped(segment, out) } else { verdict }
            }
            found => {
                // An option of ours that proves nothing: the server must not see it either.
                let event = if found == Found::Unknown { Event::OfferUnknown } else { Event::OfferForged };
                self.counters().event(event);
                self.plain_syn(now, key, Rival { isn, probe: None }, out);
                self.forward_stripped(segment, out)
            }
        }
    }

    /// A SYN that the client has not been answered: the server will do it.
    fn plain_syn(&mut self, now: Instant, key: FlowKey, rival: Rival, out: &mut Outbox) {
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Translated { rival: slot, flow, .. }) if flow.client_isn() != rival.isn => {
                // Anybody can send a SYN: the flow goes on until the server accepts the new one.
                *slot = Some(rival);
                self.counters().pass(PassReason::RivalSyn);
            }
            Some(Flow::Translated { .. }) => {}
            Some(_) | None => {
                if let Some(Flow::Opening(abandoned)) = self.remove(&key) {
                    abandoned.abandon(out);
                }
                if let Some(key_id) = rival.probe {
                    let probed = Flow::Probed(Probe { isn: rival.isn, key: key_id });
                    if let Err(reason) = self.insert(key, probed, now + self.limits.learning) {
                        self.counters().pass(reason);
                    }
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
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Opening(opening)) if opening.start().client_isn == isn => {
                return self.gateway.drop(DropReason::DuplicateSyn);
            }
            Some(Flow::Translated { flow, .. }) if flow.client_isn() == isn => {
                let (answer, promised) = (*flow.answer(), flow.translation().promised_isn());
                self.counters().event(Event::OfferRepeated);
                self.confirm(key, isn, offer, promised.get(), &answer, out);
                return Verdict::Taken;
            }
            Some(Flow::Translated { successor: Some(next), .. }) if next.start().client_isn == isn => {
                return self.gateway.drop(DropReason::DuplicateSyn);
            }
            _ => {}
        }
        let Some(start) = self.start(key, isn, offer, segment) else {
            return self.gateway.pass(PassReason::OddSyn);
        };
        if self.pending >= self.limits.pending {
            // ClientNIC sees a SYN-ACK without confirm and translates by itself.
            self.counters().pass(PassReason::PendingFull);
            return self.forward_stripped(segment, out);
        }
        self.counters().event(Event::OfferAccepted);
        self.open(now, key, start, segment, out)
    }

    fn open(
        &mut self,
        now: Instant,
        key: FlowKey,
        start: Start,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        if let Some(Flow::Translated { flow, successor, .. }) =
            self.flows.get_mut(&key).map(|entry| &mut entry.value)
            && !flow.has_ended()
        {
            // The old flow may well be alive and this SYN not the client's: it is replaced when
            // the server accepts the new one, not before.
            if let Some(abandoned) = successor {
                abandoned.abandon(out);
            }
            let opening = Opening::begin(start, empty_hold(&self.budget), now, out);
            let due = opening.due(&self.limits);
            if successor.replace(Box::new(opening)).is_none() {
                self.pending += 1;
            }
            self.flows.set_deadline(&key, due);
            return Verdict::Taken;
        }
        let held = match self.remove(&key) {
            Some(Flow::Orphan(orphan)) if orphan.promised == start.promised_isn => orphan.held,
            Some(Flow::Translated { .. }) => {
                self.counters().event(Event::FlowReplaced);
                empty_hold(&self.budget)
            }
            Some(Flow::Opening(abandoned)) => {
                abandoned.abandon(out);
                empty_hold(&self.budget)
            }
            _ => empty_hold(&self.budget),
        };
        if self.flows.len() >= self.limits.flows {
            self.counters().pass(PassReason::FlowTableFull);
            return self.forward_stripped(segment, out);
        }
        let opening = Opening::begin(start, held, now, out);
        let due = opening.due(&self.limits);
        // There is room: it was just looked.
        let _ = self.insert(key, Flow::Opening(Box::new(opening)), due);
        Verdict::Taken
    }

    fn start(&self, flow: FlowKey, isn: Seq<Client>, offer: Offer, segment: &Segment<'_>) -> Option<Start> {
        let tcp = segment.tcp();
        let options = SynOptions::parse(tcp.options(), rtt0_core::offer::is_offer).ok()?;
        let ecn = tcp.flags().contains(Flags::ECE | Flags::CWR);
        let mut syn = Vec::with_capacity(segment.bytes().len());
        segment.write_with_options(&rtt0_core::offer::strip(&segment.tcp()), tcp.flags(), &mut syn);
        Some(Start {
            flow,
            client_isn: isn,
            promised_isn: self.keys.promised_isn(offer.key, &flow, isn)?,
            promise: offer.promise,
            client_window_scale: options.window_scale.unwrap_or(0),
            offered: Offered::new(&options, ecn),
            key: offer.key,
            syn,
            copies: SYN_COPIES,
            repeat_after: SYN_REPEAT,
        })
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
        let Flow::Translated { flow, .. } = &mut entry.value else { return Verdict::Forward.into() };
        let life = flow.client_segment(&mut segment, &self.limits);
        let offload = limit_payload(offload, &segment, flow);
        self.counters().event(Event::Translated);
        self.live(now, key, life);
        Decision { verdict: Verdict::Forward, gso_size: offload.gso_size }
    }

    // ---- from the server ----------------------------------------------------------------

    fn server_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        mut segment: Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let Some(entry) = self.flows.get_mut(&key) else { return self.gateway.pass(PassReason::NoFlow) };
        match &mut entry.value {
            Flow::Orphan(_) => self.gateway.pass(PassReason::NoFlow),
            Flow::Probed(probe) => {
                let probe = *probe;
                self.answer_probe(key, probe, &segment, out)
            }
            Flow::Opening(opening) => {
                if !segment.checksum_ok() {
                    return self.gateway.drop(DropReason::StraySegment);
                }
                let reply = opening.judge(&segment.tcp());
                self.reply(now, key, reply, out)
            }
            Flow::Translated { successor: Some(next), .. }
                if segment.checksum_ok() && is_for(next, &segment) =>
            {
                let reply = next.judge(&segment.tcp());
                self.reply(now, key, reply, out)
            }
            Flow::Translated { rival: Some(rival), .. } if rival.is_answered_by(&segment.tcp()) => {
                // The server accepts the newer connection, so the older one is no more.
                let rival = *rival;
                self.counters().event(Event::FlowReplaced);
                self.plain_syn_wins(now, key, rival, &segment, out)
            }
            Flow::Translated { flow, .. } => match flow.server_segment(&mut segment, &self.limits, now) {
                Ok(life) => {
                    self.counters().event(Event::Translated);
                    self.live(now, key, life);
                    Verdict::Forward
                }
                Err(reason) => self.gateway.drop(reason),
            },
        }
    }

    fn plain_syn_wins(
        &mut self,
        now: Instant,
        key: FlowKey,
        rival: Rival,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        self.remove(&key);
        let Some(key_id) = rival.probe else { return self.gateway.pass(PassReason::NoFlow) };
        let probe = Probe { isn: rival.isn, key: key_id };
        // The table has just lost a flow.
        let _ = self.insert(key, Flow::Probed(probe), now + self.limits.learning);
        self.answer_probe(key, probe, segment, out)
    }

    /// Adds the confirm to a SYN-ACK that answers a probe.
    fn answer_probe(
        &mut self,
        key: FlowKey,
        probe: Probe,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let tcp = segment.tcp();
        let answers = tcp.flags().contains(Flags::ACK) && tcp.acknowledgement() == probe.isn.plus(1).get();
        // A fragment can't be made longer, nor a SYN-ACK that is full of data (TCP Fast Open).
        let is_whole = !segment.is_fragment() && segment.bytes().len() <= LARGEST_SYN_ACK;
        if !answers || !tcp.flags().is_syn_ack() || !segment.checksum_ok() || !is_whole {
            if answers {
                self.remove(&key);
            }
            return self.gateway.pass(PassReason::NoFlow);
        }
        let offer = Offer { kind: Kind::Confirm, key: probe.key, promise: Default::default() };
        let confirm = offer.encode(&self.keys, &key, probe.isn);
        let mut options = tcp.option_bytes().to_vec();
        let Some(confirm) = confirm.filter(|c| options.len() + c.len() <= 40) else {
            return self.gateway.pass(PassReason::NoOptionSpace);
        };
        // In front, where an end-of-list in the server's options can't hide it.
        options.splice(0..0, confirm);
        self.counters().event(Event::ProbeAnswered);
        out.build(Offload::default(), |bytes| {
            segment.write_with_options(&options, tcp.flags(), bytes);
        });
        Verdict::Taken
    }

    /// Acts on the server's reply to a handshake of ours.
    fn reply(&mut self, now: Instant, key: FlowKey, reply: Reply, out: &mut Outbox) -> Verdict {
        match reply {
            Reply::Accepted { isn, answer } => self.accepted(now, key, isn, answer, out),
            Reply::Refused => {
                if let Some(opening) = self.take_opening(now, key) {
                    opening.reset_client(out);
                    self.counters().event(Event::Refused);
                }
                Verdict::Taken
            }
            Reply::OldConnection { reset } => {
                let opening = self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut());
                if opening.is_some_and(|opening| opening.clear_old_connection(reset, out)) {
                    self.counters().event(Event::OldConnectionReset);
                }
                self.gateway.drop(DropReason::StraySegment)
            }
            Reply::Stray => self.gateway.drop(DropReason::StraySegment),
        }
    }

    fn accepted(
        &mut self,
        now: Instant,
        key: FlowKey,
        isn: Seq<Real>,
        answer: SynAck,
        out: &mut Outbox,
    ) -> Verdict {
        let replaces = matches!(self.flows.get_mut(&key).map(|e| &e.value), Some(Flow::Translated { .. }));
        let Some(opening) = self.take_opening(now, key) else { return Verdict::Taken };
        if replaces {
            self.remove(&key);
            self.counters().event(Event::FlowReplaced);
        }
        let (client_isn, promised) = (opening.start().client_isn, opening.start().promised_isn);
        let offer = Offer { kind: Kind::Confirm, key: opening.start().key, promise: opening.start().promise };
        // The client's data first: the confirm is in nobody's way.
        let context = Context { now, limits: &self.limits, counters: self.gateway.counters() };
        let Ok(flow) = opening.establish(isn, answer, &context, out) else { return Verdict::Taken };
        self.confirm(key, client_isn, offer, promised.get(), &answer, out);
        let flow = Flow::Translated { flow, successor: None, rival: None };
        // It takes the place of the handshake.
        let _ = self.insert(key, flow, now + self.limits.idle);
        Verdict::Taken
    }

    /// Sends the confirm: the real SYN-ACK's contents with the number the client was promised.
    fn confirm(
        &self,
        key: FlowKey,
        client_isn: Seq<Client>,
        offer: Offer,
        promised_isn: u32,
        answer: &SynAck,
        out: &mut Outbox,
    ) {
        let offer = Offer { kind: Kind::Confirm, ..offer };
        let Some(option) = offer.encode(&self.keys, &key, client_isn) else { return };
        let mut options = Vec::with_capacity(40);
        options.extend_from_slice(&option);
        answer.options.write(&mut options);
        let ecn = if answer.ecn { Flags::ECE } else { Flags::default() };
        let control = rtt0_core::wire::build::Control {
            source: key.server(),
            destination: key.client(),
            sequence: promised_isn,
            acknowledgement: client_isn.plus(1).get(),
            flags: Flags::SYN | Flags::ACK | ecn,
            window: answer.window,
        };
        out.build(Offload::default(), |bytes| control.write(&options, bytes));
    }

    // ---- ICMP ---------------------------------------------------------------------------

    fn icmp(&mut self, quoted: Direction, key: FlowKey, mut quote: Quote<'_>) -> Verdict {
        let flow = self.flows.get_mut(&key).map(|entry| &entry.value);
        let Some(Flow::Translated { flow, .. }) = flow else {
            return self.gateway.pass(PassReason::IcmpNoFlow);
        };
        flow.translation().quote(&mut quote, quoted);
        self.counters().event(Event::IcmpTranslated);
        Verdict::Forward
    }

    // ---- the table ----------------------------------------------------------------------

    fn insert(&mut self, key: FlowKey, flow: Flow, deadline: Instant) -> Result<(), PassReason> {
        let pending = flow.is_pending();
        if pending && self.pending >= self.limits.pending {
            return Err(PassReason::PendingFull);
        }
        let old = self.flows.insert(key, flow, deadline).map_err(|_| PassReason::FlowTableFull)?;
        self.pending += usize::from(pending);
        self.pending -= old.map_or(0, |old| old.pending());
        Ok(())
    }

    fn remove(&mut self, key: &FlowKey) -> Option<Flow> {
        let flow = self.flows.remove(key)?;
        self.pending -= flow.pending();
        Some(flow)
    }

    /// Takes a handshake out: the flow itself, or the successor of a translated one.
    fn take_opening(&mut self, now: Instant, key: FlowKey) -> Option<Opening> {
        if let Some(Flow::Translated { successor, flow, .. }) = self.flows.get_mut(&key).map(|e| &mut e.value)
        {
            let opening = successor.take()?;
            let rest = if flow.has_ended() { self.limits.closed } else { self.limits.idle };
            self.pending -= 1;
            self.flows.set_deadline(&key, now + rest);
            return Some(*opening);
        }
        match self.remove(&key)? {
            Flow::Opening(opening) => Some(*opening),
            _ => None,
        }
    }

    fn live(&mut self, now: Instant, key: FlowKey, life: Life) {
        let Some(entry) = self.flows.get_mut(&key) else { return };
        match life {
            // The deadline is the successor's for as long as there is one.
            _ if entry.value.opening_mut().is_some() => {}
            Life::Goes(time) => entry.postpone(now + time),
            Life::Ends(time) => self.flows.set_deadline(&key, now + time),
        }
    }

    fn due(&mut self, now: Instant, key: FlowKey, out: &mut Outbox) {
        let Some(entry) = self.flows.get_mut(&key) else { return };
        let ended = matches!(&entry.value, Flow::Translated { flow, .. } if flow.has_ended());
        let Some(opening) = entry.value.opening_mut() else {
            self.counters().event(Event::Expired);
            self.remove(&key);
            return;
        };
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
        self.counters().event(Event::TimedOut);
        self.take_opening(now, key);
        if ended {
            self.remove(&key);
        }
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

fn hold(gateway: &Gateway, opening: &mut Opening, segment: &Segment<'_>, offload: Offload) -> Verdict {
    match opening.hold(segment.bytes(), offload) {
        Ok(()) => Verdict::Taken,
        Err(reason) => gateway.drop(reason),
    }
}

/// Tells whether a segment from the server concerns a successor rather than the flow it would
/// replace: an answer to the new SYN, or a challenge to it once the client has proven itself.
fn is_for(next: &Opening, segment: &Segment<'_>) -> bool {
    match next.judge(&segment.tcp()) {
        Reply::Accepted { .. } | Reply::Refused => true,
        Reply::OldConnection { .. } => next.is_proven() && segment.payload_length() == 0,
        Reply::Stray => false,
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
            Ok(Admitted::Quote(quoted, key, quote)) => self.icmp(quoted, key, quote).into(),
        };
        if decision.gso_size != 0 {
            packet.offload.gso_size = decision.gso_size;
        }
        decision.verdict
    }

    fn too_big(&mut self, now: Instant, packet: &[u8], mtu: u16, out: &mut Outbox) {
        let mut copy = packet.to_vec();
        let Some((direction, key)) = self.gateway.flow_of(&mut copy) else { return };
        let index = out.len();
        if !self.gateway.complain(now, Complaint::TooBig(mtu), packet, out) {
            return;
        }
        // The next hop would have quoted the packet as we sent it; its sender knows another.
        if let Some((bytes, _)) = out.get_mut(index)
            && let Ok(mut quote) = Quote::parse(bytes)
            && let Some(Flow::Translated { flow, .. }) = self.flows.get_mut(&key).map(|e| &e.value)
        {
            flow.translation().quote(&mut quote, direction);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.flows.next_deadline()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        for _ in 0..TIMERS_PER_CALL {
            let Some(key) = self.flows.pop_due(now) else { return };
            self.due(now, key, out);
        }
    }

    fn counters(&self) -> &Counters {
        self.gateway.counters()
    }
}

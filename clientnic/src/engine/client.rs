//! What the client sends: SYNs to answer, early data to hold or copy, segments to translate.

use super::{ClientNic, Mode};
use crate::flow::{Flow, Learning, Pending};
use rtt0_core::engine::Verdict;
use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{Opening, limit_payload};
use rtt0_core::held::Held;
use rtt0_core::offer::{Kind, LENGTH};
use rtt0_core::offload::{Begun, Offloadable, Share};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{Knowledge, Outlook};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::rival::Rival;
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::spoof::{PlainSyn, Plan, respoof, spoof, write_probe};
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

/// Shortest wait before a spoofed SYN is repeated over the long leg.
const SHORTEST_REPEAT: Duration = Duration::from_millis(200);
/// The wait if the long leg's RTT is not known (RFC 6298 §2.1).
const DEFAULT_REPEAT: Duration = Duration::from_secs(1);

impl ClientNic {
    pub(super) fn client_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        mut segment: Segment<'_>,
        offload: Offload,
        out: &mut Outbox,
    ) -> (Verdict, Offload) {
        self.consult(now, &key, Direction::ToServer, segment.tcp().flags());
        if segment.tcp().flags().is_syn() {
            let queued = out.len();
            let verdict = self.syn(now, key, &segment, out);
            if verdict == Verdict::Forward && out.len() > queued {
                // Behind the reset that makes way for it.
                out.push(segment.bytes(), offload);
                return (Verdict::Taken, offload);
            }
            return (verdict, offload);
        }
        let Some(entry) = self.flows.get_mut(&key) else {
            return (self.gateway.pass(PassReason::NoFlow), offload);
        };
        match &mut entry.value {
            Flow::Learning(_) => (self.gateway.pass(PassReason::Learning), offload),
            Flow::Opening(pending) if pending.opening.owns(&segment.tcp()) => {
                (self.early_data(now, key, &segment, offload, out), offload)
            }
            Flow::Opening(pending)
                if pending.is_taken_over_unseen(&segment.tcp()) && segment.checksum_ok() =>
            {
                self.hand_over(now, key);
                self.client_segment(now, key, segment, offload, out)
            }
            Flow::Opening(_) => (self.gateway.pass(PassReason::NoFlow), offload),
            Flow::Translated { rival: Some(rival), .. }
                if rival.is_carried_on(&segment.tcp(), Direction::ToServer) && segment.checksum_ok() =>
            {
                (self.rival_wins(&key), offload)
            }
            Flow::Translated { flow, proven, .. } => {
                if !*proven && flow.is_proof(&segment.tcp()) {
                    *proven = true;
                    self.half_open -= 1;
                }
                let known = flow.upload().is_some();
                let life = flow.client_segment(&mut segment, &self.settings.limits);
                let offload = limit_payload(offload, &segment, flow);
                let upload = flow.upload().filter(|_| !known);
                self.counters().event(Event::Translated);
                self.note_upload(&key, upload);
                self.live(now, key, life);
                self.hand_when_due(&key);
                (Verdict::Forward, offload)
            }
            Flow::Watching(watched) => {
                if watched.proves(&segment.tcp()) {
                    self.half_open -= 1;
                }
                watched.sent(&segment.tcp());
                self.watch(now, key, &segment, Flags::FIN | Flags::RST);
                self.hand_when_due(&key);
                (self.gateway.pass(PassReason::NoFlow), offload)
            }
        }
    }

    /// Takes a copy of what the kernel has forwarded: of a handshake it is kept, and otherwise not needed any more. Returns
    /// false if it is none: then it is a packet like any other.
    pub(super) fn copied(&mut self, now: Instant, packet: &mut Packet<'_>, out: &mut Outbox) -> bool {
        let Some(key) = self.gateway.flow_of_copy(packet.bytes) else { return false };
        let Some(entry) = self.flows.get(&key) else { return false };
        if let Flow::Opening(pending) = &entry.value {
            let offload = packet.offload;
            if let Some(segment) = self.gateway.admit_copy(now, packet, out)
                && pending.opening.owns(&segment.tcp())
            {
                // Without a copy the client repeats it.
                let _ = self.keep_early_data(&key, &segment, offload);
            }
        }
        true
    }

    /// What the client sends before the server has answered: held, or copied and sent on.
    fn early_data(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: &Segment<'_>,
        offload: Offload,
        out: &mut Outbox,
    ) -> Verdict {
        let Some(held) = self.keep_early_data(&key, segment, offload) else { return Verdict::Forward };
        let Some(Flow::Opening(pending)) = self.flows.get(&key).map(|entry| &entry.value) else {
            return Verdict::Forward;
        };
        let (paired, refused) = (pending.paired, pending.refused);
        if refused {
            if let Some(pending) = self.take_pending(&key) {
                self.give_up(now, &key, &pending, Event::Refused, out);
            }
            return Verdict::Taken;
        }
        match (paired, held) {
            // A copy is a convenience: without it the client repeats by itself.
            (true, _) => self.gateway.pass(PassReason::NoFlow),
            (false, Ok(())) => Verdict::Taken,
            (false, Err(reason)) => self.gateway.drop(reason),
        }
    }

    /// Keeps a segment of a handshake, which proves that there is a client. `None` if there is no such handshake.
    fn keep_early_data(
        &mut self,
        key: &FlowKey,
        segment: &Segment<'_>,
        offload: Offload,
    ) -> Option<Result<(), DropReason>> {
        let limits = self.settings.limits;
        self.changing(key, |nic| {
            let Flow::Opening(pending) = &mut nic.flows.get_mut(key)?.value else { return None };
            let proven = pending.opening.is_proven();
            let held = pending.opening.hold(segment, offload);
            let due = pending.opening.due(&limits);
            if !proven {
                nic.flows.set_deadline(key, due);
            }
            Some(held)
        })
    }

    /// Remembers how many bytes a client sent that now has ended, by whichever side's will.
    pub(super) fn note_upload(&self, key: &FlowKey, upload: Option<u32>) {
        if let Some(bytes) = upload {
            self.profiles.uploaded(&key.server(), bytes);
        }
    }

    fn syn(&mut self, now: Instant, key: FlowKey, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        if self.standing_back {
            return self.gateway.pass(PassReason::StandingBack);
        }
        if self.half_open >= self.settings.limits.half_open && self.flows.get_mut(&key).is_none() {
            // First of all, for in a flood every step counts.
            return self.gateway.pass(PassReason::HalfOpenFull);
        }
        let syn = match PlainSyn::read(segment) {
            Ok(syn) => syn,
            Err(reason) if segment.checksum_ok() => {
                return self.pass_syn(&key, Seq::new(segment.tcp().sequence()), reason);
            }
            Err(reason) => return self.gateway.pass(reason),
        };
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Opening(pending)) if pending.opening.start().client_isn == syn.isn => {
                pending.opening.ask_again(now, out);
                out.push(&pending.syn_ack, Offload::default());
                if !pending.refused {
                    let due = pending.opening.due(&self.settings.limits);
                    self.flows.set_deadline(&key, due);
                }
                self.counters().event(Event::SpoofRepeated);
                return Verdict::Taken;
            }
            Some(Flow::Opening(pending)) if pending.opening.outlives(syn.isn) => {
                // Anybody can send a SYN: the handshake goes on until the server accepts another.
                pending.rival = Some(Rival::new(syn.isn));
                return self.gateway.pass(PassReason::RivalSyn);
            }
            // Doubled or late; the server answers it once more, and that is not for us to promise.
            Some(Flow::Watching(watched)) if !watched.spoofed && watched.isn == syn.isn => {
                return self.gateway.pass(PassReason::NoFlow);
            }
            Some(Flow::Translated { flow, .. }) if flow.client_isn() == syn.isn => {
                return self.gateway.pass(PassReason::NoFlow);
            }
            Some(Flow::Translated { flow, rival, .. }) if !flow.has_ended() => {
                *rival = Some(Rival::instead_of(syn.isn, *rival));
                return self.gateway.pass(PassReason::RivalSyn);
            }
            // The server has had it unspoofed: what it answers is the client's, whatever has become
            // known of the destination meanwhile.
            Some(Flow::Learning(learning)) if learning.isn == syn.isn => {
                return self.learn(now, key, &syn, segment, PassReason::Learning, out);
            }
            _ => {}
        }
        let left_alone = self.settings.policy.now().leaves_alone(&key);
        if let Some(reason) = left_alone {
            return self.leave_alone(&key, reason, out);
        }
        match self.profiles.outlook(&key.server(), now) {
            Outlook::RefusedLately => self.leave_alone(&key, PassReason::RefusedLately, out),
            Outlook::LargeUploads => self.learn(now, key, &syn, segment, PassReason::LargeUploads, out),
            Outlook::Unknown => self.learn(now, key, &syn, segment, PassReason::Learning, out),
            Outlook::Known(knowledge, rtt) => {
                self.known_destination(now, key, &syn, segment, (knowledge, rtt), out)
            }
        }
    }

    /// Lets the SYN of a new connection pass untouched. An older handshake of its 4-tuple must not meet the
    /// answer to it.
    fn leave_alone(&mut self, key: &FlowKey, reason: PassReason, out: &mut Outbox) -> Verdict {
        self.make_way(key, out);
        self.gateway.pass(reason)
    }

    /// Lets a SYN pass untouched. What is known here of an older connection must not meet the
    /// answer to it.
    fn pass_syn(&mut self, key: &FlowKey, isn: Seq<Client>, reason: PassReason) -> Verdict {
        match self.flows.get_mut(key).map(|entry| &mut entry.value) {
            Some(Flow::Opening(pending)) if pending.opening.start().client_isn != isn => {
                pending.rival = Some(Rival::new(isn));
            }
            Some(Flow::Translated { flow, rival, .. }) if flow.client_isn() != isn => {
                *rival = Some(Rival::instead_of(isn, *rival))
            }
            _ => {}
        }
        self.gateway.pass(reason)
    }

    fn known_destination(
        &mut self,
        now: Instant,
        key: FlowKey,
        syn: &PlainSyn,
        segment: &Segment<'_>,
        (knowledge, rtt): (Knowledge, Option<Duration>),
        out: &mut Outbox,
    ) -> Verdict {
        let mode = self.mode();
        let paired = knowledge.paired && mode != Mode::Solo;
        if mode == Mode::Paired && !paired {
            return self.learn(now, key, syn, segment, PassReason::Unpaired, out);
        }
        if self.pending >= self.settings.limits.pending {
            return self.pass_syn(&key, syn.isn, PassReason::PendingFull);
        }
        if self.half_open >= self.settings.limits.half_open {
            return self.pass_syn(&key, syn.isn, PassReason::HalfOpenFull);
        }
        let signal = match (mode, paired) {
            (Mode::Solo, _) => None,
            (_, true) => Some(Kind::Spoofed),
            (_, false) => Some(Kind::Probe),
        };
        let plan = self.plan(&key, signal, rtt);
        let Ok(spoof) = spoof(key, syn, segment, &knowledge, &self.keys, plan) else {
            return self.learn(now, key, syn, segment, PassReason::Learning, out);
        };
        self.make_way(&key, out);
        self.make_room(now, &key);
        if self.flows.is_full() {
            return self.gateway.pass(PassReason::FlowTableFull);
        }
        // First what has the longer way, and what the client's answer must not overtake.
        let opening = Opening::begin(spoof.start, Held::new(&self.budget), now, out);
        out.push(&spoof.syn_ack, Offload::default());
        let due = opening.due(&self.settings.limits);
        let (probed, syn_ack, share) = (signal.is_some(), spoof.syn_ack, Share::default());
        let pending = Pending { opening, paired, probed, refused: false, syn_ack, rival: None, share };
        // There is room: it was just looked.
        let _ = self.insert(now, key, Flow::Opening(Box::new(pending)), due);
        self.hand_opening(&key);
        self.counters().event(if paired { Event::SpoofedPaired } else { Event::SpoofedSolo });
        Verdict::Taken
    }

    /// Takes charge of a handshake that the fast path has begun by itself. One that can't be kept, or whose ports have another connection
    /// here, goes on without this NIC: ServerNIC has its offer, and translates.
    pub(super) fn begun(&mut self, now: Instant, mut begun: Begun) {
        let offload = Offload { needs_csum: true, ..Offload::default() };
        let mut packet = Packet { bytes: &mut begun.syn, offload };
        let Ok(segment) = Segment::parse(&mut packet) else { return };
        let key = FlowKey::new(segment.source(), segment.destination(), Direction::ToServer);
        if !self.take_charge(now, key, &segment, &begun.offer, begun.at) {
            self.offloader.disown(&key);
            self.counters().event(Event::Disowned);
        }
    }

    fn take_charge(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: &Segment<'_>,
        offer: &[u8; LENGTH],
        at: Instant,
    ) -> bool {
        let Ok(syn) = PlainSyn::read(segment) else { return false };
        let has_ended = match self.flows.get(&key).map(|entry| &entry.value) {
            None => true,
            Some(flow) if flow.is_handed() => false,
            Some(Flow::Watching(watched)) => watched.spoofed || watched.isn != syn.isn,
            Some(Flow::Translated { flow, .. }) => flow.has_ended() && flow.client_isn() != syn.isn,
            Some(Flow::Opening(pending)) => !pending.opening.outlives(syn.isn),
            Some(Flow::Learning(_)) => false,
        };
        if !has_ended || self.half_open >= self.settings.limits.half_open {
            return false;
        }
        // What was promised may have been taken back since; whoever repeats the SYN gets the same answer, but for the window.
        let (window, rtt) = match self.profiles.outlook(&key.server(), now) {
            Outlook::Known(knowledge, rtt) => (knowledge.window, rtt),
            _ => (u16::MAX, None),
        };
        let plan = self.plan(&key, Some(Kind::Spoofed), rtt);
        let Some(spoof) = respoof(key, &syn, segment, offer, window, &self.keys, plan) else { return false };
        let opening = Opening::begun(spoof.start, Held::new(&self.budget), at);
        let due = opening.due(&self.settings.limits);
        let mut share = Share::default();
        share.hand();
        let (syn_ack, refused) = (spoof.syn_ack, false);
        let pending = Pending { opening, paired: true, probed: true, refused, syn_ack, rival: None, share };
        self.remove(&key);
        let is_kept = self.insert(now, key, Flow::Opening(Box::new(pending)), due).is_ok();
        if is_kept {
            self.counters().event(Event::SpoofedPaired);
            self.counters().event(Event::SpoofedAtOnce);
            self.counters().event(Event::Handed);
        }
        is_kept
    }

    fn plan(&self, key: &FlowKey, signal: Option<Kind>, rtt: Option<Duration>) -> Plan {
        let (v4, v6) = self.settings.mss_clamp;
        Plan {
            signal,
            mss_clamp: if key.server().0.is_ipv4() { v4 } else { v6 },
            repeat_after: rtt.map_or(DEFAULT_REPEAT, |rtt| (rtt * 2).max(SHORTEST_REPEAT)),
        }
    }

    /// Lets a SYN pass, marked with a probe, and remembers it for its SYN-ACK.
    fn learn(
        &mut self,
        now: Instant,
        key: FlowKey,
        syn: &PlainSyn,
        segment: &Segment<'_>,
        reason: PassReason,
        out: &mut Outbox,
    ) -> Verdict {
        let mut probe = Vec::new();
        let probed = self.mode() != Mode::Solo && write_probe(key, syn, segment, &self.keys, &mut probe);
        let repeated = matches!(
            self.flows.get_mut(&key).map(|entry| &entry.value),
            Some(Flow::Learning(learning)) if learning.isn == syn.isn
        );
        let sent = (!repeated).then_some(now);
        let learning = Learning { isn: syn.isn, offered: syn.offered, probed, sent };
        self.make_way(&key, out);
        if let Err(full) =
            self.insert(now, key, Flow::Learning(learning), now + self.settings.limits.learning)
        {
            return self.gateway.pass(full);
        }
        self.counters().pass(reason);
        if !probed {
            if self.mode() != Mode::Solo {
                self.counters().pass(PassReason::NoOptionSpace);
            }
            return Verdict::Forward;
        }
        out.push(&probe, Offload::default());
        Verdict::Taken
    }
}

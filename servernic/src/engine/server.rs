//! What the server sends: answers to our handshakes, SYN-ACKs to confirm, segments to translate.

use super::{Phase, ServerNic};
use crate::flow::{Flow, Newer, Probe};
use rtt0_core::engine::Verdict;
use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{Context, Opening, Reply};
use rtt0_core::journal::Kept;
use rtt0_core::offer::{Kind, Offer};
use rtt0_core::packet::{Offload, Outbox};
use rtt0_core::profile::SynAck;
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::seq::{Client, Real, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::icmp::Quote;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;

/// A SYN-ACK up to this length in bytes gets a confirm: with it, it still fits any IPv6 link.
const LARGEST_SYN_ACK: usize = 1200;

impl ServerNic {
    pub(super) fn server_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        mut segment: Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        self.consult(now, &key, segment.tcp().flags());
        let Some(entry) = self.flows.get_mut(&key) else { return self.gateway.pass(PassReason::NoFlow) };
        match &mut entry.value {
            Flow::Orphan(_) => self.gateway.pass(PassReason::NoFlow),
            Flow::Probed(probe) => {
                let probe = *probe;
                if let Some(verdict) = self.answer_probe(key, probe, &segment, out) {
                    return verdict;
                }
                if acknowledges(&segment, probe.isn) {
                    self.remove(&key);
                }
                self.gateway.pass(PassReason::NoFlow)
            }
            Flow::Opening { .. } if !segment.checksum_ok() => self.gateway.drop(DropReason::StraySegment),
            Flow::Opening { rival: Some(newer), .. } if newer.rival.is_answered_by(&segment.tcp()) => {
                let newer = *newer;
                self.plain_syn_wins(now, key, newer, &segment, out)
            }
            Flow::Opening { opening, rival } => match opening.judge(&segment.tcp()) {
                // What the rival has provoked: if its sender is the client, it clears the way.
                Reply::Stray if rival.is_some() => self.gateway.pass(PassReason::RivalSyn),
                reply => self.reply(now, key, reply, out),
            },
            Flow::Translated { successor: Some(next), .. }
                if segment.checksum_ok() && is_for(next, &segment) =>
            {
                let reply = next.judge(&segment.tcp());
                self.reply(now, key, reply, out)
            }
            // The answer may be as forged as the SYN.
            Flow::Translated { rival: Some(newer), .. }
                if newer.rival.is_answered_by(&segment.tcp()) && segment.checksum_ok() =>
            {
                newer.rival.answered(&segment.tcp());
                let confirmed = newer.probe().and_then(|probe| self.answer_probe(key, probe, &segment, out));
                confirmed.unwrap_or_else(|| self.gateway.pass(PassReason::NoFlow))
            }
            Flow::Translated { rival: Some(newer), .. }
                if newer.rival.is_carried_on(&segment.tcp(), Direction::ToClient)
                    && segment.checksum_ok() =>
            {
                self.rival_wins(&key);
                self.gateway.pass(PassReason::NoFlow)
            }
            // Only a client's ACK makes a server speak, and none went by that acknowledges what was
            // promised: there is a connection that nobody was to translate.
            Flow::Translated { flow, proven: false, .. }
                if flow.is_spoken_for(&segment.tcp()) && segment.checksum_ok() =>
            {
                self.remove(&key);
                self.counters().event(Event::TranslatedElsewhere);
                self.gateway.pass(PassReason::NoFlow)
            }
            // The server has accepted a late copy of the SYN: that connection has no client.
            Flow::Translated { flow, .. } if flow.is_other_syn_ack(&segment.tcp()) => {
                self.gateway.drop(DropReason::StraySegment)
            }
            Flow::Translated { flow, .. } => match flow.server_segment(&mut segment, &self.limits, now) {
                Ok(life) => {
                    self.counters().event(Event::Translated);
                    self.live(now, key, life);
                    self.hand_when_due(&key);
                    Verdict::Forward
                }
                Err(reason) => self.gateway.drop(reason),
            },
        }
    }

    /// The ends have a newer connection, so the older one is no more.
    pub(super) fn rival_wins(&mut self, key: &FlowKey) {
        self.remove(key);
        self.counters().event(Event::FlowReplaced);
    }

    /// The server answers the newer SYN and not that of the handshake under way.
    fn plain_syn_wins(
        &mut self,
        now: Instant,
        key: FlowKey,
        newer: Newer,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        self.rival_wins(&key);
        let confirmed = newer.probe().and_then(|probe| {
            // The table has just lost a flow.
            let _ = self.insert(now, key, Flow::Probed(probe), now + self.limits.learning);
            self.answer_probe(key, probe, segment, out)
        });
        confirmed.unwrap_or_else(|| self.gateway.pass(PassReason::NoFlow))
    }

    /// Adds the confirm to a SYN-ACK that answers a probe; `None` for any other segment.
    fn answer_probe(
        &self,
        key: FlowKey,
        probe: Probe,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Option<Verdict> {
        let tcp = segment.tcp();
        // A fragment can't be made longer, nor a SYN-ACK that is full of data (TCP Fast Open).
        let is_whole = !segment.is_fragment() && segment.bytes().len() <= LARGEST_SYN_ACK;
        let answers = acknowledges(segment, probe.isn) && tcp.flags().is_syn_ack() && segment.checksum_ok();
        if !answers || !is_whole {
            return None;
        }
        let offer = Offer { kind: Kind::Confirm, key: probe.key, promise: Default::default() };
        let confirm = offer.encode(&self.keys, &key, probe.isn);
        let mut options = tcp.option_bytes().to_vec();
        let Some(confirm) = confirm.filter(|c| options.len() + c.len() <= 40) else {
            return Some(self.gateway.pass(PassReason::NoOptionSpace));
        };
        // In front, where an end-of-list in the server's options can't hide it.
        options.splice(0..0, confirm);
        self.counters().event(Event::ProbeAnswered);
        out.build(Offload::default(), |bytes| {
            segment.write_with_options(&options, tcp.flags(), bytes);
        });
        Some(Verdict::Taken)
    }

    /// Acts on an ICMP error: it ends a handshake of ours, or its sender's numbers are put back.
    pub(super) fn quoted(
        &mut self,
        now: Instant,
        key: FlowKey,
        quoted: Direction,
        quote: Quote<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let mut flow = self.flows.get_mut(&key).map(|entry| &mut entry.value);
        let opening = flow.as_mut().and_then(|flow| flow.opening_mut());
        if opening.is_some_and(|opening| opening.is_ended_by(quoted, &quote)) {
            return self.reply(now, key, Reply::Refused, out);
        }
        self.gateway.quote(quoted, quote, flow.and_then(|flow| flow.translation()))
    }

    /// Acts on the server's reply to a handshake of ours.
    fn reply(&mut self, now: Instant, key: FlowKey, reply: Reply, out: &mut Outbox) -> Verdict {
        match reply {
            Reply::Accepted { isn, mut answer } => {
                let opening = self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut());
                if let Some(opening) = opening
                    && opening.awaits_twin(now, isn, &mut answer)
                {
                    let due = opening.due(&self.limits);
                    self.flows.set_deadline(&key, due);
                    return Verdict::Taken;
                }
                self.accepted(now, key, isn, answer, out)
            }
            Reply::Refused => {
                if let Some(opening) = self.take_opening(now, key) {
                    opening.reset_client(out);
                    self.counters().event(Event::Refused);
                    self.gateway.note(&key, Phase::Opening.label(), Event::Refused);
                }
                Verdict::Taken
            }
            Reply::OldConnection { reset } => {
                let opening = self.flows.get_mut(&key).and_then(|entry| entry.value.opening_mut());
                if opening.is_some_and(|opening| opening.clear_old_connection(reset, &self.limits, out)) {
                    self.happened(&key, Event::OldConnectionReset);
                }
                self.gateway.drop(DropReason::StraySegment)
            }
            Reply::Stray => self.gateway.drop(DropReason::StraySegment),
        }
    }

    pub(super) fn accepted(
        &mut self,
        now: Instant,
        key: FlowKey,
        isn: Seq<Real>,
        answer: SynAck,
        out: &mut Outbox,
    ) -> Verdict {
        let old = self.flows.get(&key).map(|entry| &entry.value);
        let replaces = matches!(old, Some(Flow::Translated { .. }));
        // A client that repeats an unspoofed SYN may be answered early the second time.
        let rival = old.and_then(Flow::rival);
        let Some(opening) = self.take_opening(now, key) else { return Verdict::Taken };
        if replaces {
            self.remove(&key);
            self.counters().event(Event::FlowReplaced);
        }
        let (client_isn, promised) = (opening.start().client_isn, opening.start().promised_isn);
        let rival = rival.filter(|newer| newer.rival.isn() != client_isn);
        let offer = Offer { kind: Kind::Confirm, key: opening.start().key, promise: opening.start().promise };
        let proven = opening.is_proven();
        let rest = if proven { self.limits.idle } else { self.limits.unacknowledged };
        // The client's data first: the confirm is in nobody's way.
        let context = Context { now, limits: &self.limits, counters: self.gateway.counters() };
        let Ok(flow) = opening.establish(isn, answer, &context, out) else {
            self.gateway.note(&key, Phase::Opening.label(), Event::BrokenTimestamps);
            return Verdict::Taken;
        };
        self.confirm(key, client_isn, offer, promised.get(), &answer, out);
        // It takes the place of the handshake.
        let _ = self.insert(now, key, Flow::translated(flow, rival, Kept::default(), proven), now + rest);
        self.hand_begun(&key);
        Verdict::Taken
    }

    /// Sends the confirm: the real SYN-ACK's contents with the number the client was promised.
    pub(super) fn confirm(
        &self,
        key: FlowKey,
        client_isn: Seq<Client>,
        offer: Offer,
        promised_isn: u32,
        answer: &SynAck,
        out: &mut Outbox,
    ) {
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
}

/// Tells whether a segment from the server acknowledges this SYN and nothing more.
fn acknowledges(segment: &Segment<'_>, isn: Seq<Client>) -> bool {
    let tcp = segment.tcp();
    tcp.flags().contains(Flags::ACK) && tcp.acknowledgement() == isn.plus(1).get()
}

/// Tells whether a segment from the server concerns a successor rather than the flow it would
/// replace: an answer to the new SYN, or a challenge to it once the client has proven itself.
fn is_for(next: &Opening, segment: &Segment<'_>) -> bool {
    match next.judge(&segment.tcp()) {
        Reply::Accepted { .. } | Reply::Refused => true,
        Reply::OldConnection { .. } => next.is_proven(),
        Reply::Stray => false,
    }
}

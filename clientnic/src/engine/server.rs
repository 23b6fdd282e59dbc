//! What comes from the server's side: confirms to consume, SYN-ACKs to learn from, segments to translate.

use super::{ClientNic, Mode, Phase};
use crate::flow::{Flow, Learning, Pending, Watched};
use rtt0_core::engine::Verdict;
use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{Context, FIRST_FLIGHT, Opening, Reply, read_syn_ack};
use rtt0_core::journal::Kept;
use rtt0_core::offer::{Found, Kind, Offer, Promise, is_offer};
use rtt0_core::packet::{Offload, Outbox};
use rtt0_core::profile::{Offered, SynAck};
use rtt0_core::reason::{DropReason, Event, PassReason};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::icmp::Quote;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, Tcp};
use std::time::Duration;

impl ClientNic {
    pub(super) fn server_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        mut segment: Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        match self.judge_server_segment(now, key, &mut segment, out) {
            // Whatever the client gets to see, it does not see our option: a confirm may be of a
            // handshake that is forgotten here.
            Verdict::Forward => self.forward_stripped(&key, &segment, out),
            verdict => verdict,
        }
    }

    fn judge_server_segment(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: &mut Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        self.consult(now, &key, Direction::ToClient, segment.tcp().flags());
        let Some(entry) = self.flows.get_mut(&key) else { return self.gateway.pass(PassReason::NoFlow) };
        match &mut entry.value {
            Flow::Learning(learning) => {
                let learning = *learning;
                self.learned(now, key, learning, segment)
            }
            Flow::Opening(_) if !segment.checksum_ok() => self.gateway.drop(DropReason::StraySegment),
            Flow::Opening(pending)
                if pending.rival.is_some_and(|rival| rival.is_answered_by(&segment.tcp())) =>
            {
                self.rival_wins(&key)
            }
            Flow::Opening(_) => self.opening_reply(now, key, segment, out),
            // The answer may be as forged as the SYN.
            Flow::Translated { rival: Some(rival), .. }
                if rival.is_answered_by(&segment.tcp()) && segment.checksum_ok() =>
            {
                rival.answered(&segment.tcp());
                self.gateway.pass(PassReason::NoFlow)
            }
            Flow::Translated { rival: Some(rival), .. }
                if rival.is_carried_on(&segment.tcp(), Direction::ToClient) && segment.checksum_ok() =>
            {
                self.rival_wins(&key)
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
            // ServerNIC translates too: the SYN-ACK seen here was the answer to an older copy of the
            // SYN, one without offer.
            Flow::Translated { flow, proven, .. }
                if flow.is_server_translated(&segment.tcp()) && segment.checksum_ok() =>
            {
                let promised = flow.translation().promised_isn().plus(1).get();
                let watched = Watched::new(flow.client_isn(), true, (!*proven).then_some(promised));
                let confirms = segment.tcp().flags().is_syn_ack();
                self.replace(key, Flow::Watching(watched), now);
                self.counters().event(Event::TranslatedElsewhere);
                if confirms {
                    return self.gateway.drop(DropReason::Confirm);
                }
                self.gateway.pass(PassReason::AlreadyTranslated)
            }
            Flow::Translated { flow, .. } => {
                let known = flow.upload().is_some();
                match flow.server_segment(segment, &self.settings.limits, now) {
                    Ok(life) => {
                        let upload = flow.upload().filter(|_| !known);
                        self.counters().event(Event::Translated);
                        self.note_upload(&key, upload);
                        self.live(now, key, life);
                        self.hand_when_due(&key);
                        Verdict::Forward
                    }
                    Err(reason) => self.gateway.drop(reason),
                }
            }
            Flow::Watching(watched) if watched.is_early_reset(now, &segment.tcp()) => {
                self.gateway.drop(DropReason::ResetOfEarlyData)
            }
            Flow::Watching(watched) => {
                let watched = *watched;
                self.watch(now, key, segment, Flags::RST);
                self.hand_when_due(&key);
                if self.confirms(&key, watched.isn, &segment.tcp()).is_some() {
                    if watched.spoofed {
                        return self.gateway.drop(DropReason::Confirm);
                    }
                    // Of a probe: the server repeats its SYN-ACK, so the client has to answer.
                    return Verdict::Forward;
                }
                self.gateway.pass(PassReason::NoFlow)
            }
        }
    }

    /// Tells whether a segment is a SYN-ACK with an authentic confirm for the SYN of `isn`, and if so, how late it was sent.
    fn confirms(&self, key: &FlowKey, isn: Seq<Client>, tcp: &Tcp<'_>) -> Option<Duration> {
        if !accepts(tcp, isn) {
            return None;
        }
        match Offer::find(tcp.options(), &self.keys, key, isn) {
            Found::Authentic(offer) => match offer.kind {
                Kind::Confirm => return Some(Duration::ZERO),
                Kind::LateConfirm(micros) => return Some(Duration::from_micros(micros.into())),
                Kind::Spoofed | Kind::Probe => {}
            },
            Found::Forged => self.happened(key, Event::OfferForged),
            Found::Unknown => self.happened(key, Event::OfferUnknown),
            Found::Nothing => {}
        }
        None
    }

    /// The answer to an unspoofed SYN.
    fn learned(&mut self, now: Instant, key: FlowKey, learning: Learning, segment: &Segment<'_>) -> Verdict {
        let tcp = segment.tcp();
        let answers = tcp.flags().contains(Flags::ACK)
            && tcp.acknowledgement() == learning.isn.plus(1).get()
            && segment.checksum_ok();
        if answers && tcp.flags().contains(Flags::RST) {
            self.profiles.refuse(&key.server(), now);
            self.remove(&key);
            return self.gateway.pass(PassReason::Learning);
        }
        let answer = read_syn_ack(&tcp).filter(|_| answers && tcp.flags().is_syn_ack());
        let Some(answer) = answer else { return self.gateway.pass(PassReason::Learning) };
        let confirmed = self.confirms(&key, learning.isn, &tcp).is_some();
        // Without a probe nobody was asked: then a ServerNIC is neither there nor not there.
        if confirmed || learning.probed || self.mode() == Mode::Solo {
            let rtt = learning.sent.map(|sent| now - sent);
            self.remember(now, &key, confirmed, learning.offered, &answer, rtt);
        }
        let awaited = Some(tcp.sequence().wrapping_add(1));
        self.replace(key, Flow::Watching(Watched::new(learning.isn, false, awaited)), now);
        Verdict::Forward
    }

    fn opening_reply(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let tcp = segment.tcp();
        let Some(Flow::Opening(pending)) = self.flows.get_mut(&key).map(|entry| &mut entry.value) else {
            return Verdict::Forward;
        };
        let (isn, paired) = (pending.opening.start().client_isn, pending.paired);
        let promised = pending.opening.start().promised_isn.plus(1).get();
        let (proven, repeated) = (pending.opening.is_proven(), pending.opening.has_repeated());
        let rivalled = pending.rival.is_some();
        let reply = pending.opening.judge(&tcp);
        if paired
            && tcp.flags().contains(Flags::RST)
            && !tcp.flags().contains(Flags::ACK)
            && tcp.sequence() == promised
        {
            // No ServerNIC held the early data back, and the server knows no such connection
            // yet. Its SYN-ACK is on the way.
            return self.gateway.drop(DropReason::ResetOfEarlyData);
        }
        let late = if paired { self.confirms(&key, isn, &tcp) } else { None };
        match reply {
            // A SYN-ACK with the promised ISN has been translated: a ServerNIC's, confirm or not.
            Reply::Accepted { isn: real, answer }
                if late.is_some() || (paired && real.plus(1).get() == promised) =>
            {
                self.confirmed(now, key, answer, late.unwrap_or_default())
            }
            Reply::Accepted { isn: real, answer } => {
                let Some(pending) = self.take_pending(&key) else { return Verdict::Taken };
                self.accepted_solo(now, key, *pending, (real, answer), segment, out)
            }
            Reply::Refused if proven => {
                if let Some(pending) = self.take_pending(&key) {
                    self.give_up(now, &key, &pending, Event::Refused, out);
                }
                Verdict::Taken
            }
            Reply::Refused => {
                // Its acknowledgement may be under way; and if it never comes, nobody gets a reset.
                self.recall(&key);
                if let Some(Flow::Opening(pending)) = self.flows.get_mut(&key).map(|e| &mut e.value) {
                    pending.refused = true;
                    self.flows.set_deadline(&key, now + self.settings.limits.unproven);
                }
                Verdict::Taken
            }
            // ServerNIC has let data through before its confirm got here. If its numbers are of
            // the promised space, the connection lives, even should every confirm get lost.
            Reply::Stray | Reply::OldConnection { .. } if paired && is_beyond(&tcp, isn) => {
                if tcp.sequence().wrapping_sub(promised) <= FIRST_FLIGHT {
                    self.hand_over(now, key);
                }
                self.gateway.pass(PassReason::NoFlow)
            }
            // An older connection of this 4-tuple may be alive at both ends, or the client has
            // begun a newer one, which this clears the way for.
            Reply::Stray | Reply::OldConnection { .. } if !proven || rivalled => {
                self.gateway.pass(PassReason::NoFlow)
            }
            // ServerNIC clears it away, if there is one.
            Reply::OldConnection { reset } if !paired || repeated => {
                if let Some(Flow::Opening(pending)) = self.flows.get_mut(&key).map(|e| &mut e.value)
                    && pending.opening.clear_old_connection(reset, &self.settings.limits, out)
                {
                    self.happened(&key, Event::OldConnectionReset);
                }
                self.gateway.drop(DropReason::StraySegment)
            }
            Reply::Stray | Reply::OldConnection { .. } => self.gateway.drop(DropReason::StraySegment),
        }
    }

    /// ServerNIC has taken over: from now on there is nothing to do here.
    fn confirmed(&mut self, now: Instant, key: FlowKey, answer: SynAck, late: Duration) -> Verdict {
        let Some(pending) = self.hand_over(now, key) else { return Verdict::Taken };
        self.counters().event(Event::Confirmed);
        let rtt = self.saved(now, &pending.opening, late);
        let offered = pending.opening.start().offered;
        self.remember(now, &key, true, offered, &answer, rtt);
        self.gateway.drop(DropReason::Confirm)
    }

    /// The real SYN-ACK of a flow that nobody else translates.
    fn accepted_solo(
        &mut self,
        now: Instant,
        key: FlowKey,
        pending: Pending,
        (real, answer): (Seq<rtt0_core::seq::Real>, SynAck),
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let start = pending.opening.start();
        let rtt = self.saved(now, &pending.opening, Duration::ZERO);
        let confirmed = self.confirms(&key, start.client_isn, &segment.tcp()).is_some();
        // A probe that comes back confirmed has found a ServerNIC.
        let known_pair = pending.probed || pending.paired;
        if known_pair || self.mode() == Mode::Solo {
            self.remember(now, &key, confirmed, start.offered, &answer, rtt);
        }
        if pending.paired {
            self.counters().event(Event::FellBackToSolo);
            self.gateway.note(&key, Phase::OpeningPaired.label(), Event::FellBackToSolo);
        }
        let limits = self.settings.limits;
        let context = Context { now, limits: &limits, counters: self.gateway.counters() };
        let (proven, rival) = (pending.opening.is_proven(), pending.rival);
        match pending.opening.establish(real, answer, &context, out) {
            Ok(flow) => self.replace(key, Flow::translated(flow, rival, Kept::default(), proven), now),
            Err(_) => {
                self.gateway.note(&key, Phase::OpeningSolo.label(), Event::BrokenTimestamps);
                self.profiles.refuse(&key.server(), now);
            }
        }
        Verdict::Taken
    }

    /// Returns, and counts, how much earlier the client had its answer than it would have had the server's: one
    /// RTT of the path beyond. The news was sent `late`. `None` if the SYN was repeated.
    fn saved(&self, now: Instant, opening: &Opening, late: Duration) -> Option<Duration> {
        let rtt = (!opening.has_repeated()).then(|| (now - opening.began()).saturating_sub(late))?;
        self.counters().saved().add(rtt);
        Some(rtt)
    }

    fn remember(
        &self,
        now: Instant,
        key: &FlowKey,
        paired: bool,
        offered: Offered,
        answer: &SynAck,
        rtt: Option<Duration>,
    ) {
        if self.profiles.learn(key.server(), paired, offered, answer, rtt, now) {
            self.counters().event(Event::Learned);
        } else {
            self.counters().pass(PassReason::ProfileTableFull);
        }
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
        if self.flows.get(&key).is_some_and(|entry| matches!(entry.value, Flow::Opening(_))) {
            self.look(&key);
        }
        let mut flow = self.flows.get_mut(&key).map(|entry| &mut entry.value);
        if let Some(Flow::Opening(pending)) = &mut flow
            && pending.opening.is_ended_by(quoted, &quote)
        {
            if let Some(pending) = self.take_pending(&key) {
                self.give_up(now, &key, &pending, Event::Refused, out);
            }
            return Verdict::Taken;
        }
        self.gateway.quote(quoted, quote, flow.and_then(|flow| flow.translation()))
    }

    /// Tells the client the truth, and forgets the destination. An unproven handshake may be
    /// somebody's forgery: then nobody is told anything and nothing is forgotten.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        key: &FlowKey,
        pending: &Pending,
        event: Event,
        out: &mut Outbox,
    ) {
        self.counters().event(event);
        if pending.opening.is_proven() {
            self.gateway.note(key, Phase::of_pending(pending).label(), event);
            self.profiles.refuse(&key.server(), now);
            pending.opening.reset_client(out);
        }
    }

    fn forward_stripped(&self, key: &FlowKey, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        let tcp = segment.tcp();
        let signals = tcp.flags().contains(Flags::SYN)
            && tcp.options().map_while(Result::ok).any(|option| is_offer(&option));
        // A copy's checksum is right, so a wrong one must pass as it is.
        if !signals || !segment.checksum_ok() {
            return Verdict::Forward;
        }
        let isn = Seq::<Client>::new(tcp.acknowledgement()).minus(1);
        if let Found::Authentic(offer) = Offer::find(tcp.options(), &self.keys, key, isn)
            && offer.promise != Promise::default()
        {
            // The client was answered here. What this says is the server's, TSval included, and
            // would confuse it.
            return self.gateway.drop(DropReason::Confirm);
        }
        let options = rtt0_core::offer::strip(&tcp);
        out.build(Offload::default(), |bytes| {
            segment.write_with_options(&options, tcp.flags(), bytes);
        });
        Verdict::Taken
    }
}

/// Tells whether a segment is a SYN-ACK to the SYN of `isn`.
fn accepts(tcp: &Tcp<'_>, isn: Seq<Client>) -> bool {
    tcp.flags().is_syn_ack() && tcp.acknowledgement() == isn.plus(1).get()
}

/// Tells whether a segment from the server acknowledges the client's ISN or data just behind
/// it: then it belongs to this connection and not to an older one.
fn is_beyond(tcp: &Tcp<'_>, isn: Seq<Client>) -> bool {
    let acknowledged = Seq::<Client>::new(tcp.acknowledgement()).minus(isn.get()).get();
    tcp.flags().contains(Flags::ACK) && (1..=FIRST_FLIGHT).contains(&acknowledged)
}

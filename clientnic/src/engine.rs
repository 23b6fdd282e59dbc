//! ClientNIC's engine: spoofs, offers, learns; translates where there is no ServerNIC.
//!
//! What a flow can be here, and what moves it:
//!
//! | flow | SYN | client data | SYN-ACK + confirm | SYN-ACK alone | RST to the SYN | silence |
//! |---|---|---|---|---|---|---|
//! | none | Opening or Learning | pass | pass | pass | pass | – |
//! | Learning | again | pass | learned: Watching | learned: Watching | refused | forgotten |
//! | Opening, paired | same ISN: SYN-ACK again | copied, sent on | Watching | Translated | refused | given up |
//! | Opening, solo | same ISN: SYN-ACK again | held | Translated | Translated | refused | given up |
//! | Translated | pass | translated | translated | translated | translated | – |
//! | Watching | as none | pass | consumed | pass | pass | – |

use crate::flow::{Flow, Learning, Pending, Watched};
use crate::spoof::{PlainSyn, Plan, spoof, write_probe};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::gateway::{Admitted, Gateway};
use rtt0_core::handshake::{Context, Opening, Reply, empty_hold, limit_payload, read_syn_ack};
use rtt0_core::held::HoldBudget;
use rtt0_core::limits::Limits;
use rtt0_core::offer::{Found, Keys, Kind, Offer, is_offer};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{Knowledge, Offered, Outlook, Profiles, SynAck};
use rtt0_core::reason::{Counters, DropReason, Event, PassReason};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::translated::Life;
use rtt0_core::wire::icmp::{Complaint, Quote};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, Tcp};
use std::sync::Arc;
use std::time::Duration;

/// Shortest wait before a spoofed SYN is repeated over the long leg.
const SHORTEST_REPEAT: Duration = Duration::from_millis(200);
/// The wait if the long leg's RTT is not known (RFC 6298 §2.1).
const DEFAULT_REPEAT: Duration = Duration::from_secs(1);
/// No end sends more bytes before it has heard from the other.
const FIRST_FLIGHT: u32 = 1 << 20;
/// Timers handled in one call, so that packets wait no longer than that.
const TIMERS_PER_CALL: usize = 256;

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
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Which flows are spoofed.
    pub mode: Mode,
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
    budget: Arc<HoldBudget>,
}

impl ClientNic {
    /// Makes an engine that knows no flow.
    pub fn new(gateway: Gateway, keys: Keys, profiles: Arc<Profiles>, settings: Settings) -> Self {
        let limits = &settings.limits;
        let (flows, budget) = (FlowTable::new(limits.flows), HoldBudget::new(limits));
        Self { gateway, keys, profiles, settings, flows, pending: 0, budget }
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
        mut segment: Segment<'_>,
        offload: Offload,
        out: &mut Outbox,
    ) -> (Verdict, Offload) {
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
                let held = pending.opening.hold(segment.bytes(), offload);
                let verdict = match (pending.paired, held) {
                    // A copy is a convenience: without it the client repeats by itself.
                    (true, _) => self.gateway.pass(PassReason::NoFlow),
                    (false, Ok(())) => Verdict::Taken,
                    (false, Err(reason)) => self.gateway.drop(reason),
                };
                (verdict, offload)
            }
            Flow::Opening(_) => (self.gateway.pass(PassReason::NoFlow), offload),
            Flow::Translated { flow, .. } => {
                let known = flow.upload().is_some();
                let life = flow.client_segment(&mut segment, &self.settings.limits);
                let offload = limit_payload(offload, &segment, flow);
                let upload = flow.upload().filter(|_| !known);
                self.counters().event(Event::Translated);
                self.note_upload(&key, upload);
                self.live(now, key, life);
                (Verdict::Forward, offload)
            }
            Flow::Watching(watched) => {
                watched.sent(&segment.tcp());
                let upload = watched.upload();
                entry.postpone(now + self.settings.limits.idle);
                if segment.tcp().flags().intersects(Flags::FIN | Flags::RST) {
                    self.note_upload(&key, Some(upload));
                    self.remove(&key);
                }
                (self.gateway.pass(PassReason::NoFlow), offload)
            }
        }
    }

    /// Remembers how many bytes a client sent that now has ended, by whichever side's will.
    fn note_upload(&self, key: &FlowKey, upload: Option<u32>) {
        if let Some(bytes) = upload {
            self.profiles.uploaded(&key.server(), bytes);
        }
    }

    fn syn(&mut self, now: Instant, key: FlowKey, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        if self.settings.mode == Mode::Off {
            return self.gateway.pass(PassReason::ModeOff);
        }
        let syn = match PlainSyn::read(segment) {
            Ok(syn) => syn,
            Err(reason) => return self.gateway.pass(reason),
        };
        match self.flows.get_mut(&key).map(|entry| &mut entry.value) {
            Some(Flow::Opening(pending)) if pending.opening.start().client_isn == syn.isn => {
                out.push(&pending.syn_ack, Offload::default());
                self.counters().event(Event::SpoofRepeated);
                return Verdict::Taken;
            }
            // Doubled or late; the server answers it once more, and that is not for us to promise.
            Some(Flow::Watching(watched)) if !watched.spoofed && watched.isn == syn.isn => {
                return self.gateway.pass(PassReason::NoFlow);
            }
            Some(Flow::Translated { flow, .. }) if flow.client_isn() == syn.isn => {
                return self.gateway.pass(PassReason::NoFlow);
            }
            Some(Flow::Translated { flow, rival }) if !flow.has_ended() => {
                // Anybody can send a SYN: the flow goes on until the server accepts the new one.
                *rival = Some(syn.isn);
                return self.gateway.pass(PassReason::RivalSyn);
            }
            Some(Flow::Learning(learning)) if learning.isn == syn.isn => learning.sent = None,
            _ => {}
        }
        match self.profiles.outlook(&key.server(), now) {
            Outlook::RefusedLately => {
                // An older handshake of this 4-tuple must not meet the answer to this SYN.
                self.make_way(&key, out);
                self.gateway.pass(PassReason::RefusedLately)
            }
            Outlook::LargeUploads => self.learn(now, key, &syn, segment, PassReason::LargeUploads, out),
            Outlook::Unknown => self.learn(now, key, &syn, segment, PassReason::Learning, out),
            Outlook::Known(knowledge, rtt) => {
                self.known_destination(now, key, &syn, segment, (knowledge, rtt), out)
            }
        }
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
        let mode = self.settings.mode;
        let paired = knowledge.paired && mode != Mode::Solo;
        if mode == Mode::Paired && !paired {
            return self.learn(now, key, syn, segment, PassReason::Unpaired, out);
        }
        if self.pending >= self.settings.limits.pending {
            return self.gateway.pass(PassReason::PendingFull);
        }
        let signal = match (mode, paired) {
            (Mode::Solo, _) => None,
            (_, true) => Some(Kind::Spoofed),
            (_, false) => Some(Kind::Probe),
        };
        let (v4, v6) = self.settings.mss_clamp;
        let plan = Plan {
            signal,
            mss_clamp: if key.server().0.is_ipv4() { v4 } else { v6 },
            repeat_after: rtt.map_or(DEFAULT_REPEAT, |rtt| (rtt * 2).max(SHORTEST_REPEAT)),
        };
        let Ok(spoof) = spoof(key, syn, segment, &knowledge, &self.keys, plan) else {
            return self.learn(now, key, syn, segment, PassReason::Learning, out);
        };
        self.make_way(&key, out);
        if self.flows.len() >= self.settings.limits.flows {
            return self.gateway.pass(PassReason::FlowTableFull);
        }
        out.push(&spoof.syn_ack, Offload::default());
        let opening = Opening::begin(spoof.start, empty_hold(&self.budget), now, out);
        let due = opening.due(&self.settings.limits);
        let probed = signal.is_some();
        let pending = Pending { opening, paired, probed, taken_over: false, syn_ack: spoof.syn_ack };
        // There is room: it was just looked.
        let _ = self.insert(key, Flow::Opening(Box::new(pending)), due);
        self.counters().event(if paired { Event::SpoofedPaired } else { Event::SpoofedSolo });
        Verdict::Taken
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
        let probed =
            self.settings.mode != Mode::Solo && write_probe(key, syn, segment, &self.keys, &mut probe);
        let repeated = matches!(
            self.flows.get_mut(&key).map(|entry| &entry.value),
            Some(Flow::Learning(learning)) if learning.isn == syn.isn
        );
        let sent = (!repeated).then_some(now);
        let learning = Learning { isn: syn.isn, offered: syn.offered, probed, sent };
        self.make_way(&key, out);
        if let Err(full) = self.insert(key, Flow::Learning(learning), now + self.settings.limits.learning) {
            return self.gateway.pass(full);
        }
        self.counters().pass(reason);
        if !probed {
            if self.settings.mode != Mode::Solo {
                self.counters().pass(PassReason::NoOptionSpace);
            }
            return Verdict::Forward;
        }
        out.push(&probe, Offload::default());
        Verdict::Taken
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
            Flow::Learning(learning) => {
                let learning = *learning;
                self.learned(now, key, learning, &segment, out)
            }
            Flow::Opening(_) if !segment.checksum_ok() => self.gateway.drop(DropReason::StraySegment),
            Flow::Opening(_) => self.opening_reply(now, key, &segment, out),
            Flow::Translated { rival: Some(rival), .. } if accepts(&segment.tcp(), *rival) => {
                self.remove(&key);
                self.counters().event(Event::FlowReplaced);
                self.gateway.pass(PassReason::NoFlow)
            }
            Flow::Translated { flow, .. } => {
                let known = flow.upload().is_some();
                match flow.server_segment(&mut segment, &self.settings.limits, now) {
                    Ok(life) => {
                        let upload = flow.upload().filter(|_| !known);
                        self.counters().event(Event::Translated);
                        self.note_upload(&key, upload);
                        self.live(now, key, life);
                        Verdict::Forward
                    }
                    Err(reason) => self.gateway.drop(reason),
                }
            }
            Flow::Watching(watched) => {
                let watched = *watched;
                entry.postpone(now + self.settings.limits.idle);
                if self.confirms(&key, watched.isn, &segment.tcp()) {
                    if watched.spoofed {
                        return self.gateway.drop(DropReason::Confirm);
                    }
                    // Of a probe: the server repeats its SYN-ACK, so the client has to answer.
                    return self.forward_stripped(&segment, out);
                }
                if segment.tcp().flags().contains(Flags::RST) {
                    self.note_upload(&key, Some(watched.upload()));
                    self.remove(&key);
                }
                self.gateway.pass(PassReason::NoFlow)
            }
        }
    }

    /// Tells whether a segment is a SYN-ACK with an authentic confirm for the SYN of `isn`.
    fn confirms(&self, key: &FlowKey, isn: Seq<Client>, tcp: &Tcp<'_>) -> bool {
        if !accepts(tcp, isn) {
            return false;
        }
        match Offer::find(tcp.options(), &self.keys, key, isn) {
            Found::Authentic(offer) => offer.kind == Kind::Confirm,
            Found::Forged => {
                self.counters().event(Event::OfferForged);
                false
            }
            Found::Unknown => {
                self.counters().event(Event::OfferUnknown);
                false
            }
            Found::Nothing => false,
        }
    }

    /// The answer to an unspoofed SYN.
    fn learned(
        &mut self,
        now: Instant,
        key: FlowKey,
        learning: Learning,
        segment: &Segment<'_>,
        out: &mut Outbox,
    ) -> Verdict {
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
        let confirmed = self.confirms(&key, learning.isn, &tcp);
        // Without a probe nobody was asked: then a ServerNIC is neither there nor not there.
        if confirmed || learning.probed || self.settings.mode == Mode::Solo {
            let rtt = learning.sent.map(|sent| now - sent);
            self.remember(now, &key, confirmed, learning.offered, &answer, rtt);
        }
        self.replace(key, Flow::Watching(Watched::new(learning.isn, false)), now);
        self.forward_stripped(segment, out)
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
        match reply {
            // A SYN-ACK with the promised ISN has been translated: a ServerNIC's, confirm or not.
            Reply::Accepted { isn: real, answer }
                if paired && (self.confirms(&key, isn, &tcp) || real.plus(1).get() == promised) =>
            {
                self.confirmed(now, key, answer)
            }
            Reply::Accepted { isn: real, answer } => {
                let Some(pending) = self.take_pending(&key) else { return Verdict::Taken };
                self.accepted_solo(now, key, *pending, (real, answer), segment, out)
            }
            Reply::Refused => {
                if let Some(pending) = self.take_pending(&key) {
                    self.give_up(now, &key, &pending, Event::Refused, out);
                }
                Verdict::Taken
            }
            // ServerNIC has let data through before its confirm got here. If its numbers are of
            // the promised space, the connection lives, even should every confirm get lost.
            Reply::Stray | Reply::OldConnection { .. } if paired && is_beyond(&tcp, isn) => {
                if let Some(Flow::Opening(pending)) = self.flows.get_mut(&key).map(|e| &mut e.value) {
                    pending.taken_over |= tcp.sequence().wrapping_sub(promised) <= FIRST_FLIGHT;
                }
                self.gateway.pass(PassReason::NoFlow)
            }
            Reply::OldConnection { reset } => {
                if let Some(Flow::Opening(pending)) = self.flows.get_mut(&key).map(|e| &mut e.value)
                    && pending.opening.clear_old_connection(reset, out)
                {
                    self.counters().event(Event::OldConnectionReset);
                    return self.gateway.drop(DropReason::StraySegment);
                }
                // An older connection of this 4-tuple may be alive at both ends.
                self.gateway.pass(PassReason::NoFlow)
            }
            Reply::Stray => self.gateway.drop(DropReason::StraySegment),
        }
    }

    /// ServerNIC has taken over: from now on there is nothing to do here.
    fn confirmed(&mut self, now: Instant, key: FlowKey, answer: SynAck) -> Verdict {
        let Some(pending) = self.take_pending(&key) else { return Verdict::Taken };
        self.counters().event(Event::Confirmed);
        let rtt = (!pending.opening.has_repeated()).then(|| now - pending.opening.began());
        let offered = pending.opening.start().offered;
        self.remember(now, &key, true, offered, &answer, rtt);
        let isn = pending.opening.start().client_isn;
        self.replace(key, Flow::Watching(Watched::new(isn, true)), now);
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
        let rtt = (!pending.opening.has_repeated()).then(|| now - pending.opening.began());
        let confirmed = self.confirms(&key, start.client_isn, &segment.tcp());
        // A probe that comes back confirmed has found a ServerNIC.
        let known_pair = pending.probed || pending.paired;
        if known_pair || self.settings.mode == Mode::Solo {
            self.remember(now, &key, confirmed, start.offered, &answer, rtt);
        }
        if pending.paired {
            self.counters().event(Event::FellBackToSolo);
        }
        let limits = self.settings.limits;
        let context = Context { now, limits: &limits, counters: self.gateway.counters() };
        match pending.opening.establish(real, answer, &context, out) {
            Ok(flow) => self.replace(key, Flow::Translated { flow, rival: None }, now),
            Err(_) => self.profiles.refuse(&key.server(), now),
        }
        Verdict::Taken
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

    /// Tells the client the truth, and forgets the destination. An unproven handshake may be
    /// somebody's forgery: then nobody is told anything and nothing is forgotten.
    fn give_up(&mut self, now: Instant, key: &FlowKey, pending: &Pending, event: Event, out: &mut Outbox) {
        self.counters().event(event);
        if pending.opening.is_proven() || event == Event::Refused {
            self.profiles.refuse(&key.server(), now);
            pending.opening.reset_client(out);
        }
    }

    fn forward_stripped(&self, segment: &Segment<'_>, out: &mut Outbox) -> Verdict {
        let tcp = segment.tcp();
        if !tcp.options().map_while(Result::ok).any(|option| is_offer(&option)) {
            return Verdict::Forward;
        }
        let options = rtt0_core::offer::strip(&tcp);
        out.build(Offload::default(), |bytes| {
            segment.write_with_options(&options, tcp.flags(), bytes);
        });
        Verdict::Taken
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
        let pending = flow.pending();
        if self.pending + pending > self.settings.limits.pending {
            return Err(PassReason::PendingFull);
        }
        let old = self.flows.insert(key, flow, deadline).map_err(|_| PassReason::FlowTableFull)?;
        self.pending += pending;
        self.pending -= old.map_or(0, |old| old.pending());
        Ok(())
    }

    /// Puts an established or watched flow in the place of its handshake.
    fn replace(&mut self, key: FlowKey, flow: Flow, now: Instant) {
        // A flow that finds no room passes untouched or, solo, is repaired by nobody: but its
        // handshake has just made room.
        let _ = self.insert(key, flow, now + self.settings.limits.idle);
    }

    fn remove(&mut self, key: &FlowKey) -> Option<Flow> {
        let flow = self.flows.remove(key)?;
        self.pending -= flow.pending();
        Some(flow)
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

    fn live(&mut self, now: Instant, key: FlowKey, life: Life) {
        match life {
            Life::Goes(time) => {
                if let Some(entry) = self.flows.get_mut(&key) {
                    entry.postpone(now + time);
                }
            }
            Life::Ends(time) => self.flows.set_deadline(&key, now + time),
        }
    }

    fn due(&mut self, now: Instant, key: FlowKey, out: &mut Outbox) {
        let limits = self.settings.limits;
        let Some(entry) = self.flows.get_mut(&key) else { return };
        let Flow::Opening(pending) = &mut entry.value else {
            self.counters().event(Event::Expired);
            self.remove(&key);
            return;
        };
        let sent = out.len();
        if pending.opening.on_timer(now, &limits, out) {
            let due = pending.opening.due(&limits);
            self.flows.set_deadline(&key, due);
            if out.len() > sent {
                self.counters().event(Event::SynResent);
            }
        } else if let Some(pending) = self.take_pending(&key) {
            if pending.taken_over {
                let isn = pending.opening.start().client_isn;
                return self.replace(key, Flow::Watching(Watched::new(isn, true)), now);
            }
            self.give_up(now, &key, &pending, Event::TimedOut, out);
        }
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

impl Engine for ClientNic {
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, out: &mut Outbox) -> Verdict {
        let offload = packet.offload;
        let (verdict, offload) = match self.gateway.admit(now, packet, out) {
            Err(verdict) => (verdict, offload),
            Ok(Admitted::Segment(Direction::ToServer, key, segment)) => {
                self.client_segment(now, key, segment, offload, out)
            }
            Ok(Admitted::Segment(Direction::ToClient, key, segment)) => {
                (self.server_segment(now, key, segment, out), offload)
            }
            Ok(Admitted::Quote(quoted, key, quote)) => (self.icmp(quoted, key, quote), offload),
        };
        packet.offload = offload;
        verdict
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

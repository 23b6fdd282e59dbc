//! The handshake with the server, made on behalf of a client that has already been answered.
//!
//! ```text
//!                 offer, or spoofed SYN
//!                          │ SYN to the server
//!                          ▼
//!      early data ──► ┌─────────┐ ──── time-out: SYN again, at most 5 times
//!        (held)       │ Opening │
//!                     └─────────┘       (once, until the client has proven itself)
//!     SYN-ACK,ACK=c+1 │ │ │ │ ACK≠c+1: an old connection: RST, SYN again
//!   ┌─────────────────┘ │ └─────────────── silence for 15 s (3 s)
//!   ▼                   │ RST,ACK=c+1              ▼
//! Translated            ▼                      given up
//! (held released)    refused: RST to the client
//! ```
//!
//! The server's handshake is completed only by a packet that the client itself sent: the held
//! one, translated. Nothing here ever acknowledges anything on its own.

use crate::flow::FlowKey;
use crate::held::Held;
use crate::limits::Limits;
use crate::offer::{KeyId, Promise};
use crate::packet::{Offload, Outbox, Packet};
use crate::profile::{Offered, SynAck};
use crate::reason::{Counters, DropReason, Event};
use crate::seq::{Client, Promised, Real, Seq};
use crate::service::Direction;
use crate::time::Instant;
use crate::translate::{Agreement, BrokenTimestamps, Translation};
use crate::translated::Translated;
use crate::twins::Twins;
use crate::wire::build::Control;
use crate::wire::icmp::Quote;
use crate::wire::options::{Options, SynOptions, kind};
use crate::wire::segment::Segment;
use crate::wire::tcp::{Flags, Tcp};
use crate::{offer, translate};
use std::time::Duration;

/// No end sends more bytes before it has heard from the other.
pub const FIRST_FLIGHT: u32 = 1 << 20;

/// What a handshake begins with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The flow.
    pub flow: FlowKey,
    /// The client's ISN `c`.
    pub client_isn: Seq<Client>,
    /// The ISN `S` the client was promised.
    pub promised_isn: Seq<Promised>,
    /// What else it was promised.
    pub promise: Promise,
    /// The window scale that the SYN offers, 0 if none.
    pub client_window_scale: u8,
    /// What the SYN offers the server.
    pub offered: Offered,
    /// The key of the offer that goes with it.
    pub key: KeyId,
    /// The SYN for the server: a whole IP packet.
    pub syn: Vec<u8>,
    /// How often the SYN is sent at once, also when it is repeated. Twice is RTT honesty: Linux then
    /// counts its SYN-ACK as retransmitted and, by Karn's rule, takes no RTT sample from it.
    pub copies: u8,
    /// When the SYN is repeated first; doubles each time.
    pub repeat_after: Duration,
}

/// What a segment from the server means to a handshake (RFC 9293 §3.10.7.3, SYN-SENT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The server accepts.
    Accepted {
        /// Its ISN `Y`.
        isn: Seq<Real>,
        /// The rest of its SYN-ACK.
        answer: SynAck,
    },
    /// The server refuses: RST with the right acknowledgement.
    Refused,
    /// A connection of the same 4-tuple is still alive there and challenges the SYN (RFC 5961 §4);
    /// it can be reset with this SEG.SEQ.
    OldConnection {
        /// SEG.ACK of the challenge.
        reset: u32,
    },
    /// Nothing that belongs here.
    Stray,
}

/// A handshake under way.
#[derive(Debug)]
pub struct Opening {
    start: Start,
    held: Held,
    sent: u8,
    repeats: u8,
    /// Old connections reset.
    cleared: u8,
    began: Instant,
    /// When the client last sent its SYN.
    asked: Instant,
    proven: bool,
    aborted: bool,
    /// SEG.SEQ of the segment held last, if it is an ACK that says nothing else.
    bare_ack: Option<u32>,
    /// SYN-ACKs heard.
    answers: u8,
    twins: Twins,
}

impl Opening {
    /// Begins: sends the SYN. `held` may hold data that overtook the SYN.
    pub fn begin(start: Start, held: Held, now: Instant, out: &mut Outbox) -> Self {
        let mut opening = Self::begun(start, held, now);
        opening.sent = 0;
        opening.send(opening.start.copies, out);
        opening
    }

    /// Goes on with a handshake of which the SYN was sent at `now`.
    pub fn begun(start: Start, held: Held, now: Instant) -> Self {
        let (proven, twins) = (!held.is_empty(), Twins::new(&start.syn, start.copies));
        Self {
            sent: start.copies,
            start,
            held,
            repeats: 0,
            cleared: 0,
            began: now,
            asked: now,
            proven,
            aborted: false,
            bare_ack: None,
            answers: 0,
            twins,
        }
    }

    /// Returns what it began with.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Returns when it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Acts on the client's SYN come again: sends it again, and begins anew to be patient, unless the
    /// client has the answer by now and the SYN is a late copy.
    pub fn ask_again(&mut self, now: Instant, out: &mut Outbox) {
        if !self.proven {
            (self.asked, self.repeats) = (now, 0);
            self.send_again(out);
        }
    }

    /// Acts on an offer come again: somebody still waits. The SYN is not sent for each, lest one
    /// forged by a client becomes many.
    pub fn wait_on(&mut self, now: Instant) {
        if !self.proven {
            self.asked = now;
        }
    }

    /// Returns whether the SYN has been repeated: its answer then measures no RTT (Karn).
    pub fn has_repeated(&self) -> bool {
        self.sent > self.start.copies
    }

    /// Tells whether the client has acknowledged the promised ISN. Nobody else can: `S` is a
    /// keyed hash. Only then may anything be done to other connections or to the client.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Takes the news that the client has acknowledged the promised ISN where nothing is held of what it sends.
    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// Tells whether an unspoofed SYN of the same 4-tuple, with ISN `isn`, leaves this handshake
    /// alone for now. Not if the client has aborted this one, nor if the SYN is its own: then it
    /// never got the early answer.
    pub fn outlives(&self, isn: Seq<Client>) -> bool {
        !self.aborted && (self.proven || self.start.client_isn != isn)
    }

    /// Tells whether a segment from the client belongs to this handshake: until the server has
    /// spoken, all it sends acknowledges exactly S + 1.
    pub fn owns(&self, tcp: &Tcp<'_>) -> bool {
        tcp.flags().contains(Flags::ACK) && tcp.acknowledgement() == self.start.promised_isn.plus(1).get()
    }

    /// Tells whether a segment from the client shows that the server has answered, although no
    /// answer came by here: it is of this connection and acknowledges something else than the
    /// promise. The other NIC has seen the SYN-ACK and translates.
    pub fn is_answered_elsewhere(&self, tcp: &Tcp<'_>) -> bool {
        let sent = tcp.sequence().wrapping_sub(self.start.client_isn.get());
        let flight = 1..=FIRST_FLIGHT;
        self.is_proven() && tcp.flags().contains(Flags::ACK) && flight.contains(&sent) && !self.owns(tcp)
    }

    /// Holds a segment of the client that [`Opening::owns`] accepts. The ACK that completes a client's handshake gives way to the
    /// data behind it, which acknowledge the same: the server is woken once. RFC 9293 §3.5 lets that segment carry data.
    ///
    /// # Errors
    /// The reason to drop it instead.
    pub fn hold(&mut self, segment: &Segment<'_>, offload: Offload) -> Result<(), DropReason> {
        self.proven = true;
        let tcp = segment.tcp();
        self.aborted |= tcp.flags().contains(Flags::RST);
        let is_plain = tcp.flags().without(Flags::PSH) == Flags::ACK && has_usual_options(&tcp);
        let is_empty = tcp.payload().is_empty();
        let is_behind_ack = is_plain && !is_empty && self.bare_ack == Some(tcp.sequence());
        if is_behind_ack && !segment.is_fragment() && segment.checksum_ok() {
            self.held.replace_last(segment.bytes(), offload)?;
            self.bare_ack = None;
            return Ok(());
        }
        self.held.push(segment.bytes(), offload)?;
        self.bare_ack = Some(tcp.sequence()).filter(|_| is_plain && is_empty);
        Ok(())
    }

    /// Tells whether the client has proven that it means this handshake, and has not reset it
    /// since. Anybody can send a SYN: no other handshake of the 4-tuple takes this one's place.
    pub fn is_wanted(&self) -> bool {
        self.proven && !self.aborted
    }

    /// Says what a segment from the server means.
    pub fn judge(&self, tcp: &Tcp<'_>) -> Reply {
        let flags = tcp.flags();
        let acknowledges =
            flags.contains(Flags::ACK) && tcp.acknowledgement() == self.start.client_isn.plus(1).get();
        if flags.contains(Flags::RST) {
            return if acknowledges { Reply::Refused } else { Reply::Stray };
        }
        if flags.contains(Flags::ACK) && !acknowledges {
            // What an old connection had under way is only in the way; its challenge ACK comes. One that
            // has data behind this SYN's ISN is no old one: the SYN is a late copy of its own.
            let beyond = Seq::<Client>::new(tcp.acknowledgement()).minus(self.start.client_isn.get()).get();
            let challenges = tcp.payload().is_empty() && !(2..=FIRST_FLIGHT).contains(&beyond);
            let reset = tcp.acknowledgement();
            return if challenges { Reply::OldConnection { reset } } else { Reply::Stray };
        }
        if flags.is_syn_ack() {
            return match read_syn_ack(tcp) {
                Some(answer) => Reply::Accepted { isn: Seq::new(tcp.sequence()), answer },
                None => Reply::Stray,
            };
        }
        Reply::Stray
    }

    /// Takes account of an accepting SYN-ACK, as the client would have got it. Returns whether its twin has to be waited for, which
    /// tells whether the server keeps state of its handshakes.
    pub fn awaits_twin(&mut self, now: Instant, isn: Seq<Real>, answer: &mut SynAck) -> bool {
        self.answers = self.answers.saturating_add(1);
        self.twins.hear(now, isn, answer)
    }

    /// Returns the SYN-ACK whose twin has been waited for long enough.
    pub fn without_twin(&mut self, now: Instant) -> Option<(Seq<Real>, SynAck)> {
        self.twins.give_up(now)
    }

    /// Tells whether an ICMP error about a segment that travelled in `quoted` direction ends this
    /// handshake, as it would have ended the client's own (RFC 5461 §2.2, as Linux does it): it
    /// says that the server can't be reached, and quotes this SYN.
    pub fn is_ended_by(&self, quoted: Direction, quote: &Quote<'_>) -> bool {
        self.proven
            && quoted == Direction::ToServer
            && quote.sequence() == self.start.client_isn.get()
            && quote.is_unreachable()
    }

    /// Ends the handshake well: releases what is held, translated, and returns the flow.
    ///
    /// # Errors
    /// [`BrokenTimestamps`] after resetting both sides.
    pub fn establish(
        mut self,
        isn: Seq<Real>,
        answer: SynAck,
        context: &Context<'_>,
        out: &mut Outbox,
    ) -> Result<Translated, BrokenTimestamps> {
        let start = &self.start;
        let agreement = Agreement {
            promised_isn: start.promised_isn,
            real_isn: isn,
            promise: &start.promise,
            answer: &answer,
            client_window_scale: start.client_window_scale,
        };
        let counters = context.counters;
        let (translation, repairs) =
            match Translation::new(agreement, start.copies > 1 && self.twins.may_hide_echo()) {
                Ok(made) => made,
                Err(error) => {
                    counters.event(Event::BrokenTimestamps);
                    self.reset_client(out);
                    self.reset_server(start.client_isn.plus(1).get(), out);
                    return Err(error);
                }
            };
        count_repairs(repairs, counters);
        let extra = self.sent.saturating_sub(self.answers.max(1));
        let (isn, scale) = (start.client_isn, start.client_window_scale);
        let mut flow = Translated::new(translation, isn, scale, answer, extra, context.limits, context.now);
        self.held.for_each(|packet| release(packet, &mut flow, context, out));
        counters.event(Event::Established);
        Ok(flow)
    }

    /// Tells the client that there is no connection: an RST in its window.
    pub fn reset_client(&self, out: &mut Outbox) {
        let control = Control {
            source: self.start.flow.server(),
            destination: self.start.flow.client(),
            sequence: self.start.promised_isn.plus(1).get(),
            acknowledgement: self.start.client_isn.plus(1).get(),
            flags: Flags::RST | Flags::ACK,
            window: 0,
        };
        out.build(Offload::default(), |bytes| control.write(&[], bytes));
    }

    /// Makes way for a newer handshake of the same 4-tuple: resets what the server may have begun
    /// for this one, since it would answer the newer SYN with a reset (RFC 9293 §3.10.7.4, a SYN
    /// in SYN-RECEIVED). To be sent ahead of that SYN. Does nothing unless the client has aborted.
    pub fn abandon(&self, out: &mut Outbox) {
        if self.aborted {
            self.reset_server(self.start.client_isn.plus(1).get(), out);
        }
    }

    /// Resets, as the client would, a connection at the server whose window `sequence` is in.
    fn reset_server(&self, sequence: u32, out: &mut Outbox) {
        let control = Control {
            source: self.start.flow.client(),
            destination: self.start.flow.server(),
            sequence,
            acknowledgement: 0,
            flags: Flags::RST,
            window: 0,
        };
        out.build(Offload::default(), |bytes| control.write(&[], bytes));
    }

    /// Clears an old connection of the same 4-tuple out of the way and sends the SYN again.
    /// Does nothing, and returns false, unless the client has proven that it means this
    /// handshake, nor more often than the SYN may be repeated.
    pub fn clear_old_connection(&mut self, reset: u32, limits: &Limits, out: &mut Outbox) -> bool {
        let clear = self.proven && self.cleared < limits.syn_repeats;
        if clear {
            self.cleared += 1;
            self.reset_server(reset, out);
            self.send_again(out);
        }
        clear
    }

    /// Returns how often the SYN may be repeated and when to give up. A client that has proven
    /// nothing may not exist: whoever sent its SYN shall not have others sent many more.
    fn patience(&self, limits: &Limits) -> (u8, Instant) {
        if self.proven {
            (limits.syn_repeats, self.asked + limits.handshake)
        } else {
            (limits.unproven_repeats, self.asked + limits.unproven)
        }
    }

    /// Returns when [`Opening::on_timer`] is due. It may be sooner once the client has proven
    /// itself.
    pub fn due(&self, limits: &Limits) -> Instant {
        let (repeats, give_up) = self.patience(limits);
        if let Some(due) = self.twins.due() {
            return due;
        }
        if self.repeats >= repeats {
            return give_up;
        }
        // Repeat n is due after (2^(n+1) − 1) times the first interval.
        let elapsed = self.start.repeat_after * ((2 << self.repeats) - 1);
        (self.asked + elapsed).min(give_up)
    }

    /// Repeats the SYN if it is time to. Returns false if it is time to give up.
    pub fn on_timer(&mut self, now: Instant, limits: &Limits, out: &mut Outbox) -> bool {
        let (repeats, give_up) = self.patience(limits);
        if now >= give_up {
            return false;
        }
        if now >= self.due(limits) && self.repeats < repeats {
            self.repeats += 1;
            self.send_again(out);
        }
        true
    }

    /// Sends the SYN again, in as many copies as at first: this may be the one that the server
    /// answers. But once only for a client that may not exist.
    fn send_again(&mut self, out: &mut Outbox) {
        self.send(if self.proven { self.start.copies } else { 1 }, out);
    }

    fn send(&mut self, copies: u8, out: &mut Outbox) {
        if copies > 1 {
            let elder = self.twins.elder(&self.start.syn);
            (1..copies).for_each(|_| out.push(&elder, Offload::default()));
        }
        out.push(&self.start.syn, Offload::default());
        self.sent = self.sent.saturating_add(copies);
    }
}

/// What the steps of a handshake need to know of their engine.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// The bounds.
    pub limits: &'a Limits,
    /// The counters.
    pub counters: &'a Counters,
}

/// Reads a SYN-ACK's contents; the signalling option and options that mean nothing to a
/// translation are passed over. `None` if the options are malformed.
pub fn read_syn_ack(tcp: &Tcp<'_>) -> Option<SynAck> {
    let known = |kind| matches!(kind, 1..=4 | 8);
    let options =
        SynOptions::parse(Options::new(tcp.option_bytes()), |o| offer::is_offer(o) || !known(o.kind));
    let flags = tcp.flags();
    let ecn = flags.contains(Flags::ECE) && !flags.intersects(Flags::CWR | Flags::AE);
    Some(SynAck { options: options.ok()?, window: tcp.window(), ecn })
}

/// Tells whether a segment's options are timestamps at most: others may be said only once, as those of MPTCP (RFC 8684).
fn has_usual_options(tcp: &Tcp<'_>) -> bool {
    tcp.options().all(|option| option.is_ok_and(|option| matches!(option.kind, kind::NOP | kind::TIMESTAMPS)))
}

fn count_repairs(repairs: translate::Repairs, counters: &Counters) {
    for (needed, event) in [
        (repairs.window_scale, Event::RepairedWindowScale),
        (repairs.mss, Event::RepairedMss),
        (repairs.sack, Event::RepairedSack),
    ] {
        if needed {
            counters.event(event);
        }
    }
}

fn release(mut packet: Packet<'_>, flow: &mut Translated, context: &Context<'_>, out: &mut Outbox) {
    let offload = packet.offload;
    // What is held was parsed when it came.
    let Ok(mut segment) = Segment::parse(&mut packet) else { return };
    flow.client_segment(&mut segment, context.limits);
    let offload = limit_payload(offload, &segment, flow);
    out.push(segment.bytes(), offload);
    context.counters.event(Event::Released);
}

/// Asks for segments no larger than the server takes, if it takes less than was promised. What
/// came with a wrong checksum stays whole: its pieces would have right ones.
pub fn limit_payload(offload: Offload, segment: &Segment<'_>, flow: &Translated) -> Offload {
    match flow.translation().payload_limit(segment.tcp().option_bytes().len()) {
        Some(limit)
            if segment.payload_length() > usize::from(limit)
                && !segment.is_fragment()
                && segment.checksum_ok() =>
        {
            let gso_size = if offload.gso_size == 0 { limit } else { offload.gso_size.min(limit) };
            Offload { gso_size, ..offload }
        }
        _ => offload,
    }
}

//! A connection as a mirror shows it: perhaps doubled, perhaps with gaps, perhaps one way only.
//!
//! ```text
//!            SYN, or a SYN-ACK whose SYN was not seen
//!                       │
//!                       ▼
//!   silence for 15 s  Pending ── RST, ACK=c+1 ──► Ended (refused)
//!   (unanswered) ◄──────┤
//!                       │ SYN-ACK, ACK=c+1; or a segment that only an answer explains
//!                       ▼
//!                      Open ───── both FINs, or a reset ──► Ended
//! ```
//!
//! *Copies.* A mirror that takes a packet at two places shows it twice. A second SYN or SYN-ACK of the same numbers is
//! a copy if its TSval is the first one's, and a retransmission if not: a sender's clock has moved by then. Without
//! timestamps it is a copy within [`COPY`] of the first. All else is known by its sequence number, and a copy changes
//! nothing.

use rtt0_core::handshake::FIRST_FLIGHT;
use rtt0_core::profile::Offered;
use rtt0_core::seq::{Client, Real, Seq};
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{TcpOption, kind};
use rtt0_core::wire::tcp::{Flags, Tcp};
use std::time::Duration;

/// Within this time the same SYN again is a copy: below every sender's first time-out (RFC 6298 §2.1 asks for 1 s,
/// some are set to 200 ms).
pub(super) const COPY: Duration = Duration::from_millis(150);
/// No end sends more in one flight: what lies further ahead belongs to another connection.
const PLAUSIBLE: u32 = 1 << 30;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No answer yet.
    Pending,
    /// Answered.
    Open,
    /// Refused, reset, or closed by both ends.
    Ended,
}

/// A time since the connection began, in µs.
type Since = u32;

/// A connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// When its first SYN was seen, or its SYN-ACK if that came first.
    pub(super) begun: Instant,
    /// Number of its service.
    pub(super) service: u32,
    isn: Seq<Client>,
    server_isn: Seq<Real>,
    /// Behind the last byte that the client sent.
    next: Seq<Client>,
    answered: Since,
    acknowledged: Option<Since>,
    asked: Option<Since>,
    syn_clock: Option<u32>,
    answer_clock: Option<u32>,
    pub(super) stage: Stage,
    /// What its SYN-ACK teaches.
    pub(super) teaches: Option<Offered>,
    /// It would have been answered at once.
    pub(super) zero_rtt: bool,
    /// ClientNIC would have followed it.
    pub(super) followed: bool,
    pub(super) syn_seen: bool,
    /// Its times count from the SYN.
    begun_by_syn: bool,
    answer_seen: bool,
    /// Something was repeated or came in the wrong order: no RTT is taken (Karn's rule, RFC 6298 §3).
    ambiguous: bool,
    /// The first segment behind the SYN-ACK was not the bare acknowledgement.
    acknowledgement_missed: bool,
    spoken: bool,
    client_fin: bool,
    server_fin: bool,
    upload_told: bool,
}

/// The handshake's round trips in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoundTrip {
    /// From SYN to SYN-ACK, and from SYN-ACK to acknowledgement.
    Legs(u32, u32),
    /// From SYN to acknowledgement; the SYN-ACK was not seen.
    Path(u32),
}

/// The server's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FirstByte {
    /// Since the SYN, in µs.
    pub(super) after: u32,
    /// Bytes that the client had sent before.
    pub(super) upload: u32,
    /// The client had sent nothing.
    pub(super) server_first: bool,
    /// The legs, and how long the client waited with its request after its acknowledgement, in µs: if all that is
    /// known for certain.
    pub(super) legs: Option<(u32, u32, u32)>,
}

/// What a segment changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) answered: bool,
    pub(super) refused: bool,
    pub(super) syn_repeated: bool,
    pub(super) round_trip: Option<RoundTrip>,
    pub(super) first_byte: Option<FirstByte>,
    /// Bytes that the client has sent, once no more will follow.
    pub(super) upload: Option<u32>,
    pub(super) ended: bool,
}

/// Returns the TSval of a segment.
pub(super) fn clock(tcp: &Tcp<'_>) -> Option<u32> {
    let is_clock = |option: &TcpOption<'_>| option.kind == kind::TIMESTAMPS && option.value.len() == 8;
    let option = tcp.options().map_while(Result::ok).find(is_clock)?;
    option.value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl Flow {
    /// Begins with the client's SYN.
    pub(super) fn new(now: Instant, service: u32, tcp: &Tcp<'_>) -> Self {
        let flow = Self::unseen(now, service, Seq::new(tcp.sequence()));
        Self { syn_clock: clock(tcp), syn_seen: true, begun_by_syn: true, ..flow }
    }

    /// Begins with a segment that shows that there was a SYN of ISN `isn`.
    pub(super) fn unseen(now: Instant, service: u32, isn: Seq<Client>) -> Self {
        Self {
            begun: now,
            service,
            isn,
            server_isn: Seq::new(0),
            next: isn.plus(1),
            answered: 0,
            acknowledged: None,
            asked: None,
            syn_clock: None,
            answer_clock: None,
            stage: Stage::Pending,
            teaches: None,
            zero_rtt: false,
            followed: false,
            syn_seen: false,
            begun_by_syn: false,
            answer_seen: false,
            ambiguous: false,
            acknowledgement_missed: false,
            spoken: false,
            client_fin: false,
            server_fin: false,
            upload_told: false,
        }
    }

    /// Tells whether a SYN is this connection's.
    pub(super) fn is_of(&self, syn: &Tcp<'_>) -> bool {
        syn.sequence() == self.isn.get()
    }

    fn since(&self, now: Instant) -> Since {
        u32::try_from((now - self.begun).as_micros()).unwrap_or(u32::MAX)
    }

    fn is_copy(first: Option<u32>, again: Option<u32>, after: Duration) -> bool {
        match (first, again) {
            (Some(first), Some(again)) => first == again,
            _ => after < COPY,
        }
    }

    /// The SYN of this connection, once more or after its answer.
    pub(super) fn syn(&mut self, now: Instant, tcp: &Tcp<'_>) -> Change {
        if !self.syn_seen {
            (self.syn_seen, self.ambiguous, self.syn_clock) = (true, true, clock(tcp));
            return Change::default();
        }
        let repeated = !Self::is_copy(self.syn_clock, clock(tcp), now - self.begun);
        self.ambiguous |= repeated;
        Change { syn_repeated: repeated, ..Change::default() }
    }

    /// A SYN-ACK. Returns `None` if it answers another SYN.
    pub(super) fn syn_ack(&mut self, now: Instant, tcp: &Tcp<'_>) -> Option<Change> {
        if tcp.acknowledgement() != self.isn.plus(1).get() {
            return None;
        }
        let mut change = Change::default();
        if self.answer_seen {
            let after = Duration::from_micros(self.since(now).saturating_sub(self.answered).into());
            self.ambiguous |= !Self::is_copy(self.answer_clock, clock(tcp), after);
            return Some(change);
        }
        self.server_isn = Seq::new(tcp.sequence());
        (self.answer_seen, self.answered, self.answer_clock) = (true, self.since(now), clock(tcp));
        self.ambiguous |= self.stage != Stage::Pending;
        self.open(&mut change);
        Some(change)
    }

    fn open(&mut self, change: &mut Change) {
        if self.stage == Stage::Pending {
            (self.stage, change.answered) = (Stage::Open, true);
        }
    }

    /// A segment from the client other than a SYN; `length` is its payload's, in bytes.
    pub(super) fn client(&mut self, now: Instant, tcp: &Tcp<'_>, length: u32) -> Change {
        let mut change = Change::default();
        let (flags, sequence) = (tcp.flags(), Seq::<Client>::new(tcp.sequence()));
        let offset = sequence.minus(self.isn.get()).minus(1).get();
        if self.stage == Stage::Pending {
            if flags.contains(Flags::RST) || !flags.contains(Flags::ACK) || offset > FIRST_FLIGHT {
                return change;
            }
            self.open(&mut change);
        }
        if flags.contains(Flags::RST) {
            self.end(&mut change);
            return change;
        }
        self.acknowledge(now, tcp, (offset, length), &mut change);
        if length > 0 && offset == 0 && self.asked.is_none() {
            self.asked = Some(self.since(now));
        }
        let end = sequence.plus(length);
        if (1..PLAUSIBLE as i32).contains(&end.beyond(self.next)) {
            self.next = end;
        }
        if flags.contains(Flags::FIN) {
            self.client_fin = true;
            self.tell_upload(&mut change);
            self.close(&mut change);
        }
        change
    }

    /// Takes the RTT from a segment that is nothing but the handshake's third.
    fn acknowledge(
        &mut self,
        now: Instant,
        tcp: &Tcp<'_>,
        (offset, length): (u32, u32),
        change: &mut Change,
    ) {
        if self.acknowledged.is_some() || self.acknowledgement_missed {
            return;
        }
        let bare = length == 0 && offset == 0 && !tcp.flags().contains(Flags::FIN);
        let fits = !self.answer_seen || tcp.acknowledgement() == self.server_isn.plus(1).get();
        if !bare || !fits {
            self.acknowledgement_missed = true;
            return;
        }
        let after = self.since(now);
        self.acknowledged = Some(after);
        if self.begun_by_syn && !self.ambiguous {
            change.round_trip = Some(if self.answer_seen {
                RoundTrip::Legs(self.answered, after.saturating_sub(self.answered))
            } else {
                RoundTrip::Path(after)
            });
            // An answer that comes after this came in the wrong order.
            self.ambiguous = !self.answer_seen;
        }
    }

    /// A segment from the server other than a SYN-ACK; `length` is its payload's, in bytes.
    pub(super) fn server(&mut self, now: Instant, tcp: &Tcp<'_>, length: u32) -> Change {
        let mut change = Change::default();
        let flags = tcp.flags();
        let received = tcp.acknowledgement().wrapping_sub(self.isn.plus(1).get());
        let acknowledges = flags.contains(Flags::ACK) && received <= FIRST_FLIGHT;
        if self.stage == Stage::Pending {
            match (flags.contains(Flags::RST), acknowledges) {
                (true, true) if received == 0 => {
                    (self.stage, change.refused, self.upload_told) = (Stage::Ended, true, true);
                }
                (false, true) => self.open(&mut change),
                _ => {}
            }
            if self.stage != Stage::Open {
                return change;
            }
        }
        if flags.contains(Flags::RST) {
            self.end(&mut change);
            return change;
        }
        if length > 0 && !self.spoken {
            self.speak(now, tcp, received, &mut change);
        }
        if flags.contains(Flags::FIN) {
            self.server_fin = true;
            self.close(&mut change);
        }
        change
    }

    /// The server's first byte, unless what was seen lies behind it.
    fn speak(&mut self, now: Instant, tcp: &Tcp<'_>, received: u32, change: &mut Change) {
        if self.answer_seen && tcp.sequence() != self.server_isn.plus(1).get() {
            return;
        }
        self.spoken = true;
        let sent = self.next.minus(self.isn.get()).minus(1).get();
        // What the server has received tells of a request that the mirror has lost.
        let upload = if received < PLAUSIBLE { sent.max(received) } else { sent };
        if !self.answer_seen || !self.begun_by_syn {
            return;
        }
        let server_first = upload == 0;
        let wait = match (self.acknowledged, self.asked) {
            (Some(_), None) if server_first => Some(0),
            (Some(acknowledged), Some(asked)) => Some(asked.saturating_sub(acknowledged)),
            _ => None,
        };
        let legs = wait
            .filter(|_| !self.ambiguous)
            .map(|wait| (self.answered, self.acknowledged.unwrap_or(0).saturating_sub(self.answered), wait));
        change.first_byte = Some(FirstByte { after: self.since(now), upload, server_first, legs });
    }

    fn tell_upload(&mut self, change: &mut Change) {
        if !std::mem::replace(&mut self.upload_told, true) {
            change.upload = Some(self.next.minus(self.isn.get()).minus(1).get());
        }
    }

    fn close(&mut self, change: &mut Change) {
        if self.client_fin && self.server_fin && self.stage != Stage::Ended {
            (self.stage, change.ended) = (Stage::Ended, true);
        }
    }

    fn end(&mut self, change: &mut Change) {
        self.tell_upload(change);
        if self.stage != Stage::Ended {
            (self.stage, change.ended) = (Stage::Ended, true);
        }
    }
}

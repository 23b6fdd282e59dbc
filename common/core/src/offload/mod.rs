//! Established flows that the kernel forwards by itself.
//!
//! Once a handshake is over its translation is constant, and most segments need nothing else. An
//! engine hands such a flow to a [`FastPath`]; from then on it sees only what begins or ends a
//! connection and what is odd. The fast path keeps the engine's account of how far both ends have come
//! ([`Progress`]), and the engine takes it back when it needs it.
//!
//! ```text
//!             hand                        SYN, SYN-ACK, RST, odd: to the engine, which looks or recalls
//!   engine ─────────▶ fast path           before it judges
//!      ▲                  │
//!      └──── recall ──────┘               all else: translated in the kernel; when both ends have sent
//!                                         their FIN the engine is told, and takes the flow back
//! ```
//!
//! A flow that is only watched can be handed over before its handshake is done ([`Offloaded::opening`]): what
//! the client sends passes in any case, and the account tells whether it has proven that it exists.
//!
//! [`Offloaded::apply`] says what a fast path does with a segment. The kernel's program is held
//! against it by tests, and the simulator runs it in the program's place.

mod layout;
mod offloader;

pub use layout::{KERNEL_KEY, KERNEL_VALUE, KernelKey, flow_key, wait};
pub use offloader::{Offloadable, Offloader, is_in_use};

use crate::accept::Opened;
use crate::flow::FlowKey;
use crate::handshake::FIRST_FLIGHT;
use crate::offer;
use crate::seq::{Client, Promised, Seq};
use crate::service::Direction;
use crate::time::Instant;
use crate::translate::Translation;
use crate::translated::{End, Sent};
use crate::wire::segment::Segment;
use crate::wire::tcp::{Flags, Tcp};
use std::fmt;

/// Segments of a flow that the engine forwards itself before it hands the flow over, where more segments than that
/// may be queued: a connection of one short exchange is not worth the system calls then, since the kernel would not
/// get to see it.
const TRIAL: u8 = 8;

/// Of which directions the engine's worker may have segments queued that have not left yet, when a flow is handed over.
/// What the kernel forwards would overtake them, so it leaves those directions to the worker for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// Of none: the client has had no answer yet.
    Nothing,
    /// Of what the client sends: the server has had nothing yet that it could answer with more than a SYN-ACK.
    ToServer,
    /// Of both.
    BothWays,
}

/// Where flows are handed to.
///
/// Its calls may be system calls, so an engine makes them for what begins or ends a connection, not for
/// every segment.
pub trait FastPath: fmt::Debug + Send {
    /// Takes a flow over; returns whether it does. Of the directions that are not `queued` all that the engine has
    /// forwarded has left.
    fn hand(&mut self, flow: &Offloaded, queued: Queued) -> bool;

    /// Tells how far a flow has come; `None` if it is not here.
    fn look(&mut self, key: &FlowKey) -> Option<Progress>;

    /// Gives a flow back; `None` if it is not here. The engine sees all its segments from now on.
    fn recall(&mut self, key: &FlowKey) -> Option<Progress>;

    /// Returns the next flow that has been closed ([`Applied::Closed`]), and the number behind the last byte that its client
    /// has sent. Without a system call.
    fn closed(&mut self) -> Option<(FlowKey, Seq<Client>)>;

    /// Lets it begin handshakes by itself until then, or, with `None`, no more: of flows that neither it nor the engine has heard
    /// of. It answers SYNs to destinations on the [`Board`](crate::profile::Board), or accepts offers. Returns whether it can. Without a system call.
    fn allow(&mut self, _until: Option<Instant>) -> bool {
        false
    }

    /// Returns the next handshake that it has begun by itself, as [`spoof_at_once`](crate::spoof::spoof_at_once) says: its flow is
    /// here already, [`Offloaded::opening`]. There are few at a time of which the engine has not heard; more SYNs are left to that.
    /// Without a system call.
    fn begun(&mut self) -> Option<Begun> {
        None
    }

    /// Returns the next handshake with a server that it has begun by itself, as [`AtOnce`](crate::accept::AtOnce) says. One that is not
    /// made is the engine's from now on. There are few at a time of which the engine has not heard; more offers are left to that.
    fn opened(&mut self) -> Option<Opened> {
        None
    }
}

/// Most handshakes that a fast path has begun by itself for an engine which has not heard of them: in a flood there are no more before it is
/// forbidden to go on.
pub const MOST_BEGUN: usize = 128;

/// A handshake that a fast path has begun by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The client's SYN, an IP packet as it came; its checksum may be partial.
    pub syn: Vec<u8>,
    /// The option that it has sent on with the SYN.
    pub offer: [u8; offer::LENGTH],
    /// When.
    pub at: Instant,
}

/// How far a handed flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub(crate) client: End,
    pub(crate) server: End,
    /// Its handshake is not over. Of one that is only watched nobody has confirmed it yet: then what the server sends in other
    /// numbers than the promised ones is the engine's. Of one that is translated the client has not acknowledged what it was promised:
    /// then everything but that is.
    pub(crate) is_opening: bool,
    /// When its last segment was forwarded.
    pub last_used: Instant,
    /// What was forwarded towards the server.
    pub to_server: Volume,
    /// What was forwarded towards the client.
    pub to_client: Volume,
}

impl Progress {
    /// Returns the number behind the last byte that the client has sent.
    pub fn client_end(&self) -> Seq<Client> {
        Seq::new(self.client.next)
    }

    /// Tells whether the client has sent its FIN.
    pub fn has_client_ended(&self) -> bool {
        self.client.fin
    }

    /// Tells whether its handshake is not over, as far as the fast path has seen: of a translated flow, whether its client has still
    /// to acknowledge what it was promised.
    pub fn is_opening(&self) -> bool {
        self.is_opening
    }

    /// Returns the most that the client of a flow which is not translated has acknowledged. Of one that was handed over
    /// [`Offloaded::opening`] this is the promised ISN until the client has proven that it exists.
    pub fn client_acknowledged(&self) -> Seq<Promised> {
        Seq::new(self.client.numbers()[1])
    }
}

/// An amount of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume {
    /// Packets; a super-packet counts as one.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// A flow as a fast path has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloaded {
    /// Its name.
    pub key: FlowKey,
    /// The client's ISN.
    pub client_isn: Seq<Client>,
    /// `None` if it only passes by.
    pub(crate) translation: Option<Translation>,
    /// How far it has come.
    pub progress: Progress,
}

/// What a fast path does with a segment of one of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It goes on, rewritten.
    Forwarded,
    /// Likewise, and closes the flow, which the engine is told. Only while there is an engine.
    Closed,
    /// Likewise, and the engine gets a copy whose hop limit is 0: early data of a handshake that may have to be completed
    /// with it. Only while there is an engine.
    Copied,
    /// It is the engine's to judge.
    ToEngine,
    /// It is not this flow's any more, which is forgotten; the segment goes on as it is. Only while
    /// there is no engine.
    Forgotten,
}

impl Offloaded {
    pub(crate) fn new(
        key: FlowKey,
        client_isn: Seq<Client>,
        translation: Option<Translation>,
        (client, server): (End, End),
    ) -> Self {
        let (to_server, to_client) = (Volume::default(), Volume::default());
        let (is_opening, last_used) = (false, Instant::ZERO);
        let progress = Progress { client, server, is_opening, last_used, to_server, to_client };
        Self { key, client_isn, translation, progress }
    }

    /// Makes a flow that is not translated, only counted, and of which the client has sent all up to
    /// `end`.
    pub fn passing(key: FlowKey, client_isn: Seq<Client>, end: Seq<Client>) -> Self {
        let ends = (End::new(end.get(), 0, 0, 0), End::new(0, end.get(), 0, 0));
        Self::new(key, client_isn, None, ends)
    }

    /// Makes a flow that is not translated here, and whose client believes in a server's answer that has still to come: it
    /// was `promised` this ISN.
    pub fn opening(key: FlowKey, client_isn: Seq<Client>, promised: Seq<Promised>) -> Self {
        let end = client_isn.plus(1).get();
        let ends = (End::new(end, promised.get(), 0, 0), End::new(0, end, 0, 0));
        Self::new(key, client_isn, None, ends).until_proven()
    }

    /// Makes it one of which the handshake is not over ([`Progress::is_opening`]).
    pub fn until_proven(mut self) -> Self {
        self.progress.is_opening = true;
        self
    }

    /// Returns the number behind the last byte that the client has sent, if it sends this segment, or the server does. That is
    /// what the engine is told of a flow that it closes.
    pub fn client_end(&self, direction: Direction, tcp: &Tcp<'_>) -> Seq<Client> {
        let has_fin = self.is_translated() && self.progress.client.fin;
        let before = self.progress.client_end().minus(has_fin.into());
        let sent = Seq::new(tcp.sequence()).plus(tcp.payload().len() as u32);
        if direction == Direction::ToServer && sent.beyond(before) > 0 { sent } else { before }
    }

    /// Returns whether it is translated.
    pub fn is_translated(&self) -> bool {
        self.translation.is_some()
    }

    /// Does what a fast path does with a segment that travels in `direction`. `is_attended` tells
    /// whether there is an engine; if there is none, also what ends a connection is translated, so that
    /// it can end.
    pub fn apply(
        &mut self,
        now: Instant,
        direction: Direction,
        segment: &mut Segment<'_>,
        is_attended: bool,
    ) -> Applied {
        let flags = segment.tcp().flags();
        let closes = self.closes(direction, &segment.tcp());
        let is_early = self.progress.is_opening
            && !self.is_translated()
            && direction == Direction::ToServer
            && segment.payload_length() > 0;
        let is_judged =
            self.is_for_engine(direction, &segment.tcp()) || !self.note(direction, &segment.tcp());
        if is_attended && is_judged {
            return Applied::ToEngine;
        }
        if flags.contains(Flags::SYN) {
            return self.unattended_syn(direction, segment);
        }
        self.progress.last_used = now;
        let volume = match direction {
            Direction::ToServer => &mut self.progress.to_server,
            Direction::ToClient => &mut self.progress.to_client,
        };
        volume.packets += 1;
        volume.bytes += segment.bytes().len() as u64;
        if is_judged {
            self.note(direction, &segment.tcp());
        }
        match (&mut self.translation, direction) {
            (None, _) => {}
            (Some(translation), Direction::ToServer) => translation.client_to_server(segment),
            (Some(translation), Direction::ToClient) => translation.server_to_client(segment),
        }
        match is_attended {
            true if closes => Applied::Closed,
            true if is_early => Applied::Copied,
            _ => Applied::Forwarded,
        }
    }

    /// Takes note of a segment that the fast path leaves to the engine for another reason than [`Offloaded::apply`] has. Without
    /// it the account would be behind, and not believe what the other end answers.
    pub fn leave(&mut self, direction: Direction, tcp: &Tcp<'_>) {
        if !self.is_for_engine(direction, tcp) && !self.closes(direction, tcp) {
            self.note(direction, tcp);
        }
    }

    /// Moves the account on. Returns whether the fast path may forward the segment: a FIN that its receiver would not
    /// accept is the engine's.
    fn note(&mut self, direction: Direction, tcp: &Tcp<'_>) -> bool {
        let Progress { client, server, is_opening, .. } = &mut self.progress;
        let is_fin = tcp.flags().contains(Flags::FIN);
        match (&self.translation, direction) {
            (None, Direction::ToClient) => *is_opening = false,
            (None, Direction::ToServer) if tcp.flags().contains(Flags::RST) => {}
            (None, Direction::ToServer) => client.reaches(tcp),
            (Some(translation), Direction::ToServer) => {
                *is_opening = false;
                client.sends(&translation.client_sends(tcp), server, false);
                return !is_fin || client.fin;
            }
            (Some(_), Direction::ToClient) => {
                server.sends(&Sent::of(tcp), client, false);
                return !is_fin || server.fin;
            }
        }
        true
    }

    /// Tells whether a segment begins or resets a connection, or is odd. While its handshake is not over, so is a FIN
    /// of the client's, and what the server has not been asked for.
    fn is_for_engine(&self, direction: Direction, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        let is_early = match (&self.translation, direction) {
            (None, Direction::ToServer) => flags.contains(Flags::FIN),
            (None, Direction::ToClient) => !self.is_promised(tcp),
            (Some(translation), Direction::ToServer) => {
                let proof = translation.promised_isn().plus(1).get();
                flags.contains(Flags::FIN) || tcp.acknowledgement() != proof
            }
            (Some(_), Direction::ToClient) => true,
        };
        flags.intersects(Flags::SYN | Flags::RST | Flags::URG)
            || !flags.contains(Flags::ACK)
            || (self.progress.is_opening && is_early)
    }

    /// Tells whether a segment is the second FIN; of a flow that is only watched, the client's.
    fn closes(&self, direction: Direction, tcp: &Tcp<'_>) -> bool {
        let Progress { client, server, .. } = &self.progress;
        let is_last = match (&self.translation, direction) {
            (None, _) => direction == Direction::ToServer,
            (Some(_), Direction::ToServer) => server.fin,
            (Some(_), Direction::ToClient) => client.fin,
        };
        is_last && tcp.flags().contains(Flags::FIN)
    }

    /// Tells whether a segment from the server is of the numbers that the client was promised: then ServerNIC has
    /// translated it.
    fn is_promised(&self, tcp: &Tcp<'_>) -> bool {
        let [_, _, promised] = self.progress.client.numbers();
        let sent = tcp.sequence().wrapping_sub(promised).wrapping_sub(1);
        let acknowledged = tcp.acknowledgement().wrapping_sub(self.client_isn.get()).wrapping_sub(1);
        sent <= FIRST_FLIGHT && acknowledged <= FIRST_FLIGHT
    }

    /// A SYN or SYN-ACK while nobody judges it. A server that answers another SYN has another
    /// connection, and so has a client that begins one after this one's end.
    fn unattended_syn(&self, direction: Direction, segment: &Segment<'_>) -> Applied {
        let Progress { client, server, .. } = &self.progress;
        let has_ended = client.reset || server.reset || (client.fin && server.fin);
        let isn = match &self.translation {
            Some(translation) => Some(translation.real_isn().get()),
            None => self.progress.is_opening.then_some(client.numbers()[2]),
        };
        let is_own = isn == Some(segment.tcp().sequence())
            && segment.tcp().acknowledgement() == self.client_isn.plus(1).get();
        match direction {
            Direction::ToClient if !is_own && segment.tcp().flags().is_syn_ack() => Applied::Forgotten,
            Direction::ToServer if has_ended => Applied::Forgotten,
            _ => Applied::ToEngine,
        }
    }
}

/// Who forwards a flow: belongs to the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Segments that the engine has still to forward.
    trial: u8,
    is_handed: bool,
    /// The fast path has it, and has told that it is closed.
    is_closed: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self { trial: TRIAL, is_handed: false, is_closed: false }
    }
}

impl Share {
    /// Tells whether the flow was handed to a fast path.
    pub fn is_handed(self) -> bool {
        self.is_handed
    }

    /// Counts a segment that the engine forwards; returns whether the flow is worth handing over.
    pub fn is_due(&mut self) -> bool {
        self.trial = self.trial.saturating_sub(1);
        self.trial == 0 && !self.is_handed
    }

    /// Notes that the flow was handed over.
    pub fn hand(&mut self) {
        self.is_handed = true;
    }

    /// Notes that the fast path has told that it is closed.
    pub(super) fn close(&mut self) {
        self.is_closed = self.is_handed;
    }

    /// Notes that it was given back.
    pub fn recall(&mut self) {
        *self = Self::default();
    }
}

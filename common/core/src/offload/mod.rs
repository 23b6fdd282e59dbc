//! Established flows that the kernel forwards by itself.
//!
//! Once a handshake is over its translation is constant, and most segments need nothing else. An
//! engine hands such a flow to a [`FastPath`]; from then on it sees only what begins or ends a
//! connection and what is odd. The fast path keeps the engine's account of how far both ends have come
//! ([`Progress`]), and the engine takes it back when it needs it.
//!
//! ```text
//!             hand                        SYN, SYN-ACK, FIN, RST, odd: to the engine, which looks
//!   engine ─────────▶ fast path           or recalls before it judges
//!      ▲                  │
//!      └──── recall ──────┘               all else: translated in the kernel
//! ```
//!
//! [`Offloaded::apply`] says what a fast path does with a segment. The kernel's program is held
//! against it by tests, and the simulator runs it in the program's place.

mod layout;
mod offloader;

pub use layout::{KERNEL_KEY, KERNEL_VALUE, KernelKey, wait};
pub use offloader::{Offloadable, Offloader};

use crate::flow::FlowKey;
use crate::seq::{Client, Seq};
use crate::service::Direction;
use crate::time::Instant;
use crate::translate::Translation;
use crate::translated::End;
use crate::wire::segment::Segment;
use crate::wire::tcp::Flags;
use std::fmt;

/// Segments of a flow that the engine forwards itself before it hands the flow over: a connection of
/// one short exchange is not worth the system calls, which would delay the next one's handshake.
const TRIAL: u8 = 8;

/// Where flows are handed to.
///
/// Its calls may be system calls, so an engine makes them for what begins or ends a connection, not for
/// every segment.
pub trait FastPath: fmt::Debug + Send {
    /// Takes a flow over; returns whether it does. All that the engine has forwarded of it has left.
    fn hand(&mut self, flow: &Offloaded) -> bool;

    /// Tells how far a flow has come; `None` if it is not here.
    fn look(&mut self, key: &FlowKey) -> Option<Progress>;

    /// Gives a flow back; `None` if it is not here. The engine sees all its segments from now on.
    fn recall(&mut self, key: &FlowKey) -> Option<Progress>;
}

/// How far a handed flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub(crate) client: End,
    pub(crate) server: End,
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
        let progress = Progress { client, server, last_used: Instant::ZERO, to_server, to_client };
        Self { key, client_isn, translation, progress }
    }

    /// Makes a flow that is not translated, only counted, and of which the client has sent all up to
    /// `end`.
    pub fn passing(key: FlowKey, client_isn: Seq<Client>, end: Seq<Client>) -> Self {
        let ends = (End::new(end.get(), 0, 0, 0), End::new(0, end.get(), 0, 0));
        Self::new(key, client_isn, None, ends)
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
        let begins_or_ends = flags.intersects(Flags::SYN | Flags::FIN | Flags::RST);
        let is_odd = !flags.contains(Flags::ACK) || flags.contains(Flags::URG);
        if is_attended && (begins_or_ends || is_odd) {
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
        let Progress { client, server, .. } = &mut self.progress;
        let Some(translation) = &mut self.translation else {
            if direction == Direction::ToServer && !flags.contains(Flags::RST) {
                client.reaches(&segment.tcp());
            }
            return Applied::Forwarded;
        };
        match direction {
            Direction::ToServer => {
                translation.client_to_server(segment);
                client.sends(&segment.tcp(), server, false);
            }
            Direction::ToClient => {
                server.sends(&segment.tcp(), client, false);
                translation.server_to_client(segment);
            }
        }
        Applied::Forwarded
    }

    /// A SYN or SYN-ACK while nobody judges it. A server that answers another SYN has another
    /// connection, and so has a client that begins one after this one's end.
    fn unattended_syn(&self, direction: Direction, segment: &Segment<'_>) -> Applied {
        let Progress { client, server, .. } = &self.progress;
        let has_ended = client.reset || server.reset || (client.fin && server.fin);
        let is_own = self.translation.is_some_and(|translation| {
            segment.tcp().sequence() == translation.real_isn().get()
                && segment.tcp().acknowledgement() == self.client_isn.plus(1).get()
        });
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
}

impl Default for Share {
    fn default() -> Self {
        Self { trial: TRIAL, is_handed: false }
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

    /// Notes that it was given back.
    pub fn recall(&mut self) {
        *self = Self::default();
    }
}

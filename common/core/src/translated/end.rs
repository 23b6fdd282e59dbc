//! How far one end of a translated flow has come, as far as a bystander can tell.

use super::LARGEST_FLIGHT;
use crate::handshake::FIRST_FLIGHT;
use crate::wire::tcp::{Flags, Tcp};

/// How far beyond the window that its peer told us an end may send: it may have been promised
/// another one, of a SYN-ACK at most, which is never scaled (RFC 7323 §2.2).
const PROMISED_WINDOW: u32 = 1 << 16;

/// Largest shift of a window (RFC 7323 §2.3).
const LARGEST_SCALE: u8 = 14;

/// Enough to know whether a segment is an end's own. Only what its peer would accept counts
/// (RFC 9293 §3.10.7.4, RFC 5961), so that what is made up blindly changes nothing here either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Whether the numbers mean anything yet: not before the first segment after a restart.
    pub(crate) is_known: bool,
    /// SND.NXT: behind the last byte it sent, or behind its FIN.
    pub(crate) next: u32,
    /// The most it has acknowledged: its RCV.NXT.
    pub(super) acknowledged: u32,
    /// The right edge of the window that it has opened furthest: RCV.NXT + RCV.WND.
    pub(super) edge: u32,
    /// Left shift of its window field.
    scale: u8,
    /// It has sent its FIN.
    pub(crate) fin: bool,
    /// It has reset the connection, or somebody has in its name.
    pub(crate) reset: bool,
}

/// What a segment says of its sender, in the numbers that the server knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) flags: Flags,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    /// Bytes of data.
    pub(crate) payload: u32,
}

impl Sent {
    /// Reads it from a segment that is as the server sent it or will see it.
    pub(crate) fn of(tcp: &Tcp<'_>) -> Self {
        Self {
            flags: tcp.flags(),
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            window: tcp.window(),
            payload: tcp.payload().len() as u32,
        }
    }

    /// How much of the number space it takes (RFC 9293 §3.4).
    fn length(&self) -> u32 {
        let control = u32::from(self.flags.contains(Flags::SYN)) + u32::from(self.flags.contains(Flags::FIN));
        self.payload.wrapping_add(control)
    }
}

/// What a segment of an end did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ended nothing.
    None,
    /// It is the end's first FIN.
    Fin,
    /// It resets the connection.
    Reset,
    /// An end that was thought to have ended has something new to say.
    Revived,
}

impl End {
    /// Begins behind its SYN, with a `window` in bytes; later ones come shifted by `scale`.
    pub(crate) fn new(next: u32, acknowledged: u32, window: u32, scale: u8) -> Self {
        let (edge, scale) = (acknowledged.wrapping_add(window), scale.min(LARGEST_SCALE));
        Self { is_known: true, next, acknowledged, edge, scale, fin: false, reset: false }
    }

    /// Goes on where a fast path has seen it last: [`End::numbers`], the scale, whether it has sent a
    /// FIN and whether a reset.
    pub(crate) fn resumed(
        [next, acknowledged, edge]: [u32; 3],
        scale: u8,
        (fin, reset): (bool, bool),
    ) -> Self {
        Self { is_known: true, next, acknowledged, edge, scale, fin, reset }
    }

    /// Returns SND.NXT, RCV.NXT and the right edge of its window.
    pub(crate) fn numbers(&self) -> [u32; 3] {
        [self.next, self.acknowledged, self.edge]
    }

    /// Goes on from where two accounts of it say that it is: whichever is ahead, and `other`'s of its
    /// ending.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.is_known {
            forward(&mut self.next, other.next);
            forward(&mut self.acknowledged, other.acknowledged);
            forward(&mut self.edge, other.edge);
            (self.fin, self.reset) = (other.fin, other.reset);
        } else {
            *self = *other;
        }
    }

    /// Takes note of a segment of the client of a flow that is only watched, which began with what it was promised
    /// as both RCV.NXT and the edge of its window. What it acknowledges first is the one byte of the SYN-ACK, and
    /// proves that it exists.
    pub(crate) fn reaches(&mut self, tcp: &Tcp<'_>) {
        self.fin |= tcp.flags().contains(Flags::FIN);
        forward(&mut self.next, tcp.sequence().wrapping_add(tcp.payload().len() as u32));
        let most = if self.acknowledged == self.edge { 1 } else { FIRST_FLIGHT };
        let is_near = tcp.acknowledgement().wrapping_sub(self.acknowledged) <= most;
        if tcp.flags().contains(Flags::ACK) && is_near {
            self.acknowledged = tcp.acknowledgement();
        }
    }

    /// Returns the left shift of its window field.
    pub(crate) fn scale(&self) -> u8 {
        self.scale
    }

    /// Begins without knowing how far it has come.
    pub(super) fn unknown(scale: u8, fin: bool, reset: bool) -> Self {
        let scale = scale.min(LARGEST_SCALE);
        Self { is_known: false, next: 0, acknowledged: 0, edge: 0, scale, fin, reset }
    }

    /// Takes note of a segment that this end sent to `peer`. While nothing shows that what is
    /// known of the two is right, each segment counts more than all before it.
    pub(crate) fn sends(&mut self, sent: &Sent, peer: &Self, is_doubtful: bool) -> Ending {
        if sent.flags.contains(Flags::RST) {
            let own = self.would_reset_at(sent.sequence, peer);
            self.reset |= own;
            return if own { Ending::Reset } else { Ending::None };
        }
        if sent.flags.contains(Flags::SYN) {
            // Whatever its numbers, its receiver answers it with a challenge ACK (RFC 5961 §4.2), or, if it
            // is the SYN-ACK again, with what it has acknowledged before.
            return Ending::None;
        }
        if is_doubtful && sent.flags.contains(Flags::ACK) {
            self.is_known = false;
        } else if !peer.accepts(sent) {
            return Ending::None;
        }
        let (finished, next) = (self.fin, self.next);
        self.advance(sent);
        // Who has ended has nothing new to say: then the RST or FIN was forged.
        let goes_on = self.next != next || (finished && !self.fin);
        if goes_on && (std::mem::take(&mut self.reset) || (finished && !self.fin)) {
            return Ending::Revived;
        }
        if self.fin && !finished { Ending::Fin } else { Ending::None }
    }

    /// Tells whether it has acknowledged all that `peer` has sent, its FIN included.
    pub(super) fn has_received_all_of(&self, peer: &Self) -> bool {
        self.is_known && peer.is_known && self.acknowledged == peer.next
    }

    /// Tells whether `sequence` is where this end would put an RST: behind what it sent, or, in
    /// answer to a segment, where the other stands.
    pub(super) fn would_reset_at(&self, sequence: u32, peer: &Self) -> bool {
        (self.is_known && sequence == self.next) || (peer.is_known && sequence == peer.acknowledged)
    }

    /// Tells whether this end would accept a segment with these numbers.
    fn accepts(&self, sent: &Sent) -> bool {
        if !sent.flags.contains(Flags::ACK) || !self.is_known {
            return false;
        }
        let first = sent.sequence.wrapping_sub(self.acknowledged) as i32;
        let is_new = first.saturating_add_unsigned(sent.length()) >= 0;
        // What a fast path changes one after the other may have been read in between: edge behind RCV.NXT.
        let open = (self.edge.wrapping_sub(self.acknowledged) as i32).max(0);
        let fits = i64::from(first) <= i64::from(open) + i64::from(PROMISED_WINDOW);
        // RFC 5961 §5: nothing acknowledges what has not been sent, nor what is long past.
        is_new && fits && self.next.wrapping_sub(sent.acknowledgement) <= LARGEST_FLIGHT
    }

    /// Moves forward by a segment that the peer would accept.
    fn advance(&mut self, sent: &Sent) {
        let last = sent.sequence.wrapping_add(sent.payload);
        let behind = sent.sequence.wrapping_add(sent.length());
        // An end opens its window where it stands. What comes from before may be a forgery, which a window
        // many times the real one would let in more of.
        let is_repeat = self.is_known && is_before(sent.sequence, self.next);
        let open = if is_repeat { 0 } else { u32::from(sent.window) << self.scale };
        let edge = sent.acknowledgement.wrapping_add(open);
        if !self.is_known {
            (self.next, self.acknowledged, self.edge) = (behind, sent.acknowledgement, edge);
            self.is_known = true;
        } else if self.fin && sent.payload > 0 && !is_before(last, self.next) {
            // Who has more to say has not said goodbye.
            self.fin = false;
        }
        // Nothing lies behind a FIN: one amid what was sent is not this end's.
        self.fin |= sent.flags.contains(Flags::FIN) && !is_before(behind, self.next);
        forward(&mut self.next, behind);
        forward(&mut self.acknowledged, sent.acknowledgement);
        forward(&mut self.edge, edge);
    }
}

fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn forward(from: &mut u32, to: u32) {
    if is_before(*from, to) {
        *from = to;
    }
}

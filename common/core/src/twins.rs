//! The two copies of a SYN, told apart by their timestamps, and what their echoes tell of a server.
//!
//! RTT honesty sends a SYN twice and hides the echo of the SYN-ACK's timestamp. A server that answers
//! with SYN cookies (RFC 4987 §3.6) must see that echo: it has kept nothing of the handshake, and reads
//! from there what was agreed. Linux would else go on without SACK, take the client's windows for
//! unscaled, and begin with other timestamps, all of which the client's PAWS rejects.
//!
//! The first copy's TSval is therefore one below the second's. A server that keeps state echoes the
//! first in both its SYN-ACKs, one that keeps none echoes to each copy its own.

use crate::packet::Packet;
use crate::profile::SynAck;
use crate::seq::{Real, Seq};
use crate::time::Instant;
use crate::wire::options::kind;
use crate::wire::read_u32;
use crate::wire::segment::Segment;
use std::time::Duration;

/// How long the second SYN-ACK is waited for. It follows the first at once, or never.
const WAIT: Duration = Duration::from_millis(20);

/// What the SYN-ACKs so far tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// One, at that time, that answers the first copy.
    First(Instant, Seq<Real>, SynAck),
    /// The server keeps state of its handshakes.
    State,
    /// It keeps none, or nobody knows.
    Stateless,
}

/// The copies of a SYN.
#[derive(Debug)]
pub(crate) struct Twins {
    /// The second one's TSval, if the SYN has timestamps and is sent in copies.
    tsval: Option<u32>,
    heard: Heard,
}

impl Twins {
    /// Looks at a SYN of which `copies` are sent at once.
    pub(crate) fn new(syn: &[u8], copies: u8) -> Self {
        let mut copy = syn.to_vec();
        let tsval = if copies > 1 { timestamps(&mut copy).map(|(_, value)| value) } else { None };
        Self { tsval, heard: Heard::Nothing }
    }

    /// Returns the copy to send ahead of `syn`.
    pub(crate) fn elder(&self, syn: &[u8]) -> Vec<u8> {
        let mut copy = syn.to_vec();
        if self.tsval.is_some()
            && let Some((at, value)) = timestamps(&mut copy)
            && let Ok(mut segment) = Segment::parse(&mut packet(&mut copy))
        {
            segment.patch_options(at + 2, &value.wrapping_sub(1).to_be_bytes());
        }
        copy
    }

    /// Takes account of a SYN-ACK, and has it echo what the client sent. Returns whether the next
    /// one has to be waited for.
    pub(crate) fn hear(&mut self, now: Instant, isn: Seq<Real>, answer: &mut SynAck) -> bool {
        let (Some(tsval), Some(timestamps)) = (self.tsval, answer.options.timestamps.as_mut()) else {
            self.heard = Heard::State;
            return false;
        };
        let echo = std::mem::replace(&mut timestamps.echo, tsval);
        self.heard = match self.heard {
            Heard::Nothing if echo == tsval.wrapping_sub(1) => Heard::First(now, isn, *answer),
            _ if echo == tsval => Heard::Stateless,
            // The first copy's again, or a server's own idea of an echo, which it will not look at.
            _ => Heard::State,
        };
        matches!(self.heard, Heard::First(..))
    }

    /// Returns when the second SYN-ACK is waited for no longer, if it is waited for.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.heard {
            Heard::First(at, ..) => Some(at + WAIT),
            _ => None,
        }
    }

    /// Returns the only SYN-ACK, if the second one has been waited for long enough. Nobody knows then
    /// whether the server keeps state: it is safe to believe that it does not.
    pub(crate) fn give_up(&mut self, now: Instant) -> Option<(Seq<Real>, SynAck)> {
        match self.heard {
            Heard::First(at, isn, answer) if now >= at + WAIT => {
                self.heard = Heard::Stateless;
                Some((isn, answer))
            }
            _ => None,
        }
    }

    /// Tells whether the server does without the echo of its timestamp.
    pub(crate) fn may_hide_echo(&self) -> bool {
        self.heard != Heard::Stateless
    }
}

/// Returns where among the options the timestamps are, and the TSval.
fn timestamps(syn: &mut [u8]) -> Option<(usize, u32)> {
    let mut packet = packet(syn);
    let segment = Segment::parse(&mut packet).ok()?;
    let mut options = segment.tcp().options().map_while(Result::ok);
    let option = options.find(|option| option.kind == kind::TIMESTAMPS && option.value.len() == 8)?;
    Some((option.offset, read_u32(option.value, 0)))
}

fn packet(bytes: &mut [u8]) -> Packet<'_> {
    Packet { bytes, offload: Default::default() }
}

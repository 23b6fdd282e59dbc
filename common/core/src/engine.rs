//! The contract between an engine and whatever drives it (daemon, simulator, fuzzer).
//!
//! # Run loop
//!
//! 1. Call [`Engine::hear`], and for every captured packet [`Engine::handle`], with the present time. If several
//!    have come, [`Engine::look_ahead`] at all of them first makes that faster. At the end of a batch, when all is emitted,
//!    call [`Engine::settle`]. Before a batch is emitted, and after settling, [`Engine::is_waited_for`] tells whether the
//!    fast path waits for the loop.
//! 2. If the verdict is [`Verdict::Forward`], emit that packet as the engine left it; then
//!    emit every packet in the outbox, in order, and clear it. Before that, write down what its
//!    [`Engine::journal`] has noted, if it is to survive this process.
//! 3. Ask [`Engine::next_timeout`]; when that instant has come, call
//!    [`Engine::handle_timeout`], emit the outbox, clear it, and ask again.
//!
//! An engine owns no socket, reads no clock, draws no random numbers and never panics on any
//! input.

use crate::gauges::Gauges;
use crate::journal::{Journal, Slot};
use crate::notice::Notices;
use crate::offer::Keys;
use crate::offload::{FastPath, Offloaded};
use crate::packet::{Outbox, Packet};
use crate::reason::{Counters, DropReason};
use crate::record::Record;
use crate::survey::Page;
use crate::time::Instant;

/// What becomes of the packet that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Emit it as it now stands (its hop limit is already decremented).
    Forward,
    /// Do not emit it: the engine holds a copy or has answered it.
    Taken,
    /// Do not emit it: it was dropped, and the reason is already counted.
    Drop(DropReason),
}

/// A sans-IO protocol engine: time and packets in, packets and a time-out out.
pub trait Engine {
    /// Takes one captured IP packet. May patch it in place; may append packets to `out`.
    fn handle(&mut self, now: Instant, packet: &mut Packet<'_>, out: &mut Outbox) -> Verdict;

    /// Looks at the packets that will be handed in next, at no more than 64: what is known of their flows
    /// is brought into the processor's caches meanwhile, and found sooner if they come in this order.
    /// Never needed, and changes nothing that can be seen.
    fn look_ahead(&mut self, _packets: &mut dyn Iterator<Item = &[u8]>) {}

    /// Takes the news that emitting `packet` failed because it exceeds the next hop's `mtu`
    /// bytes. The engine answers its sender with ICMP (RFC 1191, RFC 8201) through `out`.
    fn too_big(&mut self, now: Instant, packet: &[u8], mtu: u16, out: &mut Outbox);

    /// Returns when [`Engine::handle_timeout`] wants to be called, or `None` if never. An
    /// instant in the past means at once. O(1).
    fn next_timeout(&self) -> Option<Instant>;

    /// Does whatever is due at `now`; appends packets to `out`. Bounded work per call: if more
    /// is due, [`Engine::next_timeout`] stays in the past.
    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox);

    /// Returns the counters, shared with whoever reports them.
    fn counters(&self) -> &Counters;

    /// Returns the journal of established flows; `None` if the engine keeps none.
    fn journal(&mut self) -> Option<&mut Journal> {
        None
    }

    /// Goes on with a flow that an engine before this one noted. To be called before the first
    /// packet, with the journal open, in the order of the slots. Returns whether the engine took
    /// it; if not, the record is of no more use.
    fn restore(&mut self, _now: Instant, _slot: Slot, _record: &Record) -> bool {
        false
    }

    /// Hands established flows to `fast_path` from now on.
    fn accelerate(&mut self, _fast_path: Box<dyn FastPath>) {}

    /// Hears what the fast path has done by itself: of handshakes that it has begun, of flows that were closed. To be called before
    /// packets are handed in: they may be of these handshakes, or of the next connections. Appends packets to `out`. Returns how many
    /// have begun: each is a packet that the fast path has had in the engine's place.
    fn hear(&mut self, _now: Instant, _out: &mut Outbox) -> usize {
        0
    }

    /// Lets the fast path take over the flows that were handed to it. To be called when all packets handed in before
    /// have been emitted.
    fn settle(&mut self) {}

    /// Returns whether flows have been handed to the fast path since it was last asked that wait there until what may have been
    /// queued of them by now has left, too.
    fn is_waited_for(&mut self) -> bool {
        false
    }

    /// Goes on with a flow that a fast path has kept through the absence of an engine. To be called
    /// after [`Engine::restore`] and before the first packet. Returns whether the engine knows it; if
    /// not, it is to be taken out.
    fn adopt(&mut self, _now: Instant, _flow: &Offloaded) -> bool {
        false
    }

    /// Begins no handshake on behalf of a client from now on, or begins them again. Those under way
    /// go on.
    fn stand_back(&mut self, _back: bool) {}

    /// Returns how full the tables are. O(1).
    fn gauges(&self) -> Gauges {
        Gauges::default()
    }

    /// Returns what has happened to single connections since it was last taken; `None` if the engine notes nothing.
    fn notices(&mut self) -> Option<&mut Notices> {
        None
    }

    /// Looks at the flows in [`survey::LOOKS`](crate::survey::LOOKS) places of the table from `from` on, 0 to
    /// begin with, and changes nothing.
    fn survey(&self, _from: u32) -> Page {
        Page::default()
    }

    /// Takes new secrets. Flows go on; handshakes under way go on with the keys that are left.
    fn rekey(&mut self, _keys: Keys) {}
}

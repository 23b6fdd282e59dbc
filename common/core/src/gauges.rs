//! How full an engine's tables are.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How full an engine's tables are at a moment. Their bounds are in [`Limits`](crate::limits::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Flows known.
    pub flows: usize,
    /// Handshakes under way.
    pub pending: usize,
    /// Clients that were answered and have acknowledged nothing yet.
    pub half_open: usize,
    /// Servers that have still to answer a handshake made on behalf of a client that has proven that it
    /// exists.
    pub awaited: usize,
    /// Bytes of early data held.
    pub held: usize,
}

impl std::ops::AddAssign for Gauges {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.pending += other.pending;
        self.half_open += other.half_open;
        self.awaited += other.awaited;
        self.held += other.held;
    }
}

/// Gauges that one thread sets and any may read. Each number is as it was a moment ago; together they may be
/// of different moments.
#[derive(Debug, Default)]
pub struct SharedGauges {
    flows: AtomicUsize,
    pending: AtomicUsize,
    half_open: AtomicUsize,
    awaited: AtomicUsize,
    held: AtomicUsize,
}

impl SharedGauges {
    /// Puts other numbers in their place.
    pub fn set(&self, gauges: Gauges) {
        let Gauges { flows, pending, half_open, awaited, held } = gauges;
        for (cell, number) in [
            (&self.flows, flows),
            (&self.pending, pending),
            (&self.half_open, half_open),
            (&self.awaited, awaited),
            (&self.held, held),
        ] {
            cell.store(number, Ordering::Relaxed);
        }
    }

    /// Reads them.
    pub fn get(&self) -> Gauges {
        let read = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
        Gauges {
            flows: read(&self.flows),
            pending: read(&self.pending),
            half_open: read(&self.half_open),
            awaited: read(&self.awaited),
            held: read(&self.held),
        }
    }
}

//! What each rule has sent on.

use super::{RuleId, Rules};
use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and bytes of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of whole IP packets.
    pub bytes: u64,
}

/// Counters of one worker for each rule of a set. Its thread alone adds, so that no addition needs the processor's
/// lock; readers may read at any time from any thread.
#[derive(Debug)]
pub struct Counters(Box<[Cell]>);

#[derive(Debug, Default)]
struct Cell {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// Makes counters for a set of rules, all zero.
    pub fn new(rules: &Rules) -> Self {
        Self((0..rules.len()).map(|_| Cell::default()).collect())
    }

    /// Counts a packet of `bytes` bytes under a rule; nothing if the rule is of another, larger set.
    #[inline]
    pub fn count(&self, rule: RuleId, bytes: usize) {
        if let Some(cell) = self.0.get(rule.index()) {
            add(&cell.packets, 1);
            add(&cell.bytes, bytes as u64);
        }
    }

    /// Returns what was counted under a rule. Both numbers are read one after the other: a packet that is just being
    /// counted may be in one of them only.
    pub fn of(&self, rule: RuleId) -> Count {
        let read = |cell: &Cell| Count {
            packets: cell.packets.load(Ordering::Relaxed),
            bytes: cell.bytes.load(Ordering::Relaxed),
        };
        self.0.get(rule.index()).map_or(Count::default(), read)
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

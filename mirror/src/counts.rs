//! Where the packets of one worker have ended.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reason::DropReason;

/// Counters of one worker. Its thread alone adds, so that no addition needs the processor's lock; readers may read
/// at any time from any thread.
#[derive(Debug)]
pub struct Counts {
    drops: [AtomicU64; DropReason::ALL.len()],
    observed: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { drops: std::array::from_fn(|_| AtomicU64::new(0)), observed: AtomicU64::new(0) }
    }
}

impl Counts {
    /// Counts a packet that is not sent on.
    pub fn discard(&self, reason: DropReason) {
        add_one(&self.drops[reason as usize]);
    }

    /// Counts a packet that was looked at, as was asked for.
    pub fn observe(&self) {
        add_one(&self.observed);
    }

    /// Returns how many packets were not sent on for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns how many packets were looked at.
    pub fn observed(&self) -> u64 {
        self.observed.load(Ordering::Relaxed)
    }
}

fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

//! Two accounts of the kernel's, some time apart.

use std::time::Duration;

use super::counters::Counters;
use super::drops::Dropped;

/// What happened while the doctor looked.
#[derive(Debug)]
pub struct Interval {
    /// The kernel's counters at its beginning.
    pub before: Counters,
    /// And at its end.
    pub after: Counters,
    /// How long it was.
    pub elapsed: Duration,
    /// The packets that the kernel dropped meanwhile, by its own reasons, or why those can't be had.
    pub drops: Result<Vec<Dropped>, String>,
}

impl Interval {
    /// Returns how much something has grown meanwhile; what has shrunk was reset, and counts from zero.
    pub fn growth(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        let (before, after) = (counter(&self.before), counter(&self.after));
        after.checked_sub(before).unwrap_or(after)
    }
}

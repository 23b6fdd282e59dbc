//! How long something took, by how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in µs, the bounds included: from the RTT within a data centre to that by
/// satellite. What is longer is counted in one bucket more.
pub const BOUNDS: [u64; 14] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 35_000, 50_000, 75_000, 100_000, 150_000, 250_000, 500_000,
    1_000_000,
];

/// A histogram of times. One thread adds, so that no addition needs the processor's lock; any may read.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What a histogram held at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distribution {
    /// How many are in each bucket, not those below it; the last is of what exceeds every bound.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// The sum of all times, in µs.
    pub micros: u64,
}

impl Histogram {
    /// Adds a time.
    pub fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS.partition_point(|bound| *bound < micros);
        increase(&self.buckets[index], 1);
        increase(&self.micros, micros);
    }

    /// Reads it.
    pub fn read(&self) -> Distribution {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Distribution { buckets: self.buckets.each_ref().map(read), micros: read(&self.micros) }
    }
}

impl Distribution {
    /// Returns how many times there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl std::ops::AddAssign for Distribution {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
        self.micros = self.micros.wrapping_add(other.micros);
    }
}

fn increase(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000_000, 1_000_001, u64::MAX / 4] {
            histogram.add(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!((read.buckets[0], read.buckets[1]), (2, 1));
        assert_eq!((read.buckets[BOUNDS.len() - 1], read.buckets[BOUNDS.len()]), (1, 2));
        let mut twice = read;
        twice += read;
        assert_eq!((read.count(), twice.count(), twice.micros), (6, 12, 2 * read.micros));
    }
}

//! How values are spread, to within an eighth, in a kilobyte.

use serde::Serialize;

/// Buckets of an octave.
const STEPS: usize = 8;
/// Values below this have a bucket of their own.
const EXACT: u64 = STEPS as u64;
/// Octaves from 2³ to 2³², which as µs is more than an hour and as bytes 4 GiB.
const OCTAVES: usize = 29;
const BUCKETS: usize = STEPS + OCTAVES * STEPS;

/// Counts values in buckets whose width is an eighth of their octave: a value read back is wrong by an eighth at
/// most. What is beyond 2³² − 1 counts as that. The least and the greatest value are kept exactly, so that a
/// distribution of one value gives that value back.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    buckets: [u32; BUCKETS],
    count: u64,
    least: u32,
    greatest: u32,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, least: u32::MAX, greatest: 0 }
    }
}

fn bucket(value: u32) -> usize {
    let value = u64::from(value);
    if value < EXACT {
        return value as usize;
    }
    let octave = value.ilog2() as usize;
    let step = (value >> (octave - 3)) as usize % STEPS;
    STEPS + (octave - 3) * STEPS + step
}

/// Returns the least value of a bucket and how many values it has.
fn range(bucket: usize) -> (u64, u64) {
    if bucket < STEPS {
        return (bucket as u64, 1);
    }
    let (octave, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    ((EXACT + step as u64) << octave, 1 << octave)
}

impl Distribution {
    pub(super) fn add(&mut self, value: u32) {
        let cell = &mut self.buckets[bucket(value)];
        *cell = cell.saturating_add(1);
        self.count += 1;
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// Returns the value that the share `q` of all does not exceed; `None` if there is none at all.
    fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (index, held) in self.buckets.iter().enumerate() {
            let held = u64::from(*held);
            if below + held >= rank {
                let (from, width) = range(index);
                // As if the values of a bucket were spread evenly over it.
                let share = ((rank - below) as f64 - 0.5) / held as f64;
                let value = from as f64 + (width - 1) as f64 * share;
                return Some(value.clamp(self.least.into(), self.greatest.into()));
            }
            below += held;
        }
        None
    }

    /// Reads the quantiles, each divided by `unit`; `None` if nothing was added.
    pub(super) fn quantiles(&self, unit: f64) -> Option<Quantiles> {
        let read = |q| self.quantile(q).map(|value| (value / unit * 1000.0).round() / 1000.0);
        Some(Quantiles { count: self.count, p50: read(0.5)?, p90: read(0.9)?, p99: read(0.99)? })
    }

    /// Returns the corners of the curve of shares: up to a value, divided by `unit`, lies this share of all.
    pub(super) fn curve(&self, unit: f64) -> Vec<(f64, f64)> {
        let (mut below, all) = (0, self.count.max(1) as f64);
        let mut corners = Vec::new();
        for (index, held) in self.buckets.iter().enumerate().filter(|(_, held)| **held > 0) {
            let (from, width) = range(index);
            let clamp = |value: u64| (value as f64).clamp(self.least.into(), self.greatest.into()) / unit;
            corners.push((clamp(from), below as f64 / all));
            below += u64::from(*held);
            corners.push((clamp(from + width - 1), below as f64 / all));
        }
        corners
    }
}

/// What a distribution comes to. Times are in ms, sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many values there are.
    pub count: u64,
    /// Half of them are no greater.
    pub p50: f64,
    /// Nine in ten are no greater.
    pub p90: f64,
    /// Ninety-nine in a hundred are no greater.
    pub p99: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_join() {
        let mut next = 0;
        for index in 0..BUCKETS {
            let (from, width) = range(index);
            assert_eq!(from, next);
            assert_eq!((bucket(from as u32), bucket((from + width - 1) as u32)), (index, index));
            next = from + width;
        }
        assert_eq!(next, 1 << 32);
    }

    #[test]
    fn of_one_value_that_value_is_read_and_of_none_nothing() {
        let mut one = Distribution::default();
        assert_eq!((one.quantiles(1.0), one.curve(1.0)), (None, vec![]));
        (0..7).for_each(|_| one.add(50_321));
        assert_eq!(
            one.quantiles(1000.0),
            Some(Quantiles { count: 7, p50: 50.321, p90: 50.321, p99: 50.321 })
        );
        assert_eq!(one.curve(1.0), [(50_321.0, 0.0), (50_321.0, 1.0)]);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list_to_an_eighth(
            mut values in proptest::collection::vec((0u32..32).prop_flat_map(|bits| 0..=u32::MAX >> bits), 1..200),
        ) {
            let mut counted = Distribution::default();
            values.iter().for_each(|value| counted.add(*value));
            values.sort_unstable();
            for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
                let rank = (values.len() as f64 * q).ceil() as usize;
                let (exact, read) = (f64::from(values[rank.max(1) - 1]), counted.quantile(q).unwrap());
                prop_assert!((read - exact).abs() <= exact / 8.0 + 1e-9, "{} is read as {}", exact, read);
            }
        }
    }
}

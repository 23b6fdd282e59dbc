//! Order statistics of a handful of samples.

use serde::Serialize;

/// Five order statistics, in the unit of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The least sample.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten samples are at most this.
    pub p90: f64,
    /// Ninety-nine of a hundred are; with fewer than a hundred it is the maximum.
    pub p99: f64,
    /// The greatest sample.
    pub max: f64,
}

impl Summary {
    /// Summarises samples in any order; `None` if there are none. They must not be NaN.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let at = |share| quantile(&sorted, share);
        Some(Self { min: at(0.0)?, p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

/// Returns the samples in ascending order.
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Returns the least sample that at least `share` (0–1) of all samples do not exceed: the
/// nearest-rank quantile, which is always a value that was measured. `None` without samples.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().checked_sub(1)?)).copied()
}

/// Rounds to a thousandth: the microsecond of a value in milliseconds, below which a user-space
/// clock means nothing.
pub fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, counted out sample by sample.
    fn naive(samples: &[f64], share: f64) -> f64 {
        let reaches = |candidate: f64| {
            let below = samples.iter().filter(|s| **s <= candidate).count();
            below as f64 >= share * samples.len() as f64
        };
        samples.iter().copied().filter(|s| reaches(*s)).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn quantiles_are_as_defined() {
        let mut state = 1_u64;
        for count in 1..120 {
            let samples: Vec<f64> = (0..count)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 33) % 50) as f64
                })
                .collect();
            let ascending = sorted(&samples);
            for share in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
                assert_eq!(
                    quantile(&ascending, share),
                    Some(naive(&samples, share)),
                    "{share} of {samples:?}"
                );
            }
        }
    }

    #[test]
    fn summary_of_nothing_is_nothing() {
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[3.0]).unwrap();
        assert_eq!((one.min, one.p50, one.max), (3.0, 3.0, 3.0));
    }

    #[test]
    fn order_does_not_matter() {
        let up: Vec<f64> = (1..=40).map(f64::from).collect();
        let down: Vec<f64> = up.iter().rev().copied().collect();
        assert_eq!(Summary::of(&up), Summary::of(&down));
        assert_eq!(Summary::of(&up).unwrap().p90, 36.0);
    }
}

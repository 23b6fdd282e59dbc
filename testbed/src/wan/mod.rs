//! The long leg: a delay line in user space between the two NICs.

use std::time::Duration;

/// What happens to packets on the long leg, the same in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// How long a packet is on its way.
    pub one_way_delay: Duration,
    /// The delay varies uniformly by up to this, either way. It alone never reorders packets.
    pub jitter: Duration,
    /// Probability (0–1) that a packet is lost.
    pub loss: f64,
    /// Probability (0–1) that a packet is held back so that later ones overtake it.
    pub reorder: f64,
    /// Probability (0–1) that a packet arrives twice.
    pub duplicate: f64,
    /// Rate in bit/s at which packets are serialised; none means at once.
    pub rate_bits: Option<u64>,
    /// Seed of the random choices: the same seed and packets give the same fate.
    pub seed: u64,
}

impl Path {
    /// A clean path with this round-trip time.
    pub fn with_rtt(rtt: Duration) -> Self {
        Self {
            one_way_delay: rtt / 2,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            rate_bits: None,
            seed: 1,
        }
    }
}

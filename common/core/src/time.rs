//! The engines' clock: an argument, never a call.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time in whole microseconds since an origin that the caller chooses.
///
/// The daemons use `CLOCK_MONOTONIC`; the simulator uses a virtual clock. The origin means
/// nothing: only differences do.
///
/// ```
/// use rtt0_core::time::Instant;
/// use std::time::Duration;
/// let t = Instant::from_micros(5) + Duration::from_millis(1);
/// assert_eq!(t.as_micros(), 1_005);
/// assert_eq!(t - Instant::from_micros(5), Duration::from_millis(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// Makes an instant `micros` µs after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the µs since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Saturates at the end of the clock (584,000 years).
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// The time from `earlier` to `self`; zero if `earlier` is later (clocks of two threads may
    /// be read in either order).
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

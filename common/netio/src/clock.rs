//! The clock that the engines are driven with.

use rtt0_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Returns the present time of `CLOCK_MONOTONIC` (clock_gettime(2)), cut to whole microseconds.
///
/// It costs no system call (vDSO), never goes backwards and isn't moved by NTP steps.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_micros(seconds.saturating_mul(1_000_000) + nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::now;

    #[test]
    fn follows_the_monotonic_clock() {
        let before = std::time::Instant::now();
        let first = now();
        while now() == first {
            std::hint::spin_loop();
        }
        let second = now();
        assert!(second > first);
        assert!(second - first <= before.elapsed() + std::time::Duration::from_micros(1));
    }
}

//! When packets are let gather.
//!
//! A real-time packet thread runs the moment a packet is there, before whoever sends the next one, and so sleeps and wakes up nearly
//! once a packet. While few come that is as it should be. While many come, most of the processor's time goes into waking up: then the
//! thread looks for packets only now and then, and whoever else needs the processor gets it meanwhile.

use std::time::Duration;

use rtt0_core::time::Instant;

/// Packets a millisecond from which on they are many.
const MANY: u128 = 40;
/// How often it is looked whether they are.
const SPAN: Duration = Duration::from_millis(1);

/// Counts packets, and tells for how long to let more gather.
#[derive(Debug)]
pub(crate) struct Pace {
    pause: Duration,
    /// When this span began, and how many packets have come since.
    begun: Instant,
    packets: u64,
    are_many: bool,
}

impl Pace {
    /// Makes one that answers with `pause` while packets are many; zero is never to pause.
    pub(crate) fn new(now: Instant, pause: Duration) -> Self {
        Self { pause, begun: now, packets: 0, are_many: false }
    }

    /// Counts a packet.
    pub(crate) fn count(&mut self) {
        self.packets += 1;
    }

    /// Returns for how long not to look for packets, now that none are left.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let passed = now - self.begun;
        if passed >= SPAN {
            self.are_many = u128::from(self.packets) * SPAN.as_nanos() >= MANY * passed.as_nanos();
            (self.begun, self.packets) = (now, 0);
        }
        (self.are_many && !self.pause.is_zero()).then_some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    fn count(pace: &mut Pace, packets: u32) {
        (0..packets).for_each(|_| pace.count());
    }

    #[test]
    fn few_packets_are_looked_for_at_once() {
        let mut pace = Pace::new(at(0), PAUSE);
        for n in 1..1000 {
            pace.count();
            assert_eq!(pace.pause(at(n * 30)), None);
        }
    }

    #[test]
    fn many_packets_gather_from_the_second_span_on() {
        let mut pace = Pace::new(at(0), PAUSE);
        for n in 1..1000 {
            pace.count();
            assert_eq!(pace.pause(at(n * 20)), (n * 20 >= 1000).then_some(PAUSE), "{n}");
        }
    }

    #[test]
    fn a_quiet_span_ends_it_however_long() {
        for quiet in [1_000, 10_000_000] {
            let mut pace = Pace::new(at(0), PAUSE);
            count(&mut pace, 50);
            assert_eq!(pace.pause(at(1_000)), Some(PAUSE));
            count(&mut pace, 30);
            assert_eq!(pace.pause(at(1_000 + quiet)), None);
        }
    }

    #[test]
    fn none_is_never() {
        let mut pace = Pace::new(at(0), Duration::ZERO);
        count(&mut pace, 1_000);
        assert_eq!(pace.pause(at(1_000)), None);
    }
}

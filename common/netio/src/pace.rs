//! When packets are let gather.
//!
//! A real-time packet thread runs the moment a packet is there, before whoever sends the next one, and so sleeps and wakes up nearly
//! once a packet. While few come that is as it should be. While many come, most of the processor's time goes into waking up: then the
//! thread looks for packets only now and then, and whoever else needs the processor gets it meanwhile.
//!
//! Where few parties take turns, on a short path, many packets come as well, but none while the thread does not look: all wait for its
//! answer. So if few have gathered, the thread looks at once again for a while.

use std::time::Duration;

use rtt0_core::time::Instant;

/// Packets a millisecond from which on they are many.
const MANY: u128 = 40;
/// How often it is looked whether they are.
const SPAN: Duration = Duration::from_millis(1);
/// So many have to gather in a pause, of which two clients that take turns with this thread send no more: an offer, an ACK and a request
/// before there is anything to wait for, and the end of the connection before.
const ENOUGH: u64 = 8;
/// For how long none are let gather after a pause in which few have: such pauses are a hundredth of the time then.
const REST: Duration = Duration::from_millis(10);

/// Counts packets, and tells for how long to let more gather.
#[derive(Debug)]
pub(crate) struct Pace {
    pause: Duration,
    /// When this span began, and how many packets have come since.
    begun: Instant,
    packets: u64,
    are_many: bool,
    /// How many have come since a pause, from then on until all that had gathered have been counted.
    gathered: Option<u64>,
    /// When the next pause may be.
    next: Instant,
}

impl Pace {
    /// Makes one that answers with `pause` while packets are many; zero is never to pause.
    pub(crate) fn new(now: Instant, pause: Duration) -> Self {
        Self { pause, begun: now, packets: 0, are_many: false, gathered: None, next: now }
    }

    /// Counts a packet.
    pub(crate) fn count(&mut self) {
        self.packets += 1;
        self.gathered = self.gathered.map(|gathered| gathered + 1);
    }

    /// Hears that all packets that had come have been counted.
    pub(crate) fn looked(&mut self, now: Instant) {
        let Some(gathered) = self.gathered.take() else { return };
        if gathered < ENOUGH {
            self.next = now + REST;
        }
    }

    /// Returns for how long not to look for packets, now that none are left.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let passed = now - self.begun;
        if passed >= SPAN {
            self.are_many = u128::from(self.packets) * SPAN.as_nanos() >= MANY * passed.as_nanos();
            (self.begun, self.packets) = (now, 0);
        }
        let pauses = self.are_many && !self.pause.is_zero() && now >= self.next;
        self.gathered = pauses.then_some(0);
        pauses.then_some(self.pause)
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
    fn if_few_gather_the_next_ones_are_looked_for_at_once_for_a_while() {
        for (gathered, is_again) in [(7, false), (8, true)] {
            let mut pace = Pace::new(at(0), PAUSE);
            count(&mut pace, 50);
            assert_eq!(pace.pause(at(1_000)), Some(PAUSE));
            count(&mut pace, gathered);
            pace.looked(at(1_100));
            // Answers to them, which have not gathered.
            for n in 0..200 {
                count(&mut pace, 10);
                pace.looked(at(1_150 + n * 50));
                let pause = pace.pause(at(1_150 + n * 50));
                assert_eq!(pause.is_some(), is_again || n * 50 >= 9_950, "{gathered}, {n}");
            }
        }
    }

    #[test]
    fn none_is_never() {
        let mut pace = Pace::new(at(0), Duration::ZERO);
        count(&mut pace, 1_000);
        assert_eq!(pace.pause(at(1_000)), None);
    }
}

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
/// So many have to gather in a pause, in the mean of some. A lone client that is answered early sends no more than four before it
/// waits: the end of the connection before, an offer, an ACK and a request.
const ENOUGH: u64 = 5;
/// Pauses that are judged together: single ones scatter.
const PAUSES: u64 = 8;
/// For how long none are let gather after few have: what a lone client is kept waiting for is a few hundredths of the time then.
const REST: Duration = Duration::from_millis(50);

/// Counts packets, and tells for how long to let more gather.
#[derive(Debug)]
pub(crate) struct Pace {
    pause: Duration,
    /// When this span began, and how many packets have come since.
    begun: Instant,
    packets: u64,
    are_many: bool,
    /// The last pauses, how many packets had gathered in them, and whether those of the last one are still being counted.
    pauses: u64,
    gathered: u64,
    is_after_pause: bool,
    /// When the next pause may be.
    next: Instant,
}

impl Pace {
    /// Makes one that answers with `pause` while packets are many; zero is never to pause.
    pub(crate) fn new(now: Instant, pause: Duration) -> Self {
        Self {
            pause,
            begun: now,
            packets: 0,
            are_many: false,
            pauses: 0,
            gathered: 0,
            is_after_pause: false,
            next: now,
        }
    }

    /// Counts a packet.
    pub(crate) fn count(&mut self) {
        self.packets += 1;
        self.gathered += u64::from(self.is_after_pause);
    }

    /// Hears that all packets that had come have been counted.
    pub(crate) fn looked(&mut self, now: Instant) {
        self.is_after_pause = false;
        if self.pauses < PAUSES {
            return;
        }
        if self.gathered < self.pauses * ENOUGH {
            self.next = now + REST;
        }
        (self.pauses, self.gathered) = (0, 0);
    }

    /// Returns for how long not to look for packets, now that none are left.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let passed = now - self.begun;
        if passed >= SPAN {
            self.are_many = u128::from(self.packets) * SPAN.as_nanos() >= MANY * passed.as_nanos();
            (self.begun, self.packets) = (now, 0);
        }
        let pauses = self.are_many && !self.pause.is_zero() && now >= self.next;
        self.is_after_pause = pauses;
        self.pauses += u64::from(pauses);
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
        for (gathered, are_few) in [([8, 2], false), ([7, 2], true)] {
            let mut pace = Pace::new(at(0), PAUSE);
            count(&mut pace, 50);
            let mut time = 1_000;
            for n in 0..8 {
                assert_eq!(pace.pause(at(time)), Some(PAUSE));
                count(&mut pace, gathered[n % 2]);
                pace.looked(at(time + 100));
                // Answers to them, which have not gathered.
                count(&mut pace, 10);
                pace.looked(at(time + 110));
                time += 150;
            }
            for n in 0..500 {
                count(&mut pace, 10);
                let pause = pace.pause(at(time + n * 100));
                assert_eq!(pause.is_some(), !are_few || n * 100 >= 49_960, "{gathered:?}, {n}");
                count(&mut pace, 10);
                pace.looked(at(time + n * 100 + 10));
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

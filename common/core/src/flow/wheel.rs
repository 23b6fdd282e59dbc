//! A timer wheel of one level: O(1) to set and to stop, lazily corrected when it turns.

use super::chunks::Chunks;
use crate::time::Instant;

/// Slots of the wheel, a power of two.
const SLOTS: usize = 8192;
/// Length of a slot in µs. With 8,192 slots the wheel spans 65.5 s; what lies beyond is looked
/// at once a turn.
const TICK: u64 = 8_000;
const WORDS: usize = SLOTS / 64;
/// No timer, and no slot.
const NONE: u32 = u32::MAX;
const NO_SLOT: u16 = u16::MAX;

/// A timer in the list of its slot. Whose it is, its number says.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    behind: u32,
    slot: u16,
}

const IDLE: Link = Link { before: NONE, behind: NONE, slot: NO_SLOT };

/// Timers numbered from 0, one for each flow, dense: chained through an array, so that none is ever
/// searched for and nothing is allocated when they come and go. The wheel never forgets a timer by
/// itself: its owner checks, when it comes up, whether it is time, and stops it when it goes.
#[derive(Debug)]
pub(super) struct Wheel {
    links: Chunks<Link>,
    /// The first timer of each slot.
    heads: Vec<u32>,
    /// Bit per slot: not empty.
    occupied: [u64; WORDS],
    /// What is left of the slot that was taken out last.
    current: u32,
    /// The next tick to be looked at.
    cursor: u64,
}

impl Wheel {
    /// Makes a wheel for at most `bound` timers.
    pub(super) fn new(bound: usize) -> Self {
        let (links, heads) = (Chunks::new(bound), vec![NONE; SLOTS]);
        Self { links, heads, occupied: [0; WORDS], current: NONE, cursor: 0 }
    }

    fn has_none_waiting(&self) -> bool {
        self.occupied.iter().all(|word| *word == 0)
    }

    /// Lets an empty wheel begin at the present.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.current == NONE && self.has_none_waiting() {
            self.cursor = self.cursor.max(now.as_micros() / TICK);
        }
    }

    /// Returns a time within a turn from `now`, another one for each `index`.
    pub(super) fn spread(&self, now: Instant, index: usize) -> Instant {
        Instant::from_micros(now.as_micros() + (index % SLOTS) as u64 * TICK)
    }

    /// Sets a timer, whether it is set or not, so that it comes up no earlier than `at` (or than a
    /// turn from now, if that is sooner).
    pub(super) fn set(&mut self, timer: u32, at: Instant) {
        self.stop(timer);
        while self.links.len() <= timer as usize {
            self.links.push(IDLE);
        }
        let wanted = at.as_micros().div_ceil(TICK);
        let tick = wanted.clamp(self.cursor, self.cursor + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        let behind = std::mem::replace(&mut self.heads[slot], timer);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.change(behind, |link| link.before = timer);
        self.change(timer, |link| *link = Link { before: NONE, behind, slot: slot as u16 });
    }

    /// Stops a timer, if it is set.
    pub(super) fn stop(&mut self, timer: u32) {
        let Some(link) = self.links.get_mut(timer) else { return };
        let Link { before, behind, slot } = std::mem::replace(link, IDLE);
        if slot == NO_SLOT {
            return;
        }
        let slot = usize::from(slot);
        if before != NONE {
            self.change(before, |link| link.behind = behind);
        } else if self.current == timer {
            self.current = behind;
        } else {
            self.heads[slot] = behind;
            if behind == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        }
        self.change(behind, |link| link.before = before);
    }

    /// Tells whether a timer is set.
    pub(super) fn is_set(&self, timer: u32) -> bool {
        self.links.get(timer).is_some_and(|link| link.slot != NO_SLOT)
    }

    fn change(&mut self, timer: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(timer) {
            change(link);
        }
    }

    /// Tells the time of the first slot with a timer; the clock's origin if one has come up already.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.current == NONE {
            self.next_tick().map(|tick| Instant::from_micros(tick * TICK))
        } else {
            Some(Instant::ZERO)
        }
    }

    fn next_tick(&self) -> Option<u64> {
        let from = (self.cursor % SLOTS as u64) as usize;
        // The word that holds the cursor is looked at twice: for the bits from the cursor on,
        // and after a whole turn for those before it.
        for step in 0..=WORDS {
            let index = (from / 64 + step) % WORDS;
            let mut word = self.occupied[index];
            if step == 0 {
                word &= u64::MAX << (from % 64);
            } else if step == WORDS {
                word &= !(u64::MAX << (from % 64));
            }
            if word != 0 {
                let slot = index * 64 + word.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - from) % SLOTS;
                return Some(self.cursor + ahead as u64);
            }
        }
        None
    }

    /// Takes out a timer that has come up by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        if self.current == NONE {
            let present = now.as_micros() / TICK;
            let Some(tick) = self.next_tick().filter(|tick| *tick <= present) else {
                self.cursor = self.cursor.max(present);
                return None;
            };
            let slot = (tick % SLOTS as u64) as usize;
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            // The cursor stays on this tick: what is set for it again comes up again. With nothing
            // else in the wheel it can come up to the present at once; the first turn of all may find
            // that the clock's origin lies years back.
            self.cursor = if self.has_none_waiting() { present } else { tick };
            self.current = std::mem::replace(&mut self.heads[slot], NONE);
        }
        let timer = self.current;
        self.stop(timer);
        Some(timer)
    }

    /// Returns how many timers come up together with this one, itself included.
    #[cfg(test)]
    pub(super) fn company(&self, timer: u32) -> usize {
        let slot = self.links.get(timer).map_or(NO_SLOT, |link| link.slot);
        (0..self.links.len() as u32).filter(|other| self.links.get(*other).unwrap().slot == slot).count()
    }

    /// Counts the timers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        (0..self.links.len() as u32).filter(|timer| self.links.get(*timer).unwrap().slot != NO_SLOT).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_turn_comes_up_to_a_clock_of_years_at_once() {
        let year = 365 * 24 * 3600 * 1_000_000;
        let (now, at) = (Instant::from_micros(year), Instant::from_micros(year + 600_000_000));
        let mut wheel = Wheel::new(2);
        wheel.set(0, at);
        wheel.set(1, at);
        for _ in 0..2 {
            let timer = wheel.pop(now).unwrap();
            wheel.set(timer, at);
        }
        assert!(wheel.next().unwrap() > now);
        assert_eq!(wheel.pop(now), None);
    }

    #[test]
    fn a_timer_that_has_come_up_can_be_stopped_before_it_is_taken_out() {
        let mut wheel = Wheel::new(9);
        for timer in 0..5 {
            wheel.set(timer, Instant::ZERO);
        }
        assert_eq!(wheel.pop(Instant::ZERO), Some(4));
        wheel.set(7, Instant::ZERO);
        wheel.stop(3);
        wheel.stop(1);
        assert_eq!(wheel.next(), Some(Instant::ZERO));
        let mut rest: Vec<_> = std::iter::from_fn(|| wheel.pop(Instant::ZERO)).collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 2, 7]);
        assert_eq!((wheel.len(), wheel.next()), (0, None));
    }

    proptest! {
        /// Against a plain list: no timer comes up early, none is lost, and none later than a
        /// tick after its time once the wheel has been turned there.
        #[test]
        fn turns_like_a_sorted_list(
            steps in proptest::collection::vec((0u64..200_000_000, 0u64..30_000_000), 1..60),
        ) {
            let mut wheel = Wheel::new(60);
            let mut waiting: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            for (id, (ahead, advance)) in (0..).zip(steps) {
                wheel.set(id, Instant::from_micros(now + ahead));
                waiting.push((now + ahead, id));
                now += advance;
                while let Some(id) = wheel.pop(Instant::from_micros(now)) {
                    let at = waiting.iter().position(|w| w.1 == id).expect("known timer");
                    if waiting[at].0 > now {
                        // Beyond the wheel's span: the owner sets it again.
                        wheel.set(id, Instant::from_micros(waiting[at].0));
                    } else {
                        waiting.swap_remove(at);
                    }
                }
                prop_assert!(waiting.iter().all(|w| w.0 + TICK > now));
                let first = waiting.iter().map(|w| w.0).min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next(), first) {
                    prop_assert!(next.as_micros() < first + TICK);
                }
            }
        }
    }
}

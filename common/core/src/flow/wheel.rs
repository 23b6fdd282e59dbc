//! A timer wheel of one level: O(1) to set, lazily corrected when it turns.

use crate::time::Instant;

/// Slots of the wheel, a power of two.
const SLOTS: usize = 8192;
/// Length of a slot in µs. With 8,192 slots the wheel spans 65.5 s; what lies beyond is looked
/// at once a turn.
const TICK: u64 = 8_000;
const WORDS: usize = SLOTS / 64;

/// Where a timer stands, until the wheel turns there or [`Wheel::remove`] moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    tick: u64,
    position: u32,
}

impl Place {
    /// Tells whether another timer comes up together with this one.
    #[cfg(test)]
    pub(super) fn is_with(&self, other: &Self) -> bool {
        self.tick == other.tick
    }
}

/// Timers that name their owner by a `K`. The wheel never forgets a timer by itself: owners
/// check, when one comes up, whether it is time, and take it out when they go.
#[derive(Debug)]
pub(super) struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// Bit per slot: not empty.
    occupied: [u64; WORDS],
    /// The next tick to be looked at.
    cursor: u64,
}

impl<K> Wheel<K> {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; WORDS], cursor: 0 }
    }

    /// Lets an empty wheel begin at the present.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.occupied.iter().all(|word| *word == 0) {
            self.cursor = self.cursor.max(now.as_micros() / TICK);
        }
    }

    /// Returns a time within a turn from `now`, another one for each `index`.
    pub(super) fn spread(&self, now: Instant, index: usize) -> Instant {
        Instant::from_micros(now.as_micros() + (index % SLOTS) as u64 * TICK)
    }

    /// Sets a timer that comes up no earlier than `at` (or than a turn from now, if that is
    /// sooner) and returns its place.
    pub(super) fn set(&mut self, at: Instant, key: K) -> Place {
        let wanted = at.as_micros().div_ceil(TICK);
        let tick = wanted.clamp(self.cursor, self.cursor + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        let position = self.slots[slot].len() as u32;
        self.slots[slot].push(key);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        Place { tick, position }
    }

    /// Takes a timer out. Another may take its place: then its key is returned.
    pub(super) fn remove(&mut self, place: Place) -> Option<&K> {
        let slot = (place.tick % SLOTS as u64) as usize;
        let position = place.position as usize;
        if position < self.slots[slot].len() {
            self.slots[slot].swap_remove(position);
        }
        if self.slots[slot].is_empty() {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.slots[slot].get(position)
    }

    /// Counts the timers: O(slots).
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    /// Tells the time of the first slot with a timer.
    pub(super) fn next(&self) -> Option<Instant> {
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
                return Some(Instant::from_micros((self.cursor + ahead as u64) * TICK));
            }
        }
        None
    }

    /// Takes out the timers of the first slot that has come by `now`, with its tick.
    pub(super) fn turn(&mut self, now: Instant) -> Option<(u64, Vec<K>)> {
        let present = now.as_micros() / TICK;
        let due = self.next().filter(|at| *at <= now).map(|at| at.as_micros() / TICK);
        let Some(tick) = due else {
            self.cursor = self.cursor.max(present);
            return None;
        };
        let slot = (tick % SLOTS as u64) as usize;
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        // The cursor stays on this tick: what is set for it again comes up again. With nothing else
        // in the wheel it can come up to the present at once; the first turn of all may find that
        // the clock's origin lies years back.
        let is_empty = self.occupied.iter().all(|word| *word == 0);
        self.cursor = if is_empty { present } else { tick };
        Some((tick, std::mem::take(&mut self.slots[slot])))
    }

    /// Gives back the memory of a slot that [`Wheel::turn`] took out, emptied.
    pub(super) fn recycle(&mut self, tick: u64, mut keys: Vec<K>) {
        let slot = &mut self.slots[(tick % SLOTS as u64) as usize];
        // Only a slot's usual load is worth keeping.
        if slot.is_empty() && keys.capacity() <= 64 {
            keys.clear();
            *slot = keys;
        }
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
        let mut wheel = Wheel::new();
        wheel.set(at, ());
        let (tick, keys) = wheel.turn(now).unwrap();
        wheel.recycle(tick, keys);
        wheel.set(at, ());
        assert!(wheel.next().unwrap() > now);
        assert_eq!(wheel.turn(now), None);
    }

    proptest! {
        /// Against a plain list: no timer comes up early, none is lost, and none later than a
        /// tick after its time once the wheel has been turned there.
        #[test]
        fn turns_like_a_sorted_list(
            steps in proptest::collection::vec((0u64..200_000_000, 0u64..30_000_000), 1..60),
        ) {
            let mut wheel = Wheel::new();
            let mut waiting: Vec<(u64, usize)> = Vec::new();
            let mut now = 0;
            for (id, (ahead, advance)) in steps.into_iter().enumerate() {
                wheel.set(Instant::from_micros(now + ahead), id);
                waiting.push((now + ahead, id));
                now += advance;
                while let Some((_, ids)) = wheel.turn(Instant::from_micros(now)) {
                    for id in ids {
                        let at = waiting.iter().position(|w| w.1 == id).expect("known timer");
                        if waiting[at].0 > now {
                            // Beyond the wheel's span: the owner sets it again.
                            wheel.set(Instant::from_micros(waiting[at].0), id);
                        } else {
                            waiting.swap_remove(at);
                        }
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

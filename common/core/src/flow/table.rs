//! The bounded flow table with lazy timers.

use super::FlowKey;
use super::ahead::{Ahead, BATCH};
use super::chunks::Chunks;
use super::index::Index;
use super::queue::Queue;
use super::wheel::Wheel;
use crate::time::Instant;
use foldhash::quality::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;

/// The table holds as many flows as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow table is full")]
pub struct Full;

/// Timers that are looked at in one call, due or not.
const LOOKS: usize = 1024;
/// With fewer flows than this the table is in the processor's caches anyway.
const CACHED: usize = 4096;
/// The most flows a table may be made for: they are numbered by 32 bits, of which the index takes one.
const MOST: usize = 1 << 30;

/// A flow's value and its deadline.
#[derive(Debug)]
// In this order: what the table reads is in one cache line, with the beginning of the value.
#[repr(C)]
pub struct Entry<V> {
    key: FlowKey,
    deadline: Instant,
    /// What is known of the flow.
    pub value: V,
}

impl<V> Entry<V> {
    /// Moves the deadline to `at`, no earlier than it was: one store, the wheel is not touched.
    /// To move it forward use [`FlowTable::set_deadline`].
    pub fn postpone(&mut self, at: Instant) {
        if at > self.deadline {
            self.deadline = at;
        }
    }

    /// Returns the deadline.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Room for a flow: whole cache lines.
#[derive(Debug)]
#[repr(align(64))]
enum Slot<V> {
    Taken(Entry<V>),
    /// With the number of the slot that became free before it.
    Free(Option<u32>),
}

/// Maps flows to `V`, never more than its bound, each with a deadline.
///
/// A flow has a number, which names its slot, its timer and its place among those at rest; an index
/// leads from its hash to the number. No flow ever moves, and growth never makes packets wait.
///
/// A deadline that moves back costs nothing but a store: the timer comes up at the old time,
/// finds that it is too early and is set anew. A flow has one timer at most, so that the table's
/// bound is also the wheel's, however fast flows come and go.
#[derive(Debug)]
pub struct FlowTable<V> {
    index: Index,
    slots: Chunks<Slot<V>>,
    free: Option<u32>,
    wheel: Wheel,
    /// Those that may make room for others.
    resting: Queue,
    hasher: RandomState,
    /// The flow that was looked up last; a packet's flow is looked up several times.
    last: u32,
    ahead: Ahead,
    length: usize,
    bound: usize,
}

impl<V> FlowTable<V> {
    /// Makes an empty table for at most `bound` flows, but never more than 2³⁰.
    pub fn new(bound: usize) -> Self {
        let bound = bound.min(MOST);
        Self {
            index: Index::new(),
            slots: Chunks::new(bound),
            free: None,
            wheel: Wheel::new(bound),
            resting: Queue::new(bound),
            hasher: RandomState::default(),
            last: 0,
            ahead: Ahead::new(),
            length: 0,
            bound,
        }
    }

    /// Returns the number of flows.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tells whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tells whether there is no room for another flow.
    pub fn is_full(&self) -> bool {
        self.length >= self.bound
    }

    /// Returns for how many more flows there is room.
    pub fn room(&self) -> usize {
        self.bound.saturating_sub(self.length)
    }

    fn hash(&self, key: &FlowKey) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    fn entry(&self, number: u32) -> Option<&Entry<V>> {
        match self.slots.get(number)? {
            Slot::Taken(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry<V>> {
        match self.slots.get_mut(number)? {
            Slot::Taken(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    fn is_at(&self, number: u32, key: &FlowKey) -> bool {
        self.entry(number).is_some_and(|entry| entry.key == *key)
    }

    fn find(&self, key: &FlowKey) -> Option<u32> {
        if self.is_at(self.last, key) {
            return Some(self.last);
        }
        let ahead = self.ahead.find(|number| self.is_at(number, key));
        ahead.or_else(|| self.index.find(self.hash(key), |number| self.is_at(number, key)))
    }

    /// Looks a flow up without touching it.
    pub fn get(&self, key: &FlowKey) -> Option<&Entry<V>> {
        self.entry(self.find(key)?)
    }

    /// Looks a flow up.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Entry<V>> {
        let number = self.find(key)?;
        if number != self.last {
            self.ahead.pass(number);
            self.last = number;
        }
        self.entry_mut(number)
    }

    /// Looks at `looks` places of the table from `from` on, and at no more. Returns the flows there, and where to go
    /// on unless that was the end.
    pub fn survey(
        &self,
        from: u32,
        looks: u32,
    ) -> (impl Iterator<Item = (&FlowKey, &Entry<V>)>, Option<u32>) {
        let end = from.saturating_add(looks).min(self.slots.len() as u32);
        let flows = (from..end).filter_map(|number| self.entry(number)).map(|entry| (&entry.key, entry));
        (flows, (end < self.slots.len() as u32).then_some(end))
    }

    /// Brings what will be looked up soon into the processor's caches, for a batch of packets: the
    /// memory accesses of one packet depend on each other, those of a batch do not, so that the
    /// processor makes them at the same time. `touch` reads some of each part of a value. Looks at 64
    /// keys at most; of a small table nothing is brought.
    pub fn look_ahead(&mut self, keys: impl Iterator<Item = FlowKey>, touch: impl Fn(&V) -> u32) {
        self.ahead.clear();
        if self.length < CACHED {
            return;
        }
        let (mut hashes, mut count) = ([0; BATCH], 0);
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(&key);
            count += 1;
        }
        let hashes = &hashes[..count];
        // A processor has some hundred instructions under way. So there is a short loop for each access that
        // others depend on, and nothing in it but that. The black boxes are for the compiler, which would
        // leave the accesses out.
        black_box(hashes.iter().fold(0, |seen, hash| seen ^ self.index.touch(*hash)));
        for number in hashes.iter().filter_map(|hash| self.index.find(*hash, |_| true)) {
            self.ahead.push(number);
        }
        let entries = self.ahead.rest().iter().filter_map(|number| self.entry(*number));
        black_box(
            entries.fold(0, |seen, entry| seen ^ entry.deadline.as_micros() as u32 ^ touch(&entry.value)),
        );
    }

    /// Puts a flow in, or another value in its place, and returns the value that was there.
    ///
    /// # Errors
    /// [`Full`] if the flow is new and the bound is reached: an old flow never makes room.
    pub fn insert(&mut self, key: FlowKey, value: V, deadline: Instant) -> Result<Option<V>, Full> {
        if let Some(number) = self.find(&key) {
            self.resting.leave(number);
            self.wheel.set(number, deadline);
            let Some(entry) = self.entry_mut(number) else { return Err(Full) };
            entry.deadline = deadline;
            return Ok(Some(std::mem::replace(&mut entry.value, value)));
        }
        self.put(key, value, deadline, deadline).map(|()| None).ok_or(Full)
    }

    /// Puts in a flow that is not known, with a timer that comes up at `look`.
    fn put(&mut self, key: FlowKey, value: V, look: Instant, deadline: Instant) -> Option<()> {
        if self.is_full() {
            return None;
        }
        let slot = Slot::Taken(Entry { key, value, deadline });
        let number = match self.free {
            Some(number) => {
                if let Some(Slot::Free(next)) = self.slots.get(number) {
                    self.free = *next;
                }
                *self.slots.get_mut(number)? = slot;
                number
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(self.hash(&key), number);
        self.wheel.set(number, look);
        self.length += 1;
        self.last = number;
        Some(())
    }

    /// Puts in a flow from before this table's time, with a deadline that may lie far ahead. Returns
    /// false if the flow is known or the table is full.
    ///
    /// Flows that came over hours are put in within a second; their timers are spread over a turn of
    /// the wheel, so that they never come up all at once.
    pub fn restore(&mut self, key: FlowKey, value: V, now: Instant, deadline: Instant) -> bool {
        if self.find(&key).is_some() {
            return false;
        }
        self.wheel.catch_up(now);
        let look = self.wheel.spread(now, self.length).min(deadline);
        self.put(key, value, look, deadline).is_some()
    }

    /// Takes a flow out.
    pub fn remove(&mut self, key: &FlowKey) -> Option<V> {
        let number = self.find(key)?;
        self.wheel.stop(number);
        self.resting.leave(number);
        self.index.remove(self.hash(key), number);
        let slot = std::mem::replace(self.slots.get_mut(number)?, Slot::Free(self.free));
        self.free = Some(number);
        self.length -= 1;
        match slot {
            Slot::Taken(entry) => Some(entry.value),
            Slot::Free(_) => None,
        }
    }

    /// Moves a flow's deadline to `at`, earlier or later. If it was at rest, it is no more.
    pub fn set_deadline(&mut self, key: &FlowKey, at: Instant) {
        if let Some(number) = self.move_deadline(key, at) {
            self.resting.leave(number);
        }
    }

    /// Moves a flow's deadline to `at`, earlier or later, and puts the flow to rest, or to rest anew: it
    /// may make room for another, see [`FlowTable::longest_at_rest`].
    pub fn rest(&mut self, key: &FlowKey, at: Instant) {
        if let Some(number) = self.move_deadline(key, at) {
            self.resting.leave(number);
            self.resting.join(number);
        }
    }

    /// Returns the flow that was put to rest longest ago, if its deadline comes by `until`. O(1).
    pub fn longest_at_rest(&self, until: Instant) -> Option<FlowKey> {
        let entry = self.entry(self.resting.first()?)?;
        (entry.deadline <= until).then_some(entry.key)
    }

    fn move_deadline(&mut self, key: &FlowKey, at: Instant) -> Option<u32> {
        let number = self.find(key)?;
        let entry = self.entry_mut(number)?;
        let earlier = at < std::mem::replace(&mut entry.deadline, at);
        // One that has come up, and was taken out, is set anew in any case.
        if earlier || !self.wheel.is_set(number) {
            self.wheel.set(number, at);
        }
        Some(number)
    }

    /// Returns a time at or after which [`FlowTable::pop_due`] should be called; it may find
    /// nothing then.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Returns a flow whose deadline has come. The caller removes the flow or gives it a new
    /// deadline with [`FlowTable::set_deadline`]; else it stays without a timer.
    ///
    /// The cost of a call is bounded: if there are many timers to look at, nothing may be returned
    /// while [`FlowTable::next_deadline`] stays in the past.
    pub fn pop_due(&mut self, now: Instant) -> Option<FlowKey> {
        for _ in 0..LOOKS {
            let number = self.wheel.pop(now)?;
            let Some(entry) = self.entry(number) else { continue };
            if entry.deadline <= now {
                return Some(entry.key);
            }
            self.wheel.set(number, entry.deadline);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Direction;
    use proptest::prelude::*;

    fn key(n: u16) -> FlowKey {
        let client = ([10, 1, 0, 10].into(), n);
        FlowKey::new(client, ([10, 1, 2, 10].into(), 80), Direction::ToServer)
    }

    fn ms(n: u64) -> Instant {
        Instant::from_micros(n * 1000)
    }

    #[test]
    fn the_bound_holds_and_old_flows_stay() {
        let mut table = FlowTable::new(2);
        assert_eq!(table.insert(key(1), 'a', ms(10)), Ok(None));
        assert_eq!(table.insert(key(2), 'b', ms(10)), Ok(None));
        assert_eq!(table.insert(key(3), 'c', ms(10)), Err(Full));
        assert_eq!(table.insert(key(1), 'd', ms(10)), Ok(Some('a')));
        assert_eq!(table.remove(&key(2)), Some('b'));
        assert_eq!(table.insert(key(3), 'c', ms(10)), Ok(None));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_survey_finds_each_flow_once_in_bounded_steps() {
        let mut table = FlowTable::new(9);
        for n in 1..=7 {
            table.insert(key(n), n, ms(1000)).unwrap();
        }
        table.remove(&key(3));
        let (mut from, mut found) = (Some(0), Vec::new());
        while let Some(begin) = from {
            let (flows, next) = table.survey(begin, 3);
            let before = found.len();
            found.extend(flows.map(|(key, entry)| (key.client().1, entry.value)));
            assert!(found.len() - before <= 3);
            from = next;
        }
        assert_eq!(found, [1, 2, 4, 5, 6, 7].map(|n| (n, n)));
        assert!(table.survey(u32::MAX, 3).1.is_none(), "whatever was asked for");
    }

    #[test]
    fn those_at_rest_are_known_in_their_order_until_they_wake_or_go() {
        let mut table = FlowTable::new(9);
        for n in 1..=4 {
            table.insert(key(n), (), ms(1000)).unwrap();
        }
        assert_eq!(table.longest_at_rest(ms(9_000)), None);
        for (n, at) in [(1, 500), (3, 600), (2, 700), (1, 800)] {
            table.rest(&key(n), ms(at));
        }
        assert_eq!(table.longest_at_rest(ms(599)), None, "not for long enough");
        assert_eq!(table.longest_at_rest(ms(600)), Some(key(3)), "again is anew");
        table.set_deadline(&key(3), ms(700));
        assert_eq!(table.longest_at_rest(ms(9_000)), Some(key(2)));
        table.remove(&key(2));
        assert_eq!(table.longest_at_rest(ms(9_000)), Some(key(1)));
        assert_eq!(table.pop_due(ms(720)), Some(key(3)));
        assert_eq!(table.pop_due(ms(820)), Some(key(1)), "who rests has a deadline, too");
        table.insert(key(1), (), ms(900)).unwrap();
        assert_eq!(table.longest_at_rest(ms(9_000)), None, "another flow of the same name");
    }

    /// What a timer, a look-up and a removal touch does not depend on how many flows there are: counted
    /// in cells and links, not in time.
    #[test]
    fn the_last_of_many_is_found_in_as_few_steps_as_the_first() {
        for flows in [1_000u32, 100_000] {
            let mut table = FlowTable::new(flows as usize);
            let name = |n: u32| {
                let client = ([10, 1, (n >> 16) as u8, 10].into(), n as u16);
                FlowKey::new(client, ([10, 1, 2, 10].into(), 80), Direction::ToServer)
            };
            for n in 0..flows {
                // All at one time: the worst that a wheel can meet.
                table.insert(name(n), n, ms(100)).unwrap();
            }
            let longest = (0..flows).map(|n| table.index.steps(table.hash(&name(n)))).max();
            assert!(longest < Some(100), "{longest:?}");
            let mut expired = 0;
            while let Some(flow) = table.pop_due(ms(200)) {
                table.remove(&flow);
                expired += 1;
            }
            assert_eq!((expired, table.len(), table.wheel.len()), (flows, 0, 0));
            assert_eq!(table.next_deadline(), None);
        }
    }

    /// More flows than looking ahead needs, by nine.
    fn many() -> FlowTable<u16> {
        let mut table = FlowTable::new(2 * CACHED);
        for n in 0..CACHED as u16 + 9 {
            table.insert(key(n), n, ms(100)).unwrap();
        }
        table
    }

    /// Without the index: each is one of the next two.
    #[test]
    fn what_was_looked_at_ahead_is_found_in_its_turn() {
        let mut table = many();
        let stranger = CACHED as u16 + 9;
        let names = [5, 5, stranger, 9, 7, 9, 1];
        table.look_ahead(names.map(key).into_iter(), |n| u32::from(*n));
        assert_eq!(table.ahead.rest().len(), 5);
        // The packet of 9 was dropped at the door.
        for (name, left) in [(5, 4), (5, 4), (stranger, 4), (7, 2), (9, 1), (1, 0)] {
            assert_eq!(table.get_mut(&key(name)).map(|entry| entry.value), (name < stranger).then_some(name));
            assert_eq!(table.ahead.rest().len(), left, "{name}");
        }
    }

    #[test]
    fn of_a_small_table_nothing_is_looked_at_ahead() {
        let mut table = many();
        for n in 0..10 {
            table.remove(&key(n));
        }
        table.look_ahead([key(11)].into_iter(), |_| unreachable!("in a cache anyway"));
        assert_eq!(table.ahead.rest(), []);
    }

    /// Timers that come up together long before they are due are looked at in bounded turns.
    #[test]
    fn many_timers_at_once_are_looked_at_in_turns() {
        let mut table = FlowTable::new(5_000);
        for n in 0..5_000 {
            table.insert(key(n), (), ms(100)).unwrap();
            table.get_mut(&key(n)).unwrap().postpone(ms(60_000));
        }
        let mut calls = 1;
        while table.pop_due(ms(200)).is_none() && table.next_deadline().is_some_and(|at| at <= ms(200)) {
            calls += 1;
        }
        assert_eq!(calls, 5_000 / LOOKS + 1);
        assert!(table.next_deadline() > Some(ms(59_000)));
    }

    #[test]
    fn a_postponed_deadline_is_kept() {
        let mut table = FlowTable::new(9);
        table.insert(key(1), (), ms(100)).unwrap();
        table.get_mut(&key(1)).unwrap().postpone(ms(300));
        assert_eq!(table.pop_due(ms(250)), None);
        assert_eq!(table.pop_due(ms(320)), Some(key(1)));
        assert_eq!(table.pop_due(ms(999)), None, "comes up once");
        table.set_deadline(&key(1), ms(1100));
        assert_eq!(table.pop_due(ms(1200)), Some(key(1)));
    }

    #[test]
    fn restored_flows_come_up_at_their_deadline_and_never_all_at_once() {
        let mut table = FlowTable::new(1001);
        let now = ms(1_000_000_000);
        let deadline = now + std::time::Duration::from_secs(3600);
        for n in 0..1000 {
            assert!(table.restore(key(n), (), now, if n == 0 { now } else { deadline }));
        }
        assert!(!table.restore(key(5), (), now, deadline), "known");
        assert!(table.restore(key(1000), (), now, deadline) && !table.restore(key(1001), (), now, deadline));
        assert_eq!(table.pop_due(now), Some(key(0)));
        table.remove(&key(0));
        // How many timers does a tick look at, until they all wait for the same end?
        for minute in 0..57 {
            assert_eq!(table.pop_due(now + std::time::Duration::from_secs(60 * minute)), None);
            let most = (1..1001).map(|number| table.wheel.company(number)).max();
            assert!(most < Some(5), "{most:?} at a time, minute {minute}");
        }
        let mut due = 0;
        while let Some(flow) = table.pop_due(deadline + std::time::Duration::from_millis(8)) {
            table.remove(&flow);
            due += 1;
        }
        assert_eq!((due, table.len()), (1000, 0));
    }

    #[test]
    fn flows_that_come_and_go_leave_no_timers() {
        let mut table = FlowTable::new(9);
        for n in 0..10_000 {
            table.insert(key(n % 3), (), ms(60_000)).unwrap();
            table.set_deadline(&key(n % 3), ms(50_000 - u64::from(n)));
            if n % 2 == 0 {
                table.remove(&key(n % 3));
            }
            assert_eq!(table.wheel.len(), table.len());
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u64),
        Deadline(u16, u64),
        Postpone(u16, u64),
        Remove(u16),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let flow = 0u16..8;
        let ahead = prop_oneof![0u64..400, 60_000u64..200_000];
        prop_oneof![
            (flow.clone(), ahead.clone()).prop_map(|(k, d)| Step::Insert(k, d)),
            (flow.clone(), ahead.clone()).prop_map(|(k, d)| Step::Deadline(k, d)),
            (flow.clone(), ahead.clone()).prop_map(|(k, d)| Step::Postpone(k, d)),
            flow.prop_map(Step::Remove),
            prop_oneof![0u64..100, 0u64..90_000].prop_map(Step::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever was looked at ahead, and whatever has come and gone since.
        #[test]
        fn looking_ahead_changes_no_answer(
            steps in proptest::collection::vec(
                (proptest::collection::vec(0u16..9, 0..9), 0u16..9, any::<bool>()),
                1..20,
            ),
        ) {
            let mut table = many();
            let mut oracle: std::collections::HashMap<_, _> = (0..9).map(|n| (n, n)).collect();
            for (value, (names, changed, put)) in (1_000..).zip(steps) {
                table.look_ahead(names.iter().map(|n| key(*n)), |n| u32::from(*n));
                for half in names.chunks(4) {
                    for name in half {
                        let (key, expected) = (key(*name), oracle.get(name).copied());
                        prop_assert_eq!(table.get(&key).map(|entry| entry.value), expected);
                        prop_assert_eq!(table.get_mut(&key).map(|entry| entry.value), expected);
                    }
                    if put {
                        let before = table.insert(key(changed), value, ms(100));
                        prop_assert_eq!(before, Ok(oracle.insert(changed, value)));
                    } else {
                        prop_assert_eq!(table.remove(&key(changed)), oracle.remove(&changed));
                    }
                }
            }
        }
    }

    proptest! {
        /// Against a plain map of deadlines: every flow comes up at its deadline, never before,
        /// at most a tick (8 ms) after.
        #[test]
        fn deadlines_equal_a_plain_map(steps in proptest::collection::vec(step(), 1..80)) {
            let mut table = FlowTable::new(100);
            let mut oracle = std::collections::HashMap::new();
            let mut now = 1;
            for step in steps {
                match step {
                    Step::Insert(k, d) => {
                        table.insert(key(k), (), ms(now + d)).unwrap();
                        oracle.insert(k, now + d);
                    }
                    Step::Deadline(k, d) => {
                        table.set_deadline(&key(k), ms(now + d));
                        oracle.entry(k).and_modify(|at| *at = now + d);
                    }
                    Step::Postpone(k, d) => {
                        if let Some(entry) = table.get_mut(&key(k)) { entry.postpone(ms(now + d)); }
                        oracle.entry(k).and_modify(|at| *at = (*at).max(now + d));
                    }
                    Step::Remove(k) => {
                        table.remove(&key(k));
                        oracle.remove(&k);
                    }
                    Step::Pass(d) => now += d,
                }
                while let Some(due) = table.pop_due(ms(now)) {
                    let k = due.client().1;
                    prop_assert!(oracle[&k] <= now, "flow {} came up early", k);
                    table.remove(&due);
                    oracle.remove(&k);
                }
                prop_assert!(oracle.values().all(|at| at + 8 > now), "a deadline was missed");
                prop_assert_eq!(table.len(), oracle.len());
            }
        }
    }
}

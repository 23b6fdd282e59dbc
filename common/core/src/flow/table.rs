//! The bounded flow table with lazy timers.

use super::FlowKey;
use super::wheel::{Place, Wheel};
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// The table holds as many flows as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow table is full")]
pub struct Full;

/// A flow's value and its deadline.
#[derive(Debug)]
pub struct Entry<V> {
    /// What is known of the flow.
    pub value: V,
    deadline: Instant,
    /// The flow's one timer; none while it is due.
    timer: Option<Place>,
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

/// Maps flows to `V`, never more than its bound, each with a deadline.
///
/// A deadline that moves back costs nothing but a store: the timer comes up at the old time,
/// finds that it is too early and is set anew. A flow has one timer at most, so that the table's
/// bound is also the wheel's, however fast flows come and go.
#[derive(Debug)]
pub struct FlowTable<V> {
    flows: HashMap<FlowKey, Entry<V>, foldhash::fast::RandomState>,
    wheel: Wheel<FlowKey>,
    due: VecDeque<FlowKey>,
    bound: usize,
}

impl<V> FlowTable<V> {
    /// Makes an empty table for at most `bound` flows.
    pub fn new(bound: usize) -> Self {
        Self { flows: HashMap::default(), wheel: Wheel::new(), due: VecDeque::new(), bound }
    }

    /// Returns the number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Tells whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Looks a flow up without touching it.
    pub fn get(&self, key: &FlowKey) -> Option<&Entry<V>> {
        self.flows.get(key)
    }

    /// Looks a flow up.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Entry<V>> {
        self.flows.get_mut(key)
    }

    /// Puts a flow in, or another value in its place, and returns the value that was there.
    ///
    /// # Errors
    /// [`Full`] if the flow is new and the bound is reached: an old flow never makes room.
    pub fn insert(&mut self, key: FlowKey, value: V, deadline: Instant) -> Result<Option<V>, Full> {
        let known = self.flows.contains_key(&key);
        if !known && self.flows.len() >= self.bound {
            return Err(Full);
        }
        let old = self.remove(&key);
        let timer = Some(self.wheel.set(deadline, key));
        self.flows.insert(key, Entry { value, deadline, timer });
        Ok(old)
    }

    /// Puts in a flow from before this table's time, with a deadline that may lie far ahead. Returns
    /// false if the flow is known or the table is full.
    ///
    /// Flows that came over hours are put in within a second; their timers are spread over a turn of
    /// the wheel, so that they never come up all at once.
    pub fn restore(&mut self, key: FlowKey, value: V, now: Instant, deadline: Instant) -> bool {
        if self.flows.contains_key(&key) || self.flows.len() >= self.bound {
            return false;
        }
        self.wheel.catch_up(now);
        let look = self.wheel.spread(now, self.flows.len()).min(deadline);
        let timer = Some(self.wheel.set(look, key));
        self.flows.insert(key, Entry { value, deadline, timer });
        true
    }

    /// Takes a flow out.
    pub fn remove(&mut self, key: &FlowKey) -> Option<V> {
        let entry = self.flows.remove(key)?;
        self.stop(entry.timer);
        Some(entry.value)
    }

    /// Moves a flow's deadline to `at`, earlier or later.
    pub fn set_deadline(&mut self, key: &FlowKey, at: Instant) {
        let Some(entry) = self.flows.get_mut(key) else { return };
        let earlier = at < entry.deadline;
        entry.deadline = at;
        if earlier || entry.timer.is_none() {
            let old = entry.timer.take();
            self.stop(old);
            self.start(key, at);
        }
    }

    fn start(&mut self, key: &FlowKey, at: Instant) {
        if let Some(entry) = self.flows.get_mut(key) {
            entry.timer = Some(self.wheel.set(at, *key));
        }
    }

    fn stop(&mut self, timer: Option<Place>) {
        let Some(place) = timer else { return };
        if let Some(moved) = self.wheel.remove(place)
            && let Some(entry) = self.flows.get_mut(moved)
        {
            entry.timer = Some(place);
        }
    }

    /// Returns a time at or after which [`FlowTable::pop_due`] should be called; it may find
    /// nothing then.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.due.is_empty() { self.wheel.next() } else { Some(Instant::ZERO) }
    }

    /// Returns a flow whose deadline has come. The caller removes the flow or gives it a new
    /// deadline with [`FlowTable::set_deadline`]; else it stays without a timer.
    pub fn pop_due(&mut self, now: Instant) -> Option<FlowKey> {
        loop {
            if let Some(key) = self.due.pop_front() {
                // Something may have happened to it since it was queued.
                match self.flows.get_mut(&key) {
                    Some(entry) if entry.timer.is_none() && entry.deadline <= now => return Some(key),
                    Some(entry) if entry.timer.is_none() => {
                        entry.timer = Some(self.wheel.set(entry.deadline, key));
                    }
                    _ => {}
                }
                continue;
            }
            let (tick, mut keys) = self.wheel.turn(now)?;
            for key in keys.drain(..) {
                let Some(entry) = self.flows.get_mut(&key) else { continue };
                entry.timer = None;
                if entry.deadline > now {
                    entry.timer = Some(self.wheel.set(entry.deadline, key));
                } else {
                    self.due.push_back(key);
                }
            }
            self.wheel.recycle(tick, keys);
        }
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
            let timers = table.flows.values().filter_map(|e| e.timer).collect::<Vec<_>>();
            let most = timers.iter().map(|one| timers.iter().filter(|t| t.is_with(one)).count()).max();
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

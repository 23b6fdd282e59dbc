//! The one clock: a queue of what happens next, in order of time and, at equal times, of insertion.

use rtt0_core::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Things to come. The heap holds small keys; what happens stands beside it.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    order: u64,
}

impl<E> Queue<E> {
    /// Holds nothing yet.
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), order: 0 }
    }

    /// Lets `event` happen at `at`.
    pub(super) fn push(&mut self, at: Instant, event: E) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.order += 1;
        self.heap.push(Reverse((at, self.order, slot)));
    }

    /// Tells when the next thing happens.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Tells how many things are to come.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Takes the next thing out.
    pub(super) fn pop(&mut self) -> Option<(Instant, E)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.events[slot].take().map(|event| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_decides_then_order() {
        let mut queue = Queue::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(Instant::from_micros(at), what);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, what)| what).collect();
        assert_eq!(order, "abcd");
        assert_eq!(queue.next(), None);
    }
}

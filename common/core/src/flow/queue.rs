//! Flows in the order in which they came to rest.

use super::chunks::Chunks;

const NONE: u32 = u32::MAX;

/// The neighbours of a flow in the queue.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    behind: u32,
}

const APART: Link = Link { before: NONE, behind: NONE };

/// A queue of numbers, each in it once at most: O(1) to join and to leave from anywhere.
#[derive(Debug)]
pub(super) struct Queue {
    links: Chunks<Link>,
    first: u32,
    last: u32,
}

impl Queue {
    /// Makes an empty queue for numbers below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self { links: Chunks::new(bound), first: NONE, last: NONE }
    }

    /// Returns the number that joined first.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    fn holds(&self, number: u32) -> bool {
        self.first == number || self.links.get(number).is_some_and(|link| link.before != NONE)
    }

    /// Lets a number join at the end, unless it is there.
    pub(super) fn join(&mut self, number: u32) {
        if self.holds(number) {
            return;
        }
        while self.links.len() <= number as usize {
            self.links.push(APART);
        }
        let before = std::mem::replace(&mut self.last, number);
        self.change(number, |link| *link = Link { before, behind: NONE });
        match before {
            NONE => self.first = number,
            _ => self.change(before, |link| link.behind = number),
        }
    }

    /// Lets a number leave, if it is there.
    pub(super) fn leave(&mut self, number: u32) {
        if !self.holds(number) {
            return;
        }
        let Some(link) = self.links.get_mut(number) else { return };
        let Link { before, behind } = std::mem::replace(link, APART);
        match before {
            NONE => self.first = behind,
            _ => self.change(before, |link| link.behind = behind),
        }
        match behind {
            NONE => self.last = before,
            _ => self.change(behind, |link| link.before = before),
        }
    }

    fn change(&mut self, number: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(number) {
            change(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain list.
        #[test]
        fn keeps_the_order_of_those_that_stay(
            steps in proptest::collection::vec((0u32..7, any::<bool>()), 1..60),
        ) {
            let (mut queue, mut oracle) = (Queue::new(7), Vec::new());
            for (number, join) in steps {
                if join {
                    queue.join(number);
                    if !oracle.contains(&number) { oracle.push(number); }
                } else {
                    queue.leave(number);
                    oracle.retain(|other| *other != number);
                }
                let mut order = Vec::new();
                let mut at = queue.first();
                while let Some(number) = at {
                    order.push(number);
                    at = queue.links.get(number).map(|link| link.behind).filter(|next| *next != NONE);
                }
                prop_assert_eq!(&order, &oracle);
                prop_assert_eq!(queue.last, oracle.last().copied().unwrap_or(NONE));
            }
        }
    }
}

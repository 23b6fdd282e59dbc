//! What an engine wants remembered beyond its own life: every established flow, in a slot each.
//!
//! The engine notes a flow when it is established, when an end closes it and when it is gone: a
//! handful of changes in a connection's life, however many packets it has. Whoever drives the
//! engine writes the changes down before it emits the packets that go with them, and gives the
//! records back to the next engine by [`Engine::restore`](crate::engine::Engine::restore).

use crate::flow::FlowKey;
use crate::record::Record;
use crate::translated::{Stage, Translated};
use std::num::NonZeroU32;

/// Where a record is kept: numbered from 0, dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(NonZeroU32);

impl Slot {
    /// Takes a slot's number; `None` for the last one there could be.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::MIN.checked_add(number).map(Self)
    }

    /// Returns its number.
    pub fn number(self) -> u32 {
        self.0.get() - 1
    }
}

/// Something to be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub slot: Slot,
    /// What; `None` to forget what is there.
    pub record: Option<Record>,
}

/// What the journal knows of a flow. Belongs to the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    slot: Option<Slot>,
    stage: Stage,
}

/// Gives out slots and collects changes until they are taken.
#[derive(Debug, Default)]
pub struct Journal {
    is_open: bool,
    changes: Vec<Change>,
    free: Vec<Slot>,
    /// Slots from here on have never been used.
    next: u32,
}

impl Journal {
    /// Begins to note. A journal that is not open notes nothing: then nobody takes its changes.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// Notes a flow, if it is new or has come closer to its end since it was noted last.
    pub fn keep(&mut self, kept: &mut Kept, key: &FlowKey, flow: &Translated) {
        let stage = flow.stage();
        if !self.is_open || (kept.slot.is_some() && kept.stage == stage) {
            return;
        }
        // Only a table of 2³² flows would find no slot.
        let Some(slot) = kept.slot.or_else(|| self.take_slot()) else { return };
        *kept = Kept { slot: Some(slot), stage };
        self.changes.push(Change { slot, record: Some(flow.record(*key)) });
    }

    /// Notes that a flow is gone.
    pub fn forget(&mut self, kept: Kept) {
        if let Some(slot) = kept.slot {
            self.free.push(slot);
            self.changes.push(Change { slot, record: None });
        }
    }

    /// Takes a slot for a record found there; `None` unless it lies beyond all slots so far: records
    /// are to be taken over in the order of their slots.
    pub fn adopt(&mut self, slot: Slot, stage: Stage) -> Option<Kept> {
        let number = slot.number();
        if number < self.next {
            return None;
        }
        self.free.extend((self.next..number).filter_map(Slot::new));
        self.next = number + 1;
        Some(Kept { slot: Some(slot), stage })
    }

    /// Takes the changes, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.changes.drain(..)
    }

    fn take_slot(&mut self) -> Option<Slot> {
        self.free.pop().or_else(|| {
            let slot = Slot::new(self.next)?;
            self.next += 1;
            Some(slot)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn slots_are_dense_and_used_again() {
        let mut journal = Journal::default();
        journal.open();
        let taken: Vec<_> = (0..3).map(|_| journal.take_slot().unwrap().number()).collect();
        assert_eq!(taken, [0, 1, 2]);
        journal.forget(Kept { slot: Some(slot(1)), ..Kept::default() });
        assert_eq!(journal.drain().collect::<Vec<_>>(), [Change { slot: slot(1), record: None }]);
        assert_eq!([journal.take_slot(), journal.take_slot()], [Some(slot(1)), Some(slot(3))]);
    }

    #[test]
    fn gaps_between_adopted_slots_are_free() {
        let mut journal = Journal::default();
        assert!(journal.adopt(slot(1), Stage::default()).is_some());
        assert!(journal.adopt(slot(1), Stage::default()).is_none(), "taken");
        assert!(journal.adopt(slot(0), Stage::default()).is_none(), "out of order");
        assert!(journal.adopt(slot(4), Stage::default()).is_some());
        let mut free: Vec<_> = (0..4).map(|_| journal.take_slot().unwrap().number()).collect();
        free.sort_unstable();
        assert_eq!(free, [0, 2, 3, 5]);
    }

    #[test]
    fn the_last_number_is_no_slot() {
        assert_eq!(Slot::new(u32::MAX), None);
        assert_eq!(slot(u32::MAX - 1).number(), u32::MAX - 1);
    }
}

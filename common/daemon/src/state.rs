//! The flows of the daemon before this one.
//!
//! Each worker has a file: `NAME.state`, `NAME-1.state` and so on. A flow belongs to the worker that
//! [`place`] gives it, so that with another number of workers than before it may have to move: then
//! it is taken out of the file it was in, and written into that of its worker. A kill in that
//! moment loses the flows that move.

use std::path::Path;
use std::time::Instant;

use rtt0_core::engine::Engine;
use rtt0_core::journal::{Change, Slot};
use rtt0_core::record::Record;
use rtt0_netio::capture::spread::place;
use rtt0_netio::clock;
use rtt0_netio::store::{Found, Store, StoreError};

use crate::failure::Failure;

/// Opens the state files of `program` in `folder`, one per engine, and has the engines go on with the
/// flows found in them and in those of further workers that there were before, `bound` of them at most. Empty if the
/// engines keep no flows.
///
/// # Errors
/// [`Failure::State`]. Damaged records are no error: they are counted and logged.
pub(crate) fn restore(
    folder: &Path,
    program: &str,
    bound: usize,
    engines: &mut [impl Engine],
) -> Result<Vec<Store>, Failure> {
    if engines.iter_mut().any(|engine| engine.journal().map(|journal| journal.open()).is_none()) {
        return Ok(Vec::new());
    }
    let mut moving = Vec::new();
    let mut places = Vec::new();
    for index in 0..engines.len() {
        places.push(Place::open(folder, program, index, engines, bound, &mut moving)?);
    }
    // The workers had files without gaps.
    for index in engines.len().. {
        let name = name(program, index);
        if !Store::exists(folder, &name) {
            break;
        }
        let mut store = Store::open(folder, &name)?;
        store.load(bound, |_, record| take_along(&mut moving, record, bound))?;
        store.remove()?;
    }
    for record in moving {
        let index = worker_of(&record, engines.len());
        if let (Some(engine), Some(place)) = (engines.get_mut(index), places.get_mut(index)) {
            place.add(engine, record);
        }
    }
    Ok(places.into_iter().map(Place::tell).collect())
}

fn name(program: &str, index: usize) -> String {
    match index {
        0 => program.to_owned(),
        _ => format!("{program}-{index}"),
    }
}

fn worker_of(record: &Record, workers: usize) -> usize {
    place(record.key.client(), record.key.server(), workers)
}

/// Notes a flow for another worker. Its record is of no more use where it was.
fn take_along(moving: &mut Vec<Record>, record: &Record, bound: usize) -> bool {
    if moving.len() < bound {
        moving.push(*record);
    }
    false
}

/// A worker's file, and what was found for it.
struct Place {
    store: Store,
    found: Found,
    began: Instant,
    /// Slots from here on are free.
    next: u32,
}

impl Place {
    fn open(
        folder: &Path,
        program: &str,
        index: usize,
        engines: &mut [impl Engine],
        bound: usize,
        moving: &mut Vec<Record>,
    ) -> Result<Self, StoreError> {
        let began = Instant::now();
        let mut store = Store::open(folder, &name(program, index))?;
        let (now, workers, before) = (clock::now(), engines.len(), moving.len());
        let mut next = 0;
        let mut found = store.load(bound, |slot, record| {
            if worker_of(record, workers) != index {
                return take_along(moving, record, bound);
            }
            let taken = engines.get_mut(index).is_some_and(|engine| engine.restore(now, slot, record));
            if taken {
                next = slot.number() + 1;
            }
            taken
        })?;
        found.refused -= moving.len() - before;
        Ok(Self { store, found, began, next })
    }

    fn add(&mut self, engine: &mut impl Engine, record: Record) {
        let Some(slot) = Slot::new(self.next) else { return };
        if engine.restore(clock::now(), slot, &record) {
            self.store.write(&Change { slot, record: Some(record) });
            self.found.restored += 1;
            self.next += 1;
        } else {
            self.found.refused += 1;
        }
    }

    fn tell(self) -> Store {
        let Self { store, found, began, .. } = self;
        let file = store.path().display();
        if !store.is_in_memory() {
            tracing::warn!(%file, "the state file is not in memory (tmpfs): writing it may delay packets");
        }
        if found.is_foreign {
            tracing::warn!(%file, "the state is of another version or from before a reboot: begun anew");
        }
        if found.refused > 0 {
            tracing::warn!(%file, records = found.refused, "records that can't be used were removed");
        }
        if found.restored > 0 {
            let ms = began.elapsed().as_millis() as u64;
            tracing::info!(%file, flows = found.restored, ms, "established flows are translated on");
        }
        store
    }
}

#[cfg(test)]
mod tests;

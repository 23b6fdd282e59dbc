//! Times that workers tell the kernel's program: a map of one for each worker, in memory that both share.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rtt0_core::time::Instant;

use crate::mapping::Mapping;

/// Workers for which there is room: `WORKERS` of the program.
pub(super) const WORKERS: usize = 64;

/// One worker's time.
#[derive(Debug)]
pub(super) struct Time {
    times: Mapping,
    worker: usize,
}

impl Time {
    /// Maps the memory of a map of such times.
    pub(super) fn open(map: impl AsFd, worker: usize) -> io::Result<Self> {
        Ok(Self { times: Mapping::shared(map, 0, WORKERS * size_of::<AtomicU64>())?, worker })
    }

    /// Tells it. Does nothing for a worker for which there is no room.
    pub(super) fn tell(&self, time: Instant) {
        let Some(place) = self.times.place::<AtomicU64>(self.worker * size_of::<AtomicU64>()) else { return };
        // SAFETY: it lies in the mapping, which lives as long as this borrow, and is only accessed atomically.
        unsafe { place.as_ref() }.store(time.as_micros() * 1000, Ordering::Release);
    }
}

/// Tells how far a worker has come, so that nothing is overtaken when a flow is handed over: the program compares with when it last
/// queued a packet of the flow.
#[derive(Debug)]
pub struct Served(pub(super) Time);

impl Served {
    /// Says that all that was queued for the worker before `until` has been emitted. The flows of a worker for
    /// which there is no room wait longer.
    pub fn tell(&self, until: Instant) {
        self.0.tell(until);
    }
}

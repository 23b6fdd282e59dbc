//! What tells the kernel how far a worker has come, so that nothing is overtaken when a flow is handed over.
//!
//! A map of times in memory that both share: what the worker's captures had taken in until then, it has emitted. The
//! kernel's program compares with when it last queued a packet of a flow.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rtt0_core::time::Instant;

use crate::mapping::Mapping;

/// Workers for which there is room: `WORKERS` of the program.
pub(super) const WORKERS: usize = 64;

/// One worker's time.
#[derive(Debug)]
pub struct Served {
    times: Mapping,
    worker: usize,
}

impl Served {
    /// Maps the memory of the map `served`.
    pub(super) fn open(map: impl AsFd, worker: usize) -> io::Result<Self> {
        Ok(Self { times: Mapping::shared(map, 0, WORKERS * size_of::<AtomicU64>())?, worker })
    }

    /// Says that all that was queued for the worker before `until` has been emitted. Does nothing for a worker for
    /// which there is no room: its flows wait longer.
    pub fn tell(&self, until: Instant) {
        let Some(time) = self.times.place::<AtomicU64>(self.worker * size_of::<AtomicU64>()) else { return };
        // SAFETY: it lies in the mapping, which lives as long as this borrow, and is only accessed atomically.
        unsafe { time.as_ref() }.store(until.as_micros() * 1000, Ordering::Release);
    }
}

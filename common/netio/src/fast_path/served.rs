//! What tells the kernel how far a worker has come, so that nothing is overtaken when a flow is handed over.
//!
//! A map of times in memory that both share: what the worker's captures had taken in until then, it has emitted. The
//! kernel's program compares with when it last queued a packet of a flow.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rtt0_core::time::Instant;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Workers for which there is room: `WORKERS` of the program.
pub(super) const WORKERS: usize = 64;
const LENGTH: usize = WORKERS * size_of::<AtomicU64>();

/// One worker's time.
#[derive(Debug)]
pub struct Served {
    times: NonNull<AtomicU64>,
    worker: usize,
}

// SAFETY: the memory is shared with the kernel and is only accessed atomically; it belongs to no thread.
unsafe impl Send for Served {}

impl Served {
    /// Maps the memory of the map `served`.
    pub(super) fn open(map: impl AsFd, worker: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses; nothing else lies there.
        let memory = unsafe { mmap(ptr::null_mut(), LENGTH, access, MapFlags::SHARED, map, 0) }?;
        let times = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { times, worker })
    }

    /// Says that all that was queued for the worker before `until` has been emitted. Does nothing for a worker for
    /// which there is no room: its flows wait longer.
    pub fn tell(&self, until: Instant) {
        if self.worker >= WORKERS {
            return;
        }
        // SAFETY: the index is below WORKERS, the number of words that are mapped and aligned.
        let time = unsafe { &*self.times.as_ptr().add(self.worker) };
        time.store(until.as_micros() * 1000, Ordering::Release);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SAFETY: what `open` has mapped; no reference into it outlives a call of `tell`.
        let _ = unsafe { munmap(self.times.as_ptr().cast(), LENGTH) };
    }
}

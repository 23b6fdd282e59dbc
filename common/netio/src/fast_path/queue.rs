//! What the kernel's program tells a worker without waking it: a queue in memory that both share, so that it can be
//! looked at without a system call.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;

use super::times::WORKERS;
use crate::mapping::Mapping;

/// Places of a queue: `CLOSING` of the program, which fills half of them at most.
const PLACES: u64 = 256;

/// One worker's queue, as the program has it.
#[repr(C)]
struct Memory<C> {
    queued: AtomicU64,
    taken: AtomicU64,
    places: [Place<C>; PLACES as usize],
}

#[repr(C)]
struct Place<C> {
    content: C,
    /// How many were queued until this one was written; what stands beside it is complete then.
    turn: AtomicU64,
}

/// The end of a queue that a worker takes from; of each queue there is one taker. `C` is what the program writes into a
/// place: integers, of whole words of 8 bytes.
pub(super) struct Queue<C> {
    queues: Mapping,
    worker: usize,
    taken: u64,
    content: PhantomData<fn() -> C>,
}

impl<C> fmt::Debug for Queue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl<C: Pod> Queue<C> {
    /// Maps the memory of a map that holds one such queue for each worker. A worker for which there is no room is told nothing:
    /// the kernel leaves it the segments instead.
    pub(super) fn open(map: impl AsFd, worker: usize) -> io::Result<Self> {
        let queues = Mapping::shared(map, 0, WORKERS * size_of::<Memory<C>>())?;
        let mut queue = Self { queues, worker, taken: 0, content: PhantomData };
        queue.taken = queue.memory().map_or(0, |memory| memory.taken.load(Ordering::Relaxed));
        Ok(queue)
    }

    fn memory(&self) -> Option<&Memory<C>> {
        let memory = self.queues.place::<Memory<C>>(self.worker * size_of::<Memory<C>>())?;
        // SAFETY: it lies in the mapping, which lives as long as this borrow. The kernel writes to its atomic parts, and
        // to the contents, which are read only behind a pointer (`pop`).
        Some(unsafe { memory.as_ref() })
    }

    /// Returns where what comes next lies: in memory that lives as long as this queue, and that the program may write to only as far
    /// as it has agreed with the reader.
    pub(super) fn front(&self) -> Option<NonNull<C>> {
        let place = &self.memory()?.places[(self.taken % PLACES) as usize];
        let is_there = place.turn.load(Ordering::Acquire) == self.taken + 1;
        NonNull::new((&raw const place.content).cast_mut()).filter(|_| is_there)
    }

    /// Takes what comes next.
    pub(super) fn pop(&mut self) -> Option<C> {
        let front = self.front()?;
        // SAFETY: it is mapped, and any bytes are a `C`. The kernel writes it before the turn, and not again before this one is
        // taken: it fills half of the places only.
        let content = unsafe { ptr::read_volatile(front.as_ptr()) };
        let memory = self.memory()?;
        memory.taken.store(self.taken + 1, Ordering::Release);
        self.taken += 1;
        Some(content)
    }
}

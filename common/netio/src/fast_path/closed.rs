//! What tells a worker which of its flows have been closed in the kernel: a queue in memory that both share, so that it
//! can be looked at without a system call.

use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{KERNEL_KEY, flow_key};
use rtt0_core::seq::{Client, Seq};

use super::served::WORKERS;
use crate::mapping::Mapping;

/// Places of a queue: `CLOSING` of the program, which fills half of them at most.
const PLACES: u64 = 256;

/// `struct closing`: one worker's queue.
#[repr(C)]
struct Queue {
    queued: AtomicU64,
    taken: AtomicU64,
    places: [Place; PLACES as usize],
}

#[repr(C)]
struct Place {
    key: [u8; KERNEL_KEY],
    client_is_lower: u32,
    client_end: u32,
    zero: u32,
    /// How many were queued until this one was written; what stands beside it is complete then.
    turn: AtomicU64,
}

/// The end of a queue that a worker takes flows from; of each queue there is one taker.
#[derive(Debug)]
pub(super) struct Closed {
    queues: Mapping,
    worker: usize,
    taken: u64,
}

impl Closed {
    /// Maps the memory of the map `closing`. A worker for which there is no room is told nothing: the kernel leaves it
    /// the segments instead.
    pub(super) fn open(map: impl AsFd, worker: usize) -> io::Result<Self> {
        let queues = Mapping::shared(map, 0, WORKERS * size_of::<Queue>())?;
        let mut closed = Self { queues, worker, taken: 0 };
        closed.taken = closed.queue().map_or(0, |queue| queue.taken.load(Ordering::Relaxed));
        Ok(closed)
    }

    fn queue(&self) -> Option<&Queue> {
        let queue = self.queues.place::<Queue>(self.worker * size_of::<Queue>())?;
        // SAFETY: it lies in the mapping, which lives as long as this borrow. The kernel writes to its atomic parts, and
        // to the keys, which are read only behind a pointer (`pop`).
        Some(unsafe { queue.as_ref() })
    }

    /// Takes the next flow, with the number behind the last byte that its client has sent.
    pub(super) fn pop(&mut self) -> Option<(FlowKey, Seq<Client>)> {
        let queue = self.queue()?;
        let place = &queue.places[(self.taken % PLACES) as usize];
        if place.turn.load(Ordering::Acquire) != self.taken + 1 {
            return None;
        }
        // SAFETY: all are mapped. The kernel writes them before the turn, and not again before this one is taken: it fills
        // half of the places only.
        let (key, client_is_lower, client_end) = unsafe {
            (
                ptr::read_volatile(&raw const place.key),
                ptr::read_volatile(&raw const place.client_is_lower),
                ptr::read_volatile(&raw const place.client_end),
            )
        };
        queue.taken.store(self.taken + 1, Ordering::Release);
        self.taken += 1;
        Some((flow_key(&key, client_is_lower != 0), Seq::new(client_end)))
    }
}

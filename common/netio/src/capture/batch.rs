//! Packets in memory of our own.

use rtt0_core::packet::{Offload, Packet};

use super::MAX_BATCH;
use super::memory::Memory;

/// Bytes a packet may have with its virtio-net and link headers: a little more than the largest
/// IP packet. Larger ones (BIG TCP) are counted as truncated. An odd number of cache lines: the
/// beginnings of the slots, which is all that small packets use, then don't compete for a few sets.
pub(super) const SLOT: usize = 66 * 1024 + 64;

/// The memory of one batch, and what lies in it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) memory: Memory,
    pub(super) slots: Vec<Slot>,
    pub(super) capacity: usize,
}

/// One packet in the memory of a batch.
#[derive(Debug)]
pub(super) struct Slot {
    /// Which [`SLOT`]-sized piece of the memory it lies in.
    pub(super) index: usize,
    /// Where its IP header begins in there.
    pub(super) start: usize,
    /// Its length from the IP header on.
    pub(super) length: usize,
    pub(super) offload: Offload,
}

impl Batch {
    /// Makes one of 1 to [`MAX_BATCH`] packets; other values are brought into that range.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, MAX_BATCH);
        Self { memory: Memory::new(capacity * SLOT), slots: Vec::with_capacity(capacity), capacity }
    }

    pub(super) fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let mut chunks = self.memory.chunks_exact_mut(SLOT).enumerate();
        self.slots.iter().filter_map(move |slot| {
            // Slots are in the order of the memory: skips those that hold truncated packets.
            let (_, chunk) = chunks.find(|(index, _)| *index == slot.index)?;
            let bytes = chunk.get_mut(slot.start..slot.start + slot.length)?;
            Some(Packet { bytes, offload: slot.offload })
        })
    }

    pub(super) fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        let slot = self.slots.get(index)?;
        let start = slot.index * SLOT + slot.start;
        Some((self.memory.get(start..start + slot.length)?, slot.offload))
    }
}

//! Early data, held until its handshake is done.

use crate::limits::Limits;
use crate::packet::{Offload, Packet};
use crate::reason::DropReason;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory that all held packets together may take.
#[derive(Debug)]
pub struct HoldBudget {
    used: AtomicUsize,
    total: usize,
    per_flow: usize,
}

impl HoldBudget {
    /// Makes a budget of [`Limits::held_total`] and [`Limits::held_per_flow`].
    pub fn new(limits: &Limits) -> Arc<Self> {
        let (total, per_flow) = (limits.held_total, limits.held_per_flow);
        Arc::new(Self { used: AtomicUsize::new(0), total, per_flow })
    }

    /// Returns how many bytes are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// The held packets of one flow, in order of arrival. Dropping it gives its memory back.
#[derive(Debug)]
pub struct Held {
    bytes: Vec<u8>,
    packets: Vec<(usize, Offload)>,
    budget: Arc<HoldBudget>,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(budget: &Arc<HoldBudget>) -> Self {
        Self { bytes: Vec::new(), packets: Vec::new(), budget: Arc::clone(budget) }
    }

    /// Holds a copy of a packet.
    ///
    /// # Errors
    /// [`DropReason::HeldFlowFull`] or [`DropReason::HeldTotalFull`]: the packet is not held,
    /// and its sender will repeat it.
    pub fn push(&mut self, packet: &[u8], offload: Offload) -> Result<(), DropReason> {
        if self.bytes.len() + packet.len() > self.budget.per_flow {
            return Err(DropReason::HeldFlowFull);
        }
        let before = self.budget.used.fetch_add(packet.len(), Ordering::Relaxed);
        if before + packet.len() > self.budget.total {
            self.budget.used.fetch_sub(packet.len(), Ordering::Relaxed);
            return Err(DropReason::HeldTotalFull);
        }
        self.bytes.extend_from_slice(packet);
        self.packets.push((self.bytes.len(), offload));
        Ok(())
    }

    /// Holds a copy of a packet in place of the one held last, if there is one.
    ///
    /// # Errors
    /// As [`Held::push`]; then the other is still held.
    pub fn replace_last(&mut self, packet: &[u8], offload: Offload) -> Result<(), DropReason> {
        self.push(packet, offload)?;
        let count = self.packets.len();
        if count >= 2 {
            let (old, _) = self.packets.remove(count - 2);
            let start = count.checked_sub(3).map_or(0, |before| self.packets[before].0);
            self.bytes.drain(start..old);
            self.budget.used.fetch_sub(old - start, Ordering::Relaxed);
            self.packets[count - 2].0 = self.bytes.len();
        }
        Ok(())
    }

    /// Returns how many packets are held.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Tells whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Calls `each` with every packet in order of arrival.
    pub fn for_each(&mut self, mut each: impl FnMut(Packet<'_>)) {
        let mut start = 0;
        for &(end, offload) in &self.packets {
            each(Packet { bytes: &mut self.bytes[start..end], offload });
            start = end;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_memory_comes_back() {
        let limits = Limits { held_per_flow: 100, held_total: 150, ..Limits::default() };
        let budget = HoldBudget::new(&limits);
        let (mut a, mut b) = (Held::new(&budget), Held::new(&budget));
        assert_eq!(a.push(&[1; 60], Offload::default()), Ok(()));
        assert_eq!(a.push(&[2; 41], Offload::default()), Err(DropReason::HeldFlowFull));
        assert_eq!(a.push(&[3; 40], Offload::default()), Ok(()));
        assert_eq!(b.push(&[4; 51], Offload::default()), Err(DropReason::HeldTotalFull));
        assert_eq!(b.push(&[5; 50], Offload::default()), Ok(()));
        assert_eq!(seen(&mut a), [(1, 60), (3, 40)]);
        drop((a, b));
        assert_eq!(budget.used(), 0);
    }

    fn seen(held: &mut Held) -> Vec<(u8, usize)> {
        let mut seen = Vec::new();
        held.for_each(|packet| seen.push((packet.bytes[0], packet.bytes.len())));
        seen
    }

    #[test]
    fn the_last_one_gives_way() {
        let limits = Limits { held_per_flow: 100, held_total: 150, ..Limits::default() };
        let budget = HoldBudget::new(&limits);
        let mut held = Held::new(&budget);
        assert_eq!(held.replace_last(&[1; 10], Offload::default()), Ok(()));
        assert_eq!(seen(&mut held), [(1, 10)]);
        assert_eq!(held.replace_last(&[2; 20], Offload::default()), Ok(()));
        assert_eq!(held.push(&[3; 30], Offload::default()), Ok(()));
        assert_eq!(held.replace_last(&[4; 51], Offload::default()), Err(DropReason::HeldFlowFull));
        assert_eq!(held.replace_last(&[5; 40], Offload::default()), Ok(()));
        assert_eq!(held.push(&[6; 1], Offload::default()), Ok(()));
        assert_eq!((seen(&mut held), budget.used()), (vec![(2, 20), (5, 40), (6, 1)], 61));
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}

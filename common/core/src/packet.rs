//! Layer-3 packets as they travel between capture, engine and emission.

/// What the capturing kernel said about a packet's checksum and size (its virtio-net header).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The TCP checksum field holds only the sum over the pseudo-header fields (source,
    /// destination, protocol, length): the sender left the rest to a NIC that never came.
    /// Rewriting header fields then needs no checksum update, and emission must compute the
    /// full sum.
    pub needs_csum: bool,
    /// Largest TCP payload of one segment in bytes if the packet is a super-packet (GRO, GSO),
    /// else 0. A packet whose TCP payload exceeds this must be cut into segments on emission.
    pub gso_size: u16,
}

/// One captured IP packet: link header removed, trailing link padding possibly still there.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The packet from the first byte of its IP header.
    pub bytes: &'a mut [u8],
    /// What the kernel said about it.
    pub offload: Offload,
}

/// Packets an engine wants sent, in order. It is reused from call to call, so that nothing is
/// allocated once it has reached its working size.
#[derive(Debug, Default)]
pub struct Outbox {
    arena: Vec<u8>,
    queue: Vec<Queued>,
}

#[derive(Debug)]
struct Queued {
    end: usize,
    offload: Offload,
}

impl Outbox {
    /// Makes an empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of `bytes`, a complete IP packet.
    pub fn push(&mut self, bytes: &[u8], offload: Offload) {
        self.arena.extend_from_slice(bytes);
        self.queue.push(Queued { end: self.arena.len(), offload });
    }

    /// Appends a packet written by `build` straight into the outbox's memory.
    pub fn build(&mut self, offload: Offload, build: impl FnOnce(&mut Vec<u8>)) {
        build(&mut self.arena);
        self.queue.push(Queued { end: self.arena.len(), offload });
    }

    /// Returns how many packets wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Tells whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns packet `index` in order of insertion, with its offload state.
    pub fn get(&self, index: usize) -> Option<(&[u8], Offload)> {
        let queued = self.queue.get(index)?;
        Some((&self.arena[self.start(index)..queued.end], queued.offload))
    }

    /// Returns packet `index` for patching in place.
    pub fn get_mut(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        let start = self.start(index);
        let queued = self.queue.get(index)?;
        Some((&mut self.arena[start..queued.end], queued.offload))
    }

    /// Iterates over the packets in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Offload)> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Empties the outbox and keeps its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.queue.clear();
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|i| self.queue.get(i)).map_or(0, |q| q.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_in_order_and_can_be_patched() {
        let mut out = Outbox::new();
        assert!(out.is_empty() && out.get(0).is_none());
        let partial = Offload { needs_csum: true, gso_size: 9 };
        out.push(b"one", partial);
        out.build(Offload::default(), |bytes| bytes.extend_from_slice(b"three"));
        out.push(b"", Offload::default());
        assert_eq!(out.len(), 3);
        out.get_mut(1).unwrap().0[0] = b'T';
        let all: Vec<_> = out.iter().collect();
        let expected: [(&[u8], Offload); 3] =
            [(b"one", partial), (b"Three", Offload::default()), (b"", Offload::default())];
        assert_eq!(all, expected);
        assert!(out.get(3).is_none() && out.get_mut(3).is_none());
        out.clear();
        assert!(out.is_empty());
        out.push(b"x", partial);
        assert_eq!(out.get(0), Some((&b"x"[..], partial)), "nothing is left of the cleared ones");
    }
}

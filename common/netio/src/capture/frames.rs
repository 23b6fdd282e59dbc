//! The memory of a receive ring that is shared with the kernel (TPACKET_V2, Documentation/networking/packet_mmap.rst).
//!
//! It is made of frames of one size, and these lie in blocks. Each begins with a header, whose status says whose it is: the
//! kernel fills the frames in turn, and a frame that it has filled is ours until we give it back.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::socket::{set_option, set_value};
use super::vnet::VNET_HEADER;
use crate::mapping::Mapping;

/// Bytes of a block: a power of two, of which the kernel wastes nothing, and few enough to be had in one piece.
const BLOCK: usize = 256 << 10;

/// Bytes of a frame before the IP header: the kernel's header and the receiver's address, aligned, with room for a link header of
/// up to 16 bytes, and the virtio-net header.
const HEADROOM: usize = (libc::TPACKET2_HDRLEN + 16).next_multiple_of(libc::TPACKET_ALIGNMENT) + VNET_HEADER;

/// Bytes of the largest packet that frames are made for. Larger ones wait in the socket's queue.
const LARGEST: usize = 9216;

/// Processors that may be copying packets into frames at once, well reckoned.
const COPYING: usize = 16;

const CACHE_LINE: usize = 64;

/// A ring of frames, some of which are taken: filled by the kernel and not given back yet.
#[derive(Debug)]
pub(super) struct Frames {
    mapping: Mapping,
    /// Bytes of one, a multiple of [`CACHE_LINE`].
    size: usize,
    /// How many lie in a block.
    in_block: usize,
    count: usize,
    /// The one that the kernel fills next, or has filled already, behind those that are taken.
    next: usize,
    taken: usize,
}

/// What the kernel says of a frame that it has filled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// Whether the packet itself waits in the socket's queue, since it exceeds the frame.
    pub(super) is_queued: bool,
    /// The packet's length in bytes, its link header included.
    pub(super) length: usize,
    /// How many of them lie in the frame.
    pub(super) present: usize,
    /// Where they begin in it. The virtio-net header lies before.
    pub(super) start: usize,
}

impl Frames {
    /// Gives a packet socket that does not receive yet a ring of `bytes`, rounded up to whole blocks, whose frames have room for IP
    /// packets of `packet` bytes, and virtio-net headers: setsockopt(PACKET_VERSION, PACKET_VNET_HDR, PACKET_COPY_THRESH,
    /// PACKET_RX_RING), mmap(2).
    pub(super) fn map(fd: &impl AsFd, bytes: usize, packet: usize) -> io::Result<Self> {
        set_option(fd, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        set_option(fd, libc::PACKET_VNET_HDR, 1)?;
        // Whatever the number: what exceeds a frame is queued, too.
        set_option(fd, libc::PACKET_COPY_THRESH, 1)?;
        let (size, blocks) = (size_for(packet), bytes.div_ceil(BLOCK).max(1));
        let in_block = BLOCK / size;
        let count = blocks * in_block;
        let number = |value: usize| u32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
        let request = libc::tpacket_req {
            tp_block_size: number(BLOCK)?,
            tp_block_nr: number(blocks)?,
            tp_frame_size: number(size)?,
            tp_frame_nr: number(count)?,
        };
        set_value(fd, libc::PACKET_RX_RING, &request)?;
        let mapping = Mapping::shared(fd, 0, blocks * BLOCK)?;
        Ok(Self { mapping, size, in_block, count, next: 0, taken: 0 })
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes the next frame, if the kernel has filled it.
    pub(super) fn take(&mut self) -> Option<Filled> {
        if !self.has_more() {
            return None;
        }
        // SAFETY: a frame is longer than the header and aligned for it. The kernel has filled it, as its status says, which was
        // read with acquire ordering, and leaves it alone until it is given back. Any bits are valid.
        let header = unsafe { self.frame(self.next).cast::<libc::tpacket2_hdr>().read() };
        self.next = self.after(self.next, 1);
        self.taken += 1;
        Some(Filled {
            is_queued: header.tp_status & libc::TP_STATUS_COPY != 0,
            length: header.tp_len as usize,
            present: header.tp_snaplen as usize,
            start: header.tp_mac.into(),
        })
    }

    /// Tells whether the kernel has filled the next frame.
    pub(super) fn has_more(&self) -> bool {
        // All frames may be taken; then the next one is the first of them.
        self.taken < self.count && self.is_filled(self.next)
    }

    fn is_filled(&self, index: usize) -> bool {
        self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Tells whether a frame behind the next one is filled. If that one is not, another processor is still copying into it, or
    /// was just now.
    pub(super) fn has_gap(&self) -> bool {
        let free = self.count - self.taken;
        (1..=COPYING)
            .take_while(|steps| *steps < free)
            .any(|steps| self.is_filled(self.after(self.next, steps)))
    }

    /// Gives back all frames that are taken.
    pub(super) fn give_back(&mut self) {
        let first = self.first_taken();
        for nth in 0..self.taken {
            // All that was read from the frame or written to it lies before.
            self.status(self.after(first, nth)).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.taken = 0;
    }

    /// Returns the bytes of the taken frame of that number, counted from the first one.
    pub(super) fn taken(&self, nth: usize) -> Option<&[u8]> {
        if nth >= self.taken {
            return None;
        }
        let frame = self.frame(self.after(self.first_taken(), nth));
        // SAFETY: the frame lies in the mapping, and is ours until it is given back, for which the value has to be borrowed mutably.
        Some(unsafe { slice::from_raw_parts(frame.as_ptr(), self.size) })
    }

    /// Iterates over the bytes of all taken frames.
    pub(super) fn taken_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let frames = &*self;
        let first = frames.first_taken();
        (0..frames.taken).map(move |nth| {
            let frame = frames.frame(frames.after(first, nth));
            // SAFETY: as in `taken`; the value is borrowed mutably for as long as any of the slices live, and no two of them are
            // the same frame, since there are never more taken than there are.
            unsafe { slice::from_raw_parts_mut(frame.as_ptr(), frames.size) }
        })
    }

    fn first_taken(&self) -> usize {
        self.after(self.next, self.count - self.taken)
    }

    /// The frame `steps` behind another, at most one round.
    fn after(&self, index: usize, steps: usize) -> usize {
        let sum = index + steps;
        if sum < self.count { sum } else { sum - self.count }
    }

    /// Where a frame begins.
    fn frame(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.count);
        let offset = index / self.in_block * BLOCK + index % self.in_block * self.size;
        // SAFETY: `map` has mapped all blocks, and `index` is below `count`.
        unsafe { self.mapping.start().add(offset) }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        const { assert!(mem::offset_of!(libc::tpacket2_hdr, tp_status) == 0) };
        // SAFETY: the word lies in the mapping and is aligned; the kernel, too, changes it only as a whole.
        unsafe { self.frame(index).cast::<AtomicU32>().as_ref() }
    }
}

/// Bytes of a frame for IP packets of `packet` bytes: an odd number of cache lines, since all that small packets use is the
/// beginnings of the frames, which then don't compete for a few sets.
fn size_for(packet: usize) -> usize {
    let lines = (HEADROOM + packet.min(LARGEST)).div_ceil(CACHE_LINE);
    (lines | 1) * CACHE_LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring of three frames, and who fills one in the kernel's place.
    fn ring() -> (Frames, impl Fn(&Frames, usize)) {
        let size = BLOCK / 3 / CACHE_LINE * CACHE_LINE;
        let mapping = Mapping::anonymous(BLOCK).unwrap();
        let fill = |frames: &Frames, index| {
            frames.status(index).store(libc::TP_STATUS_USER, Ordering::Release);
        };
        (Frames { mapping, size, in_block: 3, count: 3, next: 0, taken: 0 }, fill)
    }

    #[test]
    fn frames_are_taken_in_turn_and_given_back() {
        let (mut frames, fill) = ring();
        assert!(frames.take().is_none() && frames.taken(0).is_none());
        for round in 0..7 {
            fill(&frames, round % 3);
            fill(&frames, (round + 1) % 3);
            assert!(frames.take().is_some());
            frames.taken_mut().for_each(|frame| frame[100] = round as u8);
            assert_eq!(frames.taken(0).map(|frame| frame[100]), Some(round as u8));
            assert!(frames.taken(1).is_none());
            frames.give_back();
            assert!(!frames.is_filled(round % 3) && frames.has_more());
        }
    }

    #[test]
    fn no_more_are_taken_than_there_are() {
        let (mut frames, fill) = ring();
        (0..3).for_each(|index| fill(&frames, index));
        assert_eq!((0..5).filter(|_| frames.take().is_some()).count(), 3);
        assert!(!frames.has_more() && !frames.has_gap());
        assert_eq!(frames.taken_mut().count(), 3);
        frames.give_back();
        assert!(frames.take().is_none());
    }

    #[test]
    fn a_frame_that_is_filled_before_its_elder_is_a_gap() {
        let (mut frames, fill) = ring();
        assert!(!frames.has_gap());
        fill(&frames, 2);
        assert!(frames.has_gap() && frames.take().is_none());
        fill(&frames, 0);
        assert!(frames.has_gap(), "what has become whole since it was not taken");
        assert!(frames.take().is_some() && frames.has_gap());
        fill(&frames, 1);
        assert_eq!((0..3).filter(|_| frames.take().is_some()).count(), 2);
        assert!(!frames.has_gap());
    }

    #[test]
    fn frames_have_room_for_what_they_are_made_for() {
        for packet in [0, 68, 1280, 1500, 9001, LARGEST] {
            let size = size_for(packet);
            assert!(size >= HEADROOM + packet && size <= HEADROOM + packet + 2 * CACHE_LINE);
            assert!(size.is_multiple_of(libc::TPACKET_ALIGNMENT) && !(size / CACHE_LINE).is_multiple_of(2));
        }
        assert_eq!(size_for(usize::MAX), size_for(LARGEST));
        assert!(size_for(LARGEST) * 16 < BLOCK);
    }
}

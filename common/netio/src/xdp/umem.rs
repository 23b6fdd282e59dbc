//! The frames of one socket (UMEM), and who has each.

use std::io;
use std::ptr::{self, NonNull};

use crate::mapping::Mapping;

/// Frames of one size, a power of two, in one piece of memory. A frame is the kernel's, which may write into it at any
/// time, or ours.
#[derive(Debug)]
pub(super) struct Umem {
    mapping: Mapping,
    frame_size: u32,
    is_ours: Vec<bool>,
}

/// A packet in a frame that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset of its first byte in the memory.
    pub(super) start: usize,
    /// Its length in bytes.
    pub(super) length: usize,
}

impl Umem {
    /// Makes `frames` frames of `frame_size` bytes, all ours.
    pub(super) fn new(frames: u32, frame_size: u32) -> io::Result<Self> {
        let mapping = Mapping::anonymous(frames as usize * frame_size as usize)?;
        Ok(Self { mapping, frame_size, is_ours: vec![true; frames as usize] })
    }

    pub(super) fn address(&self) -> u64 {
        self.mapping.start().as_ptr() as u64
    }

    pub(super) fn length(&self) -> usize {
        self.mapping.length()
    }

    /// Takes a frame back from the kernel, with `length` bytes from `address` on; `None` if that is no packet in a frame
    /// of the kernel's. So nothing is ever ours twice.
    pub(super) fn take(&mut self, address: u64, length: u32) -> Option<Place> {
        let (start, length) = (usize::try_from(address).ok()?, length as usize);
        let frame = start / self.frame_size as usize;
        let is_ours = self.is_ours.get_mut(frame)?;
        let end = start.checked_add(length)?;
        if *is_ours || end > (frame + 1) * self.frame_size as usize {
            return None;
        }
        *is_ours = true;
        Some(Place { start, length })
    }

    /// Gives the frame in which `start` lies to the kernel and returns its address; `None` if it is not ours.
    pub(super) fn give(&mut self, start: usize) -> Option<u64> {
        let frame = start / self.frame_size as usize;
        let is_ours = self.is_ours.get_mut(frame).filter(|is_ours| **is_ours)?;
        *is_ours = false;
        Some(frame as u64 * u64::from(self.frame_size))
    }

    /// Returns the bytes of a packet without its first `skipped`; `None` if it is not longer. They may be used as
    /// long as the frame is ours and nobody else uses them.
    pub(super) fn bytes(&self, place: Place, skipped: usize) -> Option<NonNull<[u8]>> {
        let length = place.length.checked_sub(skipped)?;
        // SAFETY: `take` has made sure that the packet lies within the mapping.
        let start = unsafe { self.mapping.start().add(place.start + skipped) };
        NonNull::new(ptr::slice_from_raw_parts_mut(start.as_ptr(), length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_ours_once_and_packets_lie_in_one_frame() {
        let mut umem = Umem::new(4, 2048).unwrap();
        assert_eq!(umem.take(2048 + 256, 150), None, "the kernel was never given it");
        assert_eq!(umem.give(2048 + 7), Some(2048));
        assert_eq!(umem.give(2048), None, "given already");
        for (address, length) in [(2048 + 256, 1793), (4096, 1), (8192, 1), (u64::MAX, 1), (2048, u32::MAX)] {
            assert_eq!(umem.take(address, length), None, "{address} {length}");
        }
        let place = Place { start: 2048 + 256, length: 1792 };
        assert_eq!(umem.take(2048 + 256, 1792), Some(place));
        assert_eq!(umem.take(2048 + 256, 1792), None, "taken already");
        assert_eq!(umem.bytes(place, 14).unwrap().len(), 1778);
        assert!(umem.bytes(Place { start: 0, length: 13 }, 14).is_none());
        assert_eq!(umem.give(place.start), Some(2048));
    }
}

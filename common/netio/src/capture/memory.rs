//! Memory for batches, in pages as large as can be had.

use std::ops::{Deref, DerefMut};

use rustix::mm::{Advice, madvise};

/// Size of a huge page in bytes on most machines.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes that begin at a multiple of [`HUGE_PAGE`]. The kernel copies every packet in here and
/// most of them out again, and a virtual machine looks up addresses in small pages more slowly.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Memory {
    pub(super) fn new(length: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(length.next_multiple_of(HUGE_PAGE) + HUGE_PAGE);
        let start = bytes.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        let huge = length.next_multiple_of(HUGE_PAGE);
        // SAFETY: the range lies within the vector's own allocation, begins at a page, and the advice
        // changes no bytes. Where the kernel has no huge pages it says so, and all goes on as well.
        let _ =
            unsafe { madvise(bytes.as_mut_ptr().wrapping_add(start).cast(), huge, Advice::LinuxHugepage) };
        // Written once, so that no packet waits for the pages.
        bytes.resize(start + length, 0);
        Self { bytes, start, length }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_writable_and_aligned() {
        for length in [1, 4096, 3 << 20] {
            let mut memory = Memory::new(length);
            assert!(memory.len() == length && memory.iter().all(|byte| *byte == 0));
            assert_eq!(memory.as_ptr() as usize % HUGE_PAGE, 0);
            memory[length - 1] = 7;
            assert_eq!(memory.last(), Some(&7));
        }
    }
}

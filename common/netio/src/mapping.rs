//! Memory that is shared with the kernel: frames and the rings of their addresses, and maps of BPF programs.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A range of pages, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages belong to the value, wherever it is; nothing about them is bound to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` fresh zeroed bytes, mmap(2), present from the beginning.
    pub(crate) fn anonymous(length: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: without an address the kernel chooses one where nothing is.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Self::new(start.cast(), length)
    }

    /// Maps `length` bytes of a socket or a BPF map from `offset` on, mmap(2).
    pub(crate) fn shared(fd: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: as above.
        let start =
            unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags, fd, offset)? };
        Self::new(start.cast(), length)
    }

    fn new(start: *mut u8, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// Returns the first byte's address.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns how many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Returns where a `T` lies, if it lies wholly in here and aligned.
    pub(crate) fn place<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.length {
            return None;
        }
        // SAFETY: `offset` lies within the mapping.
        let place = unsafe { self.start.add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's, and whatever borrowed from it borrowed from this value.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_within_and_aligned() {
        let mapping = Mapping::anonymous(4096).unwrap();
        assert_eq!(mapping.length(), 4096);
        assert!(mapping.place::<u64>(4088).is_some());
        for outside in [4089, 4096, usize::MAX, 1] {
            assert!(mapping.place::<u64>(outside).is_none(), "{outside}");
        }
    }
}

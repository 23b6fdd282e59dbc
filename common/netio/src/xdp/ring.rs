//! The rings by which frames change hands. Each has one side that produces and one that consumes; the indices run freely and
//! wrap, and what they count lies at the index modulo the ring's size (kernel: Documentation/networking/af_xdp.rst).

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpMmapOffsets, XdpRingFlags, XdpRingOffset,
};

use crate::mapping::Mapping;

/// A ring of `T`, shared with the kernel.
#[derive(Debug)]
struct Ring<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    flags: Option<usize>,
    entries: usize,
    /// Its size less one; the size is a power of two.
    mask: u32,
    /// Our own index, which nobody else changes.
    own: u32,
    of: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn map(fd: BorrowedFd<'_>, page: u64, at: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let odd = || io::Error::other("the kernel describes an AF_XDP ring that cannot be");
        let offset = |value: u64| usize::try_from(value).map_err(|_| odd());
        let entries = offset(at.desc)?;
        let length = (size as usize).checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(entries));
        let mapping = Mapping::shared(fd, page, length.ok_or_else(odd)?)?;
        let (producer, consumer) = (offset(at.producer)?, offset(at.consumer)?);
        let flags = at.flags.map(offset).transpose()?;
        let indices = [Some(producer), Some(consumer), flags].into_iter().flatten();
        let are_inside = indices.map(|at| mapping.place::<AtomicU32>(at)).all(|place| place.is_some());
        if !are_inside || mapping.place::<T>(entries).is_none() || !size.is_power_of_two() {
            return Err(odd());
        }
        let of = std::marker::PhantomData;
        Ok(Self { mapping, producer, consumer, flags, entries, mask: size - 1, own: 0, of })
    }

    /// One of the three words; [`Ring::map`] has looked at where they lie.
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `map` has made sure that the word lies in the mapping and is aligned; any bits are a valid one, and
        // the kernel too changes it only as a whole.
        unsafe { self.mapping.start().add(offset).cast::<AtomicU32>().as_ref() }
    }

    /// Where entry `index` lies.
    fn entry(&self, index: u32) -> std::ptr::NonNull<T> {
        let offset = self.entries + (index & self.mask) as usize * size_of::<T>();
        // SAFETY: the mapping has been made long enough for all entries that the mask lets through.
        unsafe { self.mapping.start().add(offset).cast::<T>() }
    }
}

/// Addresses of free frames, ours to fill.
#[derive(Debug)]
pub(super) struct FillRing(Ring<u64>);

impl FillRing {
    pub(super) fn map(fd: BorrowedFd<'_>, offsets: &XdpMmapOffsets, size: u32) -> io::Result<Self> {
        Ring::map(fd, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, size).map(Self)
    }

    /// Adds a frame, which the kernel sees with the next [`FillRing::publish`]. It has room for all frames that there are.
    pub(super) fn push(&mut self, address: u64) {
        let ring = &mut self.0;
        let entry = ring.entry(ring.own);
        // SAFETY: it lies in the mapping and is aligned; the kernel reads no entry beyond the producer's index.
        unsafe { entry.write(address) };
        ring.own = ring.own.wrapping_add(1);
    }

    /// Shows the kernel what has been added.
    pub(super) fn publish(&self) {
        self.0.word(self.0.producer).store(self.0.own, Ordering::Release);
    }

    /// Tells whether the driver has stopped for want of frames and has to be called.
    pub(super) fn needs_wakeup(&self) -> bool {
        let Some(at) = self.0.flags else { return false };
        self.0.word(at).load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }
}

/// Frames with packets, ours to empty.
#[derive(Debug)]
pub(super) struct ReceiveRing(Ring<XdpDesc>);

impl ReceiveRing {
    pub(super) fn map(fd: BorrowedFd<'_>, offsets: &XdpMmapOffsets, size: u32) -> io::Result<Self> {
        Ring::map(fd, XDP_PGOFF_RX_RING, &offsets.rx, size).map(Self)
    }

    /// Returns how many packets wait.
    pub(super) fn waiting(&self) -> u32 {
        let ring = &self.0;
        // Never more than there is room for, whatever the other side wrote.
        ring.word(ring.producer).load(Ordering::Acquire).wrapping_sub(ring.own).min(ring.mask + 1)
    }

    /// Takes the next packet's address and length in bytes. Only as often as [`ReceiveRing::waiting`] has said.
    pub(super) fn take(&mut self) -> (u64, u32) {
        let ring = &mut self.0;
        let entry = ring.entry(ring.own);
        // SAFETY: it lies in the mapping and is aligned, any bits are a valid descriptor, and the kernel writes none
        // between the indices.
        let descriptor = unsafe { entry.read() };
        ring.own = ring.own.wrapping_add(1);
        (descriptor.addr, descriptor.len)
    }

    /// Gives the entries that were taken back to the kernel.
    pub(super) fn release(&self) {
        self.0.word(self.0.consumer).store(self.0.own, Ordering::Release);
    }
}

//! What is too large for the ring: recvmmsg(2) of the packets that the kernel has queued whole.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::MAX_BATCH;
use super::batch::{Batch, SLOT, Slot};
use super::vnet::{self, VNET_HEADER};

/// Fills the empty `batch` with the next `count` packets of the queue, from behind their link header. Those that exceed a
/// slot are left out.
///
/// # Errors
/// What the kernel has said besides: it tells an error once, ahead of packets that are queued. The batch is filled all the same.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    batch: &mut Batch,
    count: usize,
    link_header: usize,
) -> io::Result<()> {
    let (mut done, mut outcome) = (0, Ok(()));
    let count = count.min(batch.capacity);
    while done < count {
        let mut lengths = [Received::default(); MAX_BATCH];
        let memory = &mut batch.memory[done * SLOT..];
        let received = match receive_into(fd, memory, &mut lengths[..count - done]) {
            Ok(received) => received,
            Err(error) if outcome.is_ok() && error.kind() != io::ErrorKind::WouldBlock => {
                outcome = Err(error);
                continue;
            }
            // Whatever has a place in the ring was queued before.
            Err(_) => break,
        };
        for (index, received) in (done..).zip(&lengths[..received]) {
            let start = VNET_HEADER + link_header;
            if let Some(length) = received.length.checked_sub(start).filter(|_| !received.truncated) {
                let header = batch.memory[index * SLOT..].first_chunk().copied().unwrap_or_default();
                batch.slots.push(Slot { index, start, length, offload: vnet::offload(header) });
            }
        }
        done += received;
    }
    outcome
}

#[derive(Debug, Clone, Copy, Default)]
struct Received {
    length: usize,
    truncated: bool,
}

/// Receives up to `lengths.len()` datagrams into consecutive [`SLOT`]s of `memory` without
/// waiting, recvmmsg(2); returns how many.
fn receive_into(fd: BorrowedFd<'_>, memory: &mut [u8], lengths: &mut [Received]) -> io::Result<usize> {
    const NOWHERE: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let mut vectors = [NOWHERE; MAX_BATCH];
    // Only what is used is ever written; all of it would be some kilobytes a call.
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MAX_BATCH];
    let slots = memory.chunks_exact_mut(SLOT).zip(&mut vectors).zip(&mut messages).take(lengths.len());
    let mut room = 0;
    for ((slot, vector), message) in slots {
        *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        // SAFETY: all-zero bytes are a valid mmsghdr: integers and null pointers.
        let message = message.write(unsafe { mem::zeroed() });
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        room += 1;
    }
    let first = messages.as_mut_ptr().cast();
    // SAFETY: the first `room` messages are initialised and point to one vector each, and these to disjoint slots of
    // `memory`, which is borrowed mutably through the call; both arrays have room for `room`.
    let count = unsafe { libc::recvmmsg(fd.as_raw_fd(), first, room, libc::MSG_DONTWAIT, ptr::null_mut()) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (length, message) in lengths.iter_mut().zip(&messages[..count]) {
        // SAFETY: the kernel has filled in `count` of the messages that were initialised above.
        let message = unsafe { message.assume_init_ref() };
        let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        *length = Received { length: message.msg_len as usize, truncated };
    }
    Ok(count)
}

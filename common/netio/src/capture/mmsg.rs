//! The default backend: recvmmsg(2) with virtio-net headers.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use rtt0_core::packet::Offload;

use super::socket::{PACKET_VNET_HDR, PacketSocket, set_option};
use super::{Batch, CaptureError, MAX_BATCH, SLOT, Slot};
use crate::counters::IoCounters;

/// Length of `struct virtio_net_hdr`, which the kernel puts before the link header.
const VNET_HEADER: usize = 10;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM in the flags byte.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN in the type byte: set besides the type proper.
const GSO_ECN: u8 = 0x80;
/// VIRTIO_NET_HDR_GSO_NONE in the type byte.
const GSO_NONE: u8 = 0;

/// Bytes of a batch that a processor's own cache still holds when they are sent.
const CACHED: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Mmsg {
    socket: PacketSocket,
    /// How many packets of the last batch's average size make up [`CACHED`] bytes.
    share: usize,
}

impl Mmsg {
    pub(super) fn start(socket: PacketSocket) -> Result<Self, CaptureError> {
        set_option(&socket.fd, PACKET_VNET_HDR, 1).map_err(|source| CaptureError::System {
            call: "setsockopt(PACKET_VNET_HDR)",
            interface: socket.interface.clone(),
            source,
        })?;
        socket.bind()?;
        Ok(Self { socket, share: MAX_BATCH })
    }

    /// Fills the empty `batch`; returns how many packets the kernel handed out.
    pub(super) fn receive(&mut self, batch: &mut Batch, counters: &IoCounters) -> io::Result<usize> {
        let mut lengths = [Received::default(); MAX_BATCH];
        batch.asked = self.share.min(batch.capacity);
        let count = match receive(self.as_fd(), &mut batch.memory, &mut lengths[..batch.asked]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let bytes: usize = lengths[..count].iter().map(|received| received.length).sum();
        self.share = (count * CACHED).checked_div(bytes).unwrap_or(MAX_BATCH).max(1);
        let start = VNET_HEADER + self.socket.link_header;
        for (index, received) in lengths[..count].iter().enumerate() {
            match received.length.checked_sub(start) {
                Some(length) if !received.truncated => {
                    let offload = offload(&batch.memory[index * SLOT..][..VNET_HEADER]);
                    batch.slots.push(Slot { index, start, length, offload });
                }
                _ => counters.received_truncated.add(1),
            }
        }
        Ok(count)
    }
}

impl AsFd for Mmsg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}

/// Reads a virtio-net header; its numbers are in host byte order.
fn offload(header: &[u8]) -> Offload {
    let needs_csum = header[0] & NEEDS_CSUM != 0;
    let gso_size = match header[1] & !GSO_ECN {
        GSO_NONE => 0,
        _ => u16::from_ne_bytes([header[4], header[5]]),
    };
    Offload { needs_csum, gso_size }
}

#[derive(Debug, Clone, Copy, Default)]
struct Received {
    length: usize,
    truncated: bool,
}

/// Receives up to `lengths.len()` datagrams into consecutive [`SLOT`]s of `memory` without
/// waiting, recvmmsg(2); returns how many.
fn receive(fd: BorrowedFd<'_>, memory: &mut [u8], lengths: &mut [Received]) -> io::Result<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_virtio_net_header() {
        let header = |flags, kind, size: u16| {
            let mut bytes = [0u8; VNET_HEADER];
            bytes[0] = flags;
            bytes[1] = kind;
            bytes[4..6].copy_from_slice(&size.to_ne_bytes());
            offload(&bytes)
        };
        assert_eq!(header(0, 0, 0), Offload::default());
        // DATA_VALID says that the checksum is right, not that it is partial.
        assert_eq!(header(2, 0, 0), Offload::default());
        assert_eq!(header(1, 0, 0), Offload { needs_csum: true, gso_size: 0 });
        assert_eq!(header(1, 1, 1448), Offload { needs_csum: true, gso_size: 1448 });
        assert_eq!(header(1, 0x84, 1428), Offload { needs_csum: true, gso_size: 1428 });
        assert_eq!(header(0, 0x80, 9), Offload::default());
    }
}

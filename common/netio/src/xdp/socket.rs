//! One AF_XDP socket: bound to one receive queue, with memory of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XdpOptionsFlags, XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};

use super::error::{Missing, XdpError};
use super::probe;
use super::ring::{FillRing, ReceiveRing};
use super::umem::{Place, Umem};

/// The kernel wants one, though nothing is ever sent.
const COMPLETION_RING: u32 = 64;

/// What a socket is opened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) interface: &'a str,
    pub(super) index: u32,
    /// The program runs in the kernel's stack, and frames can only be copied.
    pub(super) is_generic: bool,
    /// Frames for each socket, a power of two, and as many entries in its rings.
    pub(super) frames: u32,
    pub(super) frame_size: u32,
}

/// A socket and its memory.
#[derive(Debug)]
pub(super) struct QueueSocket {
    pub(super) queue: u32,
    // The rings and the memory end after the socket that uses them.
    fd: OwnedFd,
    fill: FillRing,
    received: ReceiveRing,
    umem: Umem,
    is_zero_copy: bool,
}

impl QueueSocket {
    /// Opens a socket and binds it to a queue: socket(2) (`CAP_NET_RAW`), setsockopt(2), mmap(2), bind(2).
    pub(super) fn open(target: &Target<'_>, queue: u32) -> Result<Self, XdpError> {
        let failed = |call| {
            move |source: Errno| XdpError::System {
                call,
                interface: target.interface.to_owned(),
                source: source.into(),
            }
        };
        let fd = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| match error {
            Errno::AFNOSUPPORT => Missing::Sockets.into(),
            Errno::PERM => {
                Missing::Capability { capability: "CAP_NET_RAW", purpose: "to open AF_XDP sockets" }.into()
            }
            other => failed("socket(AF_XDP)")(other),
        })?;
        let mapped = |source| XdpError::System {
            call: "mmap(AF_XDP)",
            interface: target.interface.to_owned(),
            source,
        };
        let umem = Umem::new(target.frames, target.frame_size).map_err(mapped)?;
        register(&fd, &umem, target).map_err(|error| match error {
            // The pages are pinned, which CAP_IPC_LOCK allows without limit.
            Errno::NOBUFS => probe::locked_memory(umem.length() as u64).into(),
            other => failed("setsockopt(XDP_UMEM_REG, rings)")(other),
        })?;
        let offsets = sockopt::xdp_mmap_offsets(&fd).map_err(failed("getsockopt(XDP_MMAP_OFFSETS)"))?;
        let fill = FillRing::map(fd.as_fd(), &offsets, target.frames).map_err(mapped)?;
        let received = ReceiveRing::map(fd.as_fd(), &offsets, target.frames).map_err(mapped)?;
        let mut socket = Self { queue, fd, fill, received, umem, is_zero_copy: false };
        let starts = (0..target.frames as usize).map(|frame| frame * target.frame_size as usize);
        socket.give_back(starts);
        socket.bind(target).map_err(|error| match error {
            Errno::BUSY => XdpError::QueueTaken { interface: target.interface.to_owned(), queue },
            other => failed("bind(AF_XDP)")(other),
        })?;
        Ok(socket)
    }

    /// Binds without copies if the driver can, else with them.
    fn bind(&mut self, target: &Target<'_>) -> Result<(), Errno> {
        let try_with = |flags| {
            let flags = flags | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
            bind(&self.fd, &SocketAddrXdp::new(flags, target.index, self.queue))
        };
        let without_copy = match target.is_generic {
            true => Err(Errno::OPNOTSUPP),
            false => try_with(SocketAddrXdpFlags::XDP_ZEROCOPY),
        };
        match without_copy {
            Err(Errno::BUSY) => return Err(Errno::BUSY),
            Err(_) => try_with(SocketAddrXdpFlags::XDP_COPY)?,
            Ok(()) => {}
        }
        self.is_zero_copy = sockopt::xdp_options(&self.fd)
            .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));
        Ok(())
    }

    /// Tells whether the driver writes into our memory, without a copy.
    pub(super) fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    /// Takes at most `most` packets out of the ring, hands each to `keep`, and returns how many and whether more wait.
    /// Entries that make no sense are left out.
    pub(super) fn take(&mut self, most: usize, mut keep: impl FnMut(Place)) -> (u32, bool) {
        let waiting = self.received.waiting();
        let count = waiting.min(u32::try_from(most).unwrap_or(u32::MAX));
        for _ in 0..count {
            let (address, length) = self.received.take();
            if let Some(place) = self.umem.take(address, length) {
                keep(place);
            }
        }
        if count != 0 {
            self.received.release();
        }
        (count, waiting > count)
    }

    /// Gives frames back to the kernel, by any address in them, and calls the driver if it has stopped for want of some.
    pub(super) fn give_back(&mut self, starts: impl Iterator<Item = usize>) {
        for start in starts {
            if let Some(address) = self.umem.give(start) {
                self.fill.push(address);
            }
        }
        self.fill.publish();
        if self.fill.needs_wakeup() {
            // Nothing is read. If the driver can't be called now, it is at the next batch.
            let mut nothing = [0u8; 0];
            let _ = recv(&self.fd, &mut nothing[..], RecvFlags::DONTWAIT);
        }
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Returns how many packets wait in the ring.
    pub(super) fn waiting(&self) -> u64 {
        self.received.waiting().into()
    }

    /// Returns what the kernel has counted since the socket was opened, getsockopt(XDP_STATISTICS).
    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        Ok(sockopt::xdp_statistics(&self.fd)?)
    }

    /// Tells whether the kernel has untied the socket since the last call, as it does when the interface goes.
    pub(super) fn has_ended(&self) -> bool {
        matches!(sockopt::socket_error(&self.fd), Ok(Err(Errno::NETDOWN)))
    }
}

impl AsFd for QueueSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Gives the socket its memory and makes its rings.
fn register(fd: &OwnedFd, umem: &Umem, target: &Target<'_>) -> Result<(), Errno> {
    let memory = XdpUmemReg {
        addr: umem.address(),
        len: umem.length() as u64,
        chunk_size: target.frame_size,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(fd, memory)?;
    sockopt::set_xdp_umem_fill_ring_size(fd, target.frames)?;
    sockopt::set_xdp_umem_completion_ring_size(fd, COMPLETION_RING)?;
    sockopt::set_xdp_rx_ring_size(fd, target.frames)
}

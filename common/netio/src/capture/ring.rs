//! The default backend: a ring of memory shared with the kernel, whose packets cost no system call, with virtio-net headers.
//!
//! Frames are made for packets of the interface's MTU. The kernel queues what is larger, super-packets, in the socket, and leaves
//! a frame that says so in its place; they are received from there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rtt0_core::packet::{Offload, Packet};
use rustix::net::sockopt;

use super::batch::Batch;
use super::frames::Frames;
use super::socket::PacketSocket;
use super::vnet::{self, VNET_HEADER};
use super::{CaptureError, CaptureOptions, Received, large};
use crate::counters::IoCounters;
use crate::interface;

/// Bytes of a batch that a processor's own cache still holds when they are sent.
const CACHED: usize = 256 << 10;

/// Bytes of a packet where the interface does not tell its MTU.
const USUAL: u16 = 1500;

#[derive(Debug)]
pub(super) struct Ring {
    socket: PacketSocket,
    frames: Frames,
    /// The batch.
    places: Vec<Place>,
    /// Those of its packets that exceed a frame; all may be.
    large: Batch,
    /// What the kernel has said while packets came; told when there are no more.
    error: Option<io::Error>,
}

/// Where a packet of the batch lies.
#[derive(Debug)]
enum Place {
    /// In the taken frame of that number.
    Frame {
        nth: usize,
        /// Where its IP header begins in there.
        start: usize,
        /// Its length from the IP header on.
        length: usize,
        offload: Offload,
    },
    /// Among the large ones, as that one of the batch.
    Large(usize),
}

impl Ring {
    pub(super) fn start(socket: PacketSocket, options: &CaptureOptions) -> Result<Self, CaptureError> {
        let mtu = || interface::by_name(&socket.interface).ok()?.mtu().ok();
        let packet = options.packet.or_else(mtu).unwrap_or(USUAL);
        let frames = Frames::map(&socket.fd, options.ring, packet.into()).map_err(|source| {
            let interface = socket.interface.clone();
            CaptureError::System { call: "setsockopt(PACKET_RX_RING)", interface, source }
        })?;
        socket.bind()?;
        let large = Batch::new(options.batch);
        Ok(Self { socket, frames, places: Vec::with_capacity(large.capacity), large, error: None })
    }

    /// Replaces the batch by what has come.
    pub(super) fn receive(&mut self, counters: &IoCounters) -> io::Result<Received> {
        self.release();
        let (mut taken, mut bytes, mut large) = (0, 0, 0);
        while taken < self.large.capacity && bytes < CACHED {
            let Some(filled) = self.frames.take() else { break };
            let nth = taken;
            taken += 1;
            bytes += filled.length;
            if filled.is_queued {
                self.places.push(Place::Large(large));
                large += 1;
                continue;
            }
            match self.place(nth, filled.start, filled.present) {
                Some(place) if filled.present == filled.length => self.places.push(place),
                _ => counters.received_truncated.add(1),
            }
        }
        if large > 0 {
            self.receive_large(large, counters);
        }
        if taken == 0 {
            // Whoever polls is told of an error until somebody has asked for it.
            self.error.take().map_or(Ok(()), Err)?;
            sockopt::socket_error(&self.socket.fd)??;
        }
        counters.received.add(self.places.len() as u64);
        counters.received_bytes.add((0..).map_while(|index| Some(self.packet(index)?.0.len() as u64)).sum());
        Ok(Received { any: taken > 0, more: self.frames.has_more() || self.error.is_some() })
    }

    /// Finds a packet of `length` bytes in the taken frame of a number, where its link header begins at `start`.
    fn place(&self, nth: usize, start: usize, length: usize) -> Option<Place> {
        let frame = self.frames.taken(nth)?;
        let header = frame.get(start.checked_sub(VNET_HEADER)?..)?.first_chunk()?;
        let length = length.checked_sub(self.socket.link_header)?;
        let start = start + self.socket.link_header;
        frame.get(start..start + length)?;
        Some(Place::Frame { nth, start, length, offload: vnet::offload(*header) })
    }

    /// Receives the `count` large packets of the batch, and drops the places of those that can't be had.
    fn receive_large(&mut self, count: usize, counters: &IoCounters) {
        let link_header = self.socket.link_header;
        if let Err(error) = large::receive(self.socket.fd.as_fd(), &mut self.large, count, link_header) {
            self.error = Some(error);
        }
        let received = self.large.slots.len();
        if received == count {
            return;
        }
        counters.received_truncated.add((count - received) as u64);
        let slots = &self.large.slots;
        self.places.retain_mut(|place| {
            let Place::Large(which) = place else { return true };
            let found = slots.iter().position(|slot| slot.index == *which);
            found.inspect(|found| *which = *found).is_some()
        });
    }

    /// Tells whether a packet lies behind the one that is received next.
    pub(super) fn has_gap(&self) -> bool {
        self.frames.has_gap()
    }

    /// Gives the kernel back what the batch is made of, which is empty then. Returns whether there is another packet.
    pub(super) fn release(&mut self) -> bool {
        self.places.clear();
        self.large.slots.clear();
        self.frames.give_back();
        self.frames.has_more()
    }

    pub(super) fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let Self { frames, places, large, .. } = self;
        let (mut frames, mut large) = (frames.taken_mut().enumerate(), large.packets_mut());
        places.iter().filter_map(move |place| match *place {
            Place::Large(_) => large.next(),
            Place::Frame { nth, start, length, offload } => {
                // Places are in the order of the frames: skips those without a packet.
                let (_, frame) = frames.find(|(index, _)| *index == nth)?;
                Some(Packet { bytes: frame.get_mut(start..start + length)?, offload })
            }
        })
    }

    pub(super) fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        match *self.places.get(index)? {
            Place::Large(which) => self.large.packet(which),
            Place::Frame { nth, start, length, offload } => {
                Some((self.frames.taken(nth)?.get(start..start + length)?, offload))
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        let (interface, frames) = (&self.socket.interface, self.frames.count());
        format!("AF_PACKET on {interface}: a ring of {frames} packets")
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}

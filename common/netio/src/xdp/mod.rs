//! Capture of tunnels' packets with AF_XDP, past the kernel's stack.
//!
//! An XDP program on one interface (`bpf/mirror.bpf.c`) hands UDP packets for the tunnels' ports to AF_XDP sockets, one for
//! each receive queue, and everything else to the kernel:
//!
//! ```text
//!  driver ──▶ XDP program ─┬─ UDP to a tunnel's port ──▶ socket of the queue ──▶ Receiver of the socket
//!                          └─ anything else, and what no socket can take ──▶ kernel
//! ```
//!
//! One [`Receiver`] has all the sockets, or several ([`Receiver::open_group`], for a thread each) share them: the queue of rank
//! i is that of receiver i modulo their number. They share the program and nothing else; each socket has memory and rings of
//! its own. Which queue a packet comes by is the NIC's choice, by a hash of its addresses and, if it is told so
//! (`ethtool -N INTERFACE rx-flow-hash udp4 sdfn`), its ports.
//!
//! The kernel sees nothing of what is redirected: neither its firewall nor a packet socket. Program and sockets are held by
//! descriptors alone, so that nothing stays whichever way the process ends.
//!
//! What is handed over: UDP in one IPv4 packet without options, or in one IPv6 packet without extension headers, in an Ethernet
//! frame without a VLAN tag. Anything else (fragments, for example) goes to the kernel. A NIC that takes tags out of frames
//! (`rx-vlan-offload`) hides them from the program. The destination's address is not looked at.
//!
//! *Checksums.* A frame in an AF_XDP socket says nothing about its checksum. What has come by a wire is whole. What a
//! program on this host sends through a veth may have a partial one (`CHECKSUM_PARTIAL`: only the pseudo-header's sum, RFC 768,
//! is in the field); both native and generic XDP hand it over like that, since the kernel completes it only for a device
//! that can't. So a receiver must not drop for a wrong outer checksum, and inner ones are partial too if the tunnel begins on
//! this host; `ethtool -K PEER tx off` on the sending end has them whole.
//!
//! *Merged packets.* Native XDP sees frames before GRO, generic XDP behind it; a merged one rarely fits into a frame
//! ([`Options::frame_size`]), goes to the kernel then and is counted ([`ProgramCounts::too_long`]).

mod error;
mod ethtool;
mod group;
mod link;
mod occupied;
mod options;
mod probe;
mod program;
mod ring;
mod socket;
mod umem;
mod watch;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rtt0_core::packet::{Offload, Packet};

pub use error::{Missing, XdpError};
pub use options::{
    FRAME_SIZES, LARGEST_MTU, MOST_MEMORY, MOST_PORTS, MOST_QUEUES, Mode, Options, frame_size_for,
};
pub use probe::missing;
pub use program::ProgramCounts;
pub use watch::Fault;

use crate::counters::IoCounters;
use group::Group;
use socket::QueueSocket;
use umem::Place;
use watch::{Observed, Watch};

/// Most packets that one batch holds.
pub const MAX_BATCH: usize = 64;

/// Length of an Ethernet header in bytes.
const ETHERNET_HEADER: usize = 14;

/// What the sockets have counted since the receiver was opened, all its queues together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketCounts {
    /// Packets that have come out of the rings.
    pub received: u64,
    /// Dropped because no frame was free (copy mode), or for another reason.
    pub dropped: u64,
    /// Dropped because the receive ring was full.
    pub ring_full: u64,
    /// How often a frame was wanted and none was free; without copies this is no loss yet.
    pub fill_ring_empty: u64,
}

/// A packet of the batch.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Which of the sockets has it.
    socket: usize,
    place: Place,
}

/// The sockets of an interface's queues, or of some of them, and the batch received last; and the XDP program, which goes with
/// the last receiver of the interface.
#[derive(Debug)]
pub struct Receiver {
    // Ends first: nothing is redirected to sockets that are going, and the others of a group know.
    group: Arc<Group>,
    sockets: Vec<QueueSocket>,
    interface: String,
    slots: Vec<Slot>,
    /// The socket that is asked first next time.
    first: usize,
    /// Packets out of the rings.
    taken: u64,
    /// Drops that have been told already.
    dropped: u64,
    watch: Watch,
    is_gone: bool,
}

impl Receiver {
    /// Attaches the program to `interface` of the calling thread's network namespace and opens its sockets. Packets that
    /// arrive from now on are queued.
    ///
    /// # Errors
    /// [`XdpError`]; then nothing has changed. Needs `CAP_NET_RAW`, `CAP_NET_ADMIN` and `CAP_BPF`.
    pub fn open(interface: &str, options: &Options) -> Result<Self, XdpError> {
        let (group, shares) = Group::open(interface, options, 1)?;
        Ok(Self::new(group, shares.into_iter().flatten().collect(), interface))
    }

    /// Attaches the program to `interface` of the calling thread's network namespace, and opens `count` receivers that share
    /// its queues, for a thread each. The memory in `options` is that of all together.
    ///
    /// # Errors
    /// As [`Receiver::open`]; [`XdpError::TooFewQueues`] unless each gets a queue.
    pub fn open_group(interface: &str, options: &Options, count: usize) -> Result<Vec<Self>, XdpError> {
        let (group, shares) = Group::open(interface, options, count)?;
        let receiver = |sockets| Self::new(Arc::clone(&group), sockets, interface);
        Ok(shares.into_iter().map(receiver).collect())
    }

    fn new(group: Arc<Group>, sockets: Vec<QueueSocket>, interface: &str) -> Self {
        Self {
            group,
            sockets,
            interface: interface.to_owned(),
            slots: Vec::with_capacity(MAX_BATCH),
            first: 0,
            taken: 0,
            dropped: 0,
            watch: Watch::default(),
            is_gone: false,
        }
    }

    /// Returns the interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Returns one line on how packets are received, by all receivers of the group, and why not better.
    pub fn describe(&self) -> String {
        self.group.description.clone()
    }

    /// Replaces the batch by what is queued, without waiting; the frames of the last batch are the kernel's again. Returns
    /// whether more may be queued.
    pub fn receive(&mut self, counters: &IoCounters) -> bool {
        self.give_back();
        let count = self.sockets.len();
        let (mut taken, mut has_more, mut bytes) = (0, false, 0);
        for turn in 0..count {
            let number = (self.first + turn) % count;
            let Some(socket) = self.sockets.get_mut(number) else { continue };
            let slots = &mut self.slots;
            let room = MAX_BATCH - slots.len();
            let (from_here, waits) = socket.take(room, |place| {
                bytes += place.length.saturating_sub(ETHERNET_HEADER) as u64;
                slots.push(Slot { socket: number, place });
            });
            taken += u64::from(from_here);
            has_more |= waits;
        }
        self.first = (self.first + 1).checked_rem(count).unwrap_or(0);
        self.taken += taken;
        counters.received.add(self.slots.len() as u64);
        counters.received_bytes.add(bytes);
        has_more
    }

    fn give_back(&mut self) {
        // Those of one socket lie together.
        for slots in self.slots.chunk_by(|one, next| one.socket == next.socket) {
            let Some(socket) = slots.first().and_then(|slot| self.sockets.get_mut(slot.socket)) else {
                continue;
            };
            socket.give_back(slots.iter().map(|slot| slot.place.start));
        }
        self.slots.clear();
    }

    /// Iterates over the packets of the batch, each from its IP header on. Nothing is known of their checksums.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let sockets = &self.sockets;
        self.slots.iter().filter_map(move |slot| {
            let mut bytes = sockets.get(slot.socket)?.umem().bytes(slot.place, ETHERNET_HEADER)?;
            // SAFETY: the frame is ours until the next `receive`, which this borrow of the receiver keeps away, as it does
            // others who would read it; each slot has another frame, since `Umem::take` gives none twice.
            let bytes = unsafe { bytes.as_mut() };
            Some(Packet { bytes, offload: Offload::default() })
        })
    }

    /// Returns packet `index` of the batch as it now stands.
    pub fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        let slot = self.slots.get(index)?;
        let bytes = self.sockets.get(slot.socket)?.umem().bytes(slot.place, ETHERNET_HEADER)?;
        // SAFETY: the frame is ours until the next `receive`, and only `packets_mut`, which borrows the receiver
        // for itself, writes into it.
        Some((unsafe { bytes.as_ref() }, Offload::default()))
    }

    /// Returns the sockets, one for each queue, to wait for: readable when packets are queued.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// Returns what the program has counted, of the whole interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn program_counts(&self) -> io::Result<ProgramCounts> {
        self.group.program.counts()
    }

    /// Returns what the sockets have counted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn socket_counts(&self) -> io::Result<SocketCounts> {
        let mut counts = SocketCounts { received: self.taken, ..SocketCounts::default() };
        for socket in &self.sockets {
            let statistics = socket.statistics()?;
            counts.dropped += statistics.rx_dropped;
            counts.ring_full += statistics.rx_ring_full.unwrap_or(0);
            counts.fill_ring_empty += statistics.rx_fill_ring_empty_descs.unwrap_or(0);
        }
        Ok(counts)
    }

    /// Counts what was not received since the last call: in [`IoCounters::received_overflow`] what the sockets have dropped and
    /// what came by a queue without a socket, in [`IoCounters::received_truncated`] what is longer than a frame. What the
    /// program has left to the kernel is counted by whichever receiver of a group looks first. Looks, too, whether what the
    /// program redirects arrives. May be called every second; two calls have to be at least a millisecond apart.
    ///
    /// # Errors
    /// The worst [`Fault`] that has shown since the last call; after [`Fault::Gone`] nothing is ever received.
    pub fn check(&mut self, counters: &IoCounters) -> Result<(), Fault> {
        self.is_gone |= self.sockets.iter().any(QueueSocket::has_ended);
        if self.is_gone {
            return Err(Fault::Gone);
        }
        // The program's first: whatever it counts later may arrive meanwhile.
        let program = &self.group.program;
        let redirected =
            self.sockets.iter().map(|socket| program.redirected(socket.queue)).sum::<io::Result<u64>>();
        let Ok(sockets) = self.socket_counts() else { return Ok(()) };
        let dropped = sockets.dropped + sockets.ring_full;
        counters.received_overflow.add(dropped.saturating_sub(self.dropped));
        self.dropped = dropped;
        let (Ok(redirected), Ok(left)) = (redirected, self.group.newly_left()) else { return Ok(()) };
        counters.received_overflow.add(left.unserved);
        counters.received_truncated.add(left.too_long);
        let waiting: u64 = self.sockets.iter().map(QueueSocket::waiting).sum();
        self.watch.judge(Observed { redirected, arrived: sockets.received + waiting + dropped }, left)
    }
}

#[cfg(test)]
mod silent_tests;

//! Capture of whole IP packets with AF_PACKET (packet(7)).
//!
//! A [`Capture`] takes what the services may claim from one interface, in batches. It never sets
//! the interface promiscuous and never sees what this host itself sends, or else nothing but that
//! ([`CaptureOptions::sent`]). It also sees what the kernel guard drops, because the tap sits before
//! the ingress hook.
//!
//! Two backends fit behind it:
//!
//! - [`Backend::Ring`] finds packets in memory shared with the kernel and learns from the virtio-net
//!   header which packets have a partial checksum or are super-packets.
//! - [`Backend::Pnet`] receives with the `pnet_datalink` crate, one packet per system call, and
//!   learns neither. Use it with GRO, LRO and checksum offload switched off on the interface, and
//!   with segmentation and checksum offload off on a veth's other end.
//!
//! A traffic mirror's tunnels can also be captured by AF_XDP ([`Capture::open_tunnels_xdp`], [`crate::xdp`]), which takes
//! them away from the kernel before it has made packets of them.

mod batch;
mod clauses;
pub mod filter;
mod frames;
mod large;
mod memory;
mod pnet;
mod redirected;
mod ring;
pub(crate) mod socket;
pub mod spread;
mod tap;
mod tunnels;
mod vnet;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Services;

use crate::counters::IoCounters;
use crate::replies::Claimed;
use crate::xdp::{self, XdpError};
use filter::Program;
pub use socket::Filters;
pub(crate) use socket::SendingSocket;
pub use tap::Tap;

/// Most packets that one batch holds.
pub const MAX_BATCH: usize = 64;

/// How packets are taken from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// A ring of memory shared with the kernel (TPACKET_V2), with virtio-net headers.
    #[default]
    Ring,
    /// The `pnet_datalink` crate; needs offloads off.
    Pnet,
}

/// Choices for a capture.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// How packets are taken from the kernel.
    pub backend: Backend,
    /// Packets per batch, 1 to [`MAX_BATCH`]; other values are brought into that range.
    pub batch: usize,
    /// Bytes of the ring, rounded up to a multiple of 256 KiB.
    pub ring: usize,
    /// Bytes of the largest IP packet that has room in a frame of the ring, up to 9,216; unless given, the
    /// interface's MTU. Larger packets, which super-packets are, cost more.
    pub packet: Option<u16>,
    /// Size of the socket's receive buffer in bytes, for packets that have no room in the ring; with
    /// [`Backend::Pnet`] for all. Without CAP_NET_ADMIN the kernel cuts it to `net.core.rmem_max`.
    pub receive_buffer: usize,
    /// Whether to take what this host sends through the interface, instead of what it receives there.
    pub sent: bool,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            batch: MAX_BATCH,
            ring: 8 << 20,
            packet: None,
            receive_buffer: 32 << 20,
            sent: false,
        }
    }
}

/// A capture can't be opened, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no such interface in this network namespace.
    #[error("interface '{interface}' not found; `/sys/class/net` lists the names there are")]
    UnknownInterface {
        /// The name asked for.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Frames of the interface have a link header that is not understood.
    #[error(
        "interface '{interface}' has hardware type {hardware} (ARPHRD_*), and only Ethernet (1), loopback (772), \
         raw IP (519) and TUN (65534) are understood; name another interface"
    )]
    LinkType {
        /// The interface's name.
        interface: String,
        /// Its ARPHRD_* number.
        hardware: u16,
    },
    /// The services need too long a filter.
    #[error(transparent)]
    Filter(#[from] filter::TooManyRules),
    /// The interface was deleted while it was captured.
    #[error("interface '{interface}' was deleted")]
    Gone {
        /// The interface's name.
        interface: String,
    },
    /// A system call failed. EPERM means that CAP_NET_RAW is missing.
    #[error("{call} on interface '{interface}' failed (it needs CAP_NET_RAW)")]
    System {
        /// The call and its notable argument.
        call: &'static str,
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open capture on one interface and the batch it has received last.
#[derive(Debug)]
pub struct Capture {
    interface: String,
    /// Length of the link header in bytes.
    link_header: u32,
    socket: Socket,
    /// Receiving has failed, as it does once when the interface goes down, and no packet has come
    /// since.
    failed: bool,
}

#[derive(Debug)]
enum Socket {
    Ring(Box<ring::Ring>),
    Pnet(Box<pnet::Pnet>),
    Xdp(Box<redirected::Redirected>),
}

/// What a call to receive has brought.
#[derive(Debug, Clone, Copy)]
struct Received {
    /// Whether anything came, were it only what can't be used.
    any: bool,
    /// Whether there may be more.
    more: bool,
}

impl Capture {
    /// Opens a capture on `interface` for what `services` may claim. Packets that arrive from now
    /// on are queued.
    ///
    /// # Errors
    /// [`CaptureError`]; EPERM if CAP_NET_RAW is missing.
    pub fn open(
        interface: &str,
        services: &Services,
        options: &CaptureOptions,
    ) -> Result<Self, CaptureError> {
        let program = |link_header| socket::program(services, link_header, options.sent);
        Self::open_for(interface, program, options)
    }

    /// Opens a capture on `interface` for what arrives there over UDP at `ports`, the tunnels of a traffic mirror, or over
    /// UDP at all if there are none. Fragments of UDP are captured whatever their port.
    ///
    /// # Errors
    /// [`CaptureError`]; EPERM if CAP_NET_RAW is missing, [`CaptureError::Filter`] for more than about 2,000 ports.
    pub fn open_tunnels(
        interface: &str,
        ports: &[u16],
        options: &CaptureOptions,
    ) -> Result<Self, CaptureError> {
        Self::open_for(interface, |link_header| Program::of_tunnels(ports, link_header), options)
    }

    /// Opens a capture of the replies that a traffic mirror claims at `interface`: of exactly those that its guard drops there.
    ///
    /// # Errors
    /// [`CaptureError`]; EPERM if CAP_NET_RAW is missing.
    pub fn open_replies(
        interface: &str,
        replies: &Claimed,
        options: &CaptureOptions,
    ) -> Result<Self, CaptureError> {
        Self::open_for(interface, |link_header| replies.filter(link_header), options)
    }

    /// Opens `count` captures that share what [`Capture::open_tunnels`] takes: each gets all packets of a UDP source port,
    /// by which whoever encapsulates tells flows apart (RFC 7348 §4.3).
    ///
    /// # Errors
    /// As [`Capture::open_tunnels`].
    pub fn open_tunnels_group(
        interface: &str,
        ports: &[u16],
        options: &CaptureOptions,
        count: usize,
    ) -> Result<Vec<Self>, CaptureError> {
        let program = |link_header| Program::of_tunnels(ports, link_header);
        Self::open_group_for(interface, program, &tunnels::spread(), options, count)
    }

    /// Opens a capture by AF_XDP of what arrives on `interface` for the tunnels' ports in `options`; see [`crate::xdp`] for
    /// what it leaves to the kernel. What is known of checksums is nothing, so packets say that theirs may be partial.
    ///
    /// # Errors
    /// [`XdpError`] says what is missing.
    pub fn open_tunnels_xdp(interface: &str, options: &xdp::Options) -> Result<Self, XdpError> {
        let receiver = xdp::Receiver::open(interface, options)?;
        Self::of_redirected(interface, receiver)
    }

    /// Opens `count` captures that share what [`Capture::open_tunnels_xdp`] takes: each gets what comes by its share of the
    /// receive queues ([`xdp::Receiver::open_group`]).
    ///
    /// # Errors
    /// As [`Capture::open_tunnels_xdp`]; [`XdpError::TooFewQueues`] unless each gets a queue.
    pub fn open_tunnels_xdp_group(
        interface: &str,
        options: &xdp::Options,
        count: usize,
    ) -> Result<Vec<Self>, XdpError> {
        let receivers = xdp::Receiver::open_group(interface, options, count)?;
        receivers.into_iter().map(|receiver| Self::of_redirected(interface, receiver)).collect()
    }

    fn of_redirected(interface: &str, receiver: xdp::Receiver) -> Result<Self, XdpError> {
        let socket = Socket::Xdp(Box::new(redirected::Redirected::new(receiver)?));
        let interface = interface.to_owned();
        Ok(Self { interface, link_header: 0, socket, failed: false })
    }

    /// Says in one line how packets are captured.
    pub fn describe(&self) -> String {
        match &self.socket {
            Socket::Ring(ring) => ring.describe(),
            Socket::Pnet(_) => format!("pnet on {}: one packet a call", self.interface),
            Socket::Xdp(socket) => socket.describe(),
        }
    }

    /// Opens `count` captures on `interface` that share what `services` may claim: each gets all
    /// packets of the flows that [`spread::place`] gives it, in both directions, and the ICMP errors about
    /// them.
    ///
    /// # Errors
    /// As [`Capture::open`].
    pub fn open_group(
        interface: &str,
        services: &Services,
        options: &CaptureOptions,
        count: usize,
    ) -> Result<Vec<Self>, CaptureError> {
        let program = |link_header| socket::program(services, link_header, options.sent);
        Self::open_group_for(interface, program, &spread::program(), options, count)
    }

    fn open_group_for(
        interface: &str,
        program: impl Fn(u32) -> Result<Program, filter::TooManyRules>,
        spread: &[libc::sock_filter],
        options: &CaptureOptions,
        count: usize,
    ) -> Result<Vec<Self>, CaptureError> {
        if count <= 1 {
            return Ok(vec![Self::open_for(interface, program, options)?]);
        }
        // They can join only once they receive, and until then each would receive everything.
        let open = |_| Self::open_for(interface, |_| Ok(Program::closed()), options);
        let captures = (0..count).map(open).collect::<Result<Vec<_>, _>>()?;
        let failed =
            |call| move |source| CaptureError::System { call, interface: interface.to_owned(), source };
        let members: Vec<_> = captures.iter().collect();
        socket::join(&members, spread, options.sent).map_err(failed("setsockopt(PACKET_FANOUT)"))?;
        for capture in &captures {
            let program = program(capture.link_header)?;
            socket::attach(capture, &program).map_err(failed("setsockopt(SO_ATTACH_FILTER)"))?;
        }
        Ok(captures)
    }

    fn open_for(
        interface: &str,
        program: impl FnOnce(u32) -> Result<Program, filter::TooManyRules>,
        options: &CaptureOptions,
    ) -> Result<Self, CaptureError> {
        let socket = socket::PacketSocket::open(interface, program, options)?;
        let link_header = socket.link_header as u32;
        let socket = match options.backend {
            Backend::Ring => Socket::Ring(Box::new(ring::Ring::start(socket, options)?)),
            Backend::Pnet => Socket::Pnet(Box::new(pnet::Pnet::start(socket, options)?)),
        };
        Ok(Self { interface: interface.to_owned(), link_header, socket, failed: false })
    }

    /// Returns what can make the capture leave something out while it is in use elsewhere.
    ///
    /// # Errors
    /// The descriptor can't be duplicated, or the services need too long a filter for that.
    pub fn filters(&self, services: &Services) -> Result<Filters, CaptureError> {
        let fd = self.as_fd().try_clone_to_owned().map_err(|source| CaptureError::System {
            call: "fcntl(F_DUPFD_CLOEXEC)",
            interface: self.interface.clone(),
            source,
        })?;
        Filters::new(fd, services, self.link_header)
    }

    /// Returns the interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Replaces the batch by what is queued, without waiting. Returns whether more may be queued.
    /// Truncated packets are counted and left out. An error is counted too: the capture goes on
    /// by itself when an interface that went down comes up again.
    pub fn receive(&mut self, counters: &IoCounters) -> bool {
        let received = match &mut self.socket {
            Socket::Ring(socket) => socket.receive(counters),
            Socket::Pnet(socket) => socket.receive(counters),
            Socket::Xdp(socket) => return socket.receive(counters),
        };
        let Ok(Received { any, more }) = received else {
            counters.receive_errors.add(1);
            self.failed = true;
            return false;
        };
        self.failed &= !any;
        more
    }

    /// Ends the use of the batch. Who waits for packets has to do that before: what the kernel shares with the batch counts as
    /// not yet received. Returns whether a packet is known to have come meanwhile.
    pub fn release(&mut self) -> bool {
        match &mut self.socket {
            Socket::Ring(socket) => socket.release(),
            Socket::Pnet(_) | Socket::Xdp(_) => false,
        }
    }

    /// Tells whether a packet is queued behind one that the kernel had not done with, so that it was not received, and perhaps
    /// can't be yet.
    pub fn has_gap(&self) -> bool {
        matches!(&self.socket, Socket::Ring(socket) if socket.has_gap())
    }

    /// Iterates over the packets of the batch, each from its IP header on.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let (mut ring, mut pnet, mut redirected) = (None, None, None);
        match &mut self.socket {
            Socket::Ring(socket) => ring = Some(socket.packets_mut()),
            Socket::Pnet(socket) => pnet = Some(socket.packets_mut()),
            Socket::Xdp(socket) => redirected = Some(socket.packets_mut()),
        }
        let others = pnet.into_iter().flatten().chain(redirected.into_iter().flatten());
        ring.into_iter().flatten().chain(others)
    }

    /// Returns packet `index` of the batch as it now stands.
    pub fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        match &self.socket {
            Socket::Ring(socket) => socket.packet(index),
            Socket::Pnet(socket) => socket.packet(index),
            Socket::Xdp(socket) => socket.packet(index),
        }
    }

    /// Tells whether [`Capture::check`] should be called again soon even though no packet comes:
    /// receiving has failed and not worked since, and the kernel says no more when an interface
    /// that is down is deleted. Of AF_XDP always, for what goes wrong there shows nowhere else.
    pub fn is_suspect(&self) -> bool {
        self.failed || matches!(self.socket, Socket::Xdp(_))
    }

    /// Adds what the kernel has dropped for want of buffer since the last call to
    /// [`IoCounters::received_overflow`], and notices an interface that was deleted.
    ///
    /// # Errors
    /// [`CaptureError::Gone`], after which nothing is ever received.
    pub fn check(&mut self, counters: &IoCounters) -> Result<(), CaptureError> {
        if let Socket::Xdp(socket) = &mut self.socket {
            let is_there = socket.check(counters);
            return if is_there {
                Ok(())
            } else {
                Err(CaptureError::Gone { interface: self.interface.clone() })
            };
        }
        if let Ok(drops) = socket::drops(self) {
            counters.received_overflow.add(drops);
        }
        if self.failed && !socket::interface_exists(self) {
            return Err(CaptureError::Gone { interface: self.interface.clone() });
        }
        Ok(())
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Ring(socket) => socket.as_fd(),
            Socket::Pnet(socket) => socket.as_fd(),
            Socket::Xdp(socket) => socket.as_fd(),
        }
    }
}

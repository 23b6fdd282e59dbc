//! Packet sockets (`packet(7)`): the delay line's way in and out where no TAP device can be had,
//! and the recorder's ear.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rtt0_netio::netns::Namespace;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::time::ClockId;

use super::port::{FRAME_CAPACITY, Port, VNET_HEADER, clock};

/// What a socket asks the kernel to hold for it, in bytes; frames beyond it are dropped. Only
/// `CAP_NET_ADMIN` outside user namespaces gets it, others get `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 64 << 20;

/// Which frames a packet socket sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ear {
    /// Those the device receives.
    Incoming,
    /// Those it sends, too.
    Both,
    /// None: the socket is for sending.
    Deaf,
}

/// A frame that a [`PacketSocket`] received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes written into the buffer: a vnet header and the frame, cut at the buffer's end.
    pub(crate) length: usize,
    /// Bytes before any cut.
    pub(crate) whole: usize,
    /// When the kernel saw the frame, since 1970-01-01 UTC.
    pub(crate) at: Duration,
    /// Whether the device sent it; else it received it.
    pub(crate) outgoing: bool,
}

/// A packet socket on one device. Frames have a vnet header of [`VNET_HEADER`] bytes in front.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on device `index` of `namespace`. Needs `CAP_NET_RAW` there.
    ///
    /// # Errors
    /// The error of `socket(2)`, `setsockopt(2)` or `bind(2)`.
    pub(crate) fn open(namespace: &Namespace, index: u32, ear: Ear) -> io::Result<Self> {
        namespace.enter(|| Self::open_here(index, ear))?
    }

    fn open_here(index: u32, ear: Ear) -> io::Result<Self> {
        // Protocol 0: nothing is received before bind names device and protocol together.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let socket = Self { fd };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        if ear == Ear::Deaf {
            // Straight to the driver: a queue would only add waiting.
            socket.set_option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        } else {
            socket.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
            if socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
                socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
            }
        }
        if ear == Ear::Incoming {
            socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        }
        socket.bind(index, if ear == Ear::Deaf { 0 } else { libc::ETH_P_ALL })?;
        Ok(socket)
    }

    fn set_option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        let length = mem::size_of::<i32>() as libc::socklen_t;
        // SAFETY: setsockopt(2) reads `length` bytes of `value`, which outlives the call.
        let outcome =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bind(&self, index: u32, protocol: i32) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` is plain old data, for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = index.cast_signed();
        let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: bind(2) reads `length` bytes of `address`, which outlives the call.
        let outcome = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives a frame without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none is there, else the error of `recvmsg(2)`.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // SAFETY: `sockaddr_ll` is plain old data, for which all zeroes is a valid value.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let Timed { length, whole, at } = receive_timed(self.fd.as_fd(), buffer, Some(&mut from))?;
        Ok(Received { length, whole, at, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING })
    }

    /// Returns how many frames the kernel dropped, since this was last asked, because the socket's
    /// buffer was full.
    ///
    /// # Errors
    /// The error of `getsockopt(2)` with `PACKET_STATISTICS`.
    pub(crate) fn missed(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: getsockopt(2) writes at most `length` bytes of `statistics`; both outlive the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics.tp_drops) }
    }

    /// Sends a frame with its vnet header, without waiting.
    ///
    /// # Errors
    /// The error of `send(2)`: `ENOBUFS` or `EAGAIN` if the device is busy, `EMSGSIZE` beyond its MTU.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.fd, frame, rustix::net::SendFlags::DONTWAIT)?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A packet received from a socket with `SO_TIMESTAMPNS`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    /// Bytes received.
    pub(super) length: usize,
    /// Bytes there were; more than `length` if the buffer was too small.
    pub(super) whole: usize,
    /// When it arrived, by the wall clock.
    pub(super) at: Duration,
}

/// Receives a packet with its time of arrival, recvmsg(2); `from` gets a packet socket's address.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::WouldBlock`] if nothing is there and the socket does not wait.
pub(super) fn receive_timed(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    from: Option<&mut libc::sockaddr_ll>,
) -> io::Result<Timed> {
    let mut control = [0_u64; 8];
    let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is plain old data, for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    if let Some(from) = from {
        message.msg_name = ptr::from_mut(from).cast();
        message.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    }
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: every pointer in `message` refers to a local, to `from` or to `buffer`, with its true
    // length, and all of them outlive the call.
    let whole = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let whole = usize::try_from(whole).map_err(|_| io::Error::last_os_error())?;
    let at = timestamp(&message).unwrap_or_else(|| clock(ClockId::Realtime));
    Ok(Timed { length: whole.min(buffer.len()), whole, at })
}

/// Finds the kernel's time of arrival among the control messages.
fn timestamp(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: recvmsg(2) has filled `message`, whose control buffer is alive and, being made of
    // `u64`, aligned for `cmsghdr`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return only headers that lie within the buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SO_TIMESTAMPNS {
            // SAFETY: the kernel puts a `timespec` into such a message, perhaps unaligned.
            let time = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
            let seconds = u64::try_from(time.tv_sec).ok()?;
            return Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?));
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// A veth device as the delay line's port: one socket listens, the other speaks.
#[derive(Debug, Clone)]
pub(super) struct PacketPort {
    ear: Arc<PacketSocket>,
    mouth: Arc<PacketSocket>,
}

impl PacketPort {
    /// Opens both sockets on device `index` of `namespace`. Needs `CAP_NET_RAW` there.
    ///
    /// # Errors
    /// As [`PacketSocket::open`].
    pub(super) fn open(namespace: &Namespace, index: u32) -> io::Result<Self> {
        Ok(Self {
            ear: Arc::new(PacketSocket::open(namespace, index, Ear::Incoming)?),
            mouth: Arc::new(PacketSocket::open(namespace, index, Ear::Deaf)?),
        })
    }
}

impl Port for PacketPort {
    fn readable(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }

    fn receive(&self, buffer: &mut [u8; FRAME_CAPACITY]) -> io::Result<(usize, Duration)> {
        let received = self.ear.receive(buffer)?;
        if received.whole > buffer.len() || received.length <= VNET_HEADER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // The wall clock may be stepped between two readings; no frame waits for a second.
        let age = clock(ClockId::Realtime).saturating_sub(received.at);
        Ok((received.length, if age < Duration::from_secs(1) { age } else { Duration::ZERO }))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.mouth.send(frame)
    }
}

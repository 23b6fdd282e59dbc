//! One raw IP socket and the messages that wait for it.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use super::segment::MAX_HEADERS;
use super::{EmitError, Leaving};

/// Most messages that one sendmmsg(2) takes.
pub(super) const BATCH: usize = 64;

/// Size of the send buffer in bytes: well above what one batch of super-packets fills.
const SEND_BUFFER: usize = 16 << 20;

/// How long a full send buffer is waited for before packets are dropped.
const PATIENCE: Duration = Duration::from_millis(4);

/// A raw socket of one IP version, and memory for headers written anew.
#[derive(Debug)]
pub(super) struct Lane {
    socket: Socket,
    headers: Box<[[u8; MAX_HEADERS]; BATCH]>,
}

/// An IP packet to send, in one or two pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// Bytes in the header memory at the message's own place that precede `rest`; 0 if `rest` is
    /// the whole packet.
    pub(super) header_length: usize,
    pub(super) rest: &'a [u8],
    /// Which of the packets handed in this is, or is a segment of.
    pub(super) packet: usize,
}

impl Lane {
    /// Opens a raw socket that takes whole IP packets, socket(2) (CAP_NET_RAW), setsockopt(2)
    /// with SO_MARK (CAP_NET_ADMIN or CAP_NET_RAW), SO_BINDTODEVICE and SO_SNDBUFFORCE (CAP_NET_ADMIN; without it
    /// the kernel cuts the size to `net.core.wmem_max`).
    pub(super) fn open(domain: Domain, leaving: Leaving<'_>) -> Result<Self, EmitError> {
        let system = |call| move |source| EmitError { call, source };
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(domain, kind, Some(Protocol::from(libc::IPPROTO_RAW)))
            .map_err(system("socket(SOCK_RAW)"))?;
        // IPPROTO_RAW implies this for both versions; saying so costs nothing.
        match domain {
            Domain::IPV4 => socket.set_header_included_v4(true).map_err(system("setsockopt(IP_HDRINCL)"))?,
            _ => socket.set_header_included_v6(true).map_err(system("setsockopt(IPV6_HDRINCL)"))?,
        }
        socket.set_mark(leaving.mark).map_err(system("setsockopt(SO_MARK)"))?;
        if let Some(interface) = leaving.interface {
            let bound = socket.bind_device(Some(interface.as_bytes()));
            bound.map_err(system("setsockopt(SO_BINDTODEVICE)"))?;
        }
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER))
            .map_err(|e| EmitError { call: "setsockopt(SO_SNDBUF)", source: e.into() })?;
        Ok(Self { socket, headers: Box::new([[0; MAX_HEADERS]; BATCH]) })
    }

    /// Returns the header memory of the message at place `index` of a batch.
    pub(super) fn header(&mut self, index: usize) -> &mut [u8; MAX_HEADERS] {
        &mut self.headers[index]
    }

    /// Returns the two pieces of `messages[index]`, which together are an IP packet.
    pub(super) fn pieces<'a>(&'a self, messages: &[Message<'a>], index: usize) -> [&'a [u8]; 2] {
        let message = messages[index];
        [&self.headers[index][..message.header_length], message.rest]
    }

    /// Hands `messages[from..]` to the kernel without waiting, sendmmsg(2); returns how many it
    /// took, or why it took not even the first.
    pub(super) fn send(&self, messages: &[Message<'_>], from: usize) -> io::Result<usize> {
        // Only what is used is ever written; all of it would be some kilobytes a call.
        let mut vectors = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let mut addresses = [const { MaybeUninit::<Address>::uninit() }; BATCH];
        let mut count = 0;
        let places = vectors.iter_mut().zip(&mut headers).zip(&mut addresses);
        for (((vector, header), address), index) in places.zip(from..messages.len()) {
            let pieces = self.pieces(messages, index);
            let head = if pieces[0].is_empty() { pieces[1] } else { pieces[0] };
            let (new, length) = Address::new(destination(head));
            // sendmmsg(2) only reads; the mutable pointer is the C type's. An empty first piece is left out.
            let vector = vector.write(pieces.map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            let skipped = usize::from(pieces[0].is_empty());
            // SAFETY: all-zero bytes are a valid mmsghdr: integers and null pointers.
            let header = header.write(unsafe { mem::zeroed() });
            header.msg_hdr.msg_name = ptr::from_mut(address.write(new)).cast();
            header.msg_hdr.msg_namelen = length;
            header.msg_hdr.msg_iov = vector[skipped..].as_mut_ptr();
            header.msg_hdr.msg_iovlen = (2 - skipped) as _;
            count += 1;
        }
        let headers = headers.as_mut_ptr().cast();
        // SAFETY: the first `count` headers are initialised and point to an address and one or two vectors
        // each, and those to slices borrowed through the call; all arrays live through the call.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Waits until the send buffer has room, at most [`PATIENCE`], ppoll(2). Returns whether it has.
    pub(super) fn wait_for_room(&self) -> bool {
        let timeout = Timespec::try_from(PATIENCE).ok();
        poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

/// Room for a destination of either IP version.
#[repr(C)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    /// Makes the address; returns it with the length of its C type.
    fn new(destination: IpAddr) -> (Self, libc::socklen_t) {
        match destination {
            IpAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            IpAddr::V6(address) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    // For a raw socket the port is a protocol number: none.
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                    sin6_scope_id: 0,
                };
                (Self { v6 }, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

/// Returns the destination of an IP packet; the unspecified address, which no route matches, if
/// the header is cut (the emitter has checked that it isn't).
pub(super) fn destination(packet: &[u8]) -> IpAddr {
    let octets = |range| packet.get(range);
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => octets(16..20)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
            .map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from)
            .into(),
        _ => octets(24..40)
            .and_then(|b| <[u8; 16]>::try_from(b).ok())
            .map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from)
            .into(),
    }
}

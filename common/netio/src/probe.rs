//! SYNs that this host sends on its own behalf, to learn how a server answers. No connection comes of them: the kernel
//! knows of no such handshake and resets it when the answer comes (RFC 9293 §3.10.7.1).

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtt0_core::wire::PROTOCOL_TCP;
use rtt0_core::wire::checksum::{add, pseudo_header, sum};
use socket2::{Domain, Protocol, Socket, Type};

/// Most bytes of an answer that are read: the largest headers there are.
const LARGEST: usize = 256;

/// Sends TCP segments to one destination, from a port that is reserved for that, and receives what comes back.
#[derive(Debug)]
pub struct ProbeSocket {
    raw: Socket,
    /// Keeps others from the port, and has nobody listen there.
    _port: Socket,
    local: SocketAddr,
    remote: SocketAddr,
}

impl ProbeSocket {
    /// Opens one, with the source address that the kernel's routes choose now. Needs `CAP_NET_RAW`, which what is
    /// opened no longer does.
    ///
    /// # Errors
    /// The kernel's: without a route, `ENETUNREACH`.
    pub fn open(remote: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(remote);
        let raw = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        let mut nowhere = remote;
        nowhere.set_port(0);
        raw.connect(&nowhere.into())?;
        let mut local = address(&raw.local_addr()?)?;
        local.set_port(0);
        let port = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        port.bind(&local.into())?;
        Ok(Self { local: address(&port.local_addr()?)?, raw, _port: port, remote })
    }

    /// Returns the address and the port that it sends from.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Returns the destination.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Sends a segment: TCP header and options, checksum included. The kernel adds the IP header.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, segment: &[u8]) -> io::Result<()> {
        self.raw.send(segment).map(drop)
    }

    /// Waits for segments of the destination to this port, whose checksums are right, until `judge` says what one of them
    /// means; `None` if none does within `patience`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive<T>(
        &self,
        patience: Duration,
        mut judge: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.raw.set_read_timeout(Some(left))?;
            let mut buffer = [0; LARGEST];
            let length = match (&self.raw).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Some(meaning) = self.segment(&buffer[..length]).and_then(&mut judge) {
                return Ok(Some(meaning));
            }
        }
    }

    /// Returns the segment of what was read, if it is for this port and whole.
    fn segment<'a>(&self, read: &'a [u8]) -> Option<&'a [u8]> {
        // Of IPv4 the header comes along (raw(7)), of IPv6 not (RFC 3542 §3).
        let header = if self.remote.is_ipv4() { usize::from(read.first()? & 0x0f) * 4 } else { 0 };
        let segment = read.get(header..)?;
        let ports = [self.remote.port().to_be_bytes(), self.local.port().to_be_bytes()].concat();
        let pseudo = pseudo_header(self.remote.ip(), self.local.ip(), PROTOCOL_TCP, segment.len());
        (segment.get(..4)? == ports && add(pseudo, sum(segment)) == 0xffff).then_some(segment)
    }

    /// Throws away what has come meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn discard(&self) -> io::Result<()> {
        self.raw.set_nonblocking(true)?;
        let mut nothing = [MaybeUninit::uninit(); 1];
        // Until there is no more; an ICMP error that waits is taken by the reading, too.
        for _ in 0..LARGEST {
            if self.raw.recv(&mut nothing).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        self.raw.set_nonblocking(false)
    }
}

/// Tells whether an error is only the end of a wait.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn address(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("no internet address"))
}

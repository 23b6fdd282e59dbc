//! Asks the kernel for the MTU towards a destination.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rtt0_core::time::Instant;

use rustix::net::sockopt;
use socket2::{Domain, SockAddr, Socket, Type};

use super::EMIT_MARK;
use crate::clock;

/// Any port will do: nothing is ever sent to it (9 is discard, RFC 863).
const PORT: u16 = 9;
/// Destinations whose MTU is remembered.
const PLACES: usize = 256;
/// For how long it is.
const FRESH: Duration = Duration::from_millis(500);

/// UDP sockets whose only use is to be connected, which makes the kernel look up a route.
#[derive(Debug)]
pub(super) struct PathMtu {
    v4: Socket,
    /// None if the kernel has no IPv6.
    v6: Option<Socket>,
    known: Vec<Option<Known>>,
    hash: RandomState,
}

/// What the kernel said of a destination.
#[derive(Debug, Clone, Copy)]
struct Known {
    destination: IpAddr,
    mtu: u16,
    until: Instant,
}

impl PathMtu {
    /// Opens the sockets, socket(2) and setsockopt(SO_MARK) (CAP_NET_ADMIN or CAP_NET_RAW): with
    /// the mark, policy routing treats them like what is emitted.
    pub(super) fn open() -> io::Result<Self> {
        let open = |domain| {
            let socket = Socket::new(domain, Type::DGRAM, None)?;
            socket.set_mark(EMIT_MARK)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self {
            v4: open(Domain::IPV4)?,
            v6: open(Domain::IPV6).ok(),
            known: vec![None; PLACES],
            hash: RandomState::new(),
        })
    }

    /// Tells whether packets of `length` bytes fit the MTU towards `destination`, as it was at most
    /// half a second ago.
    pub(super) fn carries(&mut self, destination: IpAddr, length: usize) -> bool {
        let place = self.hash.hash_one(destination) as usize % PLACES;
        let now = clock::now();
        let mtu = match self.known[place] {
            Some(known) if known.destination == destination && known.until > now => known.mtu,
            _ => {
                let Ok(mtu) = self.towards(destination) else { return false };
                self.known[place] = Some(Known { destination, mtu, until: now + FRESH });
                mtu
            }
        };
        length <= usize::from(mtu)
    }

    /// Returns the MTU towards `destination` in bytes, connect(2) and getsockopt(IP_MTU or
    /// IPV6_MTU); at most 65,535.
    pub(super) fn towards(&self, destination: IpAddr) -> io::Result<u16> {
        let socket = match destination {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.connect(&SockAddr::from(SocketAddr::new(destination, PORT)))?;
        let mtu = match destination {
            IpAddr::V4(_) => sockopt::ip_mtu(socket)?,
            IpAddr::V6(_) => sockopt::ipv6_mtu(socket)?,
        };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}

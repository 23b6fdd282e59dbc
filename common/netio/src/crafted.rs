//! Whole IP packets of our own making, sent as they are: for finding out what a path does to them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::emit::EMIT_MARK;

/// Loads nothing and refuses every packet: `ret #0` (linux/bpf_common.h).
const REFUSE: (u16, u32) = (0x06, 0);

/// A raw socket that takes whole IP packets for one host.
#[derive(Debug)]
pub struct CraftedSocket {
    raw: Socket,
    to: SocketAddr,
}

impl CraftedSocket {
    /// Opens one. Calls socket(2) (CAP_NET_RAW) and setsockopt(2).
    ///
    /// # Errors
    /// The kernel's; `EPERM` without CAP_NET_RAW.
    pub fn open(to: IpAddr) -> io::Result<Self> {
        let to = SocketAddr::new(to, 0);
        let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        // What the kernel has learned of the path must not keep larger packets from trying.
        match to {
            SocketAddr::V4(_) => {
                raw.set_header_included_v4(true)?;
                set_ip_mtu_discover(&raw, Ipv4PathMtuDiscovery::PROBE)?;
            }
            SocketAddr::V6(_) => {
                raw.set_header_included_v6(true)?;
                set_ipv6_mtu_discover(&raw, Ipv6PathMtuDiscovery::PROBE)?;
            }
        }
        // As a daemon's packets are marked, so that its guard keeps connection tracking off. Without the capability they are
        // like anybody's.
        let _ = raw.set_mark(EMIT_MARK);
        Ok(Self { raw, to })
    }

    /// Sends a packet. Of IPv4 the kernel writes the header's checksum.
    ///
    /// # Errors
    /// The kernel's: `EMSGSIZE` above the interface's MTU, `EPERM` if a firewall of this host drops it.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.raw.send_to(packet, &self.to.into()).map(drop)
    }
}

/// A TCP port that is ours, and from which the kernel answers nothing: neither a SYN-ACK nor a reset.
///
/// It listens, and a filter on the listening socket refuses whatever comes for it.
#[derive(Debug)]
pub struct SilentPort {
    _listener: Socket,
    local: SocketAddr,
}

impl SilentPort {
    /// Takes the port. Below 1024 it needs CAP_NET_BIND_SERVICE.
    ///
    /// # Errors
    /// The kernel's: `EADDRINUSE` if somebody has it.
    pub fn open(local: SocketAddr) -> io::Result<Self> {
        let listener = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
        if local.is_ipv6() {
            listener.set_only_v6(true)?;
        }
        listener.attach_filter(&[SockFilter::new(REFUSE.0, 0, 0, REFUSE.1)])?;
        listener.bind(&local.into())?;
        listener.listen(1)?;
        let local = listener.local_addr()?.as_socket().unwrap_or(local);
        Ok(Self { _listener: listener, local })
    }

    /// Returns its address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn a_silent_port_neither_accepts_nor_refuses() {
        let port = SilentPort::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let outcome = TcpStream::connect_timeout(&port.local(), Duration::from_millis(200));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let second = SilentPort::open(port.local());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

//! The TCP sockets that listen, and how many connections wait for them: `NETLINK_SOCK_DIAG`, or else `/proc/net/tcp`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_bindings::inet_diag::{Msg, ReqV2, Request};
use netlink_socket2::NetlinkSocket;

use super::owners::Owners;
use super::{Seen, datagrams, proc_net, refused};

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;
/// More listening sockets than are looked at.
const MOST: usize = 16_384;

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub local: SocketAddr,
    /// Connections that wait for the program to take them.
    pub waiting: u32,
    /// How many may; none if only `/proc/net/tcp` could be read.
    pub limit: Option<u32>,
    /// The socket's inode.
    pub inode: u64,
    /// Whose it is, if it is full and this user may know.
    pub owner: Option<String>,
}

impl Listener {
    /// Tells whether the kernel takes no more connections for it. It lets in one more than the limit.
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.waiting > limit)
    }
}

/// Reads them.
pub(super) fn read() -> Seen<Vec<Listener>> {
    let mut listeners = match (diagnosed(family::INET), diagnosed(family::INET6)) {
        (Ok(mut four), six) => {
            // No kernel module of IPv6, then.
            four.extend(six.unwrap_or_default());
            four
        }
        (Err(why), _) => listed().map_err(|or| format!("{why}; {or}"))?,
    };
    let mut owners = Owners::default();
    for listener in listeners.iter_mut().filter(|listener| listener.is_full()) {
        listener.owner = owners.of(listener.inode);
    }
    Ok(listeners)
}

/// Address families.
pub(super) mod family {
    pub(in super::super) const INET: u8 = 2;
    pub(in super::super) const INET6: u8 = 10;
}

fn diagnosed(family: u8) -> Seen<Vec<Listener>> {
    let mut listeners = Vec::new();
    each_socket(family, 1 << LISTEN, |message| {
        if u32::from(message.state) == LISTEN && listeners.len() < MOST {
            listeners.push(listener(message));
        }
    })?;
    Ok(listeners)
}

/// Hands out the TCP sockets of one family whose state is one of `states` (bits).
pub(super) fn each_socket(family: u8, states: u32, mut take: impl FnMut(&Msg)) -> Seen<()> {
    let failed = |error: std::io::Error| refused("SOCK_DIAG_BY_FAMILY", error);
    let mut socket = NetlinkSocket::new();
    let wanted = ReqV2 { family, protocol: TCP, states, ..ReqV2::default() };
    let request = Request::new().op_tcp_diag_dump(&wanted);
    let mut replies = socket.request(&request).map_err(failed)?;
    while let Some(reply) = replies.recv() {
        let (message, _) = reply.map_err(|error| failed(error.into()))?;
        take(&message);
    }
    Ok(())
}

fn listener(message: &Msg) -> Listener {
    let source = message.sockid.src;
    let address = match message.family {
        family::INET => IpAddr::V4(Ipv4Addr::new(source[0], source[1], source[2], source[3])),
        _ => IpAddr::V6(Ipv6Addr::from(source)),
    };
    Listener {
        local: SocketAddr::new(address, message.sockid.sport()),
        waiting: message.rqueue,
        limit: Some(message.wqueue),
        inode: message.inode.into(),
        owner: None,
    }
}

/// The same from `/proc/net/tcp` and `tcp6`, which do not tell the limit.
fn listed() -> Seen<Vec<Listener>> {
    let mut text = proc_net("tcp")?;
    text.push_str(&proc_net("tcp6").unwrap_or_default());
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<Listener> {
    let sockets = text.lines().filter_map(datagrams::Line::parse).filter(|line| line.state == LISTEN);
    sockets
        .take(MOST)
        .map(|line| Listener {
            local: line.local,
            waiting: line.receive_queue,
            limit: None,
            inode: line.inode,
            owner: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn listening_sockets_of_both_families_are_seen_either_way() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0");
        for seen in [read().unwrap(), listed().unwrap()] {
            for socket in [Some(&four), six.as_ref().ok()].into_iter().flatten() {
                let local = socket.local_addr().unwrap();
                let listener = seen.iter().find(|listener| listener.local == local).unwrap();
                assert_eq!((listener.waiting, listener.is_full()), (0, false));
                assert!(listener.limit.is_none_or(|limit| limit >= 128));
            }
        }
    }

    #[test]
    fn other_states_are_left_out() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                    0: 00000000:07E8 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 48 1 0 100 0 0 10 0\n\
                    1: 0100007F:07E8 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 49 1 0 100 0 0 10 0\n";
        let listeners = parse(text);
        assert_eq!(listeners.len(), 1);
        assert_eq!((listeners[0].local.to_string().as_str(), listeners[0].waiting), ("0.0.0.0:2024", 3));
    }
}

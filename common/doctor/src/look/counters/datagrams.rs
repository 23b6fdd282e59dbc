//! The UDP sockets and what each has dropped: `/proc/net/udp` and `udp6`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::owners::Owners;
use super::{Seen, proc_net};

/// More sockets than are looked at.
const MOST: usize = 65_536;

/// One UDP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagrams {
    /// Where it receives.
    pub local: SocketAddr,
    /// Memory that what waits for the program takes, in bytes.
    pub waiting: u32,
    /// Datagrams dropped because its buffer was full, or by its own filter.
    pub drops: u64,
    /// Whose it is, if it has dropped any and this user may know.
    pub owner: Option<String>,
}

/// Reads them, by inode.
pub(super) fn read() -> Seen<BTreeMap<u64, Datagrams>> {
    let mut sockets = BTreeMap::new();
    parse(&proc_net("udp")?, &mut sockets);
    if let Ok(text) = proc_net("udp6") {
        parse(&text, &mut sockets);
    }
    let mut owners = Owners::default();
    for (inode, socket) in sockets.iter_mut().filter(|(_, socket)| socket.drops > 0) {
        socket.owner = owners.of(*inode);
    }
    Ok(sockets)
}

fn parse(text: &str, sockets: &mut BTreeMap<u64, Datagrams>) {
    for line in text.lines().filter_map(Line::parse).take(MOST) {
        let Some(drops) = line.last else { continue };
        let socket = Datagrams { local: line.local, waiting: line.receive_queue, drops, owner: None };
        sockets.insert(line.inode, socket);
    }
}

/// A line of `/proc/net/tcp`, `udp` and their like.
pub(super) struct Line {
    pub(super) local: SocketAddr,
    pub(super) state: u32,
    pub(super) receive_queue: u32,
    pub(super) inode: u64,
    /// The last column, if it is a number: a UDP socket's drops.
    last: Option<u64>,
}

impl Line {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let hexadecimal = |text: &str| u32::from_str_radix(text, 16).ok();
        Some(Self {
            local: address(words.get(1)?)?,
            state: hexadecimal(words.get(3)?)?,
            receive_queue: hexadecimal(words.get(4)?.split_once(':')?.1)?,
            inode: words.get(9)?.parse().ok()?,
            last: words.get(12).and_then(|word| word.parse().ok()),
        })
    }
}

/// Parses an address as the kernel writes it: words of the host's byte order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    if !address.is_ascii() {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::UdpSocket;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_are_read() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             12: 0100007F:0035 00000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 77 2 00000000dc1f9f98 41\n\
             13: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 78 2 0 0\n";
        let mut sockets = BTreeMap::new();
        parse(text, &mut sockets);
        assert_eq!((sockets[&77].local.to_string().as_str(), sockets[&77].drops), ("127.0.0.1:53", 41));
        assert_eq!((sockets[&78].local.to_string().as_str(), sockets[&77].waiting), ("[::1]:53", 0x300));
        assert_eq!(sockets.len(), 2);
    }

    #[test]
    fn own_sockets_are_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        assert!(read().unwrap().values().any(|seen| seen.local == local && seen.drops == 0));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "([0-9A-F: é]|\n)*") {
            parse(&text, &mut BTreeMap::new());
        }
    }
}

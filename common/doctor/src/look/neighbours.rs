//! The neighbour tables (ARP, neighbour discovery), rtnetlink(7): RTM_GETNEIGH. Needs no privilege.

use std::net::IpAddr;
use std::time::Duration;

use netlink_bindings::rt_neigh::{self, IterableNeighbourAttrs, Ndmsg, NudState};
use netlink_socket2::NetlinkSocket;

/// USER_HZ, in which the kernel tells ages on every architecture that Rust knows Linux on.
const TICKS: u64 = 100;

/// What is known of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has been asked for, and has not answered yet.
    Incomplete,
    /// It was asked for often enough, and has not answered.
    Failed,
    /// An operator has said where it is; nobody asks.
    Permanent,
    /// Its link-layer address is known, or there is none.
    Known,
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface that it is reached by.
    pub interface: u32,
    /// Who.
    pub address: IpAddr,
    /// What is known.
    pub state: State,
    /// Its Ethernet address, if known.
    pub mac: Option<[u8; 6]>,
    /// How long ago the state last changed; `None` if the kernel does not say.
    pub age: Option<Duration>,
}

/// Lists all entries of both IP versions.
///
/// # Errors
/// Why the kernel does not tell.
pub fn read() -> Result<Vec<Neighbour>, String> {
    let request = rt_neigh::Request::new().op_getneigh_dump(&Ndmsg::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut neighbours = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| error.to_string())?;
        neighbours.extend(neighbour(&header, &attributes));
    }
    Ok(neighbours)
}

fn neighbour(header: &Ndmsg, attributes: &IterableNeighbourAttrs<'_>) -> Option<Neighbour> {
    Some(Neighbour {
        interface: u32::try_from(header.ndm_ifindex).ok()?,
        address: attributes.get_dst().ok()?,
        state: state(header.ndm_state)?,
        mac: attributes.get_lladdr().ok().and_then(|mac| mac.try_into().ok()),
        age: attributes.get_cacheinfo().ok().map(|ages| age(ages.updated)),
    })
}

fn age(ticks: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * 1000 / TICKS)
}

/// Reads NUD_…; `None` for an entry that was only made a moment ago.
fn state(bits: u16) -> Option<State> {
    let has = |state: NudState| bits & state as u16 != 0;
    match () {
        () if bits == 0 => None,
        () if has(NudState::Failed) => Some(State::Failed),
        () if has(NudState::Incomplete) => Some(State::Incomplete),
        () if has(NudState::Permanent) => Some(State::Permanent),
        () => Some(State::Known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        assert_eq!(state(0), None);
        assert_eq!(state(0x01), Some(State::Incomplete));
        assert_eq!(state(0x02), Some(State::Known));
        assert_eq!(state(0x20), Some(State::Failed));
        assert_eq!(state(0x40), Some(State::Known));
        assert_eq!(state(0x80), Some(State::Permanent));
        assert_eq!(age(250), Duration::from_millis(2500));
    }
}

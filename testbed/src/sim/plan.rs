//! What a world is made of, drawn from its seed.

mod draw;

use super::connection::ConnectionPlan;
use super::network::{Leg, Middlebox};
use super::wire::Addresses;
use clientnic::engine::Mode;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Keys;
use rtt0_core::time::Instant;
use std::time::Duration;

/// One of the two NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Client,
    Server,
}

/// What befalls a world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Incident {
    /// A NIC's daemon dies: the kernel forwards from now on.
    Die(Which),
    /// It is started again and remembers nothing, or the flows that it had noted.
    Restart(Which, Memory),
    /// It reads its key file again.
    Rekey(Which, KeySet),
    /// A NIC's clock jumps ahead, as after a machine was suspended.
    ClockJump(Which, Duration),
    /// A middlebox on the long leg appears or changes.
    Middlebox(Middlebox),
    /// Nothing reaches the server any more, or everything does again.
    Silent(bool),
    /// The server stops to accept connections, or accepts again.
    Listening(bool),
    /// The connection of this number begins.
    Connect(usize),
}

/// What a daemon finds when it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    Lost,
    Journal,
}

/// Keys as an administrator has them at different moments of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeySet {
    Old,
    /// The new one signs, the old one is accepted.
    Rotating,
    New,
    /// Somebody else's, by chance with the old one's id.
    Foreign,
}

impl KeySet {
    /// The keys themselves.
    pub(super) fn keys(self) -> Keys {
        let (old, new) = ((1, [0x42; 16]), (2, [0x17; 16]));
        let made = match self {
            Self::Old => Keys::new(old, None),
            Self::Rotating => Keys::new(new, Some(old)),
            Self::New => Keys::new(new, None),
            Self::Foreign => Keys::new((1, [0x99; 16]), None),
        };
        made.unwrap_or_else(|_| unreachable!("the ids differ"))
    }
}

/// A host's TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    Smoltcp,
    Scripted,
}

/// A world.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) v6: bool,
    /// Client–ClientNIC, ClientNIC–ServerNIC, ServerNIC–server.
    pub(super) legs: [Leg; 3],
    /// From here on no leg does anything to packets.
    pub(super) calm_at: Instant,
    /// The keys of each NIC that exists.
    pub(super) client_nic: Option<KeySet>,
    pub(super) server_nic: Option<KeySet>,
    pub(super) mode: Mode,
    pub(super) limits: Limits,
    /// Median upload in bytes beyond which a destination is not spoofed.
    pub(super) large_upload: u32,
    /// Link MTU of (client, server), in bytes.
    pub(super) mtu: (u16, u16),
    pub(super) hosts: (Tcp, Tcp),
    pub(super) connections: Vec<ConnectionPlan>,
    pub(super) incidents: Vec<(Instant, Incident)>,
    /// By now everything that can end well has.
    pub(super) end: Instant,
    /// Idle flows are forgotten while connections rest.
    pub(super) forgetful: bool,
    /// Established flows are the kernel's.
    pub(super) offload: bool,
    /// One 4-tuple is used again and again while copies of all its packets are still on the way.
    pub(super) busy: bool,
}

impl Plan {
    /// The addresses of both hosts.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses::new(self.v6)
    }

    /// Tells whether the network never does anything to packets.
    pub(super) fn is_fair(&self) -> bool {
        self.legs.iter().all(|leg| leg.weather.is_calm())
    }

    /// How long the NICs remember a flow at least that both ends have closed: less if it may have to make
    /// room for another.
    pub(super) fn closed_memory(&self) -> Duration {
        let is_roomy = self.limits.flows > self.connections.len();
        if is_roomy { self.limits.finished } else { self.limits.finished_least }
    }

    /// Tells whether the server is silent or refuses at any time between two instants.
    pub(super) fn server_fails(&self, from: Instant, until: Instant) -> bool {
        let mut since = [None, None];
        for (at, incident) in &self.incidents {
            let (kind, fails) = match incident {
                Incident::Silent(silent) => (0, *silent),
                Incident::Listening(listening) => (1, !listening),
                _ => continue,
            };
            if fails {
                since[kind] = since[kind].or(Some(*at));
            } else if since[kind].take().is_some_and(|since| since <= until && *at >= from) {
                return true;
            }
        }
        since.iter().flatten().any(|since| *since <= until)
    }
}

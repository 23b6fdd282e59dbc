//! Connections of a world: what was planned for each, and how far it has come at both ends.

use super::network::rewritten_isn;
use super::script::{App, Fate, Script, WrongBytes};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;

/// The TCP options and oddities of one end of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stance {
    /// The ISN it uses.
    pub(super) isn: u32,
    pub(super) mss: u16,
    pub(super) window_scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) timestamps: bool,
    /// Its clock at the origin of time, in ms.
    pub(super) clock: u32,
    /// Receive buffer in bytes.
    pub(super) buffer: u32,
    pub(super) oddity: Oddity,
    /// Whether some of its packets leave with a partial checksum or as super-packets.
    pub(super) offload: bool,
}

/// What is unusual in a SYN or SYN-ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oddity {
    /// Nothing.
    None,
    /// An option that no middlebox knows.
    UnknownOption,
    /// A request for a Fast Open cookie.
    FastOpen,
    /// Data in the SYN. The server does not take it.
    SynData,
    /// Classic ECN.
    Ecn,
    /// Accurate ECN.
    AccurateEcn,
    /// So many options that none fits in beside them.
    NoRoom,
}

/// What happens to an older connection with the same ports when this one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// The client resets it.
    Abort,
    /// The client has forgotten it: the server meets the new SYN with the old connection alive.
    Forget,
}

/// One connection as planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionPlan {
    pub(super) start: Instant,
    pub(super) client_port: u16,
    pub(super) server_port: u16,
    pub(super) reuse: Reuse,
    pub(super) client: Script,
    pub(super) server: Script,
    pub(super) client_stance: Stance,
    pub(super) server_stance: Stance,
}

/// One connection under way.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) plan: ConnectionPlan,
    pub(super) begun: bool,
    pub(super) client: App,
    pub(super) server: App,
    /// A later connection has taken its ports.
    pub(super) superseded: bool,
    /// When client and server last sent data.
    pub(super) spoke: [Instant; 2],
    /// Connections that the server accepted for it.
    pub(super) accepted: u32,
    /// The server has accepted another one of these ports since, or may well have.
    pub(super) displaced: bool,
}

impl Connection {
    /// Returns the application at the end that receives what goes in `to`.
    pub(super) fn app(&mut self, to: Direction) -> &mut App {
        match to {
            Direction::ToServer => &mut self.server,
            Direction::ToClient => &mut self.client,
        }
    }

    /// Returns the server's ISN: another one for every time it accepts.
    pub(super) fn isn_of_attempt(&self) -> u32 {
        self.plan.server_stance.isn.wrapping_add((self.accepted.saturating_sub(1)).wrapping_mul(0x0100_0000))
    }

    /// Tells whether every byte has arrived, both ways.
    pub(super) fn is_complete(&self) -> bool {
        self.client.has_all() && self.server.has_all()
    }

    /// Tells whether an application of its own accord ends it early.
    pub(super) fn aborts(&self) -> bool {
        use super::script::Close;
        [self.plan.client.close, self.plan.server.close].iter().any(|close| matches!(close, Close::Abort(..)))
    }
}

/// All connections of a world.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) list: Vec<Connection>,
    /// The first thing that an endpoint found wrong.
    pub(super) trouble: Option<String>,
    /// Segments that a server took a second time, in a connection begun anew.
    pub(super) replayed: u64,
    /// That of a middlebox which rewrites ISNs, if there is or was one.
    pub(super) secret: Option<u32>,
    /// A middlebox has begun, or ceased, to change what passes.
    pub(super) meddled: bool,
}

impl Connections {
    /// Makes them from their plans; none has begun.
    pub(super) fn new(plans: &[ConnectionPlan]) -> Self {
        let fresh = |plan: &ConnectionPlan| Connection {
            plan: *plan,
            begun: false,
            client: App::new(plan.client, plan.server),
            server: App::new(plan.server, plan.client),
            superseded: false,
            spoke: [Instant::ZERO; 2],
            accepted: 0,
            displaced: false,
        };
        Self {
            list: plans.iter().map(fresh).collect(),
            trouble: None,
            replayed: 0,
            secret: None,
            meddled: false,
        }
    }

    /// Finds the connection that a SYN begins: by its ISN, or, should that have been rewritten on
    /// the way, the latest one with its ports.
    pub(super) fn of_syn(&self, client_port: u16, server_port: u16, isn: u32) -> Option<usize> {
        let same = |connection: &Connection| {
            connection.begun
                && (connection.plan.client_port, connection.plan.server_port) == (client_port, server_port)
        };
        let exact = |c: &Connection| {
            let own = c.plan.client_stance.isn;
            same(c) && (own == isn || self.secret.is_some_and(|secret| rewritten_isn(secret, own) == isn))
        };
        self.list.iter().rposition(exact).or_else(|| self.list.iter().rposition(same))
    }

    /// Tells whether the latest connection with these ports is still under way at the end that
    /// receives what goes in `to`.
    pub(super) fn is_alive(&self, key: (u16, u16), to: Direction) -> bool {
        let same = |c: &&Connection| c.begun && (c.plan.client_port, c.plan.server_port) == key;
        let latest = self.list.iter().rev().find(same);
        latest.is_some_and(|c| {
            let under_way = |fate| matches!(fate, Fate::Waiting | Fate::Open);
            match to {
                // What a client has given up before its server has heard of it never was.
                Direction::ToServer if c.server.fate == Fate::Waiting => under_way(c.client.fate),
                Direction::ToServer => under_way(c.server.fate),
                Direction::ToClient => under_way(c.client.fate),
            }
        })
    }

    /// Notes that data with these ports is sent.
    pub(super) fn speaks(&mut self, now: Instant, key: (u16, u16), to: Direction) {
        let same = |c: &&mut Connection| c.begun && (c.plan.client_port, c.plan.server_port) == key;
        if let Some(connection) = self.list.iter_mut().rev().find(same) {
            connection.spoke[usize::from(to == Direction::ToClient)] = now;
        }
    }

    /// Notes what went wrong, if it is the first.
    pub(super) fn complain(&mut self, what: impl FnOnce() -> String) {
        if self.trouble.is_none() {
            self.trouble = Some(what());
        }
    }

    /// Notes wrong bytes at the receiver of what goes in `to`.
    pub(super) fn wrong_bytes(&mut self, connection: usize, to: Direction, wrong: WrongBytes) {
        let entry = &self.list[connection];
        // Known limit: copies of an offer and of its early data begin their connection once more if
        // another connection of these ports has taken its place meanwhile, or if a middlebox strips
        // the repeated offer, or gives its SYN another ISN, which makes it another connection's.
        let replaced = (entry.superseded || entry.displaced) && to == Direction::ToServer;
        if entry.accepted > 1 && (replaced || self.meddled) {
            self.replayed += 1;
            return;
        }
        self.complain(|| {
            format!("connection {connection} {to:?}: other bytes than were sent, from byte {}", wrong.offset)
        });
    }

    /// Notes that the server begins to accept a connection.
    pub(super) fn accepts(&mut self, connection: usize) {
        let ports = |connection: &Connection| (connection.plan.client_port, connection.plan.server_port);
        let key = ports(&self.list[connection]);
        for (index, other) in self.list.iter_mut().enumerate().filter(|(_, other)| ports(other) == key) {
            other.displaced |= index != connection && other.accepted > 0;
        }
        self.list[connection].accepted += 1;
    }

    /// Marks an older connection as no longer anybody's concern.
    pub(super) fn supersede(&mut self, connection: usize) {
        let old = &mut self.list[connection];
        old.superseded = true;
        old.client.fate = Fate::Gone;
    }
}

/// One of the two hosts.
pub(super) trait Host {
    /// Opens a connection.
    fn connect(&mut self, now: Instant, connection: usize, all: &mut Connections);

    /// Prepares to accept a connection.
    fn expect(&mut self, connection: usize, all: &Connections);

    /// Ends the older connections of these ports.
    fn clear(&mut self, ports: (u16, u16), reuse: Reuse);

    /// Accepts connections, or refuses them.
    fn set_listening(&mut self, listening: bool);

    /// Takes a packet.
    fn deliver(&mut self, now: Instant, bytes: &mut [u8], all: &mut Connections);

    /// Does what is due and moves what the host sends to `out`.
    fn work(&mut self, now: Instant, all: &mut Connections, out: &mut Vec<super::wire::Wire>);

    /// Tells when it wants [`Host::work`] called.
    fn next(&self) -> Option<Instant>;
}

//! From a world's begin to its verdict: safety at every step, liveness and leaks at the end.

use super::{Declared, MIXING, World};
use crate::sim::connection::Connection;
use crate::sim::kernel::Kernel;
use crate::sim::matrix::Matrix;
use crate::sim::network::Damage;
use crate::sim::plan::{Incident, Plan, Tcp};
use crate::sim::script::{App, Fate};
use rtt0_core::gauges::Gauges;
use rtt0_core::time::Instant;
use std::time::Duration;

/// Several of the longest retransmission time-outs.
const SENDER_SILENCE: Duration = Duration::from_secs(200);

/// What a world broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sim) struct Failure {
    pub(in crate::sim) what: String,
}

/// What a world did.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Done {
    /// Packets handed to engines.
    pub(in crate::sim) packets: u64,
    /// Packets handed to hosts.
    pub(in crate::sim) delivered: u64,
    pub(in crate::sim) damage: Damage,
    pub(in crate::sim) connections: u64,
    pub(in crate::sim) completed: u64,
    /// Early data that reached a server untranslated, and was refused.
    pub(in crate::sim) leaked: u64,
    /// Segments that a server took twice.
    pub(in crate::sim) replayed: u64,
    /// Handshakes that a kernel has begun by itself, those with servers among them, and those of which the engine could not take
    /// charge.
    pub(in crate::sim) at_once: u64,
    pub(in crate::sim) opened: u64,
    pub(in crate::sim) disowned: u64,
}

/// Runs a world to its end.
pub(in crate::sim) fn run(plan: &Plan, trace: bool, matrix: &mut Matrix) -> (Done, Option<Failure>) {
    if trace {
        println!("{plan:#?}");
    }
    let mut world = World::new(plan, true, trace, matrix);
    let result = world.live().and_then(|()| world.judge()).and_then(|()| world.empties());
    let list = &world.connections.list;
    let done = Done {
        packets: world.packets.0,
        delivered: world.packets.1,
        damage: world.damage,
        connections: list.iter().filter(|connection| connection.begun).count() as u64,
        completed: list.iter().filter(|connection| connection.is_complete()).count() as u64,
        leaked: world.ledger.leaked,
        replayed: world.connections.replayed,
        at_once: world.declared.at_once,
        opened: world.declared.opened,
        disowned: world.declared.disowned,
    };
    let at = world.now.as_micros() as f64 / 1e6;
    (done, result.err().map(|what| Failure { what: format!("after {at:.6} s: {what}") }))
}

impl World<'_> {
    fn live(&mut self) -> Result<(), String> {
        let end = self.plan.end;
        while self.step(end)? {}
        for slot in [0, 1] {
            if let Some(nic) = self.nics[slot].take() {
                self.note(&nic);
                self.nics[slot] = Some(nic);
            }
        }
        Ok(())
    }

    /// Everything that plain TCP would finish has finished, or its client was told otherwise.
    fn judge(&mut self) -> Result<(), String> {
        let mut suspects = Vec::new();
        for index in 0..self.connections.list.len() {
            if !self.is_excused(index) {
                suspects.push(index);
            }
        }
        if !suspects.is_empty() {
            let mut ignored = Matrix::default();
            let mut plain = World::new(&self.plan, false, false, &mut ignored);
            plain.live().map_err(|what| format!("without NICs, so the simulator is wrong: {what}"))?;
            for index in suspects {
                let (here, there) = (&self.connections.list[index], &plain.connections.list[index]);
                let told = there.client.fate == Fate::Reset && here.client.fate != Fate::Reset;
                if there.is_complete() || told {
                    let (c, s) = (&here.client, &here.server);
                    return Err(format!(
                        "connection {index} ends otherwise than without NICs ({:?}): client {:?} got {} of {}, \
                         server {:?} got {} of {}",
                        there.client.fate,
                        c.fate,
                        c.received,
                        s.script.send,
                        s.fate,
                        s.received,
                        c.script.send,
                    ));
                }
            }
        }
        let quiet = self.plan.incidents.iter().all(|(_, incident)| matches!(incident, Incident::Connect(_)));
        let both = self.plan.client_nic.is_some() && self.plan.client_nic == self.plan.server_nic;
        let wide = self.plan.limits.pending > 4;
        let kept = self.declared.broken_timestamps == 0;
        if self.plan.is_fair()
            && quiet
            && kept
            && both
            && wide
            && !self.plan.forgetful
            && self.ledger.leaked > 0
        {
            return Err("early data reached the server untranslated though nothing was lost".to_owned());
        }
        Ok(())
    }

    /// Tells whether nothing more can be asked of a connection.
    fn is_excused(&self, index: usize) -> bool {
        let connection = &self.connections.list[index];
        let (start, ports) = (connection.plan.start, connection.plan.server_port);
        let client = connection.client.fate;
        let Declared { timed_out, broken_timestamps, .. } = self.declared;
        if !connection.begun || connection.superseded || connection.aborts() || connection.is_complete() {
            return true;
        }
        if ports == 81 && client == Fate::Reset {
            return true;
        }
        // A flow whose NIC has lost its memory has no translation any more; its ends answer
        // each other with challenge ACKs until they give up. An older connection in the way may be
        // such a one.
        if self.ledger.is_void((connection.plan.client_port, ports)) || self.plan.forgetful {
            return true;
        }
        // Known limit: a client that waits for the server to speak says but one thing, its ACK. If that
        // is lost, it has proven nothing, and is told nothing should its handshake fail.
        if connection.client.written == 0 && !self.plan.is_fair() {
            return true;
        }
        // Two connections of the same ports so close that the network mixes them up: the older one's
        // early data comes behind the newer one's SYN, and proves that it is meant.
        let mut older = self.plan.connections[..index].iter();
        let mixed = older.any(|old| {
            (old.client_port, old.server_port) == (connection.plan.client_port, ports)
                && start - old.start < MIXING
        });
        if mixed && !self.plan.is_fair() {
            return true;
        }
        if !self.plan.is_fair() && self.is_stuck(connection) {
            return true;
        }
        // Declared: the client was told by a reset. A server that is silent for longer than a NIC
        // waits is so to plain TCP as well, which however waits for minutes; so is smoltcp
        // towards a SYN while it remembers an older connection.
        let slow = self.plan.server_fails(start, start + Duration::from_secs(20));
        let reused =
            self.plan.connections[..index].iter().any(|old| old.client_port == connection.plan.client_port);
        let unheard = connection.server.fate == Fate::Waiting;
        if (slow || unheard) && reused && !self.plan.is_fair() {
            // Known limit: if the reset that tells the client gets lost, or what it says first for as
            // long as a NIC waits for it, and the server still has an older connection of these ports, the
            // two answer each other with challenge ACKs.
            return true;
        }
        // A server that hears no last ACK for as long as the client stays in TIME-WAIT is told by a
        // reset, which may come before its application has read all.
        let told = client == Fate::Closed && connection.client.has_all();
        if told && connection.server.fate == Fate::Reset && (slow || !self.plan.is_fair()) {
            return true;
        }
        let unlucky = !self.plan.is_fair() || reused;
        // Known limit: a reset that the server sent against early data, and that comes after the confirm.
        let unlucky_reset = self.ledger.leaked > 0 && !self.plan.is_fair();
        client == Fate::Reset
            && (unlucky_reset || slow || (timed_out > 0 && unlucky) || broken_timestamps > 0)
    }

    /// Tells whether smoltcp, of its own, has stopped to send: it does not repeat what was lost
    /// before a window closed once it opens again, and believes an old window that comes late.
    fn is_stuck(&self, connection: &Connection) -> bool {
        let silent = |since: Instant| since + SENDER_SILENCE < self.plan.end;
        let stuck = |host, sender: &App, receiver: &App, since| {
            let waits = receiver.script.pause.is_some() || silent(since);
            host == Tcp::Smoltcp && !receiver.has_all() && sender.fate == Fate::Open && waits
        };
        let (client_host, server_host) = self.plan.hosts;
        let (client, server) = (&connection.client, &connection.server);
        stuck(client_host, client, server, connection.spoke[0])
            || stuck(server_host, server, client, connection.spoke[1])
    }

    /// When nobody says anything any more, nothing is remembered.
    fn empties(&mut self) -> Result<(), String> {
        self.plan.hosts = (Tcp::Scripted, Tcp::Scripted);
        self.client = super::host(&self.plan, rtt0_core::service::Direction::ToServer);
        self.server = super::host(&self.plan, rtt0_core::service::Direction::ToClient);
        self.server.set_listening(false);
        self.silent = true;
        self.ledger.void_always();
        let forgotten = self.now.max(self.plan.end) + self.plan.limits.idle + Duration::from_secs(600);
        while self.step(forgotten)? {}
        for (nic, name) in self.nics.iter().zip(["ClientNIC", "ServerNIC"]) {
            let gauges = nic.as_ref().map_or(Gauges::default(), |nic| nic.brain.gauges());
            if gauges != Gauges::default() {
                return Err(format!("{name} leaks: {gauges:?}"));
            }
            let in_kernel = nic.as_ref().and_then(|nic| nic.kernel.as_ref()).map_or(0, Kernel::flows_held);
            if in_kernel != 0 {
                return Err(format!("{name} leaks {in_kernel} flows in its kernel"));
            }
        }
        Ok(())
    }
}

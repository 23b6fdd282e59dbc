//! A world: hosts, NICs and legs on one clock, from its plan to quiescence.

use super::clock::Queue;
use super::connection::{Connections, Host, Reuse};
use super::kernel::Kernel;
use super::ledger::Ledger;
use super::matrix::Matrix;
use super::network::{Damage, Middlebox, MiddleboxState};
use super::nic::{Brain, Nic, forward};
use super::peer::Peer;
use super::plan::{Incident, Memory, Plan, Tcp, Which};
use super::stack::Stack;
use super::wire::{Addresses, Wire, describe, direction, is_right, ports, tcp};
use clientnic::engine::{ClientNic, Settings};
use rtt0_core::gateway::{Gateway, RouterAddresses};
use rtt0_core::offer::Keys;
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::{Counters, Event};
use rtt0_core::service::{Direction, Services};
use rtt0_core::time::Instant;
use servernic::engine::ServerNic;
use std::sync::Arc;
use std::time::Duration;

mod verdict;

pub(super) use verdict::{Failure, run};

/// The stations of the path; 2 is ServerNIC's.
const CLIENT: usize = 0;
const CLIENT_NIC: usize = 1;
const SERVER: usize = 3;

/// More steps than any world needs, and more events than are ever to come: beyond them, something
/// goes round in circles.
const MOST_STEPS: u64 = 2_000_000;
const MOST_COMING: usize = 50_000;

/// Two connections of the same ports that begin closer to one another may be mixed up by a network
/// that delays some packets: an old offer then takes the place of a newer SYN.
const MIXING: Duration = Duration::from_secs(1);

/// What comes.
#[derive(Debug)]
enum Coming {
    /// A packet arrives at a station.
    Packet(usize, Direction, Wire),
    /// Something befalls the world.
    Incident(Incident),
}

/// Events of the engines that a world counts, dead NICs' included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Declared {
    pub(super) timed_out: u64,
    pub(super) broken_timestamps: u64,
    /// Handshakes that a kernel has begun by itself, those with servers among them, and those of which the engine could not take
    /// charge.
    pub(super) at_once: u64,
    pub(super) opened: u64,
    pub(super) disowned: u64,
}

/// A world under way.
pub(super) struct World<'m> {
    plan: Plan,
    addresses: Addresses,
    queue: Queue<Coming>,
    now: Instant,
    client: Box<dyn Host>,
    server: Box<dyn Host>,
    /// ClientNIC and ServerNIC; none is a router.
    nics: [Option<Nic>; 2],
    /// Their kernels, where these take established flows.
    kernels: [Option<Kernel>; 2],
    /// When each wants its timers run.
    timers: [Option<Instant>; 2],
    skews: [Duration; 2],
    connections: Connections,
    ledger: Ledger,
    matrix: &'m mut Matrix,
    middlebox: (Middlebox, MiddleboxState),
    silent: bool,
    random: fastrand::Rng,
    damage: Damage,
    /// Packets handed to engines, and to hosts.
    packets: (u64, u64),
    declared: Declared,
    steps: u64,
    trace: bool,
    /// Reused from step to step.
    out: Vec<(Direction, Wire)>,
    sent: Vec<Wire>,
}

impl<'m> World<'m> {
    fn new(plan: &Plan, with_nics: bool, trace: bool, matrix: &'m mut Matrix) -> Self {
        let addresses = plan.addresses();
        let mut world = Self {
            addresses,
            queue: Queue::new(),
            now: Instant::ZERO,
            client: host(plan, Direction::ToServer),
            server: host(plan, Direction::ToClient),
            nics: [None, None],
            kernels: [(); 2].map(|()| (plan.offload && with_nics).then(Kernel::default)),
            timers: [None, None],
            skews: [Duration::ZERO; 2],
            connections: Connections::new(&plan.connections),
            ledger: Ledger::new(plan.v6, plan.is_fair(), plan.closed_memory()),
            matrix,
            middlebox: (Middlebox::default(), MiddleboxState::default()),
            silent: false,
            random: fastrand::Rng::with_seed(plan.seed ^ 0x5eed),
            damage: Damage::default(),
            packets: (0, 0),
            declared: Declared::default(),
            steps: 0,
            trace,
            out: Vec::new(),
            sent: Vec::new(),
            plan: plan.clone(),
        };
        if plan.forgetful || plan.busy {
            // Who may be whose can't be told: copies of an older connection's SYN and SYN-ACK may
            // well take a newer one's place.
            world.ledger.void_always();
        }
        if with_nics {
            if let Some(keys) = plan.client_nic {
                world.start_nic(Which::Client, keys.keys());
            }
            if let Some(keys) = plan.server_nic {
                world.start_nic(Which::Server, keys.keys());
            }
        }
        for (at, incident) in &plan.incidents {
            let about_nics =
                matches!(incident, Incident::Die(_) | Incident::Restart(..) | Incident::ClockJump(..));
            if with_nics || !about_nics {
                world.queue.push(*at, Coming::Incident(*incident));
            }
        }
        world
    }

    fn start_nic(&mut self, which: Which, keys: Keys) {
        let plan = &self.plan;
        let services = ["10.1.2.0/24:80-81", "[fd00:0:0:2::/64]:80-81"];
        let services = services.iter().filter_map(|text| text.parse().ok()).collect();
        let counters = Arc::new(Counters::default());
        let gateway = Gateway::new(Services::new(services, vec![]), RouterAddresses::default(), counters);
        let limits = plan.limits;
        if let Some(kernel) = &self.kernels[which as usize] {
            kernel.detach();
        }
        let brain = match which {
            Which::Client => {
                let profiles = ProfileLimits { large_upload: plan.large_upload, ..ProfileLimits::default() };
                let settings = Settings { policy: plan.mode.into(), mss_clamp: (1460, 1440), limits };
                let profiles = Arc::new(Profiles::new(profiles));
                if let Some(kernel) = &self.kernels[which as usize]
                    && !plan.seed.is_multiple_of(3)
                {
                    profiles.post_to(Box::new(kernel.clone()));
                }
                Brain::Client(Box::new(ClientNic::new(gateway, keys.clone(), profiles, settings)))
            }
            Which::Server => Brain::Server(Box::new(ServerNic::new(gateway, keys.clone(), limits))),
        };
        let slot = which as usize;
        self.nics[slot] = Some(Nic::new(brain, keys, limits, self.skews[slot], self.kernels[slot].clone()));
    }

    fn stop_nic(&mut self, which: Which) -> Option<Nic> {
        self.timers[which as usize] = None;
        let nic = self.nics[which as usize].take()?;
        self.note(&nic);
        Some(nic)
    }

    fn restart_nic(&mut self, which: Which, memory: Memory) {
        let Some(old) = self.stop_nic(which) else { return };
        let keys = old.keys.clone();
        let slot = which as usize;
        if memory == Memory::Lost {
            self.kernels[slot] = self.plan.offload.then(Kernel::default);
        }
        self.start_nic(which, keys);
        match memory {
            Memory::Lost => self.ledger.void_all(),
            Memory::Journal => {
                // A handshake under way is not noted.
                self.ledger.void_unsettled();
                if let Some(nic) = &mut self.nics[slot] {
                    nic.restore(self.now, old);
                    self.timers[slot] = nic.next();
                }
            }
        }
    }

    fn note(&mut self, nic: &Nic) {
        let counters = nic.brain.counters();
        self.declared.timed_out += counters.happened(Event::TimedOut);
        self.declared.broken_timestamps += counters.happened(Event::BrokenTimestamps);
        self.declared.disowned += counters.happened(Event::Disowned);
        self.declared.opened += counters.happened(Event::OpenedAtOnce);
        let at_once = [Event::SpoofedAtOnce, Event::OpenedAtOnce, Event::Disowned];
        self.declared.at_once += at_once.map(|event| counters.happened(event)).iter().sum::<u64>();
    }

    fn befalls(&mut self, incident: Incident) {
        if self.trace {
            println!("{:>14} {incident:?}", self.now.as_micros());
        }
        match incident {
            Incident::Connect(connection) => self.connect(connection),
            Incident::Die(which) => {
                if self.stop_nic(which).is_some() {
                    self.ledger.void_all();
                }
            }
            Incident::Restart(which, memory) => self.restart_nic(which, memory),
            Incident::Rekey(which, keys) => {
                if let Some(nic) = &mut self.nics[which as usize] {
                    nic.rekey(keys.keys());
                    // Known limit: a SYN repeated across the change is promised another ISN.
                    self.ledger.void_unsettled();
                }
            }
            Incident::ClockJump(which, jump) => {
                let slot = which as usize;
                self.skews[slot] += jump;
                if let Some(nic) = &mut self.nics[slot] {
                    nic.skew = self.skews[slot];
                    self.timers[slot] = nic.next();
                    // Handshakes and flows whose time is over by that clock are given up.
                    self.ledger.void_all();
                }
            }
            Incident::Middlebox(kind) => {
                if kind.rewrites.is_some() {
                    self.ledger.void_always();
                    self.connections.secret = kind.rewrites;
                }
                self.middlebox.0 = kind;
                self.connections.meddled = true;
            }
            Incident::Silent(silent) => self.silent = silent,
            Incident::Listening(listening) => self.server.set_listening(listening),
        }
    }

    fn connect(&mut self, connection: usize) {
        let plan = self.connections.list[connection].plan;
        let ports = (plan.client_port, plan.server_port);
        let older: Vec<usize> = (0..connection)
            .filter(|&old| {
                let old = &self.connections.list[old].plan;
                (old.client_port, old.server_port) == ports
            })
            .collect();
        if !older.is_empty() {
            self.client.clear(ports, plan.reuse);
            self.work(CLIENT);
            // A reset socket of smoltcp's gives its port back only then.
            self.client.clear(ports, Reuse::Forget);
        }
        for old in older {
            let begun = self.connections.list[old].plan.start;
            if self.now < begun + MIXING && !self.plan.is_fair() {
                self.ledger.void(ports);
                self.connections.list[connection].displaced = true;
            }
            self.connections.supersede(old);
        }
        self.connections.list[connection].begun = true;
        self.server.expect(connection, &self.connections);
        self.client.connect(self.now, connection, &mut self.connections);
        self.work(CLIENT);
    }

    /// Sends from a station in a direction.
    fn send(&mut self, from: usize, to: Direction, mut wire: Wire) {
        let (leg, next) = match to {
            Direction::ToServer => (from, from + 1),
            Direction::ToClient => (from - 1, from - 1),
        };
        if leg == CLIENT_NIC && self.middlebox.0 != Middlebox::default() {
            self.middlebox.1.pass(self.middlebox.0, &mut wire, to);
        }
        let calm = self.now >= self.plan.calm_at;
        let (queue, now) = (&mut self.queue, self.now);
        self.plan.legs[leg].send(wire, calm, &mut self.random, &mut self.damage, |delay, wire| {
            queue.push(now + delay, Coming::Packet(next, to, wire));
        });
    }

    /// Lets a host do what it wants and sends it.
    fn work(&mut self, station: usize) {
        let (host, to) = match station {
            CLIENT => (&mut self.client, Direction::ToServer),
            _ => (&mut self.server, Direction::ToClient),
        };
        let mut sent = std::mem::take(&mut self.sent);
        host.work(self.now, &mut self.connections, &mut sent);
        for wire in sent.drain(..) {
            self.ledger.sends(self.now, &wire.bytes, to);
            if let Some(view) = tcp(&wire.bytes).filter(|view| !view.payload().is_empty()) {
                self.connections.speaks(self.now, ports(&view, to), to);
            }
            if self.trace {
                self.print(station, &wire, "sends");
            }
            self.send(station, to, wire);
        }
        self.sent = sent;
    }

    fn arrive(&mut self, station: usize, to: Direction, wire: Wire) -> Result<(), String> {
        if self.trace {
            self.print(station, &wire, "gets");
        }
        match station {
            CLIENT | SERVER => self.deliver(station, to, wire),
            _ => self.pass(station, to, wire),
        }
    }

    fn deliver(&mut self, station: usize, to: Direction, mut wire: Wire) -> Result<(), String> {
        self.packets.1 += 1;
        if station == SERVER && self.silent || direction(&wire.bytes, &self.addresses) != Some(to) {
            return Ok(());
        }
        if is_right(&wire.bytes, wire.offload) {
            let alive = tcp(&wire.bytes).is_some_and(|view| self.connections.is_alive(ports(&view, to), to));
            let both = self.nics.iter().flatten().count() == 2;
            let same_keys = self.plan.server_nic == self.plan.client_nic;
            self.ledger.reaches(self.now, &wire.bytes, to, both && same_keys, alive)?;
        }
        let host = if station == CLIENT { &mut self.client } else { &mut self.server };
        host.deliver(self.now, &mut wire.bytes, &mut self.connections);
        self.work(station);
        self.connections.trouble.take().map_or(Ok(()), Err)
    }

    /// Lets a NIC, or the router in its place, handle a packet.
    fn pass(&mut self, station: usize, to: Direction, wire: Wire) -> Result<(), String> {
        let mut out = std::mem::take(&mut self.out);
        let slot = station - CLIENT_NIC;
        let result = match &mut self.nics[slot] {
            Some(nic) => {
                self.packets.0 += 1;
                nic.observe(&wire, to, &self.addresses, self.matrix);
                let result = nic.handle(self.now, wire, to, &self.addresses, &mut out);
                self.timers[slot] = nic.next();
                result
            }
            None => {
                let mut wire = wire;
                if let Some(kernel) = &self.kernels[slot] {
                    kernel.forward(self.now + self.skews[slot], &mut wire, to, &self.addresses, false);
                }
                forward(wire, to, &mut out)
            }
        };
        self.send_all(station, &mut out);
        self.out = out;
        result
    }

    fn send_all(&mut self, station: usize, out: &mut Vec<(Direction, Wire)>) {
        for (to, wire) in out.drain(..) {
            if self.trace {
                self.print(station, &wire, "sends");
            }
            self.send(station, to, wire);
        }
    }

    fn nic_timer(&mut self, slot: usize) -> Result<(), String> {
        let mut out = std::mem::take(&mut self.out);
        let mut result = Ok(());
        if let Some(nic) = &mut self.nics[slot] {
            let keys = self.plan.connections.iter();
            let keys = keys.map(|c| self.addresses.flow(c.client_port, c.server_port));
            result = nic.on_timer(self.now, &self.addresses, keys, self.matrix, &mut out);
            self.timers[slot] = nic.next();
        }
        self.send_all(slot + CLIENT_NIC, &mut out);
        self.out = out;
        result
    }

    /// Lets the next thing happen, if it does before `until`; false if not.
    fn step(&mut self, until: Instant) -> Result<bool, String> {
        let candidates = [
            (self.queue.next(), 0),
            (self.client.next(), 1),
            (self.server.next(), 2),
            (self.timers[0], 3),
            (self.timers[1], 4),
        ];
        let next = candidates.iter().filter_map(|(at, who)| at.map(|at| (at, *who))).min();
        let Some((at, who)) = next.filter(|(at, _)| *at <= until) else { return Ok(false) };
        self.steps += 1;
        if self.steps > MOST_STEPS || self.queue.len() > MOST_COMING {
            let coming = self.queue.len();
            return Err(format!("goes round in circles: {coming} events to come, next are {candidates:?}"));
        }
        self.now = self.now.max(at);
        match who {
            0 => match self.queue.pop() {
                Some((_, Coming::Packet(station, to, wire))) => self.arrive(station, to, wire)?,
                Some((_, Coming::Incident(incident))) => self.befalls(incident),
                None => {}
            },
            1 => self.work(CLIENT),
            2 => self.work(SERVER),
            slot => self.nic_timer(slot - 3)?,
        }
        self.connections.trouble.take().map_or(Ok(true), Err)
    }

    fn print(&self, station: usize, wire: &Wire, what: &str) {
        let name = ["client", "clientnic", "servernic", "server"][station];
        println!(
            "{:>14} {name:9} {what:5} {}{}",
            self.now.as_micros(),
            describe(&wire.bytes, wire.offload),
            if wire.spoiled { " (spoiled)" } else { "" }
        );
    }
}

fn host(plan: &Plan, to: Direction) -> Box<dyn Host> {
    let (kind, mtu) = match to {
        Direction::ToServer => (plan.hosts.0, plan.mtu.0),
        Direction::ToClient => (plan.hosts.1, plan.mtu.1),
    };
    let clock = plan.connections.first().map_or(0, |first| match to {
        Direction::ToServer => first.client_stance.clock,
        Direction::ToClient => first.server_stance.clock,
    });
    let seed = plan.seed ^ to as u64;
    match kind {
        Tcp::Smoltcp => Box::new(Stack::new(to, plan.addresses(), mtu.into(), clock, seed)),
        Tcp::Scripted => Box::new(Peer::new(to, plan.addresses(), seed)),
    }
}

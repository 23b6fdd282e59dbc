//! Drawing a world: mostly ordinary, often unlucky, sometimes absurd.

use super::{Incident, KeySet, Memory, Plan, Tcp, Which};
use crate::sim::connection::{ConnectionPlan, Oddity, Reuse, Stance};
use crate::sim::network::{Leg, Middlebox, Weather};
use crate::sim::script::{Close, Script};
use crate::sim::wire::{Addresses, FIRST_CLIENT_PORT};
use clientnic::engine::Mode;
use fastrand::Rng;
use rtt0_core::limits::Limits;
use rtt0_core::seq::Seq;
use rtt0_core::time::Instant;
use std::time::Duration;

/// What everything needs once the last thing has begun: several of the longest time-outs.
const GRACE: Duration = Duration::from_secs(480);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn percent(random: &mut Rng, n: u8) -> bool {
    random.u8(..100) < n
}

impl Plan {
    /// Draws world `index` of `seed`.
    pub(in crate::sim) fn draw(seed: u64, index: u64) -> Self {
        let seed = mix(seed ^ mix(index));
        let random = &mut Rng::with_seed(seed);
        let v6 = percent(random, 40);
        let hosts = (host(random), host(random));
        // One in ten is about a single 4-tuple, used again and again in a hurry.
        let busy = percent(random, 10);
        let fair = !busy && percent(random, 30);
        let legs = if busy { busy_legs(random) } else { legs(random, fair) };
        let mtu = (mtu(random), mtu(random));
        let both = (Some(KeySet::Old), Some(KeySet::Old));
        let (client_nic, server_nic) = if busy { both } else { nics(random) };
        let mut plan = Self {
            seed,
            v6,
            legs,
            calm_at: Instant::ZERO,
            client_nic,
            server_nic,
            mode: if busy { Mode::Auto } else { mode(random) },
            limits: limits(random),
            large_upload: if percent(random, 10) { 3_000 } else { 256 * 1024 },
            mtu,
            hosts,
            connections: Vec::new(),
            incidents: Vec::new(),
            end: Instant::ZERO,
            forgetful: false,
            offload: false,
            busy,
        };
        plan.draw_connections(random, fair, busy);
        if busy {
            plan.draw_confusion(random);
        } else {
            plan.draw_incidents(random);
        }
        plan.finish(random);
        plan.offload = percent(random, 40);
        plan
    }

    fn draw_connections(&mut self, random: &mut Rng, fair: bool, busy: bool) {
        let count = if busy { random.usize(4..=10) } else { random.usize(1..=7) };
        let (client_clock, server_clock) = (near_wrap(random), near_wrap(random));
        let clients = draw_stance(random, client_clock, self.mtu.0, self.v6);
        let servers = draw_stance(random, server_clock, self.mtu.1, self.v6);
        // A client whose spoofed SYN-ACK got lost takes the real one at its word: a known limit if
        // the server has changed meanwhile (ARCHITECTURE.md). So it changes only where nothing is lost.
        let changes = fair && percent(random, 50);
        let odd = percent(random, 25);
        let mut start = Instant::from_micros(1_000);
        for index in 0..count {
            let reused = index > 0 && (busy || percent(random, 35));
            let fresh = 40_000 + index as u16 + FIRST_CLIENT_PORT;
            let client_port = match self.connections.last() {
                Some(last) if reused => last.client_port,
                _ => fresh,
            };
            let server_port = if percent(random, 6) { 81 } else { 80 };
            let mut client_stance = if percent(random, 70) {
                clients
            } else {
                draw_stance(random, client_clock, self.mtu.0, self.v6)
            };
            let mut server_stance =
                if changes { draw_stance(random, server_clock, self.mtu.1, self.v6) } else { servers };
            client_stance.oddity = if odd { oddity(random) } else { Oddity::None };
            server_stance.oddity = if odd { Oddity::Ecn } else { Oddity::None };
            (client_stance.isn, server_stance.isn) = match self.connections.last() {
                // RFC 6528: within a 4-tuple ISNs go on with the clock.
                Some(last) if reused => {
                    let on = |isn: u32, random: &mut Rng| isn.wrapping_add(random.u32(1 << 24..1 << 30));
                    (on(last.client_stance.isn, random), on(last.server_stance.isn, random))
                }
                _ => (self.client_isn(random, client_port, server_port), near_wrap(random)),
            };
            while self.confuses(client_stance.isn, server_stance.isn, (client_port, server_port)) {
                server_stance.isn = server_stance.isn.wrapping_add(0x1357_0000);
            }
            if self.hosts != (Tcp::Scripted, Tcp::Scripted) {
                // smoltcp does not recover if the first window turns out smaller than promised.
                server_stance.buffer = servers.buffer;
            }
            let (mut client, mut server) = scripts(random);
            if busy && random.bool() {
                (client, server) = quick_scripts(client, server);
            }
            let reuse = if random.bool() { Reuse::Abort } else { Reuse::Forget };
            self.connections.push(ConnectionPlan {
                start,
                client_port,
                server_port,
                reuse,
                client,
                server,
                client_stance,
                server_stance,
            });
            self.incidents.push((start, Incident::Connect(index)));
            start = start + if busy { ms(random.u64(..700)) } else { gap(random) };
        }
    }

    /// Tells whether a server's ISN is so near one that may be promised for it that numbers of the
    /// one space pass for the other's. It happens once in many thousand connections, and would be taken
    /// for a failure.
    fn confuses(&self, client_isn: u32, server_isn: u32, ports: (u16, u16)) -> bool {
        let flow = Addresses::new(self.v6).flow(ports.0, ports.1);
        [KeySet::Old, KeySet::New].iter().any(|keys| {
            let keys = keys.keys();
            let promised = keys.promised_isn(keys.signing(), &flow, Seq::new(client_isn));
            promised.is_some_and(|promised| promised.beyond(Seq::new(server_isn)).unsigned_abs() < 1 << 24)
        })
    }

    /// Sometimes one for which the promised ISN soon wraps.
    fn client_isn(&self, random: &mut Rng, client_port: u16, server_port: u16) -> u32 {
        let Some(keys) = self.client_nic.filter(|_| random.u8(..50) == 0) else { return near_wrap(random) };
        let keys = keys.keys();
        let flow = Addresses::new(self.v6).flow(client_port, server_port);
        let from = random.u32(..);
        let soon = |isn: &u32| {
            let promised = keys.promised_isn(keys.signing(), &flow, Seq::new(*isn));
            promised.is_some_and(|promised| promised.get() > u32::MAX - 0x4_0000)
        };
        (0..1 << 16).map(|n| from.wrapping_add(n)).find(soon).unwrap_or(from)
    }

    fn draw_incidents(&mut self, random: &mut Rng) {
        let count = if percent(random, 45) { random.usize(1..=2) } else { 0 };
        for _ in 0..count {
            let near = self.connections[random.usize(..self.connections.len())].start;
            // Mostly in the middle of a handshake.
            let path: u64 = self.legs.iter().map(|leg| leg.delay.as_micros() as u64).sum();
            let at = near + Duration::from_micros(random.u64(..path * 4 + 1000));
            let which = if random.bool() { Which::Client } else { Which::Server };
            let later = at + ms(random.u64(..4000));
            match random.u8(..100) {
                0..12 => self.incidents.push((at, Incident::Die(which))),
                12..30 => {
                    let memory = if random.u8(..3) == 0 { Memory::Lost } else { Memory::Journal };
                    self.incidents.push((at, Incident::Restart(which, memory)));
                }
                30..38 => self.rotate_keys(at, later),
                38..46 => {
                    let jump = [ms(random.u64(..3000)), ms(random.u64(..600_000))][random.usize(..2)];
                    self.incidents.push((at, Incident::ClockJump(which, jump)));
                }
                46..58 => {
                    let kind = match random.u8(..3) {
                        0 => Middlebox { strips: false, rewrites: Some(random.u32(1..)) },
                        _ => Middlebox { strips: true, rewrites: None },
                    };
                    let at = if random.bool() { Instant::ZERO } else { at };
                    self.incidents.push((at, Incident::Middlebox(kind)));
                }
                58..78 => {
                    self.incidents.push((at, Incident::Silent(true)));
                    self.incidents.push((at + ms(random.u64(..30_000)), Incident::Silent(false)));
                }
                _ => {
                    self.incidents.push((at, Incident::Listening(false)));
                    self.incidents.push((at + ms(random.u64(..10_000)), Incident::Listening(true)));
                }
            }
        }
    }

    /// ClientNIC's mind changes while the 4-tuple is in use: it forgets what it knew, or signs with
    /// a key that nobody knows.
    fn draw_confusion(&mut self, random: &mut Rng) {
        for _ in 0..random.usize(1..=4) {
            let near = self.connections[random.usize(..self.connections.len())].start;
            let at = near + ms(random.u64(..400));
            let incident = match random.u8(..4) {
                0 | 1 => Incident::Restart(Which::Client, Memory::Lost),
                2 => Incident::Rekey(Which::Client, KeySet::Foreign),
                _ => Incident::Rekey(Which::Client, KeySet::Old),
            };
            self.incidents.push((at, incident));
        }
    }

    /// The new key signs on one NIC first; then the other; then the old one goes.
    fn rotate_keys(&mut self, at: Instant, later: Instant) {
        if self.client_nic.is_none() || self.server_nic.is_none() {
            return;
        }
        for (at, which) in [(at, Which::Server), (later, Which::Client)] {
            self.incidents.push((at, Incident::Rekey(which, KeySet::Rotating)));
        }
        let last = later + ms(60_000);
        for which in [Which::Server, Which::Client] {
            self.incidents.push((last, Incident::Rekey(which, KeySet::New)));
        }
    }

    fn finish(&mut self, random: &mut Rng) {
        self.incidents.sort_by_key(|(at, _)| *at);
        let last = self.connections.iter().map(|connection| connection.start).max().unwrap_or_default();
        self.calm_at = if self.is_fair() { Instant::ZERO } else { last + ms(random.u64(1_000..60_000)) };
        let scripts = self.connections.iter().flat_map(|c| [c.client, c.server]);
        let waits: Duration = scripts.flat_map(|s| [s.rest, s.pause]).flatten().map(|(_, time)| time).sum();
        let incident = self.incidents.iter().map(|(at, _)| *at).max().unwrap_or_default();
        self.end = last.max(self.calm_at).max(incident) + waits + GRACE;
        let idle = if percent(random, 4) { ms(300_000) } else { Duration::from_secs(6 * 3600) };
        self.limits.idle = idle;
        self.forgetful = idle < Duration::from_secs(3600);
    }
}

/// Sebastiano Vigna's SplitMix64: neighbouring indices give unrelated worlds.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn host(random: &mut Rng) -> Tcp {
    if percent(random, 55) { Tcp::Smoltcp } else { Tcp::Scripted }
}

fn mtu(random: &mut Rng) -> u16 {
    [1500, 1500, 1400, 1280][random.usize(..4)]
}

fn mode(random: &mut Rng) -> Mode {
    match random.u8(..100) {
        0..70 => Mode::Auto,
        70..80 => Mode::Paired,
        80..95 => Mode::Solo,
        _ => Mode::Off,
    }
}

fn nics(random: &mut Rng) -> (Option<KeySet>, Option<KeySet>) {
    match random.u8(..100) {
        0..72 => (Some(KeySet::Old), Some(KeySet::Old)),
        72..86 => (Some(KeySet::Old), None),
        86..91 => (None, Some(KeySet::Old)),
        91..95 => (Some(KeySet::Rotating), Some(KeySet::Old)),
        _ => (Some(KeySet::Old), Some(KeySet::Foreign)),
    }
}

fn limits(random: &mut Rng) -> Limits {
    let wide = Limits { flows: 64, pending: 32, ..Limits::default() };
    if percent(random, 85) {
        return wide;
    }
    Limits {
        flows: random.usize(1..4),
        pending: random.usize(1..3),
        half_open: random.usize(1..4),
        held_per_flow: random.usize(100..4_000),
        held_total: random.usize(100..6_000),
        ..wide
    }
}

fn legs(random: &mut Rng, fair: bool) -> [Leg; 3] {
    let mut leg = |shortest: u64, longest: u64| {
        let delay = Duration::from_micros(random.u64(shortest..longest));
        let stormy = !fair && percent(random, if longest > 50_000 { 90 } else { 35 });
        let weather = if stormy { weather(random, delay) } else { Weather::default() };
        Leg { delay, weather }
    };
    [leg(10, 12_000), leg(100, 120_000), leg(10, 12_000)]
}

/// Short, and with copies and laggards.
fn busy_legs(random: &mut Rng) -> [Leg; 3] {
    let mut leg = |longest: u64| {
        let delay = Duration::from_micros(random.u64(10..longest));
        let jitter = ms(random.u64(1..500));
        let (loss, duplication) = (random.u16(..60), random.u16(..200));
        let weather = Weather { loss, duplication, corruption: 0, reordering: random.u16(..300), jitter };
        Leg { delay, weather }
    };
    [leg(2_000), leg(20_000), leg(2_000)]
}

fn weather(random: &mut Rng, delay: Duration) -> Weather {
    let mut chance = |most: u16| if random.bool() { random.u16(..most) } else { 0 };
    let (loss, duplication, corruption, reordering) = (chance(150), chance(120), chance(60), chance(300));
    let longest = [delay * 2, ms(3), ms(400)][random.usize(..3)];
    let jitter = Duration::from_micros(random.u64(1..=longest.as_micros().max(2) as u64));
    Weather { loss, duplication, corruption, reordering, jitter }
}

/// The whole u32, half of the time so that it wraps within the connection.
fn near_wrap(random: &mut Rng) -> u32 {
    if random.bool() { 0u32.wrapping_sub(random.u32(..30_000)) } else { random.u32(..) }
}

fn draw_stance(random: &mut Rng, clock: u32, mtu: u16, v6: bool) -> Stance {
    let mtu = mtu - if v6 { 60 } else { 40 };
    Stance {
        isn: 0,
        mss: [mtu, mtu, 1000, 536][random.usize(..4)].min(mtu),
        window_scale: [None, Some(0), Some(2), Some(7), Some(9)][random.usize(..5)],
        sack: percent(random, 70),
        timestamps: percent(random, 70),
        clock,
        buffer: [4_000, 16_000, 60_000, 200_000][random.usize(..4)],
        oddity: Oddity::None,
        offload: percent(random, 40),
    }
}

fn oddity(random: &mut Rng) -> Oddity {
    use Oddity as O;
    let kinds =
        [O::None, O::UnknownOption, O::FastOpen, O::SynData, O::Ecn, O::Ecn, O::AccurateEcn, O::NoRoom];
    kinds[random.usize(..kinds.len())]
}

fn gap(random: &mut Rng) -> Duration {
    match random.u8(..100) {
        0..30 => ms(random.u64(..300)),
        30..80 => ms(random.u64(300..10_000)),
        80..92 => ms(random.u64(10_000..150_000)),
        _ => ms(random.u64(500_000..2_400_000)),
    }
}

fn size(random: &mut Rng) -> u32 {
    match random.u8(..100) {
        0..12 => 0,
        12..40 => random.u32(1..200),
        40..65 => random.u32(200..3_000),
        65..94 => random.u32(3_000..40_000),
        _ => random.u32(40_000..200_000),
    }
}

/// Over and done with at once, so that copies of its packets find it closed.
fn quick_scripts(client: Script, server: Script) -> (Script, Script) {
    let quick = |script: Script| Script {
        send: script.send % 300,
        start_after: 0,
        close: Close::After(0),
        rest: None,
        pause: None,
        ..script
    };
    (quick(client), quick(server))
}

/// Two scripts that never wait for each other.
fn scripts(random: &mut Rng) -> (Script, Script) {
    let mut script = |keepalive| Script {
        salt: random.u32(..),
        send: size(random),
        start_after: 0,
        close: Close::After(0),
        rest: None,
        pause: None,
        keepalive,
    };
    let (mut client, mut server) = (script(None), script(None));
    match random.u8(..10) {
        // Request, response.
        0..5 => (server.start_after, client.close) = (client.send, Close::After(server.send)),
        // The server speaks first.
        5 => client.start_after = server.send,
        6 => client.close = Close::After(server.send),
        7 => server.close = Close::After(client.send),
        _ => {}
    }
    let long = percent(random, 15);
    for script in [&mut client, &mut server] {
        let some = |random: &mut Rng| random.u32(..=script.send);
        if percent(random, 8) {
            script.close = Close::Abort(some(random), 0);
        } else if percent(random, 12) {
            let rest = if long { random.u64(600_000..9_000_000) } else { random.u64(..20_000) };
            script.rest = Some((some(random), ms(rest)));
        }
        if percent(random, 12) {
            script.pause = Some((random.u32(..8_000), ms(random.u64(..90_000))));
        }
        if long && random.bool() {
            script.keepalive = Some(ms(random.u64(30_000..1_200_000)));
        }
    }
    (client, server)
}

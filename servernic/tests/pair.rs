//! Client, ClientNIC, ServerNIC and server on one virtual clock, over legs that lose, double and
//! reorder. Every run is made from its seed alone; the last seed printed is the one that failed.

#[path = "pair/endpoint.rs"]
mod endpoint;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use endpoint::{Endpoint, Script};
use packets::*;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::gauges::Gauges;
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::reason::Event;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Segment;
use servernic::engine::ServerNic;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// Sebastiano Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn data(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The stations a packet visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Client,
    ClientNic,
    ServerNic,
    Server,
}

/// What a path does to packets.
#[derive(Debug, Clone, Copy)]
struct Weather {
    loss: u64,
    double: u64,
    jitter_ms: u64,
}

/// When, a number that keeps equal times in order, where, what, and whether its checksum is
/// partial.
type Arrival = Reverse<(Instant, u64, Place, Vec<u8>, bool)>;

struct World {
    random: Random,
    weather: Weather,
    client_nic: ClientNic,
    server_nic: Option<ServerNic>,
    client: Endpoint,
    server: Endpoint,
    queue: BinaryHeap<Arrival>,
    order: u64,
    now: Instant,
}

impl World {
    fn send(&mut self, from: Place, bytes: Vec<u8>, partial: bool) {
        let to_server = Seg::read_partial(&bytes, partial).to == Direction::ToServer;
        let to = match (from, to_server) {
            (Place::Client, _) | (Place::ServerNic, false) => Place::ClientNic,
            (Place::Server, _) | (Place::ClientNic, true) if self.server_nic.is_some() => Place::ServerNic,
            (Place::Server, _) => Place::ClientNic,
            (Place::ServerNic, true) | (Place::ClientNic, true) => Place::Server,
            (Place::ClientNic, false) => Place::Client,
        };
        let long =
            matches!((from, to), (Place::ClientNic, Place::ServerNic) | (Place::ServerNic, Place::ClientNic));
        let copies = 1 + u64::from(self.random.percent(self.weather.double));
        for _ in 0..copies {
            if self.random.percent(self.weather.loss) {
                continue;
            }
            let delay =
                if long { 25_000 } else { 300 } + self.random.below(self.weather.jitter_ms * 1000 + 1);
            self.order += 1;
            let at = self.now + Duration::from_micros(delay);
            self.queue.push(Reverse((at, self.order, to, bytes.clone(), partial)));
        }
    }

    fn send_all(&mut self, from: Place, segments: Vec<Seg>) {
        for segment in segments {
            let partial = self.random.percent(30);
            let mut bytes = segment.bytes();
            if partial {
                make_partial(&mut bytes);
            }
            self.send(from, bytes, partial);
        }
    }

    fn arrive(&mut self, place: Place, mut bytes: Vec<u8>, partial: bool) {
        let now = self.now;
        let answers = match place {
            Place::Client => self.client.receive(now, &Seg::read_partial(&bytes, partial)),
            Place::Server => {
                let segment = Seg::read_partial(&bytes, partial);
                let hidden = self.server_nic.is_none() || segment.raw.is_empty();
                assert!(hidden, "the server sees the signalling option");
                self.server.receive(now, &segment)
            }
            Place::ClientNic | Place::ServerNic => {
                let mut packet =
                    Packet { bytes: &mut bytes, offload: Offload { needs_csum: partial, gso_size: 0 } };
                let mut out = Outbox::new();
                let verdict = self.engine(place).handle(now, &mut packet, &mut out);
                let offload = packet.offload;
                if verdict == Verdict::Forward {
                    self.emit(place, &bytes, offload);
                }
                self.emit_all(place, &out);
                return;
            }
        };
        self.send_all(place, answers);
    }

    fn emit_all(&mut self, place: Place, out: &Outbox) {
        for (bytes, offload) in out.iter() {
            self.emit(place, bytes, offload);
        }
    }

    /// Sends as the emission would: full checksums, and cut to `gso_size`.
    fn emit(&mut self, place: Place, bytes: &[u8], offload: Offload) {
        let whole = Seg::read_partial(bytes, offload.needs_csum);
        let limit = usize::from(offload.gso_size);
        if limit == 0 || whole.payload.len() <= limit {
            self.send(place, bytes.to_vec(), offload.needs_csum);
            return;
        }
        let last = whole.payload.len().div_ceil(limit) - 1;
        for (index, payload) in whole.payload.chunks(limit).enumerate() {
            let flags = if index == last { whole.flags } else { whole.flags.without(FIN | PSH) };
            let seq = whole.seq.wrapping_add((index * limit) as u32);
            let piece = Seg { flags, seq, payload: payload.to_vec(), ..whole.clone() };
            self.send(place, piece.bytes(), false);
        }
    }

    fn engine(&mut self, place: Place) -> &mut dyn Engine {
        match (&mut self.server_nic, place) {
            (Some(server_nic), Place::ServerNic) => server_nic,
            _ => &mut self.client_nic,
        }
    }

    /// Lets the next thing happen; false if nothing will before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let arrival = self.queue.peek().map(|Reverse(arrival)| (arrival.0, None));
        let engines = [Place::ClientNic, Place::ServerNic].map(|place| {
            let known = place == Place::ClientNic || self.server_nic.is_some();
            known.then(|| self.engine(place).next_timeout()).flatten().map(|at| (at, Some(place)))
        });
        let ends = [
            self.client.timer().map(|at| (at, Some(Place::Client))),
            self.server.timer().map(|at| (at, Some(Place::Server))),
        ];
        let next = engines.into_iter().chain(ends).flatten().chain(arrival).min_by_key(|(at, _)| *at);
        let Some((at, place)) = next.filter(|(at, _)| *at <= until) else { return false };
        self.now = self.now.max(at);
        let now = self.now;
        match place {
            None => {
                if let Some(Reverse((_, _, place, bytes, partial))) = self.queue.pop() {
                    self.arrive(place, bytes, partial);
                }
            }
            Some(Place::Client) => {
                let segments = self.client.on_timer(now);
                self.send_all(Place::Client, segments);
            }
            Some(Place::Server) => {
                let segments = self.server.on_timer(now);
                self.send_all(Place::Server, segments);
            }
            Some(place) => {
                let mut out = Outbox::new();
                self.engine(place).handle_timeout(now, &mut out);
                self.emit_all(place, &out);
            }
        }
        true
    }

    /// One connection from SYN to the last ACK.
    fn connect(&mut self, client: Script, server: Script) {
        let (upload, download) = (client.data.clone(), server.data.clone());
        (self.client, self.server) = (Endpoint::client(client), Endpoint::server(server));
        let began = self.now;
        let segments = self.client.connect(began);
        self.send_all(Place::Client, segments);
        let end = began + Duration::from_secs(300);
        while !(self.client.is_done() && self.server.is_done()) && self.step(end) {
            if self.client.was_reset() {
                break;
            }
        }
        let silent = self.happened(Event::TimedOut) > 0;
        if silent && self.client.was_reset() {
            assert!(upload.starts_with(self.server.received()) && self.client.received().is_empty());
        } else {
            assert!(
                self.client.is_done() && self.server.is_done(),
                "stuck: {:?}\n{:?}",
                self.client,
                self.server
            );
            assert!(self.server.received() == upload && self.client.received() == download, "other bytes");
        }
        // What is still on its way arrives, so that the next connection meets no old packets.
        while self.queue.peek().is_some() && self.step(self.now + Duration::from_secs(1)) {}
    }

    fn happened(&mut self, event: Event) -> u64 {
        let server_nic = self.server_nic.as_ref().map_or(0, |nic| nic.counters().happened(event));
        self.client_nic.counters().happened(event) + server_nic
    }

    /// Lets every timer run out.
    fn end(&mut self) {
        let idle = self.now + Duration::from_secs(2 * 3600);
        while self.step(idle) {}
        assert_eq!(self.client_nic.gauges(), Gauges::default());
        if let Some(nic) = &self.server_nic {
            assert_eq!(nic.gauges(), Gauges::default());
        }
    }
}

/// Leaves the sum over the pseudo-header alone in the checksum field, as a sender with checksum
/// offload does.
fn make_partial(bytes: &mut [u8]) {
    let mut packet = Packet { bytes, offload: Offload::default() };
    let at = Segment::parse(&mut packet).expect("a segment").tcp_offset() + 16;
    let length = bytes.len() - 20;
    let pseudo = rtt0_core::wire::checksum::pseudo_header(client().0, server().0, 6, length);
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
}

fn world(seed: u64, mode: Mode, with_server_nic: bool, weather: Weather) -> World {
    let limits = Limits { idle: Duration::from_secs(3600), ..Limits::default() };
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    let settings = Settings { policy: mode.into(), mss_clamp: (1460, 1440), limits };
    let mut random = Random(seed);
    let nobody = script(&mut random, 0);
    World {
        weather,
        client_nic: ClientNic::new(gateway(), keys(), profiles, settings),
        server_nic: with_server_nic.then(|| ServerNic::new(gateway(), keys(), limits)),
        client: Endpoint::server(nobody.clone()),
        server: Endpoint::server(nobody),
        random,
        queue: BinaryHeap::new(),
        order: 0,
        now: ms(1),
    }
}

/// A script of up to `most` bytes with an ISN and a clock that soon wrap.
fn script(random: &mut Random, most: u64) -> Script {
    let length = random.below(most + 1) as usize;
    Script {
        isn: 0u32.wrapping_sub(random.below(20_000) as u32),
        options: SynOptions {
            mss: Some([536, 1000, 1460][random.below(3) as usize]),
            window_scale: [None, Some(0), Some(7), Some(9)][random.below(4) as usize],
            sack_permitted: random.percent(70),
            timestamps: Some(Timestamps { value: 0, echo: 0 }),
        },
        data: random.data(length),
        start_after: 0,
        finish_after: 0,
        clock: 0u32.wrapping_sub(random.below(5_000) as u32),
        disorder: false,
    }
}

/// Two scripts that never wait for each other.
fn scripts(random: &mut Random) -> (Script, Script) {
    let most = [0, 600, 40_000][random.below(3) as usize];
    let (mut client, mut server) = (script(random, most), script(random, most));
    if random.percent(50) {
        // The promised ISN wraps during the connection.
        let promised = |isn| keys().promised_isn(1, &flow(), Seq::new(isn)).expect("key 1").get();
        let from = random.next() as u32;
        let near = (0..1 << 20).map(|n| from.wrapping_add(n)).find(|isn| promised(*isn) > u32::MAX - 20_000);
        client.isn = near.unwrap_or(client.isn);
        // Far from it, so that no number of the one space passes for one of the other.
        server.isn = 0x7fff_f000;
    }
    match random.below(4) {
        0 => client.start_after = server.data.len(),
        1 => server.start_after = client.data.len(),
        2 => client.finish_after = server.data.len(),
        _ => server.finish_after = client.data.len(),
    }
    (client, server)
}

fn run(seeds: std::ops::Range<u64>, mode: Mode, with_server_nic: bool, spoofed: Event) {
    let mut seen = 0;
    for seed in seeds {
        println!("seed {seed}");
        let mut random = Random(seed);
        let weather = match seed % 4 {
            0 => Weather { loss: 0, double: 0, jitter_ms: 0 },
            1 => Weather { loss: 0, double: 20, jitter_ms: 40 },
            2 => Weather { loss: 5, double: 0, jitter_ms: 1 },
            _ => Weather { loss: 10, double: 10, jitter_ms: 15 },
        };
        let mut world = world(seed, mode, with_server_nic, weather);
        // One in five speaks no timestamps, always: that promise can't be repaired.
        let timestamps = Some(Timestamps { value: 0, echo: 0 }).filter(|_| random.percent(80));
        let constant = script(&mut random, 0).options;
        for _ in 0..4 {
            let (mut client, mut server) = scripts(&mut random);
            if weather.loss + weather.jitter_ms > 0 {
                // A client whose spoofed SYN-ACK got lost or late takes the real one at its
                // word, so here the server keeps what its profile says.
                server.options = constant;
                server.disorder = true;
            }
            client.options.timestamps = timestamps;
            server.options.timestamps = timestamps;
            world.connect(client, server);
        }
        seen += world.happened(spoofed);
        world.end();
    }
    assert!(seen > 0, "nothing was spoofed");
}

#[test]
fn paired() {
    run(0..200, Mode::Auto, true, Event::SpoofedPaired);
}

#[test]
fn solo_without_a_server_nic() {
    run(1000..1200, Mode::Auto, false, Event::SpoofedSolo);
}

#[test]
fn solo_through_a_server_nic() {
    run(2000..2200, Mode::Solo, true, Event::SpoofedSolo);
}

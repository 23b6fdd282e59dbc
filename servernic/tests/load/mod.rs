//! Many connections through both engines, made by real handshakes: for the tests of scale, the
//! benches and the cost example.
#![allow(dead_code, unreachable_pub, reason = "each crate that includes this uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../../common/core/tests/packets/mod.rs"]
pub mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use packets::{ACK, FIN, PSH, RST, SYN, gateway, keys, server};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::FlowKey;
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::options::{Options, SynOptions, kind};
use rtt0_core::wire::segment::{Endpoint, Segment};
use rtt0_core::wire::tcp::Flags;
use servernic::engine::ServerNic;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the request that every client sends early.
const REQUEST: u32 = 100;
/// Bytes of every server's answer.
const ANSWER: u32 = 200;
/// The clock of every server at its SYN-ACK, and of every client at its SYN.
const CLOCK: u32 = 1_000;

/// What a segment carries besides its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    /// Nothing.
    None,
    /// Timestamps.
    Timestamps,
    /// Timestamps and three SACK blocks.
    Sack,
}

/// The numbers of connection `n`.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    pub client: Endpoint,
    pub client_isn: u32,
    pub promised_isn: u32,
    pub promised_tsval: u32,
    pub real_isn: u32,
}

/// Sebastiano Vigna's SplitMix64, of one number.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Connection {
    pub fn new(n: u32) -> Self {
        let address = (0xac10_0000 + n / 50_000).to_be_bytes();
        let client = (address.into(), 1_024 + (n % 50_000) as u16);
        let numbers = mix(n.into());
        let (client_isn, real_isn) = (numbers as u32, (numbers >> 32) as u32);
        let key = FlowKey::new(client, server(), Direction::ToServer);
        let (keys, isn) = (keys(), Seq::new(client_isn));
        let promised_isn = keys.promised_isn(1, &key, isn).unwrap().get();
        let promised_tsval = keys.promised_tsval(1, &key, isn).unwrap();
        Self { client, client_isn, promised_isn, promised_tsval, real_isn }
    }

    pub fn key(&self) -> FlowKey {
        FlowKey::new(self.client, server(), Direction::ToServer)
    }

    /// Writes a segment. `sequence` and `acknowledgement` count from the ISNs that its sender knows.
    pub fn segment(
        &self,
        to: Direction,
        flags: Flags,
        (sequence, acknowledgement): (u32, u32),
        (options, payload): (&[u8], u32),
        bytes: &mut Vec<u8>,
    ) {
        let (source, destination, own, other) = match to {
            Direction::ToServer => (self.client, server(), self.client_isn, self.promised_isn),
            Direction::ToClient => (server(), self.client, self.real_isn, self.client_isn),
        };
        let acknowledgement = if flags.contains(ACK) { other.wrapping_add(acknowledgement) } else { 0 };
        let control = Control {
            source,
            destination,
            sequence: own.wrapping_add(sequence),
            acknowledgement,
            flags,
            window: 500,
        };
        bytes.clear();
        control.write(options, bytes);
        bytes.resize(bytes.len() + payload as usize, 0x5a);
        let total = bytes.len() as u16;
        Ipv4::unverified(&mut bytes[..]).unwrap().set_total_length(total);
        Segment::parse(&mut Packet { bytes, offload: Offload::default() }).unwrap().fill_checksum();
    }

    /// Writes a segment of the established connection: `payload` bytes behind the request or the
    /// answer, all acknowledged.
    pub fn data(&self, to: Direction, extras: Extras, payload: u32, bytes: &mut Vec<u8>) {
        let (numbers, other) = match to {
            Direction::ToServer => ((1 + REQUEST, 1 + ANSWER), self.promised_isn),
            Direction::ToClient => ((1 + ANSWER, 1 + REQUEST), self.client_isn),
        };
        let mut options = Vec::with_capacity(40);
        if extras != Extras::None {
            self.timestamps(to, 9).write(&mut options);
        }
        if extras == Extras::Sack {
            options.extend_from_slice(&[kind::NOP, kind::NOP, kind::SACK, 26]);
            for edge in 1..=6u32 {
                options.extend_from_slice(&other.wrapping_add(1_000 * edge).to_be_bytes());
            }
        }
        self.segment(to, ACK | PSH, numbers, (&options, payload), bytes);
    }

    fn timestamps(&self, to: Direction, later: u32) -> SynOptions {
        let (value, echo) = match to {
            Direction::ToServer => (CLOCK, self.promised_tsval),
            Direction::ToClient => (CLOCK, CLOCK),
        };
        let (value, echo) = (value + later, echo.wrapping_add(later));
        let timestamps = Some(rtt0_core::wire::options::Timestamps { value, echo });
        SynOptions { timestamps, ..SynOptions::default() }
    }
}

/// Both NICs, or ClientNIC alone, on one virtual clock.
pub struct World {
    pub client_nic: ClientNic,
    pub server_nic: Option<ServerNic>,
    pub now: Instant,
    pub out: Outbox,
    /// Bytes that each engine has allocated in its calls, less those it has freed.
    pub allocated: [isize; 2],
    /// Tells how many bytes are allocated.
    gauge: fn() -> usize,
    bytes: Vec<u8>,
}

impl World {
    /// Makes engines that know how the server answers. `gauge` tells how many bytes are allocated.
    pub fn new(mode: Mode, limits: Limits, gauge: fn() -> usize) -> Self {
        let before = gauge();
        let server_nic = (mode != Mode::Solo).then(|| ServerNic::new(gateway(), keys(), limits));
        let between = gauge();
        let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
        let settings = Settings { policy: mode.into(), mss_clamp: (1460, 1440), limits };
        let client_nic = ClientNic::new(gateway(), keys(), profiles, settings);
        let allocated = [(gauge() - between) as isize, (between - before) as isize];
        let now = Instant::from_micros(1_000_000);
        let (out, bytes) = (Outbox::new(), Vec::new());
        let mut world = Self { client_nic, server_nic, now, out, allocated, gauge, bytes };
        world.learn();
        // Until what was learned from is forgotten.
        world.advance(Duration::from_secs(20));
        world
    }

    /// Hands one packet to ClientNIC (0) or ServerNIC (1); returns what comes out, first what it forwards.
    fn give(&mut self, nic: usize, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        // The outbox is the worker's, so it is warm, and its growth no flow's.
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let before = (self.gauge)();
        let verdict = match (nic, &mut self.server_nic) {
            (1, Some(nic)) => nic.handle(self.now, &mut packet, &mut self.out),
            (1, None) => Verdict::Forward,
            _ => self.client_nic.handle(self.now, &mut packet, &mut self.out),
        };
        self.allocated[nic] += (self.gauge)() as isize - before as isize;
        let mut emitted = Vec::new();
        if verdict == Verdict::Forward {
            emitted.push(bytes);
        }
        emitted.extend(self.out.iter().map(|(bytes, _)| bytes.to_vec()));
        self.out.clear();
        emitted
    }

    fn write(
        &mut self,
        connection: &Connection,
        to: Direction,
        flags: Flags,
        numbers: (u32, u32),
        (options, payload): (&SynOptions, u32),
    ) -> Vec<u8> {
        let mut written = Vec::with_capacity(40);
        options.write(&mut written);
        connection.segment(to, flags, numbers, (&written, payload), &mut self.bytes);
        self.bytes.clone()
    }

    /// The first connection teaches ClientNIC what the server can do.
    fn learn(&mut self) {
        let connection = Connection::new(u32::MAX);
        let syn = self.write(&connection, Direction::ToServer, SYN, (0, 0), (&packets::linux(CLOCK, 0), 0));
        let probe = self.give(0, syn).remove(0);
        let _ = self.give(1, probe);
        let options = packets::linux(CLOCK, CLOCK);
        let answer = self.write(&connection, Direction::ToClient, SYN | ACK, (0, 1), (&options, 0));
        let confirm = self.give(1, answer).remove(0);
        assert_eq!(self.give(0, confirm).len(), 1, "the client gets its SYN-ACK");
        for nic in [0, 1] {
            let mut bytes = Vec::new();
            connection.segment(Direction::ToServer, RST, (1, 0), (&[], 0), &mut bytes);
            self.give(nic, bytes);
        }
    }

    /// Makes connection `n`: handshake, early request, answer, and its acknowledgement.
    pub fn connect(&mut self, n: u32) {
        use Direction::{ToClient, ToServer};
        let connection = Connection::new(n);
        let syn = self.write(&connection, ToServer, SYN, (0, 0), (&packets::linux(CLOCK, 0), 0));
        let mut spoofed = self.give(0, syn);
        assert_eq!(spoofed.len(), 2, "an offer and a spoofed SYN-ACK");
        let options = connection.timestamps(ToServer, 0);
        let request = self.write(&connection, ToServer, ACK | PSH, (1, 1), (&options, REQUEST));
        let request = self.give(0, request);
        let offer = spoofed.remove(0);
        let mut confirm = Vec::new();
        // The server echoes what came first.
        let answer = if self.server_nic.is_some() {
            let elder = self.give(1, offer).remove(0);
            request.into_iter().for_each(|request| assert!(self.give(1, request).is_empty(), "held"));
            packets::linux(CLOCK, tsval(&elder))
        } else {
            packets::linux(CLOCK, CLOCK)
        };
        let syn_ack = self.write(&connection, ToClient, SYN | ACK, (0, 1), (&answer, 0));
        if self.server_nic.is_some() {
            assert!(self.give(1, syn_ack.clone()).is_empty(), "waits for the other answer");
            confirm = self.give(1, syn_ack).split_off(1);
        } else {
            confirm.push(syn_ack);
        }
        self.give(0, confirm.remove(0));
        let options = connection.timestamps(ToClient, 1);
        let answer = self.write(&connection, ToClient, ACK | PSH, (1, 1 + REQUEST), (&options, ANSWER));
        self.pass(answer, ToClient);
        let options = connection.timestamps(ToServer, 1);
        let ack = self.write(&connection, ToServer, ACK, (1 + REQUEST, 1 + ANSWER), (&options, 0));
        self.pass(ack, ToServer);
    }

    /// Closes connection `n`, the client first; every FIN is acknowledged.
    pub fn close(&mut self, n: u32) {
        use Direction::{ToClient, ToServer};
        let connection = Connection::new(n);
        let (client, server) = (1 + REQUEST, 1 + ANSWER);
        for (to, flags, numbers) in [
            (ToServer, FIN | ACK, (client, server)),
            (ToClient, FIN | ACK, (server, client + 1)),
            (ToServer, ACK, (client + 1, server + 1)),
        ] {
            let options = connection.timestamps(to, 2);
            let segment = self.write(&connection, to, flags, numbers, (&options, 0));
            self.pass(segment, to);
        }
    }

    /// Lets a segment pass both NICs.
    fn pass(&mut self, segment: Vec<u8>, to: Direction) {
        let path = if to == Direction::ToServer { [0, 1] } else { [1, 0] };
        let mut segment = segment;
        for nic in path {
            let mut emitted = self.give(nic, segment);
            assert_eq!(emitted.len(), 1, "passes");
            segment = emitted.remove(0);
        }
    }

    /// Lets time pass, and everything happen that is due then.
    pub fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        for nic in [0, 1] {
            let before = (self.gauge)();
            let engine: &mut dyn Engine = match (nic, &mut self.server_nic) {
                (1, Some(nic)) => nic,
                (1, None) => continue,
                _ => &mut self.client_nic,
            };
            while engine.next_timeout().is_some_and(|at| at <= self.now) {
                engine.handle_timeout(self.now, &mut self.out);
                self.out.clear();
            }
            self.allocated[nic] += (self.gauge)() as isize - before as isize;
        }
    }

    /// Returns how many flows each NIC knows.
    pub fn flows(&self) -> [usize; 2] {
        [self.client_nic.gauges().flows, self.server_nic.as_ref().map_or(0, |nic| nic.gauges().flows)]
    }
}

/// Returns the TSval of a segment.
fn tsval(bytes: &[u8]) -> u32 {
    let mut bytes = bytes.to_vec();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).unwrap();
    let options = SynOptions::parse(Options::new(segment.tcp().option_bytes()), |_| false).unwrap();
    options.timestamps.unwrap().value
}

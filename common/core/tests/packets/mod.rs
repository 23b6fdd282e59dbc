//! Segments written and read in the words of RFC 9293, for the tests of both engines.
#![allow(dead_code, unreachable_pub, reason = "each test crate that includes this uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use rtt0_core::flow::FlowKey;
use rtt0_core::gateway::{Gateway, RouterAddresses};
use rtt0_core::offer::Keys;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::service::{Direction, Services};
use rtt0_core::time::Instant;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::{Endpoint, Segment};
use rtt0_core::wire::tcp::Flags;
use std::sync::Arc;

pub const SYN: Flags = Flags::SYN;
pub const ACK: Flags = Flags::ACK;
pub const RST: Flags = Flags::RST;
pub const FIN: Flags = Flags::FIN;
pub const PSH: Flags = Flags::PSH;

pub fn client() -> Endpoint {
    ([10, 1, 0, 10].into(), 40_000)
}

pub fn server() -> Endpoint {
    ([10, 1, 2, 10].into(), 80)
}

pub fn flow() -> FlowKey {
    FlowKey::new(client(), server(), Direction::ToServer)
}

pub fn keys() -> Keys {
    Keys::new((1, [0x42; 16]), None).unwrap()
}

pub fn gateway() -> Gateway {
    let services = Services::new(vec!["10.1.2.0/24:80".parse().unwrap()], vec![]);
    let addresses = RouterAddresses { v4: Some([10, 1, 1, 1].into()), v6: None };
    Gateway::new(services, addresses, Arc::new(Counters::default()))
}

pub fn ms(n: u64) -> Instant {
    Instant::from_micros(n * 1000)
}

/// A segment as a test writes it and as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seg {
    pub to: Direction,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub ts: Option<(u32, u32)>,
    pub syn_options: Option<SynOptions>,
    /// Raw options, if they are none of the above.
    pub raw: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Seg {
    pub fn new(to: Direction, flags: Flags, seq: u32, ack: u32) -> Self {
        let (ts, syn_options, raw, payload) = (None, None, vec![], vec![]);
        Self { to, flags, seq, ack, window: 500, ts, syn_options, raw, payload }
    }

    pub fn from_client(flags: Flags, seq: u32, ack: u32) -> Self {
        Self::new(Direction::ToServer, flags, seq, ack)
    }

    pub fn from_server(flags: Flags, seq: u32, ack: u32) -> Self {
        Self::new(Direction::ToClient, flags, seq, ack)
    }

    pub fn ts(mut self, value: u32, echo: u32) -> Self {
        self.ts = Some((value, echo));
        self
    }

    pub fn options(mut self, options: SynOptions) -> Self {
        self.syn_options = Some(options);
        self
    }

    pub fn raw(mut self, raw: &[u8]) -> Self {
        self.raw = raw.to_vec();
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (source, destination) = match self.to {
            Direction::ToServer => (client(), server()),
            Direction::ToClient => (server(), client()),
        };
        let mut options = self.raw.clone();
        if let Some(syn) = &self.syn_options {
            syn.write(&mut options);
        }
        if let Some((value, echo)) = self.ts {
            let timestamps = Some(Timestamps { value, echo });
            SynOptions { timestamps, ..SynOptions::default() }.write(&mut options);
        }
        let control = Control {
            source,
            destination,
            sequence: self.seq,
            acknowledgement: self.ack,
            flags: self.flags,
            window: self.window,
        };
        let mut bytes = Vec::new();
        control.write(&options, &mut bytes);
        bytes.extend_from_slice(&self.payload);
        let total = bytes.len() as u16;
        rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..]).unwrap().set_total_length(total);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        Segment::parse(&mut packet).unwrap().fill_checksum();
        bytes
    }

    /// Reads a packet and verifies its checksum.
    pub fn read(bytes: &[u8]) -> Self {
        Self::read_partial(bytes, false)
    }

    /// Reads a packet whose checksum may be partial.
    pub fn read_partial(bytes: &[u8], needs_csum: bool) -> Self {
        let mut bytes = bytes.to_vec();
        let offload = Offload { needs_csum, gso_size: 0 };
        let mut packet = Packet { bytes: &mut bytes, offload };
        let segment = Segment::parse(&mut packet).unwrap();
        assert!(segment.checksum_ok(), "checksum");
        let tcp = segment.tcp();
        let to = if segment.source() == client() { Direction::ToServer } else { Direction::ToClient };
        let options = SynOptions::parse(tcp.options(), |o| o.kind > 8).unwrap();
        let is_syn = tcp.flags().contains(SYN);
        Self {
            to,
            flags: tcp.flags(),
            seq: tcp.sequence(),
            ack: tcp.acknowledgement(),
            window: tcp.window(),
            ts: options.timestamps.filter(|_| !is_syn).map(|t| (t.value, t.echo)),
            syn_options: is_syn.then_some(options),
            raw: tcp
                .options()
                .map(Result::unwrap)
                .filter(|o| o.kind > 8)
                .flat_map(|o| tcp.option_bytes()[o.offset..o.offset + o.length()].to_vec())
                .collect(),
            payload: tcp.payload().to_vec(),
        }
    }
}

/// Puts another port at offset `at` of an IPv4 segment without IP options.
pub fn set_port(bytes: &mut [u8], at: usize, port: u16) {
    bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
    Segment::parse(&mut Packet { bytes, offload: Offload::default() }).unwrap().fill_checksum();
}

/// Hands a segment to an engine and returns everything it emits, in order.
pub fn give(engine: &mut impl rtt0_core::engine::Engine, now: Instant, segment: &Seg) -> Vec<Seg> {
    give_bytes(engine, now, &mut segment.bytes())
}

pub fn give_bytes(engine: &mut impl rtt0_core::engine::Engine, now: Instant, bytes: &mut [u8]) -> Vec<Seg> {
    let mut out = Outbox::new();
    let mut packet = Packet { bytes, offload: Offload::default() };
    let verdict = engine.handle(now, &mut packet, &mut out);
    let mut emitted = Vec::new();
    if verdict == rtt0_core::engine::Verdict::Forward {
        emitted.push(Seg::read(packet.bytes));
    }
    emitted.extend(out.iter().map(|(bytes, _)| Seg::read(bytes)));
    emitted
}

/// Has the engine hear of its fast path; returns what it emits.
pub fn hear(engine: &mut impl rtt0_core::engine::Engine, now: Instant) -> Vec<Seg> {
    let mut out = Outbox::new();
    engine.hear(now, &mut out);
    out.iter().map(|(bytes, _)| Seg::read(bytes)).collect()
}

/// Lets time pass until `until`; returns what the engine emits, with when.
pub fn pass_time(engine: &mut impl rtt0_core::engine::Engine, until: Instant) -> Vec<(Instant, Seg)> {
    let mut emitted = Vec::new();
    while let Some(now) = engine.next_timeout().filter(|at| *at <= until) {
        let mut out = Outbox::new();
        engine.handle_timeout(now, &mut out);
        emitted.extend(out.iter().map(|(bytes, _)| (now, Seg::read(bytes))));
    }
    emitted
}

/// An ICMP error (type 3) of a router near the server about `segment`.
pub fn unreachable(segment: &Seg, code: u8) -> Vec<u8> {
    use rtt0_core::wire::{checksum, icmp};
    let mut error = Vec::new();
    assert!(icmp::write_error(
        icmp::Complaint::TooBig(0),
        [10, 1, 2, 9].into(),
        &segment.bytes(),
        &mut error
    ));
    error[20..24].copy_from_slice(&[3, code, 0, 0]);
    let sum = !checksum::sum(&error[20..]);
    error[22..24].copy_from_slice(&sum.to_be_bytes());
    error
}

/// The options of a Linux SYN.
pub fn linux(tsval: u32, echo: u32) -> SynOptions {
    SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: tsval, echo }),
    }
}

//! Segments and ICMP errors forged by somebody who knows a connection's addresses and ports but
//! not its numbers, or nearly.
//!
//! *Near* numbers are such that RFC 9293 and RFC 5961 want nothing but an acknowledgement in
//! return: a reset or SYN in the window but not at RCV.NXT, and what is older than the window. What an
//! end has to accept from anybody (data in the window) is not sent on purpose.

use super::dice::Dice;
use super::ear::{Ear, Numbers};
use super::flood::syn_options;
use crate::host::Host;
use crate::topology::Topology;
use anyhow::Context;
use rtt0_core::offer::PREFIX;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::checksum;
use rtt0_core::wire::icmp::{Complaint, write_error};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The window of forged segments, by which an [`Ear`] knows them.
pub const FORGED_WINDOW: u16 = 0x5a5b;

/// Where an attacker sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The client's leg, towards the server.
    ClientLeg,
    /// The long leg, towards the server.
    BehindClientNic,
    /// The long leg, towards the client.
    BehindServerNic,
    /// The server's leg, towards the client.
    ServerLeg,
}

const PLACES: [Place; 4] =
    [Place::ClientLeg, Place::BehindClientNic, Place::BehindServerNic, Place::ServerLeg];

impl Place {
    fn host(self, topology: &Topology) -> &Host {
        match self {
            Self::ClientLeg => &topology.client,
            Self::BehindClientNic => &topology.client_nic,
            Self::BehindServerNic => &topology.server_nic,
            Self::ServerLeg => &topology.server,
        }
    }

    fn is_to_server(self) -> bool {
        matches!(self, Self::ClientLeg | Self::BehindClientNic)
    }

    /// The numbers in use there: on the long leg those that the client knows.
    fn numbers(self, ear: &Ear) -> &Numbers {
        if self == Self::ServerLeg { &ear.at_server } else { &ear.at_client }
    }
}

/// Packets recorded earlier on the long leg, to be sent again there.
#[derive(Debug, Clone, Default)]
pub struct Replays {
    /// SYNs, towards the server: with the NICs, authentic offers.
    pub to_server: Vec<Vec<u8>>,
    /// SYN-ACKs, towards the client: with the NICs, authentic confirms.
    pub to_client: Vec<Vec<u8>>,
}

/// An attacker at every place at once.
#[derive(Debug)]
pub struct Attacker {
    emitters: Vec<(Place, Emitter)>,
    counters: IoCounters,
    dice: Dice,
    /// The client's end and the server's.
    ends: (SocketAddr, SocketAddr),
    replays: Replays,
    near: bool,
}

impl Attacker {
    /// Gets hold of sockets on all four hosts. The same seed forges the same packets, as far as the
    /// connection's numbers are the same.
    ///
    /// # Errors
    /// A socket can't be had.
    pub fn new(
        topology: &Topology,
        ends: (SocketAddr, SocketAddr),
        replays: Replays,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let open = |place: Place| -> anyhow::Result<_> {
            let emitter = place.host(topology).enter(Emitter::open)?;
            Ok((place, emitter.context("the attacker's sockets can't be had")?))
        };
        let emitters = PLACES.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            emitters,
            counters: IoCounters::default(),
            dice: Dice::new(seed),
            ends,
            replays,
            near: true,
        })
    }

    /// Has the attacker know nothing of the numbers: in a handshake, near is near enough.
    #[must_use]
    pub fn blind(self) -> Self {
        Self { near: false, ..self }
    }

    /// Sends a packet from every place each `pause` until `stop`; returns how many were sent.
    pub fn run(mut self, ear: &Ear, pause: Duration, stop: &AtomicBool) -> u64 {
        while !stop.load(Ordering::Relaxed) {
            for (place, emitter) in &mut self.emitters {
                let numbers = (place.numbers(ear), self.near);
                let forged = forge(&mut self.dice, *place, self.ends, numbers, &self.replays);
                let mut out = Outbox::new();
                out.push(&forged, Offload::default());
                emitter.send(out.iter(), &self.counters, |_, _| {});
            }
            thread::sleep(pause);
        }
        self.counters.sent.value()
    }
}

fn forge(
    dice: &mut Dice,
    place: Place,
    (client, server): (SocketAddr, SocketAddr),
    (numbers, near): (&Numbers, bool),
    replays: &Replays,
) -> Vec<u8> {
    let to_server = place.is_to_server();
    let (source, destination) = if to_server { (client, server) } else { (server, client) };
    let (own, peer) = (numbers.next(to_server), numbers.next(!to_server));
    let segment = |flags: Flags, sequence: u32, acknowledgement: u32| Control {
        source: (source.ip(), source.port()),
        destination: (destination.ip(), destination.port()),
        sequence,
        acknowledgement,
        flags,
        window: FORGED_WINDOW,
    };
    let (any, other) = (dice.word(), dice.word());
    // In the window, but not where the next byte belongs, nor behind a FIN that is just being sent;
    // and behind the window.
    let ahead = own.wrapping_add(dice.pick(&[3, 101, 20_001]));
    let old = own.wrapping_sub(dice.pick(&[901, 1801, 70_001]));
    let stale = peer.wrapping_sub(dice.pick(&[1, 901, 70_001]));
    let (ahead, old, stale) = if near { (ahead, old, stale) } else { (any, any, other) };
    let rst_ack = Flags::RST | Flags::ACK;
    let fin = Flags::FIN | Flags::ACK;
    let syn_ack = Flags::SYN | Flags::ACK;
    match dice.below(18) {
        0 => plain(segment(Flags::RST, any, 0), &[], 0),
        1 => plain(segment(Flags::RST, ahead, 0), &[], 0),
        2 => plain(segment(rst_ack, dice.pick(&[any, ahead, old]), dice.pick(&[other, stale])), &[], 0),
        3 => plain(segment(Flags::SYN, dice.pick(&[any, ahead, old]), 0), &syn_options(other), 0),
        4 => plain(segment(syn_ack, any, other), &syn_options(other), 0),
        5 => plain(segment(syn_ack, ahead, stale), &syn_options(other), 0),
        6 => plain(segment(Flags::ACK, any, other), &[], 0),
        7 => plain(segment(Flags::ACK, old, stale), &[], 0),
        8 => plain(segment(Flags::ACK, any, other), &[], 100),
        9 => plain(segment(Flags::ACK, old, stale), &[], 100),
        10 => plain(segment(fin, any, other), &[], 0),
        11 => plain(segment(fin, old, stale), &[], 0),
        12..=14 => {
            // An error about what the receiver is said to have sent.
            let quoted = segment(Flags::ACK, dice.pick(&[any, stale.wrapping_sub(100_000)]), other);
            let quoted = Control { source: quoted.destination, destination: quoted.source, ..quoted };
            icmp(dice, &plain(quoted, &[], 40), source.ip())
        }
        15 => signed_by_nobody(dice, segment(if to_server { Flags::SYN } else { syn_ack }, any, other)),
        16 => {
            replay(dice, place, replays, None).unwrap_or_else(|| plain(segment(Flags::RST, any, 0), &[], 0))
        }
        _ => {
            let port = 1024 + dice.word() as u16 % 60_000;
            let again = replay(dice, place, replays, Some(port));
            again.unwrap_or_else(|| plain(segment(Flags::SYN, any, 0), &[], 0))
        }
    }
}

fn plain(segment: Control, options: &[u8], payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    segment.write(options, &mut bytes);
    if payload == 0 {
        return bytes;
    }
    bytes.resize(bytes.len() + payload, b'!');
    lengthen(&mut bytes);
    bytes
}

/// Writes the right lengths and checksums into a packet that has grown.
fn lengthen(bytes: &mut [u8]) {
    let length = bytes.len() as u16;
    if bytes[0] >> 4 == 4 {
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        if let Ok(mut ip) = rtt0_core::wire::ipv4::Ipv4::unverified(&mut *bytes) {
            ip.fill_checksum();
        }
    } else {
        bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
    if let Ok(mut segment) = Segment::parse(&mut Packet { bytes, offload: Offload::default() }) {
        segment.fill_checksum();
    }
}

/// An ICMP error of some kind about `quoted`, from the address of the host it was sent to.
fn icmp(dice: &mut Dice, quoted: &[u8], from: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_error(Complaint::TooBig(dice.pick(&[68, 576, 1280])), from, quoted, &mut bytes);
    let (at, unreachable) = if from.is_ipv4() { (20, 3) } else { (40, 1) };
    let code = dice.pick(&[0, 1, 2, 3, 4, 9, 13]);
    if dice.below(2) == 0 {
        // Unreachable instead, for some reason; the checksum follows.
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let new = u16::from_be_bytes([unreachable, code]);
        let sum = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&checksum::update(sum, old, new).to_be_bytes());
    }
    bytes
}

/// An offer or confirm with a MAC that is made up.
fn signed_by_nobody(dice: &mut Dice, segment: Control) -> Vec<u8> {
    let mut options = PREFIX.to_vec();
    let kind = if segment.flags.is_syn() { dice.pick(&[0x10, 0x11, 0x14]) } else { 0x12 };
    options.extend([kind, 0x7c, 5, 0xb4]);
    (0..3).for_each(|_| options.extend(dice.word().to_be_bytes()));
    options.extend(syn_options(dice.word()));
    plain(segment, &options, 0)
}

/// A recorded packet once more, on the long leg only; with another port of the client if one is
/// given.
fn replay(dice: &mut Dice, place: Place, replays: &Replays, port: Option<u16>) -> Option<Vec<u8>> {
    let (recorded, at) = match place {
        Place::BehindClientNic => (&replays.to_server, 0),
        Place::BehindServerNic => (&replays.to_client, 2),
        Place::ClientLeg | Place::ServerLeg => return None,
    };
    let mut bytes = recorded.get(dice.below(recorded.len()))?.clone();
    let tcp = if bytes[0] >> 4 == 4 { 20 } else { 40 };
    if let Some(port) = port {
        bytes[tcp + at..tcp + at + 2].copy_from_slice(&port.to_be_bytes());
        lengthen(&mut bytes);
    }
    Some(bytes)
}

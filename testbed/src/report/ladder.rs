//! Reconstructs the way of one connection's packets from captures of every hop.
//!
//! A packet that leaves one end of a leg and enters the other is the same packet: nothing rewrites
//! it in between. So both sightings are matched by flow, numbers, flags and length, in order.

use crate::address::{ETH0, LAN0, SERVER, WAN0};
use crate::compare::choice::Mode;
use crate::compare::measurement::{Sample, millis};
use crate::record::Record;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::wire::options::kind;
use rtt0_core::wire::segment::{Endpoint, Segment};
use rtt0_core::wire::tcp::Flags;
use std::net::IpAddr;
use std::time::Duration;

/// What arrives this long after the first byte was on its way beside it; what comes later belongs
/// to the end of the connection: ms.
const AFTERMATH: f64 = 0.5;

/// The devices at both ends of each leg, the client's side first.
const LEGS: [(&str, &str, &str, &str); 3] = [
    ("client", ETH0, "clientnic", LAN0),
    ("clientnic", WAN0, "servernic", WAN0),
    ("servernic", LAN0, "server", ETH0),
];

/// What an arrow stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SYN, SYN-ACK.
    Handshake,
    /// A SYN-ACK that the client got before the server's could have come.
    Spoofed,
    /// A SYN or SYN-ACK that carries the NICs' offer or confirm.
    Signal,
    /// A segment with payload.
    Data,
    /// A segment without payload: an ACK, or the end of a direction.
    Control,
    /// A reset.
    Reset,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Handshake, Self::Spoofed, Self::Signal, Self::Data, Self::Control, Self::Reset];
}

/// One packet on one leg.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrow {
    /// The leg: 0 client, 1 long leg, 2 server.
    pub leg: usize,
    /// It travels towards the server.
    pub to_server: bool,
    /// When it left, ms since the client's first packet.
    pub departed: f64,
    /// When it arrived; none if it was lost.
    pub arrived: Option<f64>,
    /// Its flags and payload, for example `PSH ACK 104 B`.
    pub label: String,
    /// What it stands for.
    pub kind: Kind,
}

/// One connection, up to its first byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Ladder {
    /// How the packets were forwarded.
    pub mode: Mode,
    /// Round-trip time of the path, ms.
    pub rtt_ms: f64,
    /// When `connect(2)` returned at the client, ms.
    pub connect_ms: f64,
    /// When the client had the first byte, ms.
    pub first_byte_ms: f64,
    /// The packets in the order they left.
    pub arrows: Vec<Arrow>,
}

impl Ladder {
    /// Reconstructs a connection from what the six devices saw. `None` if they saw no packet of the
    /// client.
    pub fn draw(mode: Mode, rtt_ms: f64, sample: Sample, records: &[Record]) -> Option<Self> {
        let arrows = arrows(records)?;
        let (connect_ms, first_byte_ms) = (millis(sample.connect), millis(sample.first_byte));
        Some(Self { mode, rtt_ms, connect_ms, first_byte_ms, arrows })
    }
}

/// One sighting of a TCP segment.
#[derive(Debug, Clone, PartialEq)]
struct Sighting {
    at: Duration,
    leg: usize,
    to_server: bool,
    departing: bool,
    identity: Identity,
    signals: bool,
}

/// What stays the same while a packet crosses a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    source: Endpoint,
    destination: Endpoint,
    sequence: u32,
    acknowledgement: u32,
    flags: u16,
    payload: usize,
}

fn arrows(records: &[Record]) -> Option<Vec<Arrow>> {
    let mut sightings: Vec<Sighting> = records.iter().filter_map(sight).collect();
    sightings.sort_by_key(|sighting| sighting.at);
    let first = |sighting: &&Sighting| sighting.departing && sighting.leg == 0 && sighting.to_server;
    let start = sightings.iter().find(first)?.at;
    let since = |at: Duration| millis(at.saturating_sub(start));
    let mut arrivals: Vec<Option<&Sighting>> = sightings.iter().filter(|s| !s.departing).map(Some).collect();
    let mut arrows: Vec<Arrow> = Vec::new();
    for departure in sightings.iter().filter(|sighting| sighting.departing && sighting.at >= start) {
        let same = |slot: &&mut Option<&Sighting>| slot.is_some_and(|arrival| matches(departure, arrival));
        let arrival = arrivals.iter_mut().find(same).and_then(Option::take);
        let kind = kind_of(departure, &sightings);
        arrows.push(Arrow {
            leg: departure.leg,
            to_server: departure.to_server,
            departed: since(departure.at),
            arrived: arrival.map(|arrival| since(arrival.at)),
            label: label(departure, kind),
            kind,
        });
    }
    let first_byte = |arrow: &&Arrow| arrow.leg == 0 && !arrow.to_server && arrow.kind == Kind::Data;
    let end = arrows.iter().find(first_byte).and_then(|arrow| arrow.arrived).unwrap_or(f64::INFINITY);
    arrows.retain(|arrow| arrow.departed < end && arrow.arrived.unwrap_or(end) <= end + AFTERMATH);
    Some(arrows)
}

fn sight(record: &Record) -> Option<Sighting> {
    let (host, device) = record.interface.split_once(':')?;
    let (leg, near) =
        LEGS.iter().enumerate().find_map(|(leg, (near, near_device, far, far_device))| {
            match (host, device) {
                found if found == (*near, *near_device) => Some((leg, true)),
                found if found == (*far, *far_device) => Some((leg, false)),
                _ => None,
            }
        })?;
    let mut bytes = record.bytes.clone();
    let offload = Offload { needs_csum: record.needs_csum, gso_size: record.gso_size };
    let mut packet = Packet { bytes: &mut bytes, offload };
    let segment = Segment::parse(&mut packet).ok()?;
    let tcp = segment.tcp();
    let identity = Identity {
        source: segment.source(),
        destination: segment.destination(),
        sequence: tcp.sequence(),
        acknowledgement: tcp.acknowledgement(),
        flags: tcp.flags().bits(),
        payload: segment.payload_length(),
    };
    let signals = tcp.options().flatten().any(|option| option.kind == kind::EXPERIMENT);
    let to_server = near == record.outgoing;
    Some(Sighting { at: record.at, leg, to_server, departing: record.outgoing, identity, signals })
}

fn matches(departure: &Sighting, arrival: &Sighting) -> bool {
    (departure.leg, departure.to_server) == (arrival.leg, arrival.to_server)
        && departure.identity == arrival.identity
        && arrival.at >= departure.at
}

fn kind_of(departure: &Sighting, sightings: &[Sighting]) -> Kind {
    let flags = Flags::from_bits(departure.identity.flags);
    if flags.contains(Flags::RST) {
        Kind::Reset
    } else if departure.identity.payload > 0 {
        Kind::Data
    } else if departure.signals {
        Kind::Signal
    } else if is_spoofed(departure, sightings) {
        Kind::Spoofed
    } else if flags.contains(Flags::SYN) {
        Kind::Handshake
    } else {
        Kind::Control
    }
}

/// A SYN-ACK in the server's name that leaves for the client before any has crossed the long leg.
/// (A proxy's SYN-ACK comes in the proxy's own name.)
fn is_spoofed(departure: &Sighting, sightings: &[Sighting]) -> bool {
    let is_syn_ack = |sighting: &Sighting| Flags::from_bits(sighting.identity.flags).is_syn_ack();
    let identity = &departure.identity;
    let in_the_servers_name = [IpAddr::from(SERVER.v4), IpAddr::from(SERVER.v6)].contains(&identity.source.0);
    let crossed = |sighting: &Sighting| {
        sighting.leg == 1
            && !sighting.to_server
            && !sighting.departing
            && is_syn_ack(sighting)
            && sighting.identity.destination == identity.destination
            && sighting.at <= departure.at
    };
    departure.leg == 0
        && !departure.to_server
        && in_the_servers_name
        && is_syn_ack(departure)
        && !sightings.iter().any(crossed)
}

fn label(departure: &Sighting, kind: Kind) -> String {
    let flags = Flags::from_bits(departure.identity.flags);
    let names = [(Flags::PSH, "PSH"), (Flags::FIN, "FIN"), (Flags::RST, "RST"), (Flags::ACK, "ACK")];
    let mut text = if flags.is_syn_ack() {
        "SYN-ACK".to_owned()
    } else if flags.contains(Flags::SYN) {
        "SYN".to_owned()
    } else {
        let set = names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name);
        set.collect::<Vec<_>>().join(" ")
    };
    if departure.identity.payload > 0 {
        text.push_str(&format!(" {} B", departure.identity.payload));
    }
    text.push_str(match kind {
        Kind::Spoofed => ", spoofed",
        Kind::Signal if flags.is_syn_ack() => " + confirm",
        Kind::Signal => " + offer",
        _ => "",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::CLIENT;
    use etherparse::{PacketBuilder, TcpOptionElement};

    const CLIENT_PORT: u16 = 40_000;

    struct Wire(Vec<Record>);

    impl Wire {
        /// Adds both sightings of a packet on a leg, or only the first if it is lost.
        fn send(&mut self, leg: usize, to_server: bool, times: (u64, Option<u64>), packet: &[u8]) {
            let (near, near_device, far, far_device) = LEGS[leg];
            let (near, far) = (format!("{near}:{near_device}"), format!("{far}:{far_device}"));
            let (from, to) = if to_server { (near, far) } else { (far, near) };
            let mut see = |at: u64, interface: String, outgoing| {
                let at = Duration::from_micros(1_000_000 + at);
                let (bytes, length) = (packet.to_vec(), packet.len());
                self.0.push(Record {
                    at,
                    interface,
                    outgoing,
                    bytes,
                    length,
                    needs_csum: false,
                    gso_size: 0,
                });
            };
            see(times.0, from, true);
            if let Some(arrival) = times.1 {
                see(arrival, to, false);
            }
        }
    }

    fn packet(
        to_server: bool,
        flags: &str,
        sequence: u32,
        options: &[TcpOptionElement],
        payload: &[u8],
    ) -> Vec<u8> {
        let (client, server) = (CLIENT.v4.octets(), SERVER.v4.octets());
        let (ip, ports) = if to_server {
            (PacketBuilder::ipv4(client, server, 64), (CLIENT_PORT, 80))
        } else {
            (PacketBuilder::ipv4(server, client, 64), (80, CLIENT_PORT))
        };
        let mut tcp = ip.tcp(ports.0, ports.1, sequence, 1000);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(7),
                'P' => tcp.psh(),
                _ => tcp.rst(),
            };
        }
        let mut bytes = Vec::new();
        tcp.options(options).unwrap().write(&mut bytes, payload).unwrap();
        bytes
    }

    fn signalled(bytes: &[u8]) -> Vec<u8> {
        // MSS takes four bytes like the shortest experimental option.
        let mut bytes = bytes.to_vec();
        let at = bytes.len() - 4;
        bytes[at] = kind::EXPERIMENT;
        bytes
    }

    /// The first millisecond of a paired connection, then its answer.
    fn paired() -> Vec<Record> {
        let mut wire = Wire(Vec::new());
        let mss = [TcpOptionElement::MaximumSegmentSize(1460)];
        let syn = packet(true, "S", 1, &mss, b"");
        let syn_ack = packet(false, "SA", 9, &mss, b"");
        wire.send(0, true, (0, Some(20)), &syn);
        wire.send(1, true, (60, Some(25_060)), &signalled(&syn));
        wire.send(0, false, (80, Some(90)), &syn_ack);
        wire.send(0, true, (100, Some(110)), &packet(true, "A", 2, &[], b""));
        wire.send(0, true, (120, Some(130)), &packet(true, "PA", 2, &[], b"GET /"));
        wire.send(1, false, (25_400, Some(50_400)), &signalled(&syn_ack));
        wire.send(1, false, (25_900, Some(50_900)), &packet(false, "PA", 10, &[], b"hello"));
        wire.send(0, false, (50_950, Some(50_960)), &packet(false, "PA", 10, &[], b"hello"));
        wire.send(0, true, (51_900, Some(51_910)), &packet(true, "A", 7, &[], b""));
        wire.0
    }

    #[test]
    fn packets_are_matched_named_and_cut_after_the_first_byte() {
        let arrows = arrows(&paired()).unwrap();
        let seen: Vec<_> = arrows.iter().map(|a| (a.leg, a.to_server, a.label.as_str(), a.kind)).collect();
        assert_eq!(
            seen,
            [
                (0, true, "SYN", Kind::Handshake),
                (1, true, "SYN + offer", Kind::Signal),
                (0, false, "SYN-ACK, spoofed", Kind::Spoofed),
                (0, true, "ACK", Kind::Control),
                (0, true, "PSH ACK 5 B", Kind::Data),
                (1, false, "SYN-ACK + confirm", Kind::Signal),
                (1, false, "PSH ACK 5 B", Kind::Data),
                (0, false, "PSH ACK 5 B", Kind::Data),
            ]
        );
        assert_eq!((arrows[1].departed, arrows[1].arrived), (0.06, Some(25.06)));
    }

    #[test]
    fn a_syn_ack_after_the_servers_own_is_not_spoofed() {
        let mut wire = Wire(Vec::new());
        let syn_ack = packet(false, "SA", 9, &[], b"");
        wire.send(0, true, (0, Some(10)), &packet(true, "S", 1, &[], b""));
        wire.send(1, false, (25_000, Some(50_000)), &syn_ack);
        wire.send(0, false, (50_010, Some(50_020)), &syn_ack);
        let arrows = arrows(&wire.0).unwrap();
        assert!(arrows.iter().all(|arrow| arrow.kind == Kind::Handshake), "{arrows:?}");
    }

    #[test]
    fn repeats_are_matched_in_order_and_losses_do_not_arrive() {
        let mut wire = Wire(Vec::new());
        let syn = packet(true, "S", 1, &[], b"");
        wire.send(0, true, (0, Some(10)), &syn);
        wire.send(1, true, (20, Some(5_020)), &syn);
        wire.send(1, true, (30, Some(5_030)), &syn);
        wire.send(2, true, (5_100, None), &syn);
        let arrived: Vec<_> = arrows(&wire.0).unwrap().iter().map(|arrow| arrow.arrived).collect();
        assert_eq!(arrived, [Some(0.01), Some(5.02), Some(5.03), None]);
    }

    #[test]
    fn other_devices_and_other_protocols_are_ignored() {
        let mut records = paired();
        records.truncate(2);
        records[0].interface = "client:lo".into();
        records[1].bytes.truncate(10);
        assert_eq!(arrows(&records), None);
    }
}

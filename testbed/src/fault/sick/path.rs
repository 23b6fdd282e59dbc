//! What lies between: losses, black holes, middleboxes.

use rtt0_core::packet::Packet;
use rtt0_core::service::Direction::{ToClient, ToServer};
use rtt0_core::wire::checksum;
use rtt0_core::wire::options::kind::{MSS, NOP};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use rtt0_doctor::Layer;

use super::super::case::{BASE, Case, PLAIN, Patient, Place, Raised, WITH_NICS, expect};
use super::super::site::Site;
use super::UDP_PROBE;
use crate::wan::{Fate, Saboteur};

/// Between the NICs, over IPv4.
const PEER: &[&str] = &["--peer", "10.1.1.2"];
const SINGLE: Raised = Raised { offloads: false, ..PLAIN };
const NIC: Patient = Patient::Host(Place::ClientNic);
/// The path between the NICs, without daemons, looked at from the client's.
const PEERS: Case =
    Case { raised: SINGLE, patient: NIC, arguments: PEER, agent: Some(Place::ServerNic), ..BASE };
/// TCP's option for experiments (RFC 6994).
const EXPERIMENT: u8 = 253;

/// Puts a box on the long leg, the same in both directions.
fn between(site: &mut Site, saboteur: impl Fn() -> Saboteur) -> anyhow::Result<()> {
    for way in [ToServer, ToClient] {
        site.topology.wan().sabotage(way, Some(saboteur()));
    }
    Ok(())
}

/// Decides by a segment of TCP; others, and those of the doctors' own conversation, are kept.
fn by_segment(mut decide: impl FnMut(&mut Segment<'_>) -> Fate + Send + 'static) -> Saboteur {
    const TALK: u16 = 9642;
    Box::new(move |packet: &mut Packet<'_>| {
        let Ok(mut segment) = Segment::parse(packet) else { return Fate::Keep };
        let tcp = segment.tcp();
        if [tcp.source_port(), tcp.destination_port()].contains(&TALK) {
            Fate::Keep
        } else {
            decide(&mut segment)
        }
    })
}

/// Loses datagrams of IPv4 whose ports include this one.
fn lose_port(port: u16) -> Saboteur {
    Box::new(move |packet| {
        let of = |at: usize| packet.bytes.get(at..at + 2) == Some(&port.to_be_bytes()[..]);
        let is_udp = packet.bytes.first() == Some(&0x45) && packet.bytes.get(9) == Some(&17);
        if is_udp && (of(20) || of(22)) { Fate::Lose } else { Fate::Keep }
    })
}

fn overwrite(segment: &mut Segment<'_>, is_meant: impl Fn(u8) -> bool) {
    let found: Vec<_> = segment
        .tcp()
        .options()
        .map_while(Result::ok)
        .filter(|option| is_meant(option.kind))
        .map(|option| (option.offset, vec![NOP; option.length()]))
        .collect();
    found.into_iter().for_each(|(at, nops)| segment.patch_options(at, &nops));
}

pub(super) const ALL: &[Case] = &[
    Case {
        name: "lost-on-path",
        about: "the long leg loses the probes; the server's doctor says that nothing comes",
        expected: expect(&["lost-on-path"], Layer::Path),
        arguments: &["--probe", "udp", "10.1.2.10:9000", "--agent", "10.1.2.10"],
        agent: Some(Place::Server),
        inject: |site| between(site, || lose_port(9000)),
        ..BASE
    },
    Case {
        name: "no-answer",
        about: "likewise, and nobody is there to be asked",
        expected: expect(&["no-answer"], Layer::Path),
        arguments: UDP_PROBE,
        inject: |site| between(site, || lose_port(9000)),
        ..BASE
    },
    Case {
        name: "mtu-black-hole",
        about: "packets above 1,400 bytes vanish on the long leg, and nobody says so",
        expected: expect(&["mtu-black-hole"], Layer::Path),
        inject: |site| {
            between(site, || {
                Box::new(|packet| if packet.bytes.len() > 1400 { Fate::Lose } else { Fate::Keep })
            })
        },
        ..PEERS
    },
    Case {
        name: "mtu-black-hole-v6",
        about: "likewise over IPv6",
        expected: expect(&["mtu-black-hole"], Layer::Path),
        raised: SINGLE,
        patient: NIC,
        arguments: &["--peer", "fd00:1:1::2"],
        agent: Some(Place::ServerNic),
        inject: |site| {
            between(site, || {
                Box::new(|packet| if packet.bytes.len() > 1400 { Fate::Lose } else { Fate::Keep })
            })
        },
        ..BASE
    },
    Case {
        name: "option-stripped",
        about: "a box on the long leg overwrites options that it does not know",
        expected: expect(&["option-stripped"], Layer::Path),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    overwrite(segment, |kind| kind == EXPERIMENT);
                    Fate::Keep
                })
            })
        },
        ..PEERS
    },
    Case {
        name: "option-stripped-nics",
        about: "likewise, with both daemons at work",
        expected: expect(&["option-stripped"], Layer::Path),
        raised: Raised { offloads: false, ..WITH_NICS },
        patient: Patient::Nic(Place::ClientNic),
        arguments: PEER,
        agent: Some(Place::ServerNic),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    overwrite(segment, |kind| kind == EXPERIMENT);
                    Fate::Keep
                })
            })
        },
        ..BASE
    },
    Case {
        name: "option-dropped",
        about: "a box on the long leg drops SYNs with the signalling option",
        expected: expect(&["option-dropped"], Layer::Path),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    let mut options = segment.tcp().options().map_while(Result::ok);
                    if options.any(|option| option.kind == EXPERIMENT) { Fate::Lose } else { Fate::Keep }
                })
            })
        },
        ..PEERS
    },
    Case {
        name: "sequence-rewritten",
        about: "a firewall on the long leg moves sequence numbers",
        expected: expect(&["sequence-rewritten"], Layer::Path),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    let moved = segment.tcp().sequence().wrapping_add(0x1234_5678);
                    segment.set_sequence(moved);
                    Fate::Keep
                })
            })
        },
        ..PEERS
    },
    Case {
        name: "mss-rewritten",
        about: "a router on the long leg clamps the MSS to 1,200",
        expected: expect(&["mss-rewritten"], Layer::Path),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    let options = segment.tcp().options().map_while(Result::ok);
                    let at: Vec<_> = options.filter(|o| o.kind == MSS).map(|o| o.offset + 2).collect();
                    at.into_iter().for_each(|at| segment.patch_options(at, &1200_u16.to_be_bytes()));
                    Fate::Keep
                })
            })
        },
        ..PEERS
    },
    Case {
        name: "ecn-cleared",
        about: "a router on the long leg clears the ECN bits of the IP header",
        expected: expect(&["ecn-cleared"], Layer::Path),
        inject: |site| {
            between(site, || {
                Box::new(|packet| {
                    if packet.bytes.first() == Some(&0x45) {
                        clear_ecn(packet.bytes);
                    }
                    Fate::Keep
                })
            })
        },
        ..PEERS
    },
    Case {
        name: "early-data-dropped",
        about: "a firewall on the long leg drops data of connections whose handshake it has not seen",
        expected: expect(&["early-data-dropped"], Layer::Path),
        inject: |site| {
            between(site, || {
                by_segment(|segment| {
                    let has_data = segment.payload_length() > 0;
                    if has_data && !segment.tcp().flags().contains(Flags::SYN) {
                        Fate::Lose
                    } else {
                        Fate::Keep
                    }
                })
            })
        },
        ..PEERS
    },
];

/// Clears the bits of RFC 3168 and mends the header's checksum (RFC 1624).
fn clear_ecn(packet: &mut [u8]) {
    let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet.len() < 20 || packet[1] & 3 == 0 {
        return;
    }
    let before = word(packet, 0);
    packet[1] &= !3;
    let sum = checksum::update(word(packet, 10), before, word(packet, 0));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

//! What is allowed arrives at the analyser's plain socket, once, from its original source; and nothing else does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::Daemon;
use rig::files::{Files, allowlist, field_sources};
use rig::listen;
use rig::site::{ANALYSER, ANALYSER_6, Site};

const ROUNDS: u64 = 5;

/// Payloads of different lengths, odd and even, each of which says which packet it is.
fn payload(id: u64) -> Vec<u8> {
    [&id.to_be_bytes()[..], &vec![id as u8; (id % 97) as usize]].concat()
}

fn tell(heard: Vec<(SocketAddr, Vec<u8>)>) -> HashMap<u64, IpAddr> {
    let mut all = HashMap::new();
    for (from, bytes) in heard {
        let id = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(bytes, payload(id), "as it was sent");
        assert_eq!(from.port(), 40_000);
        assert_eq!(all.insert(id, from.ip()), None, "packet {id} arrives once");
    }
    all
}

/// One after the other in every way of capturing: each has a namespace of its own, and all share two processors.
#[test]
fn the_fields_324_sources_arrive_and_others_do_not() {
    for (backend, name) in [("auto", ""), ("xdp", "AF_XDP"), ("packet", "AF_PACKET"), ("pnet", "pnet")] {
        the_fields_sources_arrive(backend, name);
    }
}

fn the_fields_sources_arrive(backend: &str, name: &str) {
    let Some(site) = Site::new() else { return };
    let organisations = field_sources();
    let allowed: Vec<IpAddr> = organisations.iter().flatten().copied().collect();
    assert_eq!((organisations.len(), allowed.len()), (16, 324));
    // Neighbours of allowed addresses, and one far away.
    let others: Vec<IpAddr> = allowed
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits() + 1).into()),
            other => *other,
        })
        .chain(["8.8.8.8".parse().unwrap()])
        .collect();
    assert!(others.iter().all(|other| !allowed.contains(other)));
    let files = Files::new(&allowlist(&organisations));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &["--backend", backend]);

    let socket = site.tunnel(4789);
    let mut expected = HashMap::new();
    let (mut id, mut refused, mut bytes) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let turns =
            allowed.iter().map(|source| (source, true)).chain(others.iter().map(|other| (other, false)));
        for (source, is_allowed) in turns {
            id += 1;
            let frame = crafted::udp(*source, FIELD_PORT, &payload(id));
            socket.send(&crafted::vxlan(1, &frame)).unwrap();
            if is_allowed {
                expected.insert(id, *source);
                bytes += crafted::ip_length(&frame);
            } else {
                refused += 1;
            }
        }
        // An allowed source to another port, and one in another virtual network.
        id += 1;
        socket.send(&crafted::vxlan(1, &crafted::udp(allowed[0], 53, &payload(id)))).unwrap();
        id += 1;
        socket.send(&crafted::vxlan(2, &crafted::udp(allowed[0], FIELD_PORT, &payload(id)))).unwrap();
        daemon.wait_for(id);
    }
    let counted = daemon.end();
    assert_eq!(tell(analyser.end()), expected);
    assert_eq!((counted.captured, counted.overflow), (id, 0));
    assert_eq!(counted.sent, expected.len() as u64);
    assert_eq!(counted.dropped("not_allowed"), refused);
    assert_eq!((counted.dropped("no_rule"), counted.dropped("vni")), (ROUNDS, ROUNDS));
    assert_eq!(counted.rule("field"), (expected.len() as u64, bytes));
    assert_eq!(counted.strayed, 0);
    assert!(counted.backend.starts_with(name), "{backend} is {}", counted.backend);
    println!("{backend}: {}", counted.backend);
}

#[test]
fn every_kind_of_packet_arrives_with_right_checksums() {
    let Some(site) = Site::new() else { return };
    let (v4, v6): (IpAddr, IpAddr) = ("198.51.100.7".parse().unwrap(), "2001:db8:7::7".parse().unwrap());
    let files = Files::new(&allowlist(&[vec![v4], vec![v6]]));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let analyser_6 = listen::udp(&site.analyser, ANALYSER_6.into(), 8081);
    let frames = listen::frames(&site.analyser);
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);

    let inner = [
        ("field", crafted::udp(v4, FIELD_PORT, b"one")),
        ("field", crafted::tagged_udp([198, 51, 100, 7], FIELD_PORT, b"tagged")),
        ("field6", crafted::udp(v6, FIELD_PORT, b"six")),
        ("web", crafted::tcp(v4, 443, b"GET / HTTP/1.0\r\n\r\n")),
        ("ping", crafted::ping(v4, b"are you there?")),
    ];
    // A GENEVE option that need not be understood, of class 0xffff and 4 bytes.
    let option = [0xff, 0xff, 0x01, 0x01, 1, 2, 3, 4];
    let (vxlan, geneve, vxlan_6) = (site.tunnel(4789), site.tunnel(6081), site.tunnel_6(4789));
    for (_, frame) in &inner {
        vxlan.send(&crafted::vxlan(1, frame)).unwrap();
        vxlan_6.send(&crafted::vxlan(1, frame)).unwrap();
        geneve.send(&crafted::geneve(2, &[], frame)).unwrap();
        geneve.send(&crafted::geneve(1, &option, frame)).unwrap();
    }
    const WAYS: u64 = 4;
    daemon.wait_for(WAYS * inner.len() as u64);
    let counted = daemon.end();
    assert_eq!((counted.captured, counted.sent), (WAYS * 5, WAYS * 5), "{counted:?}");
    for (rule, packets) in [("field", 2), ("field6", 1), ("web", 1), ("ping", 1)] {
        assert_eq!(counted.rule(rule).0, WAYS * packets, "{rule}");
    }

    let texts = |heard: Vec<(SocketAddr, Vec<u8>)>, source: IpAddr| {
        assert!(heard.iter().all(|(from, _)| *from == SocketAddr::new(source, 40_000)));
        let mut texts: Vec<_> =
            heard.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(analyser.end(), v4), [["one"; 4], ["tagged"; 4]].concat());
    assert_eq!(texts(analyser_6.end(), v6), ["six"; 4]);
    let frames = frames.end();
    let packets: Vec<_> = [ANALYSER.into(), ANALYSER_6.into()]
        .into_iter()
        .flat_map(|address| frames.iter().filter_map(move |frame| listen::packet_to(frame, address)))
        .collect();
    assert_eq!(packets.len() as u64, WAYS * 5);
    for packet in packets {
        assert!(crafted::checksums_hold(packet), "{packet:02x?}");
        match (packet[0] >> 4, packet[9]) {
            (4, 6) => {
                assert!(packet[20..24] == [40_000u16.to_be_bytes(), 8443u16.to_be_bytes()].concat()[..])
            }
            (4, 1) => assert!(packet.ends_with(b"are you there?") && packet[12..16] == [198, 51, 100, 7]),
            _ => {}
        }
    }
}

#[test]
fn what_a_kernels_vxlan_device_sends_arrives() {
    let Some(site) = Site::new() else { return };
    let ip = |arguments: &str| rig::site::ran(&site.source, "ip", arguments);
    let device = "link add vx0 type vxlan id 1 dstport 4789 local 10.50.0.2 remote 10.50.0.1 dev src0";
    if ip(device).is_none() {
        println!("skipped: needs the program ip, and VXLAN in the kernel");
        return;
    }
    for arguments in [
        // No neighbour discovery of its own, which would be counted too.
        "link set vx0 addrgenmode none",
        "link set vx0 up",
        "address add 198.51.100.7/32 dev vx0",
        "route add 203.0.113.9/32 dev vx0 src 198.51.100.7",
        "neighbour add 203.0.113.9 lladdr 02:00:00:00:00:09 dev vx0",
    ] {
        ip(arguments).unwrap();
    }
    let source = "198.51.100.7".parse().unwrap();
    let files = Files::new(&allowlist(&[vec![source]]));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let open = || std::net::UdpSocket::bind("198.51.100.7:40000").unwrap();
    let socket = site.source.enter(open).unwrap();
    const PACKETS: u64 = 2_000;
    for id in 0..PACKETS {
        socket.send_to(&payload(id), (crafted::ORIGINAL, FIELD_PORT)).unwrap();
        if id % 100 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    daemon.wait_for(PACKETS);
    let counted = daemon.end();
    let heard = tell(analyser.end());
    assert_eq!((heard.len() as u64, counted.sent, counted.overflow), (PACKETS, PACKETS, 0), "{counted:?}");
    assert!(heard.values().all(|from| *from == source));
}

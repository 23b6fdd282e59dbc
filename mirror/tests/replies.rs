//! What the analyser answers goes back to who has asked, from whom was asked, by one interface; the mirror host's kernel
//! neither forwards it nor answers it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mirror::inner::{self, Transport};
use rig::counted::RepliesCounted;
use rig::crafted::{self, FIELD_PORT, ORIGINAL, ORIGINAL_6};
use rig::daemon::Daemon;
use rig::files::{Files, allowlist};
use rig::listen::{self, Listener};
use rig::site::{ANALYSER, ANALYSER_6, Site};
use rtt0_netio::links::Links;
use rtt0_netio::sysctl;
use rustix::process::Signal;

/// One rule for each transport and IP version. What is asked over TCP and IPv4 comes from the mirror host's own address.
const RULES: &str = r#"
[[rule]]
name = "field"
protocol = "udp"
ports = "31765"
to = "172.30.82.95:8081"
replies = true

[[rule]]
name = "field6"
protocol = "udp"
ports = "31765"
to = "[fd82::95]:8081"
replies = true

[[rule]]
name = "web"
protocol = "tcp"
ports = "443"
to = "172.30.82.95:8443"
from = "10.70.0.1"
replies = true

[[rule]]
name = "web6"
protocol = "tcp"
ports = "443"
to = "[fd82::95]:8443"
replies = true

[[rule]]
name = "ping"
protocol = "icmp"
to = "172.30.82.95"
replies = true

[[rule]]
name = "ping6"
protocol = "icmp"
to = "fd82::95"
replies = true
"#;

/// The mirror host's own address at its egress.
const HOST: [u8; 4] = [10, 70, 0, 1];
const SYN_ACK: u8 = 0x12;
const RST_ACK: u8 = 0x14;
const RST: u8 = 0x04;

fn clients() -> Vec<IpAddr> {
    ["198.51.100.7", "198.51.100.8", "198.51.100.9", "2001:db8:7::7", "2001:db8:7::8"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

/// Has the mirror host's kernel forward whatever it gets: nothing of the mirror's may be among it.
fn forwarding(site: &Site) {
    let parameters = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];
    sysctl::set(&site.middle, &parameters).unwrap();
}

fn replies_of(daemon: &Daemon) -> RepliesCounted {
    daemon.counted().replies()
}

/// What a packet is: ends, and TCP's flags or ICMP's type.
type Seen = (Transport, SocketAddr, SocketAddr, u8);

/// Reads the packet of a frame; `None` if it is none of TCP, UDP or ICMP.
fn seen(frame: &[u8]) -> Option<(Seen, &[u8])> {
    let packet = frame.get(14..).filter(|_| matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]))?;
    let inner = inner::parse(packet).ok()?;
    let packet = &packet[..inner.length];
    let kind = match inner.transport {
        Transport::Tcp => packet[inner.upper + 13],
        Transport::Udp => 0,
        Transport::Icmp => packet[inner.upper],
    };
    let source = SocketAddr::new(inner.source, inner.source_port);
    let destination = SocketAddr::new(inner.destination, inner.destination_port);
    Some(((inner.transport, source, destination, kind), packet))
}

/// Takes what has been heard, without what links say among themselves: multicast, and neighbour discovery.
fn taken(frames: Listener<Vec<u8>>) -> Vec<(Seen, Vec<u8>)> {
    let frames = frames.end();
    let all = frames.iter().filter_map(|frame| seen(frame)).map(|(seen, packet)| (seen, packet.to_vec()));
    all.filter(|((transport, _, destination, kind), _)| {
        let is_discovery =
            *transport == Transport::Icmp && destination.is_ipv6() && (133..=136).contains(kind);
        !is_discovery && !destination.ip().is_multicast()
    })
    .collect()
}

#[test]
fn replies_go_back_to_who_asked_and_the_kernel_does_not_get_them() {
    let Some(site) = Site::new() else { return };
    forwarding(&site);
    let clients = clients();
    let files =
        Files::with_keys(&allowlist(std::slice::from_ref(&clients)), "replies_egress = \"else0\"", RULES);
    let (analyser, socket) = listen::echo(&site.analyser, ANALYSER.into(), 8081);
    let (analyser_6, _socket_6) = listen::echo(&site.analyser, ANALYSER_6.into(), 8081);
    // Over IPv6 nobody listens, and the analyser's kernel refuses.
    let web = || TcpListener::bind((ANALYSER, 8443)).unwrap();
    let _web = site.analyser.enter(web).unwrap();
    let own = listen::udp(&site.middle, IpAddr::from(HOST), 7000);
    let own_web = site.middle.enter(|| TcpListener::bind((IpAddr::from(HOST), 7001))).unwrap().unwrap();
    let (back, ahead, gone) =
        (listen::frames(&site.source), listen::frames(&site.analyser), listen::frames(&site.elsewhere));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);

    let tunnel = site.tunnel(4789);
    let send = |frame: &[u8]| {
        tunnel.send(&crafted::vxlan(1, frame)).unwrap();
    };
    let mut expected = HashMap::<Seen, Option<Vec<u8>>>::new();
    for (number, client) in clients.iter().enumerate() {
        let (server, own_port): (IpAddr, u16) =
            (if client.is_ipv4() { ORIGINAL.into() } else { ORIGINAL_6.into() }, 41_000 + number as u16);
        let text = format!("question {number}, of whatever length: {}", "?".repeat(number)).into_bytes();
        send(&crafted::udp(*client, FIELD_PORT, &text));
        send(&crafted::ping(*client, &text));
        send(&crafted::syn(*client, own_port, 443));
        let ends = |port, own_port| (SocketAddr::new(server, port), SocketAddr::new(*client, own_port));
        let ((udp, to), (bare, to_bare), (tcp, to_tcp)) =
            (ends(FIELD_PORT, 40_000), ends(0, 0), ends(443, own_port));
        let (echo_reply, answer) = if client.is_ipv4() { (0, SYN_ACK) } else { (129, RST_ACK) };
        expected.insert((Transport::Udp, udp, to, 0), Some(text.clone()));
        expected.insert((Transport::Icmp, bare, to_bare, echo_reply), Some(text));
        expected.insert((Transport::Tcp, tcp, to_tcp, answer), None);
    }
    rig::eventually("all must be answered", || {
        (replies_of(&daemon).sent >= expected.len() as u64).then_some(())
    });
    assert_eq!((analyser.count(), analyser_6.count()), (3, 2));
    let counted = replies_of(&daemon);
    assert_eq!((&counted.dropped, counted.overflow, counted.ambiguous), (&Default::default(), 0, 0));
    let flows = [("icmp", 5), ("tcp", 5), ("udp", 5)].map(|(transport, flows)| (transport.to_owned(), flows));
    assert_eq!(counted.flows, flows.into());

    // Nobody has asked for these.
    for port in 5_000..5_003 {
        socket.send_to(b"unasked", ("198.51.100.250", port)).unwrap();
    }
    rig::eventually("they must be counted", || {
        (replies_of(&daemon).dropped.get("no_reply") == Some(&3)).then_some(())
    });
    // What the analyser has to say to the mirror host itself arrives there, whatever port it comes from.
    let plain = site.analyser.enter(|| UdpSocket::bind((ANALYSER, 9_999))).unwrap().unwrap();
    for from in [&socket, &plain] {
        from.send_to(b"to the host itself", (IpAddr::from(HOST), 7000)).unwrap();
    }
    rig::eventually("the host's own packets must arrive", || (own.count() == 2).then_some(()));
    let connect = || TcpStream::connect((IpAddr::from(HOST), 7001)).unwrap();
    let connection = site.analyser.enter(connect).unwrap();
    let _accepted = own_web.accept().unwrap();
    drop(connection);
    // And what is no reply is forwarded by the kernel as ever.
    plain.send_to(b"past the mirror", ("198.51.100.7", 1)).unwrap();

    // Two clients that look alike to the analyser.
    for client in &clients[..2] {
        send(&crafted::syn(*client, 50_000, 443));
    }
    rig::eventually("nobody can tell them apart", || (replies_of(&daemon).ambiguous == 1).then_some(()));

    // What is claimed can't be changed while it runs.
    files.rule(&RULES.replace("172.30.82.95:8081", "172.30.82.95:8082"));
    daemon.signal(Signal::HUP);
    rig::eventually("it must be told", || daemon.has_told(&["restart", "replies", "8082"]).then_some(()));
    // Time for what would come late.
    std::thread::sleep(Duration::from_millis(300));
    let last = daemon.end();
    assert_eq!((last.strayed, last.overflow), (0, 0), "{last:?}");
    assert_eq!(last.captured, last.sent, "{last:?}");
    println!("{:?}", last.replies());

    let gone = taken(gone);
    let is_client = |end: &SocketAddr| clients.contains(&end.ip());
    let mut found = HashMap::<Seen, u64>::new();
    for (seen, packet) in &gone {
        assert!(crafted::checksums_hold(packet), "{packet:02x?}");
        if seen.1 == SocketAddr::new(ANALYSER.into(), 9_999) {
            assert!(packet.ends_with(b"past the mirror"));
            continue;
        }
        assert!(is_client(&seen.2), "{seen:?}");
        if seen.2.port() == 50_000 {
            continue;
        }
        let text = expected.get(seen).unwrap_or_else(|| panic!("not expected: {seen:?}"));
        assert!(text.as_ref().is_none_or(|text| packet.ends_with(text)), "{packet:02x?}");
        *found.entry(*seen).or_default() += 1;
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    // A SYN-ACK that nobody acknowledges is sent again.
    assert!(found.iter().all(|(seen, times)| *times == 1 || seen.3 == SYN_ACK), "{found:?}");
    assert!(gone.iter().any(|(seen, _)| seen.1.port() == 9_999), "the kernel forwards");

    let back = taken(back);
    assert!(!back.iter().any(|(seen, _)| is_client(&seen.2)), "{back:?}");
    for (seen, _) in taken(ahead) {
        let (transport, source, destination, kind) = seen;
        assert!(!is_client(&destination), "a reply goes to the analyser: {seen:?}");
        assert!(![ORIGINAL.into(), IpAddr::from(ORIGINAL_6)].contains(&source.ip()), "{seen:?}");
        let is_request = kind == 8 || kind == 128;
        assert!(transport != Transport::Icmp || is_request, "the kernel answers: {seen:?}");
        assert!(transport != Transport::Tcp || kind & RST == 0, "the kernel resets: {seen:?}");
    }
}

#[test]
fn replies_may_leave_by_the_egress() {
    let Some(site) = Site::new() else { return };
    forwarding(&site);
    let client: IpAddr = "198.51.100.7".parse().unwrap();
    let files = Files::with_keys(&allowlist(&[vec![client]]), "replies_egress = \"out0\"", RULES);
    let (_analyser, _socket) = listen::echo(&site.analyser, ANALYSER.into(), 8081);
    let links = Links::open(&site.middle).unwrap();
    links.add_route("198.51.100.0".parse().unwrap(), 24, rig::site::ROUTER).unwrap();
    let (ahead, elsewhere) = (listen::frames(&site.analyser), listen::frames(&site.elsewhere));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &["--backend", "packet"]);
    let tunnel = site.tunnel(4789);
    const PACKETS: u64 = 100;
    for number in 0..PACKETS {
        let frame = crafted::udp(client, FIELD_PORT, &number.to_be_bytes());
        tunnel.send(&crafted::vxlan(1, &frame)).unwrap();
    }
    rig::eventually("all must be answered", || (replies_of(&daemon).sent == PACKETS).then_some(()));
    let last = daemon.end();
    assert_eq!((last.sent, last.strayed), (PACKETS, 0), "{last:?}");
    let ends = (SocketAddr::new(ORIGINAL.into(), FIELD_PORT), SocketAddr::new(client, 40_000));
    let restored = taken(ahead).into_iter().filter(|(seen, _)| (seen.1, seen.2) == ends).count();
    assert_eq!(restored as u64, PACKETS);
    assert_eq!(taken(elsewhere), []);
}

#[test]
fn no_way_for_replies_or_one_that_is_not_there_is_refused() {
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let client = || vec!["198.51.100.7".parse().unwrap()];
    let check = |files: &Files| {
        let mut command = Command::new(program);
        let output = command.arg("check").arg("--config").arg(files.configuration()).env("NO_COLOR", "1");
        let output = output.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let without = Files::with_rules(&allowlist(&[client()]), RULES);
    let (code, text) = check(&without);
    assert_eq!(code, Some(78), "{text}");
    for part in ["mirror.toml:20:11: ", "rule 'field' wants replies", "write replies_egress = "] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let with = Files::with_keys(&allowlist(&[client()]), "replies_egress = \"nosuch0\"", RULES);
    let (code, text) = check(&with);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "by out0 to nosuch0",
        "UDP from 172.30.82.95, port 8081, to other hosts",
        "TCP from 172.30.82.95, port 8443, to 10.70.0.1",
        "echo replies from fd82::95, to other hosts",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }

    let Some(site) = Site::new() else { return };
    let log = Daemon::try_start(program, &site.middle, &with.configuration(), &[]).err().unwrap();
    assert!(rig::daemon::tells(&log, &["unknown interface 'nosuch0'"]), "{log:#?}");
}

//! Malformed packets by the hundred thousand: the daemon lives, each is counted once, and nothing leaves that should not.
//!
//! `MALFORMED=1000000` in the environment makes it a million.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use etherparse::PacketBuilder;
use rig::crafted::{self, FIELD_PORT};
use rig::daemon::Daemon;
use rig::files::{Files, allowlist};
use rig::listen;
use rig::site::{ANALYSER, ANALYSER_6, Site, TUNNEL_END};
use rig::spoiled::Spoiler;
use rtt0_netio::links::Links;

const SOURCE: [u8; 4] = [198, 51, 100, 7];
const SEED: u64 = 0x6d69_7272_6f72;

fn how_many() -> u64 {
    std::env::var("MALFORMED").map_or(100_000, |count| count.parse().expect("MALFORMED is a number"))
}

/// Lets the receiver catch up: what overflows is counted, but is no proof of anything.
fn breathe(number: u64) {
    if number % 64 == 63 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Tells what is wrong with a frame that came to the analyser, if the mirror can't have meant it.
fn unexpected(frame: &[u8]) -> Option<&'static str> {
    // ARP and neighbour discovery are the kernel's, but for what bears an allowed source.
    let v4 = listen::packet_to(frame, ANALYSER.into());
    let v6 = listen::packet_to(frame, ANALYSER_6.into());
    match (v4, v6) {
        (Some(packet), _) => {
            let header = usize::from(packet[0] & 15) * 4;
            let port = packet.get(header + 2..header + 4).map(|port| u16::from_be_bytes([port[0], port[1]]));
            match (packet[12..16] == SOURCE, packet[9], port) {
                (false, ..) => Some("a source that is not allowed"),
                (_, 17, Some(8081)) | (_, 6, Some(8443)) | (_, 1, _) => None,
                _ => Some("no rule's port"),
            }
        }
        (None, Some(packet)) => {
            (packet[8..24] != v6_source().octets()).then_some("a source that is not allowed")
        }
        (None, None) if frame[12..14] == [0x08, 0x00] => Some("IPv4 to somebody else"),
        (None, None) => None,
    }
}

fn v6_source() -> std::net::Ipv6Addr {
    "2001:db8:7::7".parse().unwrap()
}

#[test]
fn malformed_packets_are_counted_and_harm_nothing() {
    let Some(site) = Site::new() else { return };
    let (v4, v6) = (IpAddr::from(SOURCE), IpAddr::from(v6_source()));
    let files = Files::new(&allowlist(&[vec![v4], vec![v6]]));
    let (analyser, back, elsewhere) =
        (listen::frames(&site.analyser), listen::frames(&site.source), listen::frames(&site.elsewhere));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);

    // Everything behind the outer UDP header.
    let mut spoiler = Spoiler::new(SEED, SOURCE, v6);
    let (vxlan, geneve) = (site.tunnel(4789), site.tunnel(6081));
    let count = how_many();
    for number in 0..count {
        let (payload, is_geneve) = spoiler.next();
        let socket = if is_geneve { &geneve } else { &vxlan };
        socket.send(&payload).unwrap();
        breathe(number);
    }
    daemon.wait_for(count);
    let first = daemon.counted();
    assert_eq!(first.captured + first.overflow, count, "each once: {first:?}");

    // The outer headers too: as frames, of which the kernel's filter passes not all.
    let mac = Links::open(&site.middle).unwrap().mac("in0").unwrap();
    let mut sender = frame_sender(&site);
    let outer = count / 10;
    for number in 0..outer {
        let (payload, is_geneve) = spoiler.next();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], mac)
            .ipv4([10, 50, 0, 2], TUNNEL_END.octets(), 64)
            .udp(50_000, if is_geneve { 6081 } else { 4789 })
            .write(&mut frame, &payload)
            .unwrap();
        spoiler.spoil(&mut frame, 14);
        sender.send_to(&frame, None).unwrap().unwrap();
        breathe(number);
    }

    // It still does what it is for.
    let good = crafted::vxlan(1, &crafted::udp(v4, FIELD_PORT, b"good"));
    let socket = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    for _ in 0..100 {
        vxlan.send(&good).unwrap();
    }
    let is_good = |heard: &[(std::net::SocketAddr, Vec<u8>)]| {
        heard.iter().filter(|(from, text)| text == b"good" && from.ip() == v4).count()
    };
    let mut heard = Vec::new();
    rig::eventually("good packets must arrive", || {
        heard.extend(socket.take());
        (is_good(&heard) >= 100).then_some(())
    });
    let counted = daemon.end();
    assert!(counted.captured + counted.overflow >= count + 100, "{counted:?}");
    assert!(counted.captured + counted.overflow <= count + outer + 100, "{counted:?}");
    assert_eq!(is_good(&heard), 100);
    // The generator meets what it is for.
    for reason in
        ["tunnel_malformed", "inner_malformed", "frame_malformed", "vni", "not_ip", "not_allowed", "no_rule"]
    {
        assert!(counted.dropped(reason) > 0, "{reason}: {counted:?}");
    }
    println!("of {count} and {outer}: {counted:?}");

    let frames = analyser.end();
    for frame in &frames {
        assert_eq!(unexpected(frame), None, "{frame:02x?}");
    }
    for frame in back.end().iter().chain(&elsewhere.end()) {
        let is_translated = listen::packet_to(frame, ANALYSER.into()).is_some()
            || listen::packet_to(frame, ANALYSER_6.into()).is_some();
        assert!(!is_translated, "by a wrong interface: {frame:02x?}");
    }
}

fn frame_sender(site: &Site) -> Box<dyn pnet_datalink::DataLinkSender> {
    let open = || {
        let link = pnet_datalink::interfaces().into_iter().find(|link| link.name == "src0").unwrap();
        match pnet_datalink::channel(&link, pnet_datalink::Config::default()).unwrap() {
            pnet_datalink::Channel::Ethernet(sender, _) => sender,
            _ => unreachable!("an AF_PACKET channel is an Ethernet channel"),
        }
    };
    site.source.enter(open).unwrap()
}

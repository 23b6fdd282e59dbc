//! What is translated leaves by the egress or not at all, whatever the routing table says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::Daemon;
use rig::files::{Files, allowlist};
use rig::listen::{self, Listener};
use rig::site::{ANALYSER, BEHIND, ROUTER, Site, WRONG_ROUTER};
use rtt0_netio::links::Links;

const PACKETS: u64 = 500;
const MARK: &[u8] = b"this is what the mirror has translated";

/// How many of the frames are the mirror's: to the analyser, or with its payload in the open.
fn translated(frames: Listener<Vec<u8>>) -> usize {
    let is_translated = |frame: &&Vec<u8>| {
        listen::packet_to(frame, ANALYSER.into()).is_some()
            || frame.windows(MARK.len()).any(|window| window == MARK)
    };
    frames.end().iter().filter(is_translated).count()
}

/// Sends while `trouble` is; returns how many arrived, and checks that nothing went elsewhere. `gone` says that none can
/// arrive.
fn nothing_strays(trouble: impl FnOnce(&Site, &Links), gone: bool) {
    let Some(site) = Site::new() else { return };
    let source: IpAddr = "198.51.100.7".parse().unwrap();
    let files = Files::new(&allowlist(&[vec![source]]));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let (back, elsewhere) = (listen::frames(&site.source), listen::frames(&site.elsewhere));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let socket = site.tunnel(4789);
    let packet = crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, MARK));
    let send = |count: u64| {
        for number in 0..count {
            socket.send(&packet).unwrap();
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    send(PACKETS);
    daemon.wait_for(PACKETS);
    rig::eventually("all is well", || (analyser.count() as u64 == PACKETS).then_some(()));
    analyser.take();

    trouble(&site, &Links::open(&site.middle).unwrap());
    // Half of it at once, half after the daemon has had the time to notice.
    send(PACKETS / 2);
    std::thread::sleep(Duration::from_millis(2500));
    send(PACKETS / 2);
    daemon.wait_for(2 * PACKETS);
    // Time for what would come late.
    std::thread::sleep(Duration::from_millis(300));
    let counted = daemon.end();
    let arrived = analyser.end().len() as u64;
    assert_eq!((translated(back), translated(elsewhere)), (0, 0), "{counted:?}");
    assert_eq!((counted.captured, counted.overflow), (2 * PACKETS, 0));
    // Nothing is lost in silence.
    assert_eq!(arrived + counted.dropped("not_sent"), PACKETS, "{counted:?}");
    assert_eq!(counted.sent, PACKETS + arrived, "{counted:?}");
    if gone {
        assert_eq!((arrived, counted.dropped("not_sent")), (0, PACKETS), "{counted:?}");
    }
}

#[test]
fn while_all_is_well() {
    nothing_strays(|_, _| {}, false);
}

#[test]
fn while_the_egress_is_down() {
    nothing_strays(|_, links| links.take_down("out0").unwrap(), true);
}

#[test]
fn while_the_egress_does_not_exist() {
    nothing_strays(|_, links| links.remove("out0").unwrap(), true);
}

#[test]
fn while_the_route_is_missing_and_the_default_route_points_elsewhere() {
    nothing_strays(|_, links| links.remove_route(BEHIND.0, BEHIND.1, ROUTER).unwrap(), false);
}

#[test]
fn while_the_routing_table_points_elsewhere() {
    let point_elsewhere = |_: &Site, links: &Links| {
        links.remove_route(BEHIND.0, BEHIND.1, ROUTER).unwrap();
        links.add_route(BEHIND.0, BEHIND.1, WRONG_ROUTER).unwrap();
    };
    nothing_strays(point_elsewhere, false);
}

#[test]
fn while_the_routing_table_points_back_to_the_mirror() {
    let point_back = |_: &Site, links: &Links| {
        links.remove_route(BEHIND.0, BEHIND.1, ROUTER).unwrap();
        links.add_route(BEHIND.0, BEHIND.1, "10.50.0.2".parse().unwrap()).unwrap();
    };
    nothing_strays(point_back, false);
}

//! One mirror for each interface; and nothing of a killed one is in the way of the next.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::IpAddr;
use std::path::Path;

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::{Daemon, tells};
use rig::files::{Files, allowlist};
use rig::listen;
use rig::site::{ANALYSER, Site, ran};
use rtt0_netio::links::Links;

const PACKETS: u64 = 200;

#[test]
fn a_second_one_is_refused_and_says_why() {
    let Some(site) = Site::new() else { return };
    let source: IpAddr = "198.51.100.7".parse().unwrap();
    let files = Files::new(&allowlist(&[vec![source]]));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let first = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let mut second = Daemon::launch(program, &site.middle, &files.configuration(), &[]);
    let ended = second.wait();
    assert!(!ended.status.success(), "{}", ended.status);
    assert!(tells(&ended.log, &["already", "in0", &first.id().to_string()]), "{:#?}", ended.log);
    // The first goes on.
    forwards(&site, source, first);
}

#[test]
fn a_port_that_somebody_listens_at_is_not_taken_away() {
    let Some(site) = Site::new() else { return };
    let files = Files::new(&allowlist(&[vec!["198.51.100.7".parse().unwrap()]]));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let other = site.middle.enter(|| std::net::UdpSocket::bind("0.0.0.0:4789").unwrap()).unwrap();
    let ended = Daemon::launch(program, &site.middle, &files.configuration(), &[]).wait();
    assert!(!ended.status.success(), "{}", ended.status);
    assert!(tells(&ended.log, &["4789", "in use"]), "{:#?}", ended.log);
    drop(other);
    Daemon::start(program, &site.middle, &files.configuration(), &[]).end();
}

#[test]
fn a_killed_one_leaves_nothing_behind() {
    let Some(site) = Site::new() else { return };
    let source: IpAddr = "198.51.100.7".parse().unwrap();
    let files = Files::new(&allowlist(&[vec![source]]));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let tables = || ran(&site.middle, "nft", "list ruleset");
    let before = tables();
    for _ in 0..3 {
        let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
        if before.is_some() {
            assert_ne!(tables(), before, "there is something to leave");
        }
        daemon.kill();
        if before.is_some() {
            // The kernel takes back what belonged to a socket a moment after it.
            rig::eventually("tables of the killed one must go", || (tables() == before).then_some(()));
        } else {
            println!("skipped in part: without the program nft tables are not looked for");
        }
        let links = Links::open(&site.middle).unwrap();
        for link in ["in0", "out0", "else0"] {
            let attached = || links.xdp_programs(link).unwrap();
            rig::eventually("its programs must go", || attached().is_empty().then_some(()));
        }
    }
    forwards(&site, source, Daemon::start(program, &site.middle, &files.configuration(), &[]));
}

#[track_caller]
fn forwards(site: &Site, source: IpAddr, daemon: Daemon) {
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let socket = site.tunnel(4789);
    for _ in 0..PACKETS {
        socket.send(&crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, b"on"))).unwrap();
    }
    daemon.wait_for(PACKETS);
    let counted = daemon.end();
    assert_eq!((counted.sent, analyser.end().len() as u64), (PACKETS, PACKETS), "{counted:?}");
}

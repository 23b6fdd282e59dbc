//! Packets come and none is of use: the log says within seconds which of all conditions it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::Daemon;
use rig::files::{Files, allowlist};
use rig::site::Site;

/// Within so long it has to be told.
const PATIENCE: Duration = Duration::from_secs(5);

fn told(packet: impl Fn(IpAddr) -> (u16, Vec<u8>), words: &[&str]) {
    let Some(site) = Site::new() else { return };
    let source: IpAddr = "198.51.100.7".parse().unwrap();
    let files = Files::new(&allowlist(&[vec![source]]));
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let (port, payload) = packet(source);
    let socket = site.tunnel(port);
    let start = Instant::now();
    while !daemon.has_told(words) {
        // To a port where nobody captures, the kernel answers with an error.
        let _ = socket.send(&payload);
        std::thread::sleep(Duration::from_millis(10));
        assert!(start.elapsed() < PATIENCE, "{words:?} must be told: {:#?}", daemon.log());
    }
    let counted = daemon.end();
    assert_eq!(counted.sent, 0);
}

#[test]
fn another_virtual_network() {
    told(
        |source| (4789, crafted::vxlan(9, &crafted::udp(source, FIELD_PORT, b""))),
        &["none matches", "vni", "VNI 9"],
    );
}

#[test]
fn sources_that_are_not_allowed() {
    let other = "198.51.100.8".parse().unwrap();
    told(
        |_| (4789, crafted::vxlan(1, &crafted::udp(other, FIELD_PORT, b""))),
        &["none matches", "not_allowed", "198.51.100.8"],
    );
}

#[test]
fn no_rule() {
    told(
        |source| (4789, crafted::vxlan(1, &crafted::udp(source, 53, b""))),
        &["none matches", "no_rule", "port 53"],
    );
}

#[test]
fn another_port() {
    // Nothing comes to the tunnel's port, and the log names the one that it comes to.
    told(
        |source| (4790, crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, b""))),
        &["none at the tunnels", "4790"],
    );
}

#[test]
fn the_other_encapsulation() {
    told(
        |source| (6081, crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, b""))),
        &["none matches", "tunnel_"],
    );
}

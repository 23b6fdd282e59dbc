//! Counters against packets that are known.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::{Direction, Hooks, Packets, Place, Tap};
use crate::netns::Namespace;
use crate::ruleset_dump::Point;

const LOOPBACK: u32 = 1;
const UDP: u8 = 17;

fn namespace() -> Option<Namespace> {
    match Namespace::create() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            None
        }
        outcome => Some(outcome.unwrap()),
    }
}

fn places() -> Vec<Place> {
    vec![
        Place::at(Point::Output, false),
        Place::at(Point::Postrouting, true),
        Place::at_device(Point::Ingress, true, "lo"),
        Place::at(Point::Input, false),
        Place::at(Point::Forward, false),
    ]
}

/// Sends three datagrams that fit and some that do not; returns what hooks and taps have counted.
fn counted(host: IpAddr, packets: &Packets) -> (Vec<u64>, [u64; 3]) {
    let address = |port| SocketAddr::new(host, port);
    let mut hooks = Hooks::start(packets, places()).unwrap();
    let tap = |direction| Tap::start(LOOPBACK, direction, packets).unwrap();
    let mut taps = [Direction::Outgoing, Direction::Arriving, Direction::ForOthers].map(tap);
    let _receiver = UdpSocket::bind(address(7)).unwrap();
    let (fits, other) = (UdpSocket::bind(address(4000)).unwrap(), UdpSocket::bind(address(4001)).unwrap());
    for _ in 0..3 {
        fits.send_to(b"rtt0test and more", address(7)).unwrap();
        other.send_to(b"rtt0test and more", address(7)).unwrap();
        fits.send_to(b"another!", address(7)).unwrap();
        fits.send_to(b"rtt0test and more", address(8)).map(drop).unwrap_or_default();
    }
    let counts = hooks.counts().unwrap().into_iter().map(Result::unwrap).collect();
    (counts, taps.each_mut().map(|tap| tap.count().unwrap()))
}

#[test]
fn exactly_the_packets_asked_for_are_counted() {
    let Some(namespace) = namespace() else { return };
    for host in ["127.0.0.1", "::1"].map(|host| host.parse::<IpAddr>().unwrap()) {
        let packets = Packets::of(host.is_ipv4(), UDP)
            .from_ports(&(3990..=4000))
            .to_ports(&(7..=7))
            .from_address(host)
            .with_payload(*b"rtt0test");
        let (hooks, taps) = namespace.enter(|| counted(host, &packets)).unwrap();
        assert_eq!((hooks, taps), (vec![3, 3, 3, 3, 0], [3, 3, 0]), "{host}");
    }
}

#[test]
fn counters_vanish_with_their_owner() {
    let Some(namespace) = namespace() else { return };
    let tables = || namespace.enter(crate::guard::tables).unwrap().unwrap().len();
    let hooks = namespace.enter(|| Hooks::start(&Packets::of(true, UDP), places())).unwrap().unwrap();
    assert_eq!(tables(), 2);
    drop(hooks);
    assert_eq!(tables(), 0);
}

#[test]
fn a_device_that_is_not_there_is_told() {
    let Some(namespace) = namespace() else { return };
    let packets = Packets::of(true, UDP);
    let tap = namespace.enter(|| Tap::start(4711, Direction::Arriving, &packets)).unwrap();
    assert_eq!(tap.unwrap_err().raw_os_error(), Some(libc::ENODEV));
}

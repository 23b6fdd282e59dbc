//! Lists are replaced while packets flow: none is judged by half a list, none is lost or counted twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::Daemon;
use rig::files::{Files, RULES, allowlist};
use rig::listen::{self, Listener};
use rig::site::{ANALYSER, Site};
use rustix::process::Signal;

const SPAN: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_millis(100);
/// Sources of list A alone, of both lists, of list B alone, of none: so many each.
const EACH: u8 = 40;

/// Which lists a source is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum On {
    A,
    Both,
    B,
    None,
}

const ALL: [On; 4] = [On::A, On::Both, On::B, On::None];

fn sources(on: On) -> Vec<IpAddr> {
    (0..EACH).map(|host| IpAddr::from([198, 51, 100 + on as u8, host])).collect()
}

fn list(of: [On; 2]) -> String {
    allowlist(&of.map(sources))
}

fn list_of(address: IpAddr) -> On {
    ALL.into_iter().find(|on| sources(*on).contains(&address)).unwrap()
}

fn send(socket: &UdpSocket, on: On, number: u64) {
    let addresses = sources(on);
    let source = addresses[number as usize % addresses.len()];
    let frame = crafted::udp(source, FIELD_PORT, &number.to_be_bytes());
    socket.send(&crafted::vxlan(1, &frame)).unwrap();
}

/// How many arrived from sources of each kind.
fn by_list(analyser: &Listener<(std::net::SocketAddr, Vec<u8>)>) -> HashMap<On, u64> {
    let mut counts = HashMap::new();
    for (from, _) in analyser.take() {
        *counts.entry(list_of(from.ip())).or_default() += 1;
    }
    counts
}

/// Sends packets of all kinds and returns which arrived, once all are counted.
fn judged(
    daemon: &Daemon,
    socket: &UdpSocket,
    analyser: &Listener<(std::net::SocketAddr, Vec<u8>)>,
) -> HashMap<On, u64> {
    let before = daemon.counted().captured;
    for number in 0..200 {
        ALL.into_iter().for_each(|on| send(socket, on, number));
    }
    // One line may be old: counted is what a later one says.
    daemon.wait_for(before + 800);
    thread::sleep(Duration::from_millis(100));
    by_list(analyser)
}

#[test]
fn lists_are_replaced_while_packets_flow() {
    let Some(site) = Site::new() else { return };
    let files = Files::new(&list([On::A, On::Both]));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let socket = site.tunnel(4789);
    let done = AtomicBool::new(false);
    let (sent, reloads) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut number = 0u64;
            while !done.load(Ordering::Relaxed) {
                for _ in 0..16 {
                    ALL.into_iter().for_each(|on| send(&socket, on, number));
                    number += 1;
                }
                thread::sleep(Duration::from_millis(5));
            }
            number
        });
        let (start, mut reloads) = (Instant::now(), 0);
        while start.elapsed() < SPAN {
            reloads += 1;
            files.allow(&list(if reloads % 2 == 1 { [On::B, On::Both] } else { [On::A, On::Both] }));
            daemon.signal(Signal::HUP);
            thread::sleep(PERIOD);
        }
        done.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), reloads)
    });
    daemon.wait_for(4 * sent);
    thread::sleep(Duration::from_millis(200));
    let arrived = by_list(&analyser);
    let counted = daemon.counted();
    counted.must_add_up();
    assert_eq!((counted.captured, counted.overflow), (4 * sent, 0), "{counted:?}");
    let count = |on| arrived.get(&on).copied().unwrap_or(0);
    // On both lists: there is no moment without one.
    assert_eq!((count(On::Both), count(On::None)), (sent, 0));
    assert_eq!(counted.sent, arrived.values().sum::<u64>());
    assert_eq!(counted.dropped("not_allowed"), 4 * sent - counted.sent);
    // Both lists have been in force.
    assert!(count(On::A) > sent / 5 && count(On::B) > sent / 5, "{arrived:?} of {sent} each");
    println!("{reloads} reloads, {sent} packets of each kind: {arrived:?}");

    // Once a reload has settled the new list alone judges.
    for of in [[On::A, On::Both], [On::B, On::Both], [On::B, On::None]] {
        files.allow(&list(of));
        daemon.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(500));
        let expected = of.map(|on| (on, 200)).into();
        assert_eq!(judged(&daemon, &socket, &analyser), expected, "{of:?}");
    }

    // A list that can't be read changes nothing, and is told.
    for broken in ["{\"organisations\": [{\"name\": \"Half", r#"{"organisations": []}"#] {
        files.allow(broken);
        daemon.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(500));
        let expected = HashMap::from([(On::B, 200), (On::None, 200)]);
        assert_eq!(judged(&daemon, &socket, &analyser), expected, "{broken}");
    }
    rig::eventually("a broken list must be told", || daemon.has_told(&["allow.json"]).then_some(()));
    // And is no hindrance to the next.
    files.allow(&list([On::A, On::Both]));
    daemon.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(judged(&daemon, &socket, &analyser), HashMap::from([(On::A, 200), (On::Both, 200)]));
    daemon.end();
}

#[test]
fn rules_are_replaced_and_a_wrong_one_is_not_taken() {
    let Some(site) = Site::new() else { return };
    let files = Files::new(&list([On::A, On::Both]));
    let (first, second) = (
        listen::udp(&site.analyser, ANALYSER.into(), 8081),
        listen::udp(&site.analyser, ANALYSER.into(), 8082),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let socket = site.tunnel(4789);
    let changed = RULES.replace(":8081", ":8082");
    let wrong = RULES.replace("172.30.82.95:8081", "172.30.82.95:port");
    let same = RULES.to_owned();
    for (rules, to_first) in [(&changed, false), (&wrong, false), (&String::new(), false), (&same, true)] {
        files.rule(rules);
        daemon.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(500));
        (0..100).for_each(|number| send(&socket, On::A, number));
        let (here, there) = if to_first { (&first, &second) } else { (&second, &first) };
        rig::eventually("all must arrive", || (here.count() == 100).then_some(()));
        thread::sleep(Duration::from_millis(50));
        assert_eq!((here.take().len(), there.take().len()), (100, 0));
    }
    let counted = daemon.end();
    assert_eq!((counted.captured, counted.sent), (400, 400), "{counted:?}");
}

/// A file that would allow everybody, by leaving the list out, is one that `mirror run` does not start with either.
#[test]
fn the_allowlist_is_not_lost_with_its_line() {
    let Some(site) = Site::new() else { return };
    let files = Files::new(&list([On::A, On::Both]));
    let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &files.configuration(), &[]);
    let socket = site.tunnel(4789);
    files.without_allowlist();
    daemon.signal(Signal::HUP);
    rig::eventually("it must be told", || daemon.has_told(&["allowlist"]).then_some(()));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(judged(&daemon, &socket, &analyser), HashMap::from([(On::A, 200), (On::Both, 200)]));
    daemon.end();
}

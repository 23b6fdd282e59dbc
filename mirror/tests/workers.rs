//! Several workers share the interface's receive queues, and what they count adds up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rig::crafted::{self, FIELD_PORT};
use rig::daemon::{Daemon, tells};
use rig::files::{Files, allowlist};
use rig::listen;
use rig::site::{ANALYSER, Site};
use rtt0_netio::links::Links;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mirror");

fn allowed() -> IpAddr {
    "198.51.100.7".parse().unwrap()
}

/// Writes files for so many workers.
fn files(workers: usize) -> (Files, PathBuf) {
    let files = Files::new(&allowlist(&[vec![allowed()]]));
    let configuration = files.configuration();
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("workers = {workers}\n{text}")).unwrap();
    (files, configuration)
}

/// How often each packet thread has waited for something.
fn waits(process: u32) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let paths = threads.map(|thread| thread.unwrap().path());
    let packets = paths.filter(|path| fs::read_to_string(path.join("comm")).unwrap().starts_with("packets-"));
    let count = |path: PathBuf| {
        let status = fs::read_to_string(path.join("status")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    };
    packets.map(count).collect()
}

/// kB of memory that the process has.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn workers_with_queues_of_their_own_forward_everything() {
    const PACKETS: u64 = 20_000;
    const FLOWS: usize = 32;
    for (queues, workers) in [(2, 2), (4, 3)] {
        let Some(site) = Site::of_queues(queues) else { return };
        let (_files, configuration) = files(workers);
        let analyser = listen::udp(&site.analyser, ANALYSER.into(), 8081);
        let daemon = Daemon::start(Path::new(PROGRAM), &site.middle, &configuration, &["--backend", "xdp"]);
        let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| site.tunnel(4789)).collect();
        let stranger: IpAddr = "8.8.8.8".parse().unwrap();
        let mut refused = 0;
        for (id, socket) in (0..PACKETS).zip(sockets.iter().cycle()) {
            let source = if id % 7 == 3 { stranger } else { allowed() };
            refused += u64::from(source == stranger);
            let frame = crafted::udp(source, FIELD_PORT, &id.to_be_bytes());
            socket.send(&crafted::vxlan(1, &frame)).unwrap();
            if id % 100 == 99 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        daemon.wait_for(PACKETS);
        let (waits, resident) = (waits(daemon.id()), resident(daemon.id()));
        // One without packets waits once a second.
        assert!(waits.len() == workers && waits.iter().all(|waits| *waits > 30), "{waits:?}");
        println!("{workers} workers: {resident} kB");
        assert!(resident < 50_000, "{workers} workers have {resident} kB");
        let links = Links::open(&site.middle).unwrap();
        assert_eq!(links.xdp_programs("in0").unwrap().len(), 1, "one program for all");
        let counted = daemon.end();
        assert!(links.xdp_programs("in0").unwrap().is_empty());
        assert_eq!((counted.captured, counted.overflow, counted.strayed), (PACKETS, 0, 0), "{counted:?}");
        assert_eq!((counted.sent, counted.dropped("not_allowed")), (PACKETS - refused, refused));
        let line = &counted.backend;
        assert!(
            line.starts_with("AF_XDP on in0: native") && line.contains(&format!("of {workers} workers")),
            "{line}"
        );
        let ids: Vec<u64> = analyser
            .end()
            .iter()
            .map(|(_, bytes)| u64::from_be_bytes(bytes[..].try_into().unwrap()))
            .collect();
        assert_eq!(ids.len() as u64, PACKETS - refused);
        let expected: HashSet<u64> = (0..PACKETS).filter(|id| id % 7 != 3).collect();
        assert_eq!(ids.into_iter().collect::<HashSet<_>>(), expected, "each once");
    }
}

#[test]
fn more_workers_than_queues_are_told_what_to_do() {
    const WHY: &str = "2 workers need a receive queue each, and interface 'in0' has 1: `ethtool -L in0 rx N`, and tx N on \
         the veth's peer, or, if that is refused, a veth made with more (`ip link add ... numrxqueues N`); or ask for at most 1";
    let Some(site) = Site::new() else { return };
    let (_files, configuration) = files(2);
    let start = |backend| {
        Daemon::try_start(Path::new(PROGRAM), &site.middle, &configuration, &["--backend", backend])
    };
    let log = start("xdp").map(|_| ()).unwrap_err();
    assert!(tells(&log, &["--backend xdp was asked for", WHY]), "{log:#?}");
    // Any number of workers shares by AF_PACKET.
    let counted = start("auto").unwrap().end();
    assert!(counted.backend.starts_with("AF_PACKET on in0"), "{}", counted.backend);
    assert!(counted.backend.contains(&format!("; not AF_XDP: {WHY}")), "{}", counted.backend);
}

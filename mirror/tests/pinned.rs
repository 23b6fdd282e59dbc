//! Processors and priorities that packet threads are given, and whether processors may sleep.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::fs;
use std::path::Path;

use rig::daemon::Daemon;
use rig::files::{Files, RULES, allowlist};
use rig::site::Site;
use rtt0_netio::awake::Awake;
use rtt0_netio::worker::run_at;

/// The processors on which each packet thread may run, by the threads' names.
fn allowed(process: u32) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let read = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap().trim().to_owned();
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        (name, list.trim().to_owned())
    };
    let mut threads: Vec<_> = threads
        .map(|thread| read(thread.unwrap()))
        .filter(|(name, _)| name.starts_with("packets-"))
        .collect();
    threads.sort();
    threads
}

#[test]
fn each_packet_thread_has_its_processor() {
    let Some(site) = Site::new() else { return };
    let daemon = start(&site, "workers = 2\ncpus = [0]").unwrap();
    let expected = ["packets-0", "packets-1"].map(|name| (name.to_owned(), "0".to_owned()));
    assert_eq!(allowed(daemon.id()), expected);
    daemon.end();
}

/// The scheduling policy and real-time priority of each packet thread (proc_pid_stat(5), fields 41 and 40).
fn scheduling(process: u32) -> Vec<(u32, u32)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let of = |stat: String| {
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // The first of these is field 3.
        (fields[41 - 3].parse().unwrap(), fields[40 - 3].parse().unwrap())
    };
    stats.filter(|stat| stat.contains("(packets-")).map(of).collect()
}

fn keeps_awake(process: u32) -> bool {
    let opened = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let mut files = opened.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    files.any(|file| file == Path::new("/dev/cpu_dma_latency"))
}

fn start(site: &Site, keys: &str) -> Result<Daemon, Vec<String>> {
    let files = Files::with_keys(&allowlist(&[vec!["198.51.100.7".parse().unwrap()]]), keys, RULES);
    Daemon::try_start(Path::new(env!("CARGO_BIN_EXE_mirror")), &site.middle, &files.configuration(), &[])
}

#[test]
fn nothing_is_real_time_or_kept_awake_unless_it_is_asked_for() {
    let Some(site) = Site::new() else { return };
    let daemon = start(&site, "").unwrap();
    assert_eq!((scheduling(daemon.id()), keeps_awake(daemon.id())), (vec![(0, 0)], false));
    daemon.end();
}

#[test]
fn a_real_time_priority_is_given_to_who_may_have_one() {
    const FIFO: u32 = 1;
    let Some(site) = Site::new() else { return };
    // Asked on a thread of its own, which ends with it.
    let is_allowed = std::thread::spawn(|| run_at(7)).join().unwrap();
    let daemon = start(&site, "workers = 1\nrealtime_priority = 7").unwrap();
    assert_eq!(scheduling(daemon.id()), [if is_allowed { (FIFO, 7) } else { (0, 0) }]);
    daemon.end();
}

#[test]
fn processors_are_kept_awake_or_it_says_why_not() {
    let Some(site) = Site::new() else { return };
    match (start(&site, "awake = true"), Awake::keep()) {
        (Ok(daemon), Ok(_)) => {
            assert!(keeps_awake(daemon.id()));
            daemon.end();
        }
        (Err(log), Err(error)) => {
            assert!(log.iter().any(|line| line.contains(&error.to_string())), "{log:?}");
        }
        (daemon, here) => panic!("{:?} there, and here {here:?}", daemon.map(|daemon| daemon.id())),
    }
}

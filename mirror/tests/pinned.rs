//! Packet threads keep to the processors that they are given.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::fs;
use std::path::Path;

use rig::daemon::Daemon;
use rig::files::{Files, allowlist};
use rig::site::Site;

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
    let files = Files::new(&allowlist(&[vec!["198.51.100.7".parse().unwrap()]]));
    let configuration = files.configuration();
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("workers = 2\ncpus = [0]\n{text}")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_mirror"));
    let daemon = Daemon::start(program, &site.middle, &configuration, &[]);
    let expected = ["packets-0", "packets-1"].map(|name| (name.to_owned(), "0".to_owned()));
    assert_eq!(allowed(daemon.id()), expected);
    daemon.end();
}

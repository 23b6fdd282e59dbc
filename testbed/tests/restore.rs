//! How long a daemon takes to go on with many flows, and what keeping them costs.
//!
//! `cargo test --release -p testbed --test restore -- --ignored --nocapture` prints the figures for a
//! full table.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rtt0_core::flow::FlowKey;
use rtt0_core::journal::{Change, Slot};
use rtt0_core::offer::Promise;
use rtt0_core::profile::SynAck;
use rtt0_core::record::Record;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::Stage;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_netio::netns::Namespace;
use rtt0_netio::store::Store;
use tempfile::TempDir;

#[test]
fn thousands_of_flows_are_restored() {
    restore(20_000);
}

#[test]
#[ignore = "measures a full table: takes a quarter of a gigabyte of memory for the file alone"]
fn a_million_flows_are_restored() {
    restore(1_000_000);
}

/// Writes so many flows down, and has a ServerNIC go on with them.
fn restore(flows: u32) {
    let namespace = match Namespace::create() {
        Ok(namespace) => namespace,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            eprintln!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let folder = TempDir::new_in("/dev/shm").unwrap();
    let state = folder.path().join("state");
    let each = write(&state, flows);
    let file = std::fs::metadata(state.join("servernic.state")).unwrap();
    let empty = start(&namespace, folder.path(), &folder.path().join("none"));
    let full = start(&namespace, folder.path(), &state);
    assert!(full.log.contains(&format!("flows={flows}")), "{}", full.log);
    println!(
        "{flows} flows: written in {:.2} µs each, the file takes {} MB; ServerNIC is ready after {:.2} s with {} MB \
         resident, having used {:.2} s of a processor (without flows after {:.2} s with {} MB)",
        each.as_secs_f64() * 1e6,
        std::os::unix::fs::MetadataExt::blocks(&file) * 512 / 1_000_000,
        full.ready.as_secs_f64(),
        full.resident / 1000,
        full.processor.as_secs_f64(),
        empty.ready.as_secs_f64(),
        empty.resident / 1000,
    );
}

/// Returns the time that one record took.
fn write(state: &Path, flows: u32) -> Duration {
    let mut store = Store::open(state, "servernic").unwrap();
    store.load(flows as usize, |_, _| unreachable!()).unwrap();
    let began = Instant::now();
    for number in 0..flows {
        let change = Change { slot: Slot::new(number).unwrap(), record: Some(record(number)) };
        assert!(store.write(&change));
    }
    began.elapsed() / flows
}

fn record(number: u32) -> Record {
    let timestamps = |value| Some(Timestamps { value, echo: 1 });
    let options = SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: timestamps(number),
    };
    let answer = SynAck { options, window: 65_160, ecn: false };
    let promise = Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(7), ecn: false };
    let agreement = Agreement {
        promised_isn: Seq::new(number),
        real_isn: Seq::new(!number),
        promise: &promise,
        answer: &answer,
        client_window_scale: 7,
    };
    let client = (Ipv4Addr::from(0x0a01_0000 + number / 60_000).into(), (1024 + number % 60_000) as u16);
    Record {
        key: FlowKey::new(client, ([10, 1, 2, 10].into(), 80), Direction::ToServer),
        translation: Translation::new(agreement, true).unwrap().0,
        client_isn: Seq::new(number),
        client_window_scale: 7,
        answer,
        stage: Stage::default(),
    }
}

/// What was seen of a daemon's start.
struct Start {
    ready: Duration,
    /// What its first thread, which restores, has used of a processor until then.
    processor: Duration,
    /// In kB, when it was ready.
    resident: u64,
    log: String,
}

/// Starts a ServerNIC with this state and kills it once it is ready.
fn start(namespace: &Namespace, folder: &Path, state: &Path) -> Start {
    let key = folder.join("key");
    if !key.exists() {
        assert!(servernic().arg("keygen").arg(&key).status().unwrap().success());
    }
    let path = folder.join("notify");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let log = folder.join("log");
    let mut command = servernic();
    command.args(["run", "--interface", "lo", "--service", "10.1.2.0/24:80"]).arg("--key-file").arg(&key);
    // No BPF file system: nothing is pinned there that would outlive the kill.
    command.arg("--bpf-dir").arg(folder);
    command.arg("--state-dir").arg(state).env("NOTIFY_SOCKET", &path).env_remove("RUST_LOG");
    command.stderr(std::fs::File::create(&log).unwrap()).stdout(Stdio::null());
    let began = Instant::now();
    let daemon = Killed(namespace.enter(|| command.spawn()).unwrap().unwrap());
    socket
        .recv(&mut [0; 64])
        .unwrap_or_else(|error| panic!("{error}: {}", std::fs::read_to_string(&log).unwrap()));
    let ready = began.elapsed();
    let read = |name| std::fs::read_to_string(format!("/proc/{}/{name}", daemon.0.id())).unwrap();
    let (status, schedule) = (read("status"), read("schedstat"));
    let processor = Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap());
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    drop(daemon);
    Start { ready, processor, resident, log: std::fs::read_to_string(&log).unwrap() }
}

fn servernic() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.arg("servernic");
    command
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

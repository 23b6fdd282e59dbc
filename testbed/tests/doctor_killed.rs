//! A doctor that is killed while its probes are under way leaves nothing on the host.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rtt0_netio::guard;
use testbed::host::Host;
use testbed::process::Process;

/// How long something may take to come or go.
const BOUND: Duration = Duration::from_secs(20);

/// Waits until the host has tables of nftables, or has none.
fn wait_for_tables(host: &Host, wanted: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + BOUND;
    loop {
        let tables = host.enter(guard::tables)??;
        if tables.is_empty() != wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "tables: {tables:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn its_counting_rules_go_with_it() {
    let Ok(host) = Host::create("client") else {
        println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
        return;
    };
    let mut command = host.command(env!("CARGO_BIN_EXE_testbed"));
    command.args(["doctor", "--interface", "lo", "--probe", "udp", "127.0.0.1:9", "--probes", "1000"]);
    let mut doctor = Process::spawn(command).unwrap();
    wait_for_tables(&host, true).unwrap();
    doctor.kill().unwrap();
    wait_for_tables(&host, false).unwrap();
}

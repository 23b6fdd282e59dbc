//! A daemon dies: plain forwarding resumes, nothing stays behind, and a new one takes over.

use super::figure::{Answer, median, rtts};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::{LAN0, WAN0};
use crate::host::Host;
use crate::nic::NicMode;
use crate::topology::Topology;
use anyhow::{Context, ensure};
use rtt0_netio::guard;
use rtt0_netio::offload::{self, Offloads};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "daemon-death",
    about: "either daemon is killed or stopped: connections go on within 100 ms, nothing stays behind",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// How long after the death a connection must succeed.
const GRACE: Duration = Duration::from_millis(100);
/// Connections that a new daemon may take to learn.
const LESSONS: usize = 4;

#[derive(Debug, Clone, Copy)]
enum Daemon {
    ClientNic,
    ServerNic,
}

#[derive(Debug, Clone, Copy)]
enum Death {
    Killed,
    Terminated,
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        let plain = Plain::observe(case)?;
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Auto)) })?;
        until_zero_rtt(&lab)?;
        for daemon in [Daemon::ClientNic, Daemon::ServerNic] {
            for death in [Death::Killed, Death::Terminated] {
                let what = format!("{case}: {daemon:?} {death:?}");
                let (first, lessons, answer) =
                    die(&mut lab, daemon, death, &plain).with_context(|| what.clone())?;
                report.equal(what, &plain.answer, &answer)?;
                report.note(format!(
                    "{case}: {daemon:?} {death:?}: first byte after {first:.2} RTT; a new one is back at \
                     0-RTT after {lessons} connections"
                ));
            }
        }
    }
    Ok(())
}

/// What is seen without daemons.
struct Plain {
    first_byte: Duration,
    answer: Answer,
    devices: [Vec<Offloads>; 2],
}

impl Plain {
    fn observe(case: Case) -> anyhow::Result<Self> {
        let lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, None) })?;
        let fetch = |_| Ok(lab.fetch(&lab.request())?.first_byte);
        let times = (0..5).map(fetch).collect::<anyhow::Result<Vec<_>>>()?;
        let Topology { client_nic, server_nic, .. } = lab.topology();
        let answer = Answer::from(&lab.fetch(&lab.request())?);
        Ok(Self {
            first_byte: median(&times)?,
            answer,
            devices: [offloads(client_nic)?, offloads(server_nic)?],
        })
    }
}

/// Ends a daemon, looks at what is left, starts it again. Returns the time to the first byte of
/// the first connection without it, in RTT, how many connections the new one had to learn from, and
/// what that first connection was answered.
fn die(lab: &mut Lab, daemon: Daemon, death: Death, plain: &Plain) -> anyhow::Result<(f64, usize, Answer)> {
    let nics = lab.nics()?;
    let process = match daemon {
        Daemon::ClientNic => nics.client().take(),
        Daemon::ServerNic => nics.server().take(),
    };
    let mut process = process.context("the daemon does not run")?;
    match death {
        Death::Killed => process.kill()?,
        Death::Terminated => process.terminate()?,
    };
    thread::sleep(GRACE);
    let first = lab.fetch(&lab.request()).context("the first connection without it")?;
    // ServerNIC's absence is found out by the connection itself: one round trip more than a
    // spoofed one, like kernel forwarding.
    ensure!(
        first.first_byte < plain.first_byte + RTT / 2,
        "the first connection without it took {:?}, kernel forwarding takes {:?}",
        first.first_byte,
        plain.first_byte
    );
    let Topology { client_nic, server_nic, .. } = lab.topology();
    let (host, devices) = match daemon {
        Daemon::ClientNic => (client_nic, &plain.devices[0]),
        Daemon::ServerNic => (server_nic, &plain.devices[1]),
    };
    nothing_is_left(host, devices)?;
    let (nics, topology) = lab.nics_and_topology()?;
    match daemon {
        Daemon::ClientNic => nics.start_client(&topology.client_nic)?,
        Daemon::ServerNic => nics.start_server(&topology.server_nic)?,
    }
    Ok((rtts(first.first_byte, RTT), until_zero_rtt(lab)?, Answer::from(&first)))
}

/// Makes connections until one takes a single round trip; returns how many did not.
fn until_zero_rtt(lab: &Lab) -> anyhow::Result<usize> {
    let mut seen = Vec::new();
    for lesson in 0..=LESSONS {
        let first_byte = lab.fetch(&lab.request())?.first_byte;
        if first_byte < RTT * 3 / 2 {
            return Ok(lesson);
        }
        seen.push(first_byte);
    }
    anyhow::bail!("no 0-RTT: first bytes after {seen:?}")
}

fn nothing_is_left(host: &Host, expected: &[Offloads]) -> anyhow::Result<()> {
    let tables = host.enter(guard::tables)??;
    ensure!(tables.is_empty(), "tables were left on {}: {tables:?}", host.name());
    let seen = offloads(host)?;
    ensure!(seen == *expected, "offloads on {} were left as {seen:?}, not {expected:?}", host.name());
    let left = processes(host)?;
    ensure!(left.is_empty(), "processes were left on {}: {left:?}", host.name());
    Ok(())
}

fn offloads(host: &Host) -> anyhow::Result<Vec<Offloads>> {
    let read = || [LAN0, WAN0].into_iter().map(offload::read).collect::<Result<Vec<_>, _>>();
    Ok(host.enter(read)??)
}

/// Lists the processes in the host's network namespace.
fn processes(host: &Host) -> anyhow::Result<Vec<u32>> {
    let namespace = rustix::fs::fstat(host.namespace().as_fd())?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("can't list processes")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that has ended meanwhile is not left; one of another user is not ours.
        let Ok(theirs) = std::fs::metadata(entry.path().join("ns/net")) else { continue };
        if (theirs.dev(), theirs.ino()) == (namespace.st_dev, namespace.st_ino) {
            found.push(id);
        }
    }
    Ok(found)
}

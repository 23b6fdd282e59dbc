//! The configuration is changed again and again while connections are made.

use super::figure::{ms, takes};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use anyhow::{Context, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "reload",
    about: "modes, exclusions and broken files by SIGHUP under load: no connection fails, and each does what it says",
    run,
};

/// Clients that make one connection after the other.
const CLIENTS: usize = 8;
/// How long each configuration stays.
const STAY: Duration = Duration::from_millis(300);
/// How often all of them are gone through.
const ROUNDS: usize = 3;

/// What the file says, what the daemon answers, and in how many round trips a first byte then comes.
const FILES: &[(&str, &str, f64)] = &[
    ("mode = \"off\"", "was read again", 2.0),
    ("mode = \"paired\"", "was read again", 1.0),
    ("mode = \"paird\"", "stay in use", 1.0),
    ("mode = \"paired\"\nexclude-source = [\"10.1.0.0/24\", \"fd00:1:0::/64\"]", "was read again", 2.0),
    ("mode = \"paired\"\nexclude = [\"10.1.2.10:1-65535\", \"[fd00:1:2::10]:8080\"]", "was read again", 2.0),
    ("mode = \"paired\"\nexclude = [\"10.1.2.10:443\"]", "was read again", 1.0),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    Case::EACH.into_iter().try_for_each(|case| reloaded(case, report).with_context(|| case.to_string()))
}

fn reloaded(case: Case, report: &mut Report) -> anyhow::Result<()> {
    let setting = Setting::new(case, Some(NicMode::Paired));
    let rtt = setting.rtt;
    let mut lab = Lab::raise(setting)?;
    let mut nics = lab.take_nics().context("no daemons")?;
    let stop = AtomicBool::new(false);
    let (exchanges, reloads) = thread::scope(|scope| -> anyhow::Result<_> {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| connect_until(&lab, &stop))).collect();
        let reloads = (0..ROUNDS).try_fold(Vec::new(), |mut reloads, _| {
            for (text, answer, trips) in FILES {
                let begun = Instant::now();
                nics.configure("clientnic", text, answer)?;
                reloads.push((begun, Instant::now(), *trips));
                thread::sleep(STAY);
            }
            anyhow::Ok(reloads)
        });
        stop.store(true, Ordering::Relaxed);
        let join = |client: thread::ScopedJoinHandle<'_, anyhow::Result<Vec<_>>>| {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let exchanges = clients.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()?.concat();
        Ok((exchanges, reloads?))
    })?;
    for (index, (_, effective, trips)) in reloads.iter().enumerate() {
        let until = reloads.get(index + 1).map_or(Instant::now(), |(begun, _, _)| *begun);
        let within = exchanges.iter().filter(|(begun, _)| (*effective..until).contains(begun));
        let first_byte = within.map(|(_, first_byte)| *first_byte).min().context("no connection was made")?;
        let file = FILES[index % FILES.len()].0;
        takes(first_byte, rtt, *trips).with_context(|| format!("under {file:?}"))?;
    }
    let (client, _) = nics.stop()?;
    let counts = ["event.spoofed_paired", "pass.mode_off", "pass.excluded"].map(|label| client.of(label));
    ensure!(counts.iter().all(|count| *count > 0), "not all were met with: {counts:?}");
    let slowest = exchanges.iter().map(|(_, first_byte)| *first_byte).max().unwrap_or_default();
    report.note(format!(
        "{case}: {} connections during {} reloads, none failed, the slowest first byte after {:.0} ms; {} in one \
         round trip, {} with mode off, {} excluded",
        exchanges.len(),
        reloads.len(),
        ms(slowest),
        counts[0],
        counts[1],
        counts[2],
    ));
    Ok(())
}

/// Makes one connection after the other; returns when each began and the time to its first byte.
fn connect_until(lab: &Lab, stop: &AtomicBool) -> anyhow::Result<Vec<(Instant, Duration)>> {
    let mut exchanges = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let exchange = lab.fetch(&lab.request()).context("a connection failed")?;
        exchanges.push((begun, exchange.first_byte));
    }
    Ok(exchanges)
}

//! The daemons' clock jumps: they stand still for seconds while time goes on, as a VM does that is
//! moved to another machine.
//!
//! The wall clock is another matter: nothing but the testbed's captures and reports reads it, which
//! `clippy.toml` makes sure of, so it may be set at will.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Pause, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::process::Process;
use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "clock-jump",
    about: "both daemons stand still for 3 s, before connections begin, amid handshakes or amid transfers: as with kernel forwarding",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// How long the daemons stand still.
const STILL: Duration = Duration::from_secs(3);
/// When they stop: with offers on their way.
const OPENING: Duration = Duration::from_millis(30);
/// When they stop if connections are under way: amid the first and before the second request.
const AMID: Duration = Duration::from_millis(120);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "two requests",
        client: &[
            Send(1000),
            Read(1000),
            Pause(Duration::from_millis(200)),
            Send(1000),
            Read(1000),
            ReadToEnd,
        ],
        server: &[Read(1000), Send(1000), Read(1000), Send(1000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(1 << 20), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(200_000), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
    Dialogue {
        name: "server speaks first, later",
        client: &[Read(2000), Send(1000), ReadToEnd],
        server: &[Pause(Duration::from_millis(200)), Send(2000), Read(1000)],
    },
];

/// What the kernel makes and forwards by itself waits for nobody.
const JUMPS: [(&str, Change, &[&str]); 4] = [
    ("before connections begin", |lab| stand_still(lab, Duration::ZERO), &[]),
    (
        "before connections begin, in user space",
        |lab| stand_still(lab, Duration::ZERO),
        &["--offload", "off"],
    ),
    ("amid handshakes", |lab| stand_still(lab, OPENING), &["--offload", "off"]),
    ("amid connections", |lab| stand_still(lab, AMID), &["--offload", "off"]),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    let plans: Vec<_> = Case::IPS.into_iter().flat_map(|case| JUMPS.map(|jump| (case, jump))).collect();
    report.at_once(&plans, |(case, (what, change, arguments)), report| {
        let patience = Duration::from_secs(15);
        let setting = Setting { rtt: RTT, patience, arguments, ..Setting::new(*case, None) };
        // A client whose SYN waits repeats it, and may be answered early again.
        let trial = Trial::new(*case, DIALOGUES).setting(setting).early(Early::Any).upset(*change);
        let verified = trial.disorderly().verify(report).with_context(|| *what)?;
        let slowest = verified.times.iter().map(|[_, nics]| *nics).max().unwrap_or_default();
        ensure!(
            arguments.is_empty() || slowest > STILL / 2,
            "{case}, {what}: no dialogue waited for the daemons: {slowest:?} at most"
        );
        let early = verified.client.of("event.spoofed_paired");
        report.note(format!("{}, {what}: {early} answered early, slowest {slowest:.1?}", case.ip));
        Ok(())
    })
}

/// Stops both daemons after a while and lets them go on later. Without daemons nothing happens.
fn stand_still(lab: &mut Lab, after: Duration) -> anyhow::Result<()> {
    let Ok(nics) = lab.nics() else { return Ok(()) };
    let mut pids = Vec::new();
    let ids = [nics.client().as_ref().map(Process::id), nics.server().as_ref().map(Process::id)];
    for id in ids {
        let id = id.context("a daemon is missing")?;
        pids.push(i32::try_from(id).ok().and_then(Pid::from_raw).context("bad process id")?);
    }
    let signal = move |signal| pids.iter().try_for_each(|pid| kill_process(*pid, signal));
    if after.is_zero() {
        signal(Signal::STOP).context("can't stop a daemon")?;
    }
    thread::spawn(move || {
        if !after.is_zero() {
            thread::sleep(after);
            let _ = signal(Signal::STOP);
        }
        thread::sleep(STILL);
        // Should the lab have gone meanwhile, so have the daemons.
        let _ = signal(Signal::CONT);
    });
    Ok(())
}

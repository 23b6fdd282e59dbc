//! The NICs' keys differ, or are rotated one NIC after the other, with connections all the while.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::lab::Setting;
use super::oracle::{Company, Performed, Ports, compare};
use super::{Case, Lab, Report, Scenario};
use crate::nic::NicMode;
use anyhow::{Context, ensure};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "key-rotation",
    about: "other keys on each NIC: as without ServerNIC; rotated as documented: 0-RTT without a gap",
    run,
};

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000)],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(200_000), Finish, ReadToEnd],
    },
];

/// Two keys, as in a key file.
const OLD: &str = "0 000102030405060708090a0b0c0d0e0f";
const NEW: &str = "1 f0e0d0c0b0a090807060504030201000";

/// What each daemon is given, one after the other: the steps of the documented rotation.
const ROTATION: &[(&str, &[&str])] = &[
    ("servernic", &[OLD, NEW]),
    ("clientnic", &[OLD, NEW]),
    ("clientnic", &[NEW, OLD]),
    ("servernic", &[NEW, OLD]),
    ("clientnic", &[NEW]),
    ("servernic", &[NEW]),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| {
        let lab = Lab::raise(Setting::new(case, None))?;
        let kernel = Company::gather(&lab, DIALOGUES)?.perform(&lab, Ports::Open)?;
        drop(lab);
        rotated(case, &kernel, report).with_context(|| format!("{case}: rotation"))?;
        different(case, &kernel, report).with_context(|| format!("{case}: different keys"))
    })
}

/// Every dialogue at every step is 0-RTT, and no offer is unknown to anybody.
fn rotated(case: Case, kernel: &[Performed], report: &mut Report) -> anyhow::Result<()> {
    let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Paired)))?;
    for daemon in ["servernic", "clientnic"] {
        lab.nics()?.rekey(daemon, &[OLD])?;
    }
    lab.fetch(&lab.request())?;
    let company = Company::gather(&lab, DIALOGUES)?;
    for (step, (daemon, keys)) in ROTATION.iter().enumerate() {
        lab.nics()?.rekey(daemon, keys)?;
        let nics = company.perform(&lab, Ports::Open)?;
        compare(report, &format!("{case}, step {}", step + 1), DIALOGUES, (kernel, &nics), None)?;
    }
    let (client, server) = lab.take_nics().context("no daemons")?.stop()?;
    let expected = (ROTATION.len() * DIALOGUES.len()) as u64;
    let spoofed = client.of("event.spoofed_paired");
    ensure!(spoofed >= expected, "{spoofed} connections were 0-RTT, not {expected}");
    let confirmed = client.of("event.confirmed");
    ensure!(confirmed == spoofed, "{confirmed} of {spoofed} offers were confirmed");
    let strange = server.of("event.offer_forged") + server.of("event.offer_unknown");
    report.note(format!("{case}: rotated in {} steps, {strange} offers not understood", ROTATION.len()));
    Ok(())
}

/// ServerNIC takes every offer for a forgery, and the connections go on without it.
fn different(case: Case, kernel: &[Performed], report: &mut Report) -> anyhow::Result<()> {
    let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Auto)))?;
    let company = Company::gather(&lab, DIALOGUES)?;
    lab.nics()?.rekey("servernic", &[NEW])?;
    for what in ["just now", "and later"] {
        let nics = company.perform(&lab, Ports::Open)?;
        compare(report, &format!("{case}, other keys {what}"), DIALOGUES, (kernel, &nics), None)?;
    }
    let (client, server) = lab.take_nics().context("no daemons")?.stop()?;
    let strange = server.of("event.offer_forged") + server.of("event.offer_unknown");
    ensure!(strange > 0, "ServerNIC understood every offer");
    let [alone, fell_back] = ["spoofed_solo", "fell_back_to_solo"].map(|e| client.of(&format!("event.{e}")));
    ensure!(fell_back == DIALOGUES.len() as u64, "{fell_back} of {} fell back", DIALOGUES.len());
    report.note(format!("{case}: other keys: {strange} not understood, {fell_back} fell back, {alone} solo"));
    Ok(())
}

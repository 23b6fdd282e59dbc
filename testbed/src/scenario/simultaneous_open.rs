//! Both hosts connect to each other at once (RFC 9293 §3.5, figure 7).

use super::conversation::Step::{Finish, Meet, Read, ReadToEnd, Send};
use super::conversation::{Dialogue, Seen, Stage, meet_halfway};
use super::lab::Setting;
use super::{Case, Lab, Report, Scenario};
use crate::nic::NicMode;
use anyhow::{Context, ensure};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "simultaneous-open",
    about: "both hosts connect to each other at once, with and without a profile: as with kernel forwarding",
    run,
};

const TALK: Dialogue = Dialogue {
    name: "both connect, both send",
    client: &[Send(1000), Read(2000), Meet, Finish, ReadToEnd],
    server: &[Send(2000), Read(1000), Meet, ReadToEnd],
};
const CLIENT_PORT: u16 = 20_000;
/// Where the daemons have learned of a server before, and where not.
const LEARNED: u16 = 9000;
const UNKNOWN: u16 = 9001;

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::IPS, |&case, report| {
        let [(kernel, _), (nics, early)] = [observe(case, None)?, observe(case, Some(NicMode::Paired))?];
        for (what, kernel, nics) in [("learned", &kernel[0], &nics[0]), ("unknown", &kernel[1], &nics[1])] {
            ensure!(kernel == nics, "{case}, {what}: as with kernel forwarding: {kernel}; seen: {nics}");
            report.same();
        }
        report.note(format!("{case}: {early} of 2 were answered early; {}", kernel[0]));
        Ok(())
    })
}

/// Opens both ways to each port; returns what was seen and how many were answered early.
fn observe(case: Case, nics: Option<NicMode>) -> anyhow::Result<([Seen; 2], u64)> {
    let mut lab = Lab::raise(Setting::new(case, nics))?;
    // It no longer listens afterwards.
    drop(Stage::raise(&lab, LEARNED)?);
    let learned = meet_halfway(&lab, &TALK, CLIENT_PORT, LEARNED).context("a known port")?;
    let unknown = meet_halfway(&lab, &TALK, CLIENT_PORT + 1, UNKNOWN).context("an unknown port")?;
    let counts = lab.take_nics().map(|nics| nics.stop()).transpose()?;
    Ok(([learned, unknown], counts.map_or(0, |(client, _)| client.of("event.spoofed_paired"))))
}

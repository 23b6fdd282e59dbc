//! Many connections at once: none fails, and the gain stays.

use super::figure::{Answer, fetch_at_once, median, ms};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use anyhow::{Context, ensure};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "concurrency",
    about: "100 connections at once, ten times: none fails, none is slower than kernel forwarding",
    run,
};

const CONNECTIONS: usize = 100;
const ROUNDS: usize = 10;

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        let (plain, kernel, _) = rounds(case, None)?;
        let (paired, nics, spoofed) = rounds(case, Some(NicMode::Paired))?;
        for (kernel, nics) in kernel.iter().zip(&nics) {
            report.equal(case, kernel, nics)?;
        }
        ensure!(
            spoofed == (CONNECTIONS * ROUNDS) as u64,
            "{case}: {spoofed} of {} connections were spoofed",
            CONNECTIONS * ROUNDS
        );
        ensure!(
            paired <= plain,
            "{case}: median first byte after {:.1} ms, under kernel forwarding {:.1} ms",
            ms(paired),
            ms(plain)
        );
        report.note(format!(
            "{case}: median first byte {:.1} ms, under kernel forwarding {:.1} ms",
            ms(paired),
            ms(plain)
        ));
    }
    Ok(())
}

/// Returns the median time to first byte, the answers, and how many connections were spoofed.
fn rounds(case: Case, nics: Option<NicMode>) -> anyhow::Result<(Duration, Vec<Answer>, u64)> {
    let mut lab = Lab::raise(Setting::new(case, nics))?;
    let mut times = Vec::with_capacity(CONNECTIONS * ROUNDS);
    let mut answers = Vec::with_capacity(CONNECTIONS * ROUNDS);
    for round in 1..=ROUNDS {
        for outcome in fetch_at_once(&lab, &lab.request(), CONNECTIONS)? {
            let exchange = outcome.with_context(|| format!("{case}: a connection of round {round}"))?;
            times.push(exchange.first_byte);
            answers.push(Answer::from(&exchange));
        }
    }
    let counts = lab.take_nics().map(|nics| nics.stop()).transpose()?;
    let spoofed = counts.map_or(0, |(client, _)| client.of("event.spoofed_paired"));
    Ok((median(&times)?, answers, spoofed))
}

//! Runs scenarios one after the other and tells how they ended.

use super::deadline::Deadline;
use super::{ALL, Divergence, LONG, Report, Scenario, lab};
use crate::report::table::framed;
use crate::scratch::Scratch;
use anyhow::{Context, bail};
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a scenario may take. The longest of [`ALL`] take two minutes, of [`LONG`] ten.
const LIMIT: Duration = Duration::from_mins(30);
/// Width of the table in columns where no terminal tells it.
const WIDTH: u16 = 120;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Names of scenarios, or `all`.
    pub names: Vec<String>,
    /// Folder for captures of every hop of every lab, if wanted: `SCENARIO/NN/HOST-DEVICE.pcapng`.
    pub pcap: Option<PathBuf>,
    /// File for a report for machines, if wanted.
    pub json: Option<PathBuf>,
}

/// How a scenario ended.
#[derive(Debug, Serialize)]
struct Outcome {
    scenario: &'static str,
    passed: bool,
    seconds: f64,
    /// Comparisons with kernel forwarding.
    compared: usize,
    divergences: Vec<Divergence>,
    notes: Vec<String>,
    /// Programs for want of which parts were left out.
    lacking: Vec<&'static str>,
    error: Option<String>,
}

/// Runs the scenarios asked for; returns whether all passed.
///
/// # Errors
/// If there is no such scenario, or the report can't be written.
pub fn run(options: &RunOptions) -> anyhow::Result<bool> {
    let every = || ALL.iter().chain(LONG);
    let known = |name: &String| name == "all" || every().any(|scenario| scenario.name == name);
    if let Some(name) = options.names.iter().find(|name| !known(name)) {
        let names: Vec<_> = every().map(|scenario| scenario.name).collect();
        bail!("no scenario is called '{name}'; there are: {}, or all", names.join(", "));
    }
    let named = |scenario: &&Scenario| options.names.iter().any(|name| name == scenario.name);
    let all = options.names.iter().any(|name| name == "all");
    let short = ALL.iter().filter(|scenario| all || named(scenario));
    let chosen: Vec<&Scenario> = short.chain(LONG.iter().filter(named)).collect();
    // Removes what scenarios leave in files, also on Ctrl-C.
    let scratch = Scratch::open()?;
    let mut outcomes = Vec::new();
    for (index, scenario) in chosen.iter().enumerate() {
        announce(index, chosen.len(), scenario.name);
        let _deadline = deadline(scenario.name, &scratch)?;
        outcomes.push(run_one(scenario, options));
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcomes)?)?;
    }
    println!("{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    Ok(failed == 0)
}

/// Ends this process, and with it hosts and daemons, if the scenario is not done in time.
fn deadline(scenario: &'static str, scratch: &Scratch) -> anyhow::Result<Deadline> {
    let abandon = scratch.abandon();
    let missed = move || {
        eprintln!("FAILED {scenario}: not done within {} min; the run ends here", LIMIT.as_secs() / 60);
        abandon()
    };
    Deadline::start(LIMIT, missed).context("can't start the thread that watches the scenario")
}

fn run_one(scenario: &Scenario, options: &RunOptions) -> Outcome {
    let mut report = Report::default();
    lab::record_into(options.pcap.as_ref().map(|folder| folder.join(scenario.name)));
    let began = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut report)));
    let error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("it panicked".to_owned()),
    };
    let outcome = Outcome {
        scenario: scenario.name,
        passed: error.is_none(),
        seconds: began.elapsed().as_secs_f64(),
        compared: report.compared,
        divergences: report.divergences,
        notes: report.notes,
        lacking: report.lacking,
        error,
    };
    conclude(&outcome, began.elapsed());
    outcome
}

/// On a terminal the line is overwritten by the outcome.
fn announce(index: usize, count: usize, name: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("[{}/{count}] {name} …", index + 1);
        let _ = std::io::stderr().flush();
    }
}

fn conclude(outcome: &Outcome, took: Duration) {
    let terminal = std::io::stderr().is_terminal();
    let clear = if terminal { "\r\x1b[K" } else { "" };
    let word = match (outcome.passed, terminal) {
        (true, true) => "\x1b[32mok\x1b[0m",
        (true, false) => "ok",
        (false, true) => "\x1b[31mFAILED\x1b[0m",
        (false, false) => "FAILED",
    };
    eprintln!("{clear}{word} {} ({:.1} s)", outcome.scenario, took.as_secs_f64());
    if let Some(error) = &outcome.error {
        eprintln!("   {error}");
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = framed();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(WIDTH);
    }
    table.set_header(["scenario", "outcome", "seconds", "compared with kernel", "seen"]);
    for outcome in outcomes {
        let seen: Vec<_> = outcome.error.iter().chain(&outcome.notes).map(String::as_str).collect();
        table.add_row([
            outcome.scenario.to_owned(),
            word(outcome),
            format!("{:.1}", outcome.seconds),
            comparison(outcome),
            seen.join("\n"),
        ]);
    }
    table
}

/// Says how a scenario ended, and what was left out of it.
fn word(outcome: &Outcome) -> String {
    match (outcome.passed, outcome.lacking.as_slice()) {
        (false, _) => "FAILED".to_owned(),
        (true, []) => "ok".to_owned(),
        (true, lacking) => format!("partly skipped: needs {}", lacking.join(", ")),
    }
}

/// Says how many comparisons with kernel forwarding there were and what differed as declared.
fn comparison(outcome: &Outcome) -> String {
    if outcome.compared == 0 {
        return "–".to_owned();
    }
    let mut lines = vec![format!("{} same", outcome.compared - outcome.divergences.len())];
    let mut ids: Vec<_> = outcome.divergences.iter().map(|divergence| divergence.id).collect();
    ids.sort_unstable();
    lines.extend(ids.chunk_by(|a, b| a == b).map(|same| format!("{} {}", same.len(), same[0])));
    lines.join("\n")
}

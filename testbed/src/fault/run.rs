//! Tries the cases, several at a time, and tells what came out.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use rtt0_doctor::look::drops::DropMonitor;
use serde::Serialize;

use super::case::Case;
use super::shell::Untriable;
use super::site::Site;
use super::verdict::{Fact, Finding, Verdict};
use super::{all, markdown};
use crate::report::table::framed;
use crate::scratch::Scratch;

/// The share of the faults that has to be named first.
const ENOUGH: f64 = 0.95;
/// The same where the kernel does not tell its drop reasons, as in a user namespace: a firewall's rule without a counter then
/// drops unseen.
const ENOUGH_WITHOUT_REASONS: f64 = 0.80;
/// Width of the table in columns where no terminal tells it.
const WIDTH: u16 = 140;

/// Options of `faults`.
#[derive(Debug, Args)]
pub struct FaultsArgs {
    /// Names of cases, or a part of their names; all if none is given
    #[arg(value_name = "CASE")]
    names: Vec<String>,
    /// Print the cases and do nothing
    #[arg(long)]
    list: bool,
    /// How many cases are tried at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    at_once: u8,
    /// Write what came out to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// How a case came out.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) case: &'static str,
    pub(super) about: &'static str,
    pub(super) is_fault: bool,
    pub(super) expected: String,
    pub(super) result: Outcomes,
    /// What was found, the likeliest first.
    pub(super) findings: Vec<Finding>,
    /// What else the doctor noted.
    pub(super) facts: Vec<Fact>,
    /// Why it could not be tried, or what else is to be said.
    pub(super) remark: String,
}

/// Whether a case came out as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcomes {
    /// The fault was named first; or nothing was found on a healthy site.
    Right,
    /// It was found, and something else was named before it.
    NotFirst,
    /// It was not found; or a healthy site was accused.
    Wrong,
    /// It could not be tried here.
    Skipped,
}

/// Tries cases; returns whether enough of the faults were named first and no healthy site was accused.
///
/// # Errors
/// If there is no such case, or a report can't be written.
pub fn command(args: &FaultsArgs) -> anyhow::Result<bool> {
    let is_meant = |case: &&Case| {
        args.names.is_empty() || args.names.iter().any(|name| case.name.contains(name.as_str()))
    };
    let cases: Vec<&'static Case> = all().filter(|case| is_meant(case)).collect();
    if cases.is_empty() {
        bail!("no case's name contains {}; `faults --list` prints them", args.names.join(" or "));
    }
    if args.list {
        cases.iter().for_each(|case| println!("{:28} {}", case.name, case.about));
        return Ok(true);
    }
    let _scratch = Scratch::open()?;
    let outcomes = try_all(&cases, args.at_once.into());
    println!("{}", table(&outcomes));
    let tally = Tally::new(&outcomes);
    println!("{tally}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcomes)?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, markdown::render(&outcomes, &tally))
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    let enough = match DropMonitor::start() {
        Ok(_) => ENOUGH,
        Err(why) => {
            println!(
                "{ENOUGH_WITHOUT_REASONS} of them are enough here and not {ENOUGH}, without the kernel's drop reasons: {why}"
            );
            ENOUGH_WITHOUT_REASONS
        }
    };
    Ok(tally.is_enough(enough))
}

fn try_all(cases: &[&'static Case], at_once: usize) -> Vec<Outcome> {
    let bar = bar(cases.len());
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..at_once.min(cases.len()) {
            scope.spawn(|| {
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, *case))
                } {
                    bar.set_message(case.name);
                    let outcome = try_one(case);
                    if matches!(outcome.result, Outcomes::Wrong | Outcomes::NotFirst) {
                        tell(&bar, &outcome);
                    }
                    bar.inc(1);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((index, outcome));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn bar(length: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos}/{len}  {eta:>4} left  {msg}")
    {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// Says at once what was found instead.
fn tell(bar: &ProgressBar, outcome: &Outcome) {
    let mut lines = format!("{}: expected {}", outcome.case, outcome.expected);
    if !outcome.remark.is_empty() {
        lines += &format!("\n    {}", outcome.remark);
    }
    for finding in &outcome.findings {
        lines += &format!("\n    {finding} ({})", finding.subject);
        finding.evidence.iter().for_each(|evidence| lines += &format!("\n      - {evidence}"));
    }
    outcome.facts.iter().for_each(|Fact { name, value }| lines += &format!("\n      {name}: {value}"));
    bar.suspend(|| eprintln!("{lines}"));
}

fn try_one(case: &'static Case) -> Outcome {
    let expected = match &case.expected {
        Some(expected) => format!("{} at {}", expected.causes.join(" or "), expected.layer),
        None => "nothing".to_owned(),
    };
    let outcome = |result, findings, facts, remark| Outcome {
        case: case.name,
        about: case.about,
        is_fault: case.expected.is_some(),
        expected: expected.clone(),
        result,
        findings,
        facts,
        remark,
    };
    match Site::raise(&case.raised).and_then(|site| site.examine(case)) {
        Ok(verdict) => {
            outcome(judge(case, &verdict), verdict.findings.clone(), verdict.facts.clone(), remark(&verdict))
        }
        Err(error) if error.downcast_ref::<Untriable>().is_some() => {
            outcome(Outcomes::Skipped, Vec::new(), Vec::new(), format!("{error:#}"))
        }
        Err(error) => outcome(Outcomes::Wrong, Vec::new(), Vec::new(), format!("{error:#}")),
    }
}

fn judge(case: &Case, verdict: &Verdict) -> Outcomes {
    let Some(expected) = &case.expected else {
        return if verdict.findings.is_empty() && verdict.status == 0 {
            Outcomes::Right
        } else {
            Outcomes::Wrong
        };
    };
    let is_it = |finding: &Finding| {
        finding.layer == expected.layer.name() && expected.causes.contains(&finding.cause.as_str())
    };
    match verdict.findings.iter().position(is_it) {
        Some(0) => Outcomes::Right,
        Some(_) => Outcomes::NotFirst,
        None => Outcomes::Wrong,
    }
}

/// A verdict without findings is healthy only if enough was seen.
fn remark(verdict: &Verdict) -> String {
    if verdict.status != 2 {
        return String::new();
    }
    let unseen: Vec<_> =
        verdict.unseen.iter().map(|unseen| format!("{}: {}", unseen.what, unseen.why)).collect();
    format!("could not look: {}", unseen.join("; "))
}

/// How many came out right.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) faults: usize,
    pub(super) named_first: usize,
    pub(super) healthy: usize,
    pub(super) left_alone: usize,
    pub(super) skipped: usize,
}

impl Tally {
    pub(super) fn new(outcomes: &[Outcome]) -> Self {
        let mut tally = Self::default();
        for outcome in outcomes {
            let right = usize::from(outcome.result == Outcomes::Right);
            match (outcome.result, outcome.is_fault) {
                (Outcomes::Skipped, _) => tally.skipped += 1,
                (_, true) => {
                    (tally.faults, tally.named_first) = (tally.faults + 1, tally.named_first + right)
                }
                (_, false) => {
                    (tally.healthy, tally.left_alone) = (tally.healthy + 1, tally.left_alone + right)
                }
            }
        }
        tally
    }

    fn is_enough(&self, share: f64) -> bool {
        self.left_alone == self.healthy && self.named_first as f64 >= share * self.faults as f64
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { faults, named_first, healthy, left_alone, skipped } = self;
        write!(
            f,
            "{named_first} of {faults} faults named first; {left_alone} of {healthy} healthy sites left alone"
        )?;
        if *skipped > 0 {
            write!(f, "; {skipped} could not be tried here")?;
        }
        Ok(())
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = framed();
    if !std::io::stdout().is_terminal() {
        table.force_no_tty();
        table.set_width(WIDTH);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["case", "expected", "named first", "", "further findings"]);
    for outcome in outcomes {
        let first = outcome.findings.first().map_or_else(|| outcome.remark.clone(), ToString::to_string);
        let rest: Vec<_> = outcome.findings.iter().skip(1).map(|finding| finding.cause.clone()).collect();
        let mark = match outcome.result {
            Outcomes::Right => "✔",
            Outcomes::NotFirst => "not first",
            Outcomes::Wrong => "✘",
            Outcomes::Skipped => "skipped",
        };
        table.add_row([outcome.case, &outcome.expected, &first, mark, &rest.join(", ")]);
    }
    table
}

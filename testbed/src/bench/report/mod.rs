//! Shows what was found: tables on the terminal, JSON for programs, HTML for people.

pub mod charts;
pub mod derived;
pub mod heat;
pub mod html;
pub mod table;

use super::figure::{Gap, Row};
use super::idle::Gate;
use super::variant::Variant;
use crate::compare::environment::Environment;
use crate::report::write;
use anyhow::Context;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Bench {
    /// Rounds.
    pub rounds: u32,
    /// The short form.
    pub quick: bool,
    /// Seed of the orders.
    pub seed: u64,
    /// Processors were kept from sleeping.
    pub awake: bool,
    /// The variants that took part.
    pub variants: Vec<Variant>,
    /// Whether the machine was idle.
    pub idle: Gate,
}

/// All a bench found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How it was measured.
    pub bench: Bench,
    /// Where it was measured.
    pub environment: Environment,
    /// A row for each metric.
    pub rows: Vec<Row>,
    /// Variants without figures, and why.
    pub gaps: Vec<Gap>,
}

impl Report {
    /// Puts a report together and derives what follows from the rows.
    pub fn new(bench: Bench, environment: Environment, mut rows: Vec<Row>, gaps: Vec<Gap>) -> Self {
        derived::add(&mut rows);
        Self { bench, environment, rows, gaps }
    }

    /// Tells whether kernel forwarding and the daemons gave their figures wherever they can. What is
    /// others' may fail: that is a finding.
    pub fn is_complete(&self) -> bool {
        !self.rows.is_empty()
            && !self
                .gaps
                .iter()
                .any(|gap| gap.failed && (gap.variant.is_own() || gap.variant == Variant::Kernel))
    }
}

/// Writes both files, whose folders are made.
///
/// # Errors
/// If a file can't be written; the error names it.
pub fn save(report: &Report, json: &Path, html: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(report).context("the results as JSON")?;
    text.push('\n');
    write(json, &text)?;
    write(html, &html::render(report)?)
}

/// Prints the tables, and where the files are.
pub fn print(report: &Report, json: &Path, html: &Path) {
    // A reader that has seen enough and left (`| head`) is no failure.
    let _ = writeln!(stdout(), "{}\n\n{}\n{}", table::render(report), json.display(), html.display());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::figure::{Better, Metric, Observation};
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Rows of one metric at two concurrencies, for kernel forwarding and the daemons.
    pub(crate) fn rows() -> Vec<Row> {
        let metric = Metric::ratio("rate", "conn/s", Better::More);
        let seen = |level: u32, variant, round, value| Observation {
            measurement: crate::bench::connections::NAME,
            setting: format!("{level} at a time"),
            variant,
            round,
            outcome: Ok(vec![metric.sample(value)]),
        };
        let mut seen_all = Vec::new();
        for level in [1, 100] {
            for (round, value) in [(0, 1000.0), (1, 1200.0)] {
                seen_all.push(seen(level, Variant::Kernel, round, value));
                seen_all.push(seen(level, Variant::Nics, round, 1500.0 + f64::from(round) * 600.0));
            }
        }
        crate::bench::figure::rows(&seen_all, 2).0
    }

    pub(crate) fn report() -> Report {
        let mut idle = Gate::new(Duration::ZERO);
        (idle.busy, idle.measurements) = (1, 8);
        let variants = vec![Variant::Kernel, Variant::Nics];
        let bench = Bench { rounds: 2, quick: true, seed: 1, awake: false, variants, idle };
        let environment = Environment {
            kernel: "6.1".into(),
            architecture: "x86_64".into(),
            cpus: 2,
            congestion: "cubic".into(),
            default_congestion: "bbr".into(),
            offloads: true,
            realtime_endpoints: true,
            wan: "TAP".into(),
            versions: BTreeMap::from([("testbed", "0.1.0".into())]),
            date: "2026-01-01T00:00:00Z".into(),
        };
        let gap = Gap {
            measurement: None,
            setting: None,
            variant: Variant::Pnet,
            failed: false,
            reason: "no capture".into(),
        };
        Report::new(bench, environment, rows(), vec![gap])
    }

    #[test]
    fn json_has_rows_with_rounds_and_ratios() {
        let json = serde_json::to_value(report()).unwrap();
        let row = &json["rows"][0];
        assert_eq!(
            (row["measurement"].as_str(), row["unit"].as_str()),
            (Some("connections"), Some("conn/s"))
        );
        let nics = &row["figures"][1];
        assert_eq!(nics["variant"], "nics");
        assert_eq!(nics["rounds"].as_array().unwrap().len(), 2);
        assert_eq!(nics["ratio"]["median"], 1.5);
        assert_eq!(json["gaps"][0]["variant"], "pnet");
        assert!(json["bench"]["idle"]["measurements"].is_u64());
    }

    #[test]
    fn what_failed_of_ours_makes_a_report_incomplete() {
        let mut report = report();
        assert!(report.is_complete());
        report.gaps[0].failed = true;
        assert!(report.is_complete(), "pnet is not ours");
        report.gaps[0].variant = Variant::Nics;
        assert!(!report.is_complete());
    }
}

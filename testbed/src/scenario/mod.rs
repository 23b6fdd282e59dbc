//! The integration tests: what must hold between real kernels, one scenario a file.
//!
//! A scenario raises its own topology (a [`Lab`]), so that scenarios share nothing, and fails by
//! an error that says what was expected and what was seen. Figures it notes appear in the table.

mod conversation;
mod figure;
mod lab;
mod oracle;
mod part;
mod runner;
mod sighting;

mod absent_nic;
mod asymmetric_routes;
mod blind_injection;
mod bulk;
mod clean_captures;
mod clock_jump;
mod closed_port;
mod concurrency;
mod congestion_marks;
mod crash_safety;
mod daemon_death;
mod deadline;
mod fall_back;
mod fragments;
mod gone_server;
mod goodput;
mod half_open;
mod handshake_parity;
mod keepalive;
mod key_rotation;
mod late_server;
mod loss_matrix;
mod lost_handshake;
mod lost_packet;
mod malformed;
mod middlebox;
mod offloads;
mod one_armed;
mod operator;
mod orderly_close;
mod port_reuse;
mod real_programs;
mod reload;
mod reordering;
mod reset;
mod rtt_honesty;
mod server_change;
mod simultaneous_open;
mod sparse_server;
mod stale_profile;
mod syn_flood;
mod too_big;
mod untouched_syn;
mod urgent_data;
mod zero_rtt;
mod zero_window;

use anyhow::{bail, ensure};
use oracle::Observation;
use serde::Serialize;

pub use lab::{Case, Lab, Setting};
pub use oracle::declared::{DECLARED, Difference};
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

/// Where a scenario notes figures and what it compared with kernel forwarding.
#[derive(Debug, Default)]
pub struct Report {
    notes: Vec<String>,
    compared: usize,
    divergences: Vec<Divergence>,
    lacking: Vec<&'static str>,
}

/// Something that differed from kernel forwarding, as declared.
#[derive(Debug, Clone, Serialize)]
pub struct Divergence {
    /// What was done.
    pub what: String,
    /// Which declared difference it is.
    pub id: &'static str,
}

impl Report {
    /// Notes a figure.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Notes that a part was left out, because a program is not installed. The table says so.
    pub fn lacks(&mut self, program: &'static str) {
        self.lacking.push(program);
    }

    /// Notes that something was compared with kernel forwarding and found to be the same.
    pub fn same(&mut self) {
        self.compared += 1;
    }

    /// Compares something that must be the same under kernel forwarding and with the NICs.
    ///
    /// # Errors
    /// If it is not.
    fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: impl std::fmt::Display,
        kernel: &T,
        nics: &T,
    ) -> anyhow::Result<()> {
        ensure!(kernel == nics, "{what}: as with kernel forwarding: {kernel:?}; seen: {nics:?}");
        self.same();
        Ok(())
    }

    /// Compares what was observed under kernel forwarding and with the NICs.
    ///
    /// # Errors
    /// If they differ in a way that is not declared, or not `expected` here.
    fn compare(
        &mut self,
        what: &str,
        kernel: &Observation,
        nics: &Observation,
        expected: Option<&str>,
    ) -> anyhow::Result<()> {
        self.compared += 1;
        if kernel == nics {
            return Ok(());
        }
        let Some(difference) = oracle::declared::find(kernel, nics, expected) else {
            bail!("{what}: as with kernel forwarding: {kernel}; seen: {nics}");
        };
        self.divergences.push(Divergence { what: what.to_owned(), id: difference.id });
        Ok(())
    }

    /// Does something with every one of `things` at once, each with a report of its own, which
    /// are added to this one in order.
    ///
    /// # Errors
    /// The first that there is, in the order of `things`.
    fn at_once<T: Sync>(
        &mut self,
        things: &[T],
        act: impl Fn(&T, &mut Self) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let act = |thing| {
            let mut report = Self::default();
            act(thing, &mut report).map(|()| report)
        };
        let act = &act;
        let reports: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = things.iter().map(|thing| scope.spawn(move || act(thing))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        for report in reports {
            let Self { notes, compared, divergences, lacking } = report?;
            self.notes.extend(notes);
            self.compared += compared;
            self.divergences.extend(divergences);
            self.lacking.extend(lacking);
        }
        Ok(())
    }

    /// Returns the number of comparisons with kernel forwarding.
    pub fn compared(&self) -> usize {
        self.compared
    }

    /// Returns the declared differences that were seen.
    pub fn divergences(&self) -> &[Divergence] {
        &self.divergences
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
    half_open::SCENARIO,
    gone_server::SCENARIO,
    keepalive::SCENARIO,
    zero_window::SCENARIO,
    urgent_data::SCENARIO,
    congestion_marks::SCENARIO,
    untouched_syn::SCENARIO,
    simultaneous_open::SCENARIO,
    key_rotation::SCENARIO,
    reload::SCENARIO,
    operator::SCENARIO,
    sparse_server::SCENARIO,
    stale_profile::SCENARIO,
    late_server::SCENARIO,
    port_reuse::SCENARIO,
    closed_port::SCENARIO,
    bulk::SCENARIO,
    concurrency::SCENARIO,
    goodput::SCENARIO,
    daemon_death::SCENARIO,
    crash_safety::SCENARIO,
    absent_nic::SCENARIO,
    fall_back::SCENARIO,
    lost_handshake::SCENARIO,
    lost_packet::SCENARIO,
    loss_matrix::SCENARIO,
    reordering::SCENARIO,
    fragments::SCENARIO,
    offloads::SCENARIO,
    middlebox::SCENARIO,
    one_armed::SCENARIO,
    asymmetric_routes::SCENARIO,
    clock_jump::SCENARIO,
    rtt_honesty::SCENARIO,
    real_programs::SCENARIO,
    too_big::SCENARIO,
    syn_flood::SCENARIO,
    blind_injection::SCENARIO,
    malformed::SCENARIO,
];

/// Scenarios that take minutes: `all` leaves them out.
pub const LONG: &[Scenario] = &[goodput::LONG];

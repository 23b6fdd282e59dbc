//! The examination: two accounts of the kernel's, some time apart, and all checks.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::check;
use crate::look::counters::Counters;
use crate::look::drops::{DropMonitor, Dropped};
use crate::patient::Patient;
use crate::report::Report;
use crate::{peer, probe};

/// What is to be done besides looking.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the kernel is watched, at least.
    pub interval: Duration,
    /// Where probes are sent, if anywhere.
    pub probe: Option<probe::Target>,
    /// The other NIC's doctor, for the path between them.
    pub peer: Option<SocketAddr>,
}

/// What happened while the doctor looked.
#[derive(Debug)]
pub struct Interval {
    /// The kernel's counters at its beginning.
    pub before: Counters,
    /// And at its end.
    pub after: Counters,
    /// How long it was.
    pub elapsed: Duration,
    /// The packets that the kernel dropped meanwhile, by its own reasons, or why those can't be had.
    pub drops: Result<Vec<Dropped>, String>,
}

impl Interval {
    /// Returns how much something has grown meanwhile; what has shrunk was reset, and counts from zero.
    pub fn growth(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        let (before, after) = (counter(&self.before), counter(&self.after));
        after.checked_sub(before).unwrap_or(after)
    }
}

/// Examines the host that this process is on. `say` is told, in a few words, what is being done.
pub fn examine(patient: &Patient, options: &Options, say: impl Fn(&str)) -> Report {
    let mut report = Report::default();
    say("looking how the host is set up");
    let monitor = DropMonitor::start();
    let start = Instant::now();
    let before = Counters::read(patient);
    check::preconditions(patient, &mut report);
    if let Some(target) = &options.probe {
        say("sending probes");
        probe::probe(patient, target, &mut report);
    }
    if let Some(peer) = options.peer {
        say("trying the path to the other NIC");
        peer::compare(patient, peer, &mut report);
    }
    say(&format!("watching the kernel's counters for {:.1?} in all", options.interval));
    thread::sleep(options.interval.saturating_sub(start.elapsed()));
    let after = Counters::read(patient);
    let elapsed = start.elapsed();
    let drops = monitor.and_then(DropMonitor::stop);
    let interval = Interval { before, after, elapsed, drops };
    check::interval(patient, &interval, &mut report);
    report.conclude();
    report
}

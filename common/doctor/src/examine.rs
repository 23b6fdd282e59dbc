//! The examination: two accounts of the kernel's, some time apart, and all checks.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::check;
use crate::look::counters::Counters;
use crate::look::drops::DropMonitor;
use crate::look::interval::Interval;
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

/// Examines the host that this process is on. `say` is told, in a few words, what is being done.
pub fn examine(patient: &Patient, options: &Options, say: impl Fn(&str)) -> Report {
    let mut report = Report::default();
    say("looking how the host is set up");
    let monitor = DropMonitor::start();
    let start = Instant::now();
    let before = Counters::read(patient);
    check::preconditions(patient, &before, &mut report);
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

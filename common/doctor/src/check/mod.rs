//! Judgements, one subject a file. Each takes what was looked at and adds to the report; it says what it could not see.

mod capabilities;
mod cloud;
pub mod drops;
pub mod firewall;
mod forwarding;
mod growth;
mod guard;
mod interfaces;
mod leftovers;
mod mtu;
mod neighbours;
mod presence;
pub mod programs;
mod race;
mod reverse_path;
mod routing;
mod setup;
#[cfg(test)]
mod testing;
mod traffic;

use crate::look::counters::Counters;
use crate::look::interval::Interval;
use crate::patient::Patient;
use crate::report::Report;

/// Judges how the host is set up: what has to be right for packets to pass at all.
/// `before` is what was read at the beginning.
pub fn preconditions(patient: &Patient, before: &Counters, report: &mut Report) {
    firewall::set_up(patient, &before.firewall, report);
    setup::preconditions(patient, before, report);
}

/// Judges what happened while the doctor looked.
pub fn interval(patient: &Patient, interval: &Interval, report: &mut Report) {
    firewall::judge(interval, report);
    programs::judge(interval, report);
    growth::judge(patient, interval, report);
    drops::judge(patient, interval, report);
    setup::interval(patient, interval, report);
}

//! Judgements, one subject a file. Each takes what was looked at and adds to the report; it says what it could not see.

pub mod firewall;
pub mod programs;

use crate::examine::Interval;
use crate::look::firewall::Firewall;
use crate::patient::Patient;
use crate::report::Report;

/// Judges how the host is set up: what has to be right for packets to pass at all.
pub fn preconditions(patient: &Patient, report: &mut Report) {
    firewall::set_up(patient, &Firewall::read(), report);
}

/// Judges what happened while the doctor looked.
pub fn interval(_patient: &Patient, interval: &Interval, report: &mut Report) {
    firewall::judge(interval, report);
    programs::judge(interval, report);
}

//! Judgements, one subject a file. Each takes what was looked at and adds to the report; it says what it could not see.

mod growth;
pub mod drops;

use crate::examine::Interval;
use crate::patient::Patient;
use crate::report::Report;

/// Judges how the host is set up: what has to be right for packets to pass at all.
pub fn preconditions(_patient: &Patient, _report: &mut Report) {}

/// Judges what happened while the doctor looked.
pub fn interval(patient: &Patient, interval: &Interval, report: &mut Report) {
    growth::judge(patient, interval, report);
    drops::judge(patient, interval, report);
}

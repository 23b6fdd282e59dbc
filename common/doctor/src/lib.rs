//! The doctor: finds the layer of a host at which packets vanish.
//!
//! ```text
//!  look                        check                       report
//!  what the kernel and the  ─▶ judges what was seen, ───▶  findings by likelihood, each with
//!  daemon say of themselves    one subject a file          evidence, command, fix; what was not seen
//! ```
//!
//! Nothing is changed on the host unless a probe is asked for. Every number a finding rests on is one that the kernel
//! itself keeps; a [`check`] compares two of its [accounts](look::counters) some seconds apart, so that old totals accuse
//! nobody. What could not be looked at is said, with the reason: a look that failed never reads as healthy.

#![forbid(unsafe_code)]

pub mod agent;
pub mod bundle;
pub mod causes;
pub mod check;
pub mod cli;
pub mod examine;
pub mod finding;
pub mod look;
pub mod patient;
pub mod peer;
pub mod probe;
pub mod report;
pub mod talk;

pub use cli::DoctorArgs;
pub use finding::{Cause, Finding, Layer, Rank};
pub use patient::{Daemon, Patient, Role};
pub use report::Report;

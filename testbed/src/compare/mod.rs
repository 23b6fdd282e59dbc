//! `testbed compare`: time to first byte of the same exchange under different ways to forward it.
//!
//! [`plan`] decides what is measured, [`run`] measures it, [`crate::report`] shows it. What lies
//! between the ends is [`middle`]; what the kernels counted meanwhile is [`counters`]; one more
//! connection per mode is captured for its picture by [`trace`].

pub mod choice;
pub mod counters;
pub mod endpoint;
pub mod environment;
pub mod measurement;
pub mod middle;
pub mod plan;
pub mod run;
pub mod statistics;
pub mod trace;

pub use choice::{ClientKind, IpVersion, Mode, ServerKind};
pub use plan::{Options, Step};
pub use run::compare;

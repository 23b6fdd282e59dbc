//! Deterministic simulation: both engines between two TCPs, over a network that loses, reorders,
//! duplicates, delays and corrupts, on one virtual clock.
//!
//! Every world is drawn from a seed and an index alone, so any failure is replayed by the two.
//! Nothing here opens a socket, reads a clock or starts a process.
//!
//! ```text
//!  client ──leg── ClientNIC ──────leg, middlebox────── ServerNIC ──leg── server
//!  stack │ peer    nic.rs          network.rs            nic.rs     stack │ peer
//!            ╲                                                       ╱
//!             ╲ ledger.rs: the account of every number either end used
//! ```

mod build;
mod clock;
mod command;
mod connection;
mod kernel;
mod ledger;
pub mod matrix;
pub mod network;
mod nic;
mod peer;
mod plan;
mod run;
mod script;
mod stack;
mod wire;
mod world;

pub use command::{SimArgs, command};
pub use run::{Outcome, SimOptions, run, trace};

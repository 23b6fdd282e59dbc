//! What the two NIC daemons share: command line, key file, logging, bring-up and shutdown.
//!
//! A daemon is a [`Nic`] and a [`Program`]; [`main`] does the rest:
//!
//! ```no_run
//! use rtt0_daemon::{Context, Nic, NoOptions, Program, Role};
//! # use rtt0_core::{engine::{Engine, Verdict}, packet::{Outbox, Packet}, reason::Counters, time::Instant};
//! # struct Mine(std::sync::Arc<Counters>);
//! # impl Engine for Mine {
//! #     fn handle(&mut self, _: Instant, _: &mut Packet<'_>, _: &mut Outbox) -> Verdict { Verdict::Forward }
//! #     fn too_big(&mut self, _: Instant, _: &[u8], _: u16, _: &mut Outbox) {}
//! #     fn next_timeout(&self) -> Option<Instant> { None }
//! #     fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}
//! #     fn counters(&self) -> &Counters { &self.0 }
//! # }
//! struct ExampleNic;
//!
//! impl Nic for ExampleNic {
//!     type Options = NoOptions;
//!     type Engine = Mine;
//!
//!     const ROLE: Role = Role::ClientNic;
//!
//!     fn new(_: NoOptions) -> Self {
//!         Self
//!     }
//!
//!     fn engine(&mut self, context: Context) -> Mine {
//!         Mine(context.counters)
//!     }
//! }
//!
//! let program = Program { name: "examplenic", about: "Shows how a daemon is made" };
//! let code = rtt0_daemon::main::<ExampleNic>(&program, std::env::args_os());
//! ```
//!
//! # Exit codes
//!
//! | code | meaning |
//! |---|---|
//! | 0 | stopped by SIGTERM or SIGINT, or nothing to do (`--help`, `--dry-run`) |
//! | 1 | failed while starting or running |
//! | 2 | the command line is wrong |
//! | 77 | a capability is missing; the message names it |
//! | 78 | the configuration is wrong: file, interface, service, key file or state folder |

mod bypass;
mod cli;
mod config;
mod control;
mod doctor;
mod failure;
mod forwarding;
pub mod http;
mod incidents;
mod key_file;
mod listen;
pub mod logging;
pub mod manager;
pub mod metrics;
mod offload;
mod program;
mod reload;
mod serve;
mod setup;
mod state;
mod stats;
mod watchdog;
mod workers;

pub use cli::{Bounds, LogFormat, NoOptions, RunArgs, duration};
pub use config::ConfigFileError;
pub use control::{AskError, SocketError, TopError};
pub use failure::{Failure, exit};
pub use http::MetricsError;
pub use key_file::{KeyFileError, generate, read};
pub use offload::Offloading;
pub use program::{Nic, Program, command, main};
pub use rtt0_doctor::Role;
pub use serve::Context;
pub use watchdog::Watchdog;
pub use workers::{are_alive, ended};

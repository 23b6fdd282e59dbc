//! `testbed remote`: the comparison of kernel forwarding and both NICs on four hosts that are reached by scripts and
//! files alone.
//!
//! ```text
//!  discover ─▶ install ─▶ server ─▶ kernel: measure, capture ─▶ daemons ─▶ paired: measure, capture ─▶ report
//!      └─────────────┴─────────┴───── whatever happens ─────┴───────────────────┴─▶ stop, collect, clear
//! ```
//!
//! [`run`] holds these steps once. What they need of the hosts is a [`Transport`]: find addresses, run a script, put a
//! file, get a file. [`aws`] does that with the AWS CLI (EC2, SSM, S3) on the stack of `deploy/aws`, [`local`] in the
//! network namespaces of a [`crate::topology::Topology`], so that the steps can be tried where no account is. What a
//! host does itself is the testbed's own executable under [`station`]; the scripts around it are [`script`].

pub mod aws;
mod bounded;
pub mod command;
mod interrupt;
pub mod local;
mod outcome;
pub mod plan;
pub mod run;
pub mod script;
pub mod site;
pub mod station;
pub mod transport;

pub use command::{RemoteArgs, command};
pub use interrupt::Interrupt;
pub use transport::Transport;

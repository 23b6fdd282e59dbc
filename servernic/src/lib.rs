//! ServerNIC: the NIC VM next to the server. It accepts the offers of a ClientNIC, makes the
//! real handshake with the server and translates between the promised and the real sequence
//! numbers.

pub mod engine;
mod flow;

use engine::ServerNic;
use rtt0_core::gateway::Gateway;
use rtt0_daemon::{Context, Nic, NoOptions, Program, Role};
use std::ffi::OsString;
use std::process::ExitCode;

const PROGRAM: Program =
    Program { name: "servernic", about: "The server's side of a transparent TCP 0-RTT middlebox" };

/// ServerNIC's workers share nothing.
#[derive(Debug)]
pub struct Daemon;

impl Nic for Daemon {
    type Options = NoOptions;
    type Engine = ServerNic;

    const ROLE: Role = Role::ServerNic;

    fn new(_: NoOptions) -> Self {
        Self
    }

    fn engine(&mut self, context: Context) -> ServerNic {
        let gateway = Gateway::new(context.services, context.router, context.counters);
        ServerNic::new(gateway, context.keys, context.limits)
    }
}

/// Returns the definition of the command line.
pub fn command() -> clap::Command {
    rtt0_daemon::command::<Daemon>(&PROGRAM)
}

/// Runs the daemon with `args`, of which the first is the program's name; returns its exit code
/// (see [`rtt0_daemon`]).
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    rtt0_daemon::main::<Daemon>(&PROGRAM, args)
}

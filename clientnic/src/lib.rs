//! ClientNIC: the NIC VM next to the client. It answers SYNs to known destinations early and
//! makes offers to the ServerNIC; where there is none it translates by itself.

pub mod engine;
mod flow;
mod spoof;

use clap::Args;
use engine::{ClientNic, Mode, Settings};
use rtt0_core::gateway::Gateway;
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::wire::{ipv4, ipv6, tcp};
use rtt0_daemon::{Context, Program};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

const PROGRAM: Program =
    Program { name: "clientnic", about: "The client's side of a transparent TCP 0-RTT middlebox" };

/// Options that only ClientNIC has.
#[derive(Debug, Clone, Args)]
struct Options {
    /// Which connections are answered early
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: Mode,
}

/// Runs the daemon with `args`, of which the first is the program's name; returns its exit code
/// (see [`rtt0_daemon`]).
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // What one worker learns of a destination all know.
    let profiles = Arc::new(Profiles::new(ProfileLimits::default()));
    rtt0_daemon::main(&PROGRAM, args, |context: Context, options: Options| {
        let settings =
            Settings { mode: options.mode, mss_clamp: mss_clamp(context.mtu), limits: context.limits };
        let gateway = Gateway::new(context.services, context.router, context.counters);
        ClientNic::new(gateway, context.keys, Arc::clone(&profiles), settings)
    })
}

/// The largest MSS for (IPv4, IPv6) that packets of `mtu` bytes carry (RFC 6691 §2).
fn mss_clamp(mtu: u16) -> (u16, u16) {
    let without = |header: usize| mtu.saturating_sub((header + tcp::MIN_HEADER) as u16);
    (without(ipv4::MIN_HEADER), without(ipv6::HEADER))
}

//! ClientNIC: the NIC VM next to the client. It answers SYNs to known destinations early and
//! makes offers to the ServerNIC; where there is none it translates by itself.

pub mod engine;
mod flow;
mod policy;
mod prewarm;

pub use policy::{Policy, SharedPolicy};

use arc_swap::ArcSwap;
use clap::Args;
use engine::{ClientNic, Mode, Settings};
use prewarm::Prewarm;
use rtt0_core::exclusions::Exclusions;
use rtt0_core::gateway::Gateway;
use rtt0_core::offer::Keys;
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::service::{Prefix, Service};
use rtt0_core::spoof::mss_clamp;
use rtt0_daemon::{Context, Nic, Program, Role, duration};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

const PROGRAM: Program =
    Program { name: "clientnic", about: "The client's side of a transparent TCP 0-RTT middlebox" };

/// Options that only ClientNIC has.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Which connections are answered early
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: Mode,

    /// Served destination whose connections are to be made without the middlebox, such as those for a health
    /// check; repeat it or separate rules by commas
    #[arg(long, value_name = "PREFIX:PORT", value_delimiter = ',')]
    exclude: Vec<Service>,

    /// Clients whose connections are to be made without the middlebox; likewise
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    exclude_source: Vec<Prefix>,

    /// Destination that is learned of at the start, and again before what is known of it expires, so that even the first
    /// connection is answered early; repeat it or separate addresses by commas, 64 at most
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    prewarm: Vec<SocketAddr>,

    /// Destinations known at a time; connections to further ones pass without a short cut
    #[arg(long, value_name = "NUMBER", default_value_t = ProfileLimits::default().destinations as u32, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    max_destinations: u32,

    /// How long what a server has answered is believed
    #[arg(long, value_name = "TIME", default_value_t = ProfileLimits::default().lifetime.into(), value_parser = duration)]
    profile_lifetime: humantime::Duration,

    /// Upload that is large: where a quarter of the last eight is, connections are made without the middlebox
    #[arg(long, value_name = "BYTES", default_value_t = ProfileLimits::default().large_upload, value_parser = clap::value_parser!(u32).range(1..))]
    large_upload: u32,
}

impl Options {
    fn policy(&self) -> Policy {
        let (destinations, sources) = (self.exclude.clone(), self.exclude_source.clone());
        Policy { mode: self.mode, exclusions: Exclusions { destinations, sources } }
    }

    fn profile_limits(&self) -> ProfileLimits {
        ProfileLimits {
            destinations: self.max_destinations as usize,
            lifetime: self.profile_lifetime.into(),
            large_upload: self.large_upload,
            ..ProfileLimits::default()
        }
    }
}

/// What all workers of a ClientNIC share.
#[derive(Debug)]
pub struct Daemon {
    policy: SharedPolicy,
    /// What one worker learns of a destination all know.
    profiles: Arc<Profiles>,
    options: Options,
    /// What the thread that learns beforehand signs with.
    keys: Option<Arc<ArcSwap<Keys>>>,
    prewarm: Option<Prewarm>,
}

impl Nic for Daemon {
    type Options = Options;
    type Engine = ClientNic;

    const ROLE: Role = Role::ClientNic;

    const RELOADED: &'static [&'static str] = &["mode", "exclude", "exclude-source"];

    fn new(options: Options) -> Self {
        let profiles = Arc::new(Profiles::new(options.profile_limits()));
        Self { policy: options.policy().into(), profiles, options, keys: None, prewarm: None }
    }

    fn engine(&mut self, context: Context) -> ClientNic {
        let (policy, mss_clamp) = (self.policy.clone(), mss_clamp(context.mtu));
        let settings = Settings { policy, mss_clamp, limits: context.limits };
        let gateway = Gateway::new(context.services, context.router, context.counters);
        ClientNic::new(gateway, context.keys, Arc::clone(&self.profiles), settings)
    }

    fn begin(&mut self, keys: &Keys, mtu: u16) -> io::Result<()> {
        let destinations = self.options.prewarm.clone();
        if destinations.is_empty() {
            return Ok(());
        }
        if destinations.len() > prewarm::MOST {
            tracing::warn!(
                most = prewarm::MOST,
                "of the destinations to learn beforehand the last are left out"
            );
        }
        let keys = Arc::new(ArcSwap::from_pointee(keys.clone()));
        let settings = prewarm::Settings {
            destinations,
            policy: self.policy.clone(),
            keys: Arc::clone(&keys),
            profiles: Arc::clone(&self.profiles),
            mss: mss_clamp(mtu),
            lifetime: self.options.profile_limits().lifetime,
        };
        (self.keys, self.prewarm) = (Some(keys), Some(Prewarm::start(settings)?));
        Ok(())
    }

    fn rekey(&mut self, keys: &Keys) {
        if let Some(own) = &self.keys {
            own.store(Arc::new(keys.clone()));
        }
    }

    fn profiles(&self) -> Option<Arc<Profiles>> {
        Some(Arc::clone(&self.profiles))
    }

    fn reload(&mut self, options: Options) {
        self.policy.replace(options.policy());
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

//! What a host does itself: the testbed's executable under hidden subcommands, run by [`super::script`].

use crate::compare::counters::HostCounters;
use crate::compare::endpoint::{TIMEOUT, connect_each};
use crate::compare::environment::Environment;
use crate::compare::measurement::{Collected, Sample};
use crate::compare::plan::Installed;
use crate::program::client::Request;
use crate::record::record_here;
use crate::report;
use crate::wan::{self, Backend};
use anyhow::Context;
use clap::{Args, Subcommand};
use rtt0_netio::links::{LinkError, Links};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// What a recorder says when it records.
pub(super) const RECORDING: &str = "recording";

/// What a host does.
#[derive(Debug, Subcommand)]
pub enum StationCommand {
    /// Print the name of the network interface that has an address
    Device {
        /// The address
        address: IpAddr,
    },
    /// Add a route, unless it is there
    Route {
        /// Network
        network: Ipv4Addr,
        /// Prefix length, bits
        prefix: u8,
        /// Router
        gateway: Ipv4Addr,
    },
    /// Print what this kernel has counted, as JSON
    Counters,
    /// Connect to a server, one connection after the other, and write down how long that took
    Measure(MeasureArgs),
    /// Record an interface until ended (SIGTERM)
    Record(RecordArgs),
}

/// Connections to make.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// Server
    #[arg(long)]
    server: SocketAddr,
    /// Connections that are not measured, before
    #[arg(long)]
    warm_up: u32,
    /// Measured connections
    #[arg(long)]
    connections: u32,
    /// Congestion control
    #[arg(long)]
    congestion: String,
    /// Where the result goes
    #[arg(long)]
    json: PathBuf,
}

/// What to record.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Network interface
    #[arg(long)]
    interface: String,
    /// pcapng file
    #[arg(long)]
    file: PathBuf,
    /// Record no more packets than so many
    #[arg(long)]
    packets: u64,
}

impl StationCommand {
    /// Does it, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If it can't be done; the error says what is missing.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Device { address } => {
                let interfaces = pnet_datalink::interfaces();
                let found = interfaces.iter().find(|i| i.ips.iter().any(|network| network.ip() == address));
                println!("{}", found.with_context(|| format!("no interface has {address}"))?.name);
                Ok(())
            }
            Self::Route { network, prefix, gateway } => add_route(network, prefix, gateway),
            Self::Counters => {
                println!("{}", serde_json::to_string(&HostCounters::here()?)?);
                Ok(())
            }
            Self::Measure(args) => {
                let measured = Measured::take(&args)?;
                report::write(&args.json, &serde_json::to_string(&measured)?)
            }
            Self::Record(args) => record(&args),
        }
    }
}

fn add_route(network: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> anyhow::Result<()> {
    match Links::here()?.add_route(network.into(), prefix, gateway.into()) {
        Err(LinkError::Refused { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn record(args: &RecordArgs) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    // Caught before anybody is told that packets are being recorded.
    let mut terminated = {
        let _entered = runtime.enter();
        signal(SignalKind::terminate())?
    };
    let recording = record_here(&args.interface, &args.file, args.packets)?;
    println!("{RECORDING} {}", args.interface);
    runtime.block_on(terminated.recv());
    recording.stop().map(drop)
}

/// What the client has measured. Times are in µs, from just before `connect(2)`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Round-trip time of the path, read back before, µs.
    pub(super) rtt: u64,
    /// When `connect(2)` returned and when the first byte of the response came.
    pub(super) samples: Vec<(u64, u64)>,
    /// Why the other connections failed.
    pub(super) errors: Vec<String>,
    /// The client itself.
    pub(super) environment: Environment,
}

impl Measured {
    fn take(args: &MeasureArgs) -> anyhow::Result<Self> {
        let rtt = wan::measure_rtt_here(args.server.ip())?;
        let request = Request {
            congestion: Some(args.congestion.clone()),
            timeout: TIMEOUT,
            ..Request::new(args.server)
        };
        // What fails in the warm-up fails again and is counted then.
        connect_each(&request, args.warm_up, &|| ());
        let collected = connect_each(&request, args.connections, &|| ());
        let times = |sample: &Sample| (micros(sample.connect), micros(sample.first_byte));
        Ok(Self {
            rtt: micros(rtt),
            samples: collected.samples.iter().map(times).collect(),
            errors: collected.errors,
            environment: Environment::describe(&args.congestion, true, &Installed::default(), Backend::Cable),
        })
    }

    /// Returns it as a comparison wants it.
    pub(super) fn collected(&self) -> Collected {
        let sample = |(connect, first_byte): &(u64, u64)| Sample {
            connect: Duration::from_micros(*connect),
            first_byte: Duration::from_micros(*first_byte),
        };
        Collected {
            samples: self.samples.iter().map(sample).collect(),
            errors: self.errors.clone(),
            ..Collected::default()
        }
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::server::{Server, ServerConfig};

    #[test]
    fn a_measurement_survives_the_way_through_a_file() {
        let server = Server::start(ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let args = MeasureArgs {
            server: server.address(),
            warm_up: 1,
            connections: 3,
            congestion: "cubic".into(),
            json: folder.path().join("measured.json"),
        };
        let Ok(measured) = Measured::take(&args) else {
            println!("skipped: reading the RTT back needs CAP_NET_RAW");
            return;
        };
        let read: Measured = serde_json::from_str(&serde_json::to_string(&measured).unwrap()).unwrap();
        let collected = read.collected();
        assert_eq!((collected.samples.len(), collected.errors.len()), (3, 0));
        assert!(collected.samples.iter().all(|s| s.connect <= s.first_byte));
        assert_eq!(read.environment.kernel, measured.environment.kernel);
    }

    #[test]
    fn no_interface_has_a_documentation_address() {
        let command = StationCommand::Device { address: [192, 0, 2, 1].into() };
        assert!(command.run().unwrap_err().to_string().contains("192.0.2.1"));
    }
}

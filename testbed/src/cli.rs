//! The command line.

use crate::bench::{self, load::crowd_server, load::crowd_server::CrowdArgs};
use crate::compare::{self, ClientKind, IpVersion, Mode, Options, ServerKind};
use crate::explore;
use crate::fault::{self, FaultsArgs};
use crate::nic::{self, NicMode, Nics};
use crate::privilege::{self, PrivilegeError};
use crate::process::Process;
use crate::program::server::{Server, ServerConfig};
use crate::remote::{self, RemoteArgs, station::StationCommand};
use crate::scenario::{self, RunOptions};
use crate::sim;
use crate::topology::{Topology, TopologyConfig};
use crate::wan;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rtt0_doctor::{DoctorArgs, Patient};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// MTU of all legs, bytes.
const MTU: u16 = 1500;

/// Four hosts and a WAN in network namespaces: client, ClientNIC, long leg, ServerNIC, server.
#[derive(Debug, Parser)]
#[command(name = "testbed", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the time to first byte under different ways to forward
    Compare(CompareArgs),
    /// Measure what the middlebox costs beside kernel forwarding, and beside other programs
    Bench(bench::BenchArgs),
    /// Run scenarios: the integration tests
    Run(RunArgs),
    /// List the scenarios
    List,
    /// Simulate both NICs between two TCPs on a virtual clock, over networks that do their worst
    Sim(sim::SimArgs),
    /// Raise the topology and keep it for exploring
    Up(UpArgs),
    /// Run a command on a host of the topology that is up
    Exec(ExecArgs),
    /// Remove the topology that is up
    Down,
    /// Look where packets vanish on this host, which has no daemon; exit status 0 healthy, 1 findings, 2 could not look
    Doctor(HostDoctorArgs),
    /// Inject faults between real kernels and look whether the doctor names layer and cause of each
    Faults(FaultsArgs),
    /// Compare kernel forwarding and both NICs on four VMs, or on namespaces in their place
    Remote(RemoteArgs),
    /// What `remote` has its hosts do
    #[command(hide = true, subcommand)]
    Station(StationCommand),
    /// Serve HTTP until killed
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Take the load of `bench` until killed
    #[command(hide = true)]
    BenchServe(CrowdArgs),
    /// The ClientNIC daemon
    #[command(hide = true, disable_help_flag = true)]
    Clientnic(DaemonArgs),
    /// The ServerNIC daemon
    #[command(hide = true, disable_help_flag = true)]
    Servernic(DaemonArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Modes to compare [default: all whose programs are installed]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Round-trip times of the path, ms
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "10,50,100,200", value_parser = rtt_ms)]
    rtt: Vec<f64>,
    /// Measured connections per mode and RTT, one after the other
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Clients to combine with the servers [default: builtin, and curl for kernel and paired]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    clients: Vec<ClientKind>,
    /// Servers to combine with the clients [default: builtin, and nginx for kernel and paired]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    servers: Vec<ServerKind>,
    /// IP version
    #[arg(long, value_name = "4|6|both", default_value = "4")]
    ip: IpChoice,
    /// Where to write the results for programs
    #[arg(long, value_name = "FILE", default_value = "target/compare/compare.json")]
    json: PathBuf,
    /// Where to write the report for people
    #[arg(long, value_name = "FILE", default_value = "target/compare/compare.html")]
    html: PathBuf,
    /// Record both sides of every hop into this folder, as pcapng
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,
    /// Congestion control of the built-in client and server
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion: String,
    /// Switch segmentation and checksum offloads of the links off
    #[arg(long)]
    no_offloads: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IpChoice {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
    Both,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Names of scenarios as `list` prints them, or `all`
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Record both sides of every hop into this folder, as pcapng
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,
    /// Write the outcomes to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Round-trip time of the path, ms
    #[arg(long, value_name = "MS", default_value = "50", value_parser = rtt_ms)]
    rtt: f64,
    /// Switch segmentation and checksum offloads of the links off
    #[arg(long)]
    no_offloads: bool,
    /// Run both NIC daemons as well
    #[arg(long)]
    nics: bool,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// client, clientnic, servernic or server
    host: String,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Address and port to listen on
    #[arg(long)]
    address: SocketAddr,
    /// Congestion control of every connection
    #[arg(long)]
    congestion: Option<String>,
    /// Accept data with the SYN, with this many such connections pending
    #[arg(long, value_name = "QUEUE")]
    fastopen: Option<u32>,
    /// Let the serving threads run before ordinary ones, where allowed
    #[arg(long)]
    realtime: bool,
}

#[derive(Debug, Args)]
struct HostDoctorArgs {
    #[command(flatten)]
    doctor: DoctorArgs,
    /// Interfaces that matter, by commas [default: all but loopback]
    #[arg(long = "interface", value_name = "NAME", value_delimiter = ',')]
    interfaces: Vec<String>,
}

#[derive(Debug, Args)]
struct DaemonArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl DaemonArgs {
    fn with_program(self, name: &str) -> Vec<OsString> {
        std::iter::once(name.into()).chain(self.arguments).collect()
    }
}

/// Reads an RTT. Beyond 10 s even a handshake would time out.
pub(crate) fn rtt_ms(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if ms > 0.0 && ms <= 10_000.0 => Ok(ms),
        _ => Err("an RTT is a number of milliseconds above 0, at most 10000".to_owned()),
    }
}

/// Does what the command line says. Exit status: 0 done, 1 failed, 2 usage, 77 missing privilege;
/// the daemons' own are passed on.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            let privilege = error.downcast_ref::<PrivilegeError>().is_some();
            if privilege { ExitCode::from(privilege::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Compare(args) => {
            privilege::acquire()?;
            Ok(outcome(compare::compare(&options(args))?))
        }
        Command::Bench(args) => {
            privilege::acquire()?;
            Ok(outcome(bench::command(args)?))
        }
        Command::BenchServe(args) => {
            crowd_server::serve(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Up(args) => {
            privilege::acquire()?;
            explore::up(&topology(&args), |topology| residents(topology, args.nics))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sim(args) => Ok(outcome(sim::command(&args)?)),
        Command::Exec(args) => explore::exec(&args.host, &args.command),
        Command::Down => explore::down().map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => {
            let config = ServerConfig {
                congestion: args.congestion,
                fastopen_queue: args.fastopen,
                realtime: args.realtime,
                ..ServerConfig::new(args.address)
            };
            let server = Server::start(config)?;
            println!("listening on {}", server.address());
            server.wait();
            Ok(ExitCode::FAILURE)
        }
        Command::Doctor(args) => Ok(rtt0_doctor::cli::run(&args.doctor, &Patient::host(args.interfaces))),
        Command::Faults(args) => {
            privilege::acquire()?;
            Ok(outcome(fault::command(&args)?))
        }
        Command::Remote(args) => remote::command(args),
        Command::Station(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Clientnic(args) => Ok(clientnic::main_from(args.with_program("clientnic"))),
        Command::Servernic(args) => Ok(servernic::main_from(args.with_program("servernic"))),
        Command::Run(args) => {
            privilege::acquire()?;
            let RunArgs { scenarios: names, pcap, json } = args;
            Ok(outcome(scenario::run(&RunOptions { names, pcap, json })?))
        }
        Command::List => {
            for scenario in scenario::ALL.iter().chain(scenario::LONG) {
                println!("{:24} {}", scenario.name, scenario.about);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Starts what lives in a topology that is kept: a server on port 8080 of both addresses, and the
/// daemons if asked for.
fn residents(topology: &Topology, nics: bool) -> anyhow::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for ip in [IpVersion::V4, IpVersion::V6] {
        let mut command = topology.server.command(nic::executable()?);
        command.args(["serve", "--address", &ip.server().to_string()]);
        processes.push(Process::spawn(command)?);
    }
    if nics {
        processes.extend(Nics::start(topology, NicMode::Auto)?.release());
    }
    Ok(processes)
}

fn outcome(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(args: CompareArgs) -> Options {
    Options {
        modes: args.modes,
        rtts: args.rtt,
        connections: args.connections,
        clients: args.clients,
        servers: args.servers,
        ips: match args.ip {
            IpChoice::V4 => vec![IpVersion::V4],
            IpChoice::V6 => vec![IpVersion::V6],
            IpChoice::Both => vec![IpVersion::V4, IpVersion::V6],
        },
        json: args.json,
        html: args.html,
        pcap: args.pcap,
        congestion: args.congestion,
        offloads: !args.no_offloads,
    }
}

fn topology(args: &UpArgs) -> TopologyConfig {
    let path = wan::Path::with_rtt(Duration::from_secs_f64(args.rtt / 1e3));
    TopologyConfig { path, offloads: !args.no_offloads, mtu: MTU, wan_mtu: MTU, ..TopologyConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn compare_reads_its_lists() {
        let cli = Cli::parse_from([
            "testbed",
            "compare",
            "--modes",
            "kernel,haproxy-http",
            "--rtt",
            "5,0.5",
            "--ip",
            "both",
        ]);
        let Command::Compare(args) = cli.command else { panic!("not compare") };
        let options = options(args);
        assert_eq!(options.modes, [Mode::Kernel, Mode::HaproxyHttp]);
        assert_eq!(options.rtts, [5.0, 0.5]);
        assert_eq!(options.ips.len(), 2);
        assert_eq!(options.json, PathBuf::from("target/compare/compare.json"));
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            &["compare", "--rtt", "0"][..],
            &["compare", "--rtt", "nan"],
            &["compare", "--connections", "0"],
            &["compare", "--modes", "warp"],
            &["run"],
            &["exec", "client"],
        ] {
            let error = Cli::try_parse_from(["testbed"].iter().chain(arguments)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn commands_and_daemons_keep_their_own_options() {
        let cli = Cli::parse_from(["testbed", "exec", "client", "--", "curl", "-v", "x"]);
        let Command::Exec(args) = cli.command else { panic!("not exec") };
        assert_eq!((args.host.as_str(), args.command.len()), ("client", 3));
        let cli = Cli::parse_from(["testbed", "clientnic", "run", "--interface", "lan0", "--help"]);
        let Command::Clientnic(args) = cli.command else { panic!("not clientnic") };
        assert_eq!(args.arguments.len(), 4);
    }
}

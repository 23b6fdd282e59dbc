//! The command line of both daemons.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use rtt0_core::limits::Limits;
use rtt0_doctor::DoctorArgs;

use crate::control::Ask;
use crate::offload::Offloading;

/// Folder for what belongs to a running daemon.
pub(crate) const STATE_DIR: &str = "/run/rtt0";

/// The whole command line; `O` holds the options that only one of the daemons has.
#[derive(Debug, Parser)]
pub(crate) struct Cli<O: Args> {
    #[command(subcommand)]
    pub(crate) command: Command<O>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command<O: Args> {
    /// Runs until SIGTERM or SIGINT; SIGHUP reads configuration and key file again
    ///
    /// Every option is also a key of the configuration file, by its long name, and a variable of the
    /// environment (RTT0_WORKERS for --workers). Options go before the environment, that before the file.
    Run(Settings<O>),
    /// Says whether run would accept its configuration; needs no privileges and changes nothing
    CheckConfig(Settings<O>),
    /// Looks where packets vanish on this host: how it is set up, what its kernel drops, and why
    ///
    /// Reads the same configuration as run. Changes nothing unless probes are sent. Exit status: 0 healthy, 1 findings,
    /// 2 could not look.
    Doctor(Examined<O>),
    /// Writes a fresh random key file for both NICs
    Keygen {
        /// The file to write; an existing one is never overwritten
        file: PathBuf,
        /// Id of the key; give the successor of a key another id
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
        id: u8,
    },
    #[command(flatten)]
    Ask(Ask),
}

/// All options of `run`.
#[derive(Debug, Args)]
pub(crate) struct Settings<O: Args> {
    #[command(flatten)]
    pub(crate) common: RunArgs,
    #[command(flatten)]
    pub(crate) own: O,
}

/// All options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Examined<O: Args> {
    #[command(flatten)]
    pub(crate) doctor: DoctorArgs,
    #[command(flatten)]
    pub(crate) settings: Settings<O>,
}

/// Options of `run` that both daemons have.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Configuration file; /dev/null for none [default: /etc/rtt0/NAME.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print all settings as a configuration file, and where each comes from
    #[arg(long)]
    pub print_config: bool,

    /// Interface on which to take packets; repeat it or separate names by commas
    #[arg(long = "interface", value_name = "NAME", value_delimiter = ',', required = true)]
    pub interfaces: Vec<String>,

    /// Served destination, such as 10.1.2.0/24:443, 10.1.2.7:8000-8010 or [fd00::/64]:443; repeat
    /// it or separate rules by commas
    // Text, so that a bad prefix is an error of the configuration and not of usage.
    #[arg(long = "service", value_name = "PREFIX:PORT", value_delimiter = ',', required = true)]
    pub services: Vec<String>,

    /// File with the keys that both NICs share (see keygen)
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Folder, in memory, for the file with established flows, with which they survive a restart
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, conflicts_with = "no_state")]
    pub state_dir: PathBuf,

    /// Keep no such file: a restart then breaks the flows that this daemon translates
    #[arg(long)]
    pub no_state: bool,

    /// Socket for operators, mode 0660 (see show, drain, top); empty for none [default: NAME.sock in the state folder]
    // Clap's own parser of paths refuses an empty one.
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub control_socket: Option<PathBuf>,

    /// Where Prometheus may ask for metrics, such as 127.0.0.1:9641
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,

    /// Print the kernel guard and the offload changes, and touch nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the log on standard error; RUST_LOG sets its level
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// New file, pcapng, for what becomes of each packet and why, in comments that Wireshark shows; slows all of them down
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// Packets that it takes; of each the headers and a glimpse of the payload, 160 bytes in all
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub pcap_packets: u64,

    /// Cut addresses of clients and servers in the log to their networks (24 or 48 bits)
    #[arg(long)]
    pub redact_addresses: bool,

    /// SCHED_FIFO priority of the packet thread; 0 for ordinary scheduling
    #[arg(long, value_name = "0-99", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=99))]
    pub realtime_priority: u8,

    /// Who forwards flows once they are established
    #[arg(long, value_name = "WHO", default_value = "auto")]
    pub offload: Offloading,

    /// Folder on a BPF file system, in which what lets them outlive the daemon is kept
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/rtt0")]
    pub bpf_dir: PathBuf,

    /// Packet threads; each serves its share of the flows
    #[arg(long, value_name = "1-64", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,

    /// Processors for the packet threads, such as 2,3; the first thread gets the first, and so on
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Vec<usize>,

    /// How long a packet thread looks for packets before it sleeps; 0 spares the processor
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub busy_poll: u32,

    /// How long a packet thread lets packets gather while many come (40 or more in a millisecond); 0, or busy polling: never
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub gather: u32,

    /// Keep the host's processors from sleeping between packets (/dev/cpu_dma_latency), at the cost of their power
    #[arg(long)]
    pub awake: bool,

    /// The bounds.
    #[command(flatten)]
    pub bounds: Bounds,
}

/// The bounds that an operator may want to change; see [`Limits`].
#[derive(Debug, Clone, Args)]
pub struct Bounds {
    /// Connections known at a time; beyond it new ones pass without a short cut
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().flows as u32, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_flows: u32,

    /// Handshakes under way at a time; likewise
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().pending as u32, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_pending: u32,

    /// Clients at a time that have been answered and have acknowledged nothing yet; likewise
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().half_open as u32, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_half_open: u32,

    /// Early data held for one connection; beyond it the client repeats it
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().held_per_flow as u32, value_parser = clap::value_parser!(u32).range(2048..=16_777_216))]
    pub max_held_per_flow: u32,

    /// Early data held for all connections together; likewise
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().held_total as u64, value_parser = clap::value_parser!(u64).range(2048..=68_719_476_736))]
    pub max_held: u64,

    /// How long an established connection may be silent before it is forgotten
    #[arg(long, value_name = "TIME", default_value_t = Limits::default().idle.into(), value_parser = duration)]
    pub idle_timeout: humantime::Duration,

    /// When a handshake without an answer is given up
    #[arg(long, value_name = "TIME", default_value_t = Limits::default().handshake.into(), value_parser = duration)]
    pub handshake_timeout: humantime::Duration,
}

impl Bounds {
    /// Returns the bounds of all workers together.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            flows: self.max_flows as usize,
            pending: self.max_pending as usize,
            half_open: self.max_half_open as usize,
            held_per_flow: self.max_held_per_flow as usize,
            held_total: self.max_held as usize,
            idle: self.idle_timeout.into(),
            handshake: self.handshake_timeout.into(),
            ..Limits::default()
        }
    }
}

/// Reads a time such as `90s`, `10m` or `5days`: from one second to a year.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<humantime::Duration, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
    let time: humantime::Duration = text.parse().map_err(|error| format!("{error}"))?;
    if RANGE.contains(&time) { Ok(time) } else { Err("not from 1s to 365days".to_owned()) }
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event, coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// For a daemon without options of its own.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct NoOptions {}

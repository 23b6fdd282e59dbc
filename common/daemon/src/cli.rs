//! The command line of both daemons.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::offload::Offloading;

/// The whole command line; `O` holds the options that only one of the daemons has.
#[derive(Debug, Parser)]
pub(crate) struct Cli<O: Args> {
    #[command(subcommand)]
    pub(crate) command: Command<O>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command<O: Args> {
    /// Runs until SIGTERM or SIGINT; SIGHUP reads the key file again
    Run {
        #[command(flatten)]
        common: RunArgs,
        #[command(flatten)]
        own: O,
    },
    /// Writes a fresh random key file for both NICs
    Keygen {
        /// The file to write; an existing one is never overwritten
        file: PathBuf,
        /// Id of the key; give the successor of a key another id
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
        id: u8,
    },
}

/// Options of `run` that both daemons have.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Interface on which to take packets; repeat it or separate names by commas
    #[arg(long = "interface", value_name = "NAME", value_delimiter = ',', required = true)]
    pub interfaces: Vec<String>,

    /// Served destination, such as 10.1.2.0/24:443, 10.1.2.7:8000-8010 or [fd00::/64]:443; repeat
    /// it or separate rules by commas
    // Text, so that a bad prefix is an error of the configuration and not of usage.
    #[arg(long = "service", value_name = "PREFIX:PORT", value_delimiter = ',', required = true)]
    pub services: Vec<String>,

    /// File with the keys that both NICs share (see keygen)
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub key_file: Option<PathBuf>,

    /// Folder, in memory, for the file with established flows, with which they survive a restart
    #[arg(long, value_name = "DIR", default_value = "/run/rtt0", conflicts_with = "no_state")]
    pub state_dir: PathBuf,

    /// Keep no such file: a restart then breaks the flows that this daemon translates
    #[arg(long)]
    pub no_state: bool,

    /// Print the kernel guard and the offload changes, and touch nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the log on standard error; RUST_LOG sets its level
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

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

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rtt0_daemon::LogFormat;

use crate::config::Backend;

/// The configuration file unless another is named.
const CONFIG: &str = "/etc/rtt0/mirror.toml";

/// Takes mirrored traffic (VXLAN, GENEVE) out of its tunnel, and forwards it to an analyser, or tells what 0-RTT would
/// save.
#[derive(Debug, Parser)]
#[command(name = "mirror", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward what is on the allowlist, translated by the rules, out of one interface
    Run(RunArgs),
    /// Look at the mirrored TCP and tell what 0-RTT would have saved; nothing is sent
    Observe(ObserveArgs),
    /// Read the configuration and the allowlist, and say what they mean; needs no privilege
    Check(CheckArgs),
}

/// What both ways have in common.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// The configuration file (TOML)
    #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
    /// How to capture; any but `auto` fails where it does not work, instead of falling back. Overrides the file
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// One JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// `mirror run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// How to capture.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// `mirror observe`.
#[derive(Debug, Args)]
pub struct ObserveArgs {
    /// How to capture.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// End after so many seconds; else with SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Write the report as a page, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `mirror check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file (TOML)
    #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
    /// Fail also if something is missing that `run` needs: egress, allowlist or rules
    #[arg(long)]
    pub forwarding: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

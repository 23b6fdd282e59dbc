//! `testbed remote` on the command line.

use super::aws::{Aws, AwsOptions};
use super::interrupt::{Interrupt, Interrupted};
use super::local::Local;
use super::plan::Plan;
use super::run::run;
use crate::cli::rtt_ms;
use crate::privilege;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Round-trip time of namespaces if none is asked for, ms.
const LOCAL_RTT: f64 = 50.0;
/// What a shell adds to a signal's number to make an exit status.
const BY_SIGNAL: u8 = 128;

/// What to compare, and where.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// How the hosts are reached
    #[arg(long, value_enum)]
    transport: TransportKind,
    /// Name of the CloudFormation stack
    #[arg(long, value_name = "NAME", required_if_eq("transport", "aws"))]
    stack: Option<String>,
    /// Region of the stack [default: as the AWS CLI is configured]
    #[arg(long)]
    region: Option<String>,
    /// The AWS CLI
    #[arg(long, value_name = "FILE", env = "RTT0_AWS_PROGRAM", default_value = "aws")]
    aws_program: PathBuf,
    /// Folder on the VMs in which ours is made
    #[arg(long, value_name = "DIR", default_value = "/var/lib")]
    folder: String,
    /// How long to wait for VMs that are starting, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    patience: u64,
    /// Round-trip time of the leg between the NICs, ms; VMs get it from netem on both NICs [default: 50 locally, on VMs
    /// what the network has]
    #[arg(long, value_name = "MS", value_parser = rtt_ms)]
    rtt: Option<f64>,
    /// Measured connections in each mode, one after the other
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Port of the server, the stack's ServicePort
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The testbed to install on the hosts: built for their architecture and C library [default: this one]
    #[arg(long, value_name = "FILE")]
    executable: Option<PathBuf>,
    /// Where captures, logs and the report for people go
    #[arg(long, value_name = "DIR", default_value = "target/remote")]
    out: PathBuf,
    /// Where to write the results for programs [default: remote.json in the folder of --out]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How hosts are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportKind {
    /// Four VMs of a CloudFormation stack, by the AWS CLI
    Aws,
    /// Four network namespaces of this machine
    Local,
}

/// Does what the command line says. Exit status: 0 if every connection succeeded, 1 if one did not, 128 and the signal's
/// number if interrupted.
///
/// # Errors
/// As [`run()`], or if namespaces can't be had.
pub fn command(args: RemoteArgs) -> anyhow::Result<ExitCode> {
    let this = || std::env::current_exe().context("can't find this executable");
    let plan = Plan {
        port: args.port,
        connections: args.connections,
        rtt: args.rtt.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        executable: args.executable.clone().map_or_else(this, Ok)?,
        json: args.json.clone().unwrap_or_else(|| args.out.join("remote.json")),
        out: args.out.clone(),
    };
    let outcome = match args.transport {
        TransportKind::Local => {
            // Before any thread is started.
            privilege::acquire()?;
            let interrupt = Interrupt::watch()?;
            let rtt = plan.rtt.unwrap_or(Duration::from_secs_f64(LOCAL_RTT / 1e3));
            let plan = Plan { rtt: Some(rtt), ..plan };
            run(&mut Local::raise(rtt, &interrupt)?, &plan, &interrupt)
        }
        TransportKind::Aws => {
            let interrupt = Interrupt::watch()?;
            let options = AwsOptions {
                program: args.aws_program,
                stack: args.stack.unwrap_or_default(),
                region: args.region,
                folder: args.folder,
                patience: Duration::from_secs(args.patience),
            };
            run(&mut Aws::new(options, &interrupt), &plan, &interrupt)
        }
    };
    match outcome {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                eprintln!("testbed: {error:#}");
                Ok(ExitCode::from(BY_SIGNAL.saturating_add(interrupted.number.try_into().unwrap_or(0))))
            }
            None => Err(error),
        },
    }
}

//! The doctor's options, and what they lead to.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::examine::{self, Options};
use crate::patient::Patient;
use crate::probe::{Protocol, Target};
use crate::talk::PORT;
use crate::{agent, bundle};

/// Exit status when the doctor could not look.
pub const BLIND: u8 = 2;

/// Options that every doctor has.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// How long to watch the kernel's counters
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub interval: f64,

    /// Send probes there, and tell the layer at which they are lost
    #[arg(long, num_args = 2, value_names = ["udp|tcp", "HOST:PORT"])]
    pub probe: Vec<String>,

    /// How many probes
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub probes: u32,

    /// A doctor that listens (--listen) on the host that is probed, to say what arrives there
    #[arg(long, value_name = "HOST[:PORT]", requires = "probe")]
    pub agent: Option<String>,

    /// The other NIC, where a doctor listens: compares what leaves here with what arrives there
    #[arg(long, value_name = "HOST[:PORT]")]
    pub peer: Option<String>,

    /// Listen for other doctors instead of looking, for ten minutes [default port: 9642]
    #[arg(long, value_name = "ADDRESS[:PORT]", conflicts_with_all = ["probe", "peer", "bundle"])]
    pub listen: Option<String>,

    /// New file for all that a report needs, a tar archive compressed by Zstandard
    #[arg(long, value_name = "FILE.tar.zst")]
    pub bundle: Option<PathBuf>,

    /// Cut addresses in it to their networks (24 or 48 bits)
    #[arg(long = "redact", requires = "bundle")]
    pub is_redacted: bool,

    /// Write the report as JSON
    #[arg(long = "json")]
    pub is_json: bool,
}

/// Examines `patient` as the options say, and writes the report to standard output. Returns 0 for a healthy host, 1 if there
/// are findings, 2 if it could not be looked at.
pub fn run(args: &DoctorArgs, patient: &Patient) -> ExitCode {
    match try_run(args, patient) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("{}: {why}", patient.role.program());
            ExitCode::from(BLIND)
        }
    }
}

fn try_run(args: &DoctorArgs, patient: &Patient) -> Result<ExitCode, String> {
    if let Some(address) = &args.listen {
        let address = resolve(address)?;
        return agent::listen(address, Duration::from_secs(600))
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| format!("cannot listen on {address}: {error}"));
    }
    let options = Options {
        interval: Duration::from_secs_f64(args.interval),
        probe: target(args)?,
        peer: args.peer.as_deref().map(resolve).transpose()?,
    };
    // Drawn only on a terminal.
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(120));
    let report = examine::examine(patient, &options, |what| spinner.set_message(what.to_owned()));
    spinner.finish_and_clear();
    if let Some(file) = &args.bundle {
        bundle::write(file, patient, &report, args.is_redacted)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    let text = if args.is_json {
        format!("{:#}\n", report.json(patient.role))
    } else {
        report.text(io::stdout().is_terminal())
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the report: {error}"))
        }
        _ => Ok(report.exit_code()),
    }
}

fn target(args: &DoctorArgs) -> Result<Option<Target>, String> {
    let [protocol, address] = &args.probe[..] else { return Ok(None) };
    let protocol = match protocol.as_str() {
        "udp" => Protocol::Udp,
        "tcp" => Protocol::Tcp,
        other => return Err(format!("--probe takes udp or tcp first, not '{other}'")),
    };
    let first = |text: &str| text.to_socket_addrs().ok().and_then(|mut found| found.next());
    let address =
        first(address).ok_or_else(|| format!("'{address}' is no HOST:PORT that can be resolved"))?;
    let agent = args.agent.as_deref().map(resolve).transpose()?;
    Ok(Some(Target { protocol, address, count: args.probes, agent }))
}

/// Reads a host, or a host and a port.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.to_socket_addrs()
        .or_else(|_| (bare, PORT).to_socket_addrs())
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("'{text}' is no HOST or HOST:PORT that can be resolved"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=3600.0).contains(&number) { Ok(number) } else { Err("not from 0.1 to 3600".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_usual_port() {
        assert_eq!(resolve("10.1.1.2"), Ok("10.1.1.2:9642".parse().unwrap()));
        assert_eq!(resolve("10.1.1.2:7"), Ok("10.1.1.2:7".parse().unwrap()));
        assert_eq!(resolve("fd00::2"), Ok("[fd00::2]:9642".parse().unwrap()));
        assert_eq!(resolve("[fd00::2]"), Ok("[fd00::2]:9642".parse().unwrap()));
        assert_eq!(resolve("[fd00::2]:7"), Ok("[fd00::2]:7".parse().unwrap()));
        assert!(resolve("10.1.1.2:port").is_err());
    }
}

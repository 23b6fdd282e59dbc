//! Programs that nobody here wrote, as a distribution ships them.

use super::figure::{median, rtts};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::process::Process;
use crate::program::nginx::Nginx;
use crate::program::{curl, installed, memory_file, ready};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "real-programs",
    about: "curl and nginx in 0-RTT, curl with 50 transfers at once, iperf3 both ways",
    run,
};

const RTT: Duration = Duration::from_millis(50);
const NGINX_PORT: u16 = 80;
const IPERF3_PORT: u16 = 5201;
/// Connections of curl one after the other.
const CONNECTIONS: usize = 5;
/// Connections of curl at once.
const PARALLEL: usize = 50;
const BOUND: Duration = Duration::from_secs(10);

fn run(report: &mut Report) -> anyhow::Result<()> {
    let programs =
        Programs { curl: find("curl", report), nginx: find("nginx", report), iperf3: find("iperf3", report) };
    for case in Case::EACH {
        let plain = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, None) })?;
        programs.serve_all(&plain).context("under kernel forwarding")?;
        drop(plain);
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Paired)) })?;
        programs.run(&lab, case, report).with_context(|| case.to_string())?;
        lab.take_nics().context("no daemons")?.stop()?;
    }
    Ok(())
}

fn find(program: &str, report: &mut Report) -> Option<PathBuf> {
    let found = installed::find(program);
    if found.is_none() {
        report.note(format!("{program}: not installed"));
    }
    found
}

struct Programs {
    curl: Option<PathBuf>,
    nginx: Option<PathBuf>,
    iperf3: Option<PathBuf>,
}

impl Programs {
    /// Has curl make its connections at once, all of which have to be served.
    fn serve_all(&self, lab: &Lab) -> anyhow::Result<()> {
        let Some(curl) = &self.curl else { return Ok(()) };
        let (_nginx, _, address) = self.server(lab)?;
        at_once(lab, curl, address)
    }

    /// Starts nginx if it is installed. Without it curl still has the built-in server to talk to.
    fn server(&self, lab: &Lab) -> anyhow::Result<(Option<Nginx>, &'static str, SocketAddr)> {
        let Some(nginx) = &self.nginx else { return Ok((None, "the built-in server", lab.target())) };
        let address = SocketAddr::new(lab.server_address(), NGINX_PORT);
        Ok((Some(Nginx::start(&lab.topology().server, nginx, address)?), "nginx", address))
    }

    fn run(&self, lab: &Lab, case: Case, report: &mut Report) -> anyhow::Result<()> {
        if let Some(curl) = &self.curl {
            let (_nginx, server, address) = self.server(lab)?;
            let first_byte = one_by_one(lab, curl, address)?;
            at_once(lab, curl, address)?;
            // All of them, as without the NICs.
            report.same();
            report.note(format!(
                "{case}: curl to {server} {:.2} RTT, {PARALLEL} at once all served",
                rtts(first_byte, RTT)
            ));
        }
        if let Some(iperf3) = &self.iperf3 {
            let server = Iperf3::start(lab, iperf3)?;
            let [first, second] = [server.measure(lab, iperf3, &[])?, server.measure(lab, iperf3, &[])?];
            let down = server.measure(lab, iperf3, &["--reverse"])?;
            report.note(format!(
                "{case}: iperf3 {down:.0} Mbit/s down, {first:.0} Mbit/s up, and once large uploads are no \
                 longer spoofed {second:.0}"
            ));
        }
        Ok(())
    }
}

/// Returns the median time to first byte.
fn one_by_one(lab: &Lab, program: &Path, server: SocketAddr) -> anyhow::Result<Duration> {
    let client = &lab.topology().client;
    curl::fetch(client, program, server, BOUND).context("the connection that teaches the daemons")?;
    let fetch = |_| Ok(curl::fetch(client, program, server, BOUND)?.first_byte);
    let first_byte = median(&(0..CONNECTIONS).map(fetch).collect::<anyhow::Result<Vec<_>>>()?)?;
    ensure!(first_byte < RTT * 3 / 2, "curl's first byte came after {first_byte:?}");
    Ok(first_byte)
}

fn at_once(lab: &Lab, program: &Path, server: SocketAddr) -> anyhow::Result<()> {
    let mut command = lab.topology().client.command(program);
    command.args(["--disable", "--silent", "--show-error", "--http1.1", "--noproxy", "*"]);
    command.args(["--parallel", "--parallel-immediate", "--parallel-max", &PARALLEL.to_string()]);
    command.args(["--max-time", &BOUND.as_secs().to_string(), "--write-out", "%{http_code}\n"]);
    command.args(["--header", "Connection: close"]).stdin(Stdio::null());
    for _ in 0..PARALLEL {
        command.args(["--output", "/dev/null"]).arg(format!("http://{server}/"));
    }
    let output = command.output().context("can't run curl")?;
    let codes = String::from_utf8_lossy(&output.stdout);
    let served = codes.lines().filter(|code| *code == "200").count();
    ensure!(
        output.status.success() && served == PARALLEL,
        "curl: {served} of {PARALLEL} at once were served; it said: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A running iperf3 server, stopped when dropped.
struct Iperf3 {
    _process: Process,
    address: IpAddr,
}

/// What we read of iperf3's report.
#[derive(Debug, Deserialize)]
struct Outcome {
    error: Option<String>,
    end: End,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct End {
    sum_received: Sum,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sum {
    bits_per_second: f64,
}

impl Iperf3 {
    fn start(lab: &Lab, program: &Path) -> anyhow::Result<Self> {
        let (host, address) = (&lab.topology().server, lab.server_address());
        let log = memory_file::with_contents("iperf3.log", "").context("log of iperf3")?;
        let mut command = host.command(program);
        command.args(["--server", "--port", &IPERF3_PORT.to_string(), "--bind", &address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().context("log of iperf3")?);
        let process = Process::spawn(command).context("can't start iperf3")?;
        ready::wait_for_listener(host, "iperf3", SocketAddr::new(address, IPERF3_PORT), &log)?;
        Ok(Self { _process: process, address })
    }

    /// Returns the rate in Mbit/s over a second.
    fn measure(&self, lab: &Lab, program: &Path, options: &[&str]) -> anyhow::Result<f64> {
        let mut command = lab.topology().client.command(program);
        command.args(["--client", &self.address.to_string(), "--port", &IPERF3_PORT.to_string()]);
        command.args(["--json", "--time", "1"]).args(options).stdin(Stdio::null());
        let output = command.output().context("can't run iperf3")?;
        let outcome: Outcome =
            serde_json::from_slice(&output.stdout).context("iperf3's report is not the JSON expected")?;
        if let Some(error) = outcome.error {
            bail!("iperf3: {error}");
        }
        let rate = outcome.end.sum_received.bits_per_second / 1e6;
        ensure!(rate > 0.0, "iperf3 moved nothing");
        Ok(rate)
    }
}

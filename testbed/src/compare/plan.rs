//! Decides which measurements a comparison consists of, and how long they will take.

use super::choice::{ClientKind, IpVersion, Mode, ServerKind};
use crate::program::installed;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Unmeasured connections before each measurement. The first lets the NICs learn the destination,
/// TCP Fast Open get its cookie and the proxies fill their pools.
pub const WARM_UP: u32 = 3;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Modes to compare; empty means all.
    pub modes: Vec<Mode>,
    /// Round-trip times of the path, ms.
    pub rtts: Vec<f64>,
    /// Measured connections per mode and RTT.
    pub connections: u32,
    /// Clients; empty means the default combinations.
    pub clients: Vec<ClientKind>,
    /// Servers; empty means the default combinations.
    pub servers: Vec<ServerKind>,
    /// IP versions.
    pub ips: Vec<IpVersion>,
    /// Where the JSON report goes.
    pub json: PathBuf,
    /// Where the HTML report goes.
    pub html: PathBuf,
    /// Folder for captures of every hop, if wanted.
    pub pcap: Option<PathBuf>,
    /// Congestion control of the built-in client and server.
    pub congestion: String,
    /// Leaves segmentation and checksum offloads of the links on.
    pub offloads: bool,
}

/// Optional programs that were found.
#[derive(Debug, Clone, Default)]
pub struct Installed {
    /// Path of curl.
    pub curl: Option<PathBuf>,
    /// Path of nginx.
    pub nginx: Option<PathBuf>,
    /// Path of HAProxy.
    pub haproxy: Option<PathBuf>,
}

impl Installed {
    /// Looks for the programs.
    pub fn look() -> Self {
        Self {
            curl: installed::find("curl"),
            nginx: installed::find("nginx"),
            haproxy: installed::find("haproxy"),
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// The way from client to server.
    pub mode: Mode,
    /// The client program.
    pub client: ClientKind,
    /// The server program.
    pub server: ServerKind,
    /// The IP version.
    pub ip: IpVersion,
    /// Round-trip time of the path, ms.
    pub rtt_ms: f64,
}

impl Step {
    /// Returns how long a connection takes, roughly.
    pub fn connection_time(&self) -> Duration {
        let round_trips = match self.mode {
            Mode::Kernel | Mode::Solo | Mode::HaproxyTcp => 2.0,
            Mode::Paired | Mode::Tfo | Mode::HaproxyHttp => 1.02,
        };
        let program = if self.client == ClientKind::Curl { 15.0 } else { 1.0 };
        Duration::from_secs_f64((self.rtt_ms * round_trips + program) / 1e3)
    }

    /// Returns how long the measurement takes, roughly: reading the RTT back, warm-up, measured
    /// connections, and the pauses around them.
    pub fn time(&self, connections: u32) -> Duration {
        let overhead = Duration::from_secs_f64((self.rtt_ms * 15.0 + 300.0) / 1e3);
        self.connection_time() * (connections + WARM_UP) + overhead
    }
}

/// A measurement that was asked for and can't be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What is left out, for example `haproxy-tcp`.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What will be measured, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The measurements.
    pub steps: Vec<Step>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

impl Plan {
    /// Plans the measurements: for each IP version and RTT one mode after the other, so that what
    /// is compared was measured within the same minute.
    pub fn new(options: &Options, installed: &Installed) -> Self {
        let mut plan = Self { steps: Vec::new(), skipped: Vec::new() };
        let modes = plan.available_modes(options, installed);
        let pairs = plan.endpoint_pairs(options, installed);
        for ip in &options.ips {
            for rtt_ms in &options.rtts {
                for (pair, only) in &pairs {
                    let steps =
                        modes.iter().filter(|mode| only.is_none_or(|only| only.contains(mode))).map(|mode| {
                            Step { mode: *mode, client: pair.0, server: pair.1, ip: *ip, rtt_ms: *rtt_ms }
                        });
                    plan.steps.extend(steps.filter(is_possible));
                }
            }
        }
        plan
    }

    /// Returns how long the plan takes, roughly.
    pub fn time(&self, connections: u32) -> Duration {
        self.steps.iter().map(|step| step.time(connections)).sum()
    }

    fn available_modes(&mut self, options: &Options, installed: &Installed) -> Vec<Mode> {
        let mut modes = if options.modes.is_empty() { Mode::ALL.to_vec() } else { options.modes.clone() };
        modes.sort();
        modes.dedup();
        modes.retain(|mode| {
            let available = !mode.needs_haproxy() || installed.haproxy.is_some();
            if !available {
                self.skip(mode.name(), "haproxy is not installed");
            }
            available
        });
        modes
    }

    /// Returns client and server pairs, each with the modes it is for (`None`: all).
    fn endpoint_pairs(&mut self, options: &Options, installed: &Installed) -> Vec<EndpointPair> {
        let chosen = !(options.clients.is_empty() && options.servers.is_empty());
        let wants_curl = !chosen || options.clients.contains(&ClientKind::Curl);
        let wants_nginx = !chosen || options.servers.contains(&ServerKind::Nginx);
        if wants_curl && installed.curl.is_none() {
            self.skip("curl", "curl is not installed");
        }
        if wants_nginx && installed.nginx.is_none() {
            self.skip("nginx", "nginx is not installed");
        }
        let has_client = |client: &ClientKind| *client == ClientKind::Builtin || installed.curl.is_some();
        let has_server = |server: &ServerKind| *server == ServerKind::Builtin || installed.nginx.is_some();
        if chosen {
            let builtin = (vec![ClientKind::Builtin], vec![ServerKind::Builtin]);
            let clients = if options.clients.is_empty() { &builtin.0 } else { &options.clients };
            let servers = if options.servers.is_empty() { &builtin.1 } else { &options.servers };
            let servers: Vec<_> = servers.iter().copied().filter(has_server).collect();
            let pair = |client: ClientKind| servers.iter().map(move |server| ((client, *server), None));
            return clients.iter().copied().filter(has_client).flat_map(pair).collect();
        }
        let mut pairs: Vec<EndpointPair> = vec![((ClientKind::Builtin, ServerKind::Builtin), None)];
        let client = if installed.curl.is_some() { ClientKind::Curl } else { ClientKind::Builtin };
        let server = if installed.nginx.is_some() { ServerKind::Nginx } else { ServerKind::Builtin };
        if (client, server) != (ClientKind::Builtin, ServerKind::Builtin) {
            pairs.push(((client, server), Some(&[Mode::Kernel, Mode::Paired])));
        }
        pairs
    }

    fn skip(&mut self, what: &str, reason: &str) {
        self.skipped.push(Skipped { what: what.to_owned(), reason: reason.to_owned() });
    }
}

type EndpointPair = ((ClientKind, ServerKind), Option<&'static [Mode]>);

/// Fast Open must be asked for by the program, at both ends; only the built-in pair does.
fn is_possible(step: &Step) -> bool {
    step.mode != Mode::Tfo || (step.client, step.server) == (ClientKind::Builtin, ServerKind::Builtin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            modes: Vec::new(),
            rtts: vec![10.0, 50.0, 100.0, 200.0],
            connections: 40,
            clients: Vec::new(),
            servers: Vec::new(),
            ips: vec![IpVersion::V4],
            json: PathBuf::new(),
            html: PathBuf::new(),
            pcap: None,
            congestion: "cubic".into(),
            offloads: true,
        }
    }

    fn everything() -> Installed {
        let path = || Some(PathBuf::from("/bin/x"));
        Installed { curl: path(), nginx: path(), haproxy: path() }
    }

    #[test]
    fn defaults_are_all_modes_and_foreign_programs_for_two_and_take_few_minutes() {
        let plan = Plan::new(&options(), &everything());
        assert_eq!(plan.steps.len(), 4 * (6 + 2));
        assert!(plan.skipped.is_empty());
        assert!(plan.time(40) < Duration::from_secs(5 * 60), "{:?}", plan.time(40));
    }

    #[test]
    fn what_is_not_installed_is_said() {
        let plan = Plan::new(&options(), &Installed::default());
        assert_eq!(plan.steps.len(), 4 * 4);
        let what: Vec<_> = plan.skipped.iter().map(|skipped| skipped.what.as_str()).collect();
        assert_eq!(what, ["haproxy-tcp", "haproxy-http", "curl", "nginx"]);
    }

    #[test]
    fn chosen_endpoints_are_all_combined_but_fast_open_needs_ours() {
        let mut options = options();
        options.modes = vec![Mode::Tfo, Mode::Kernel, Mode::Kernel];
        options.rtts = vec![10.0];
        options.clients = vec![ClientKind::Builtin, ClientKind::Curl];
        options.servers = vec![ServerKind::Builtin, ServerKind::Nginx];
        let plan = Plan::new(&options, &everything());
        let kernel = plan.steps.iter().filter(|step| step.mode == Mode::Kernel).count();
        assert_eq!((kernel, plan.steps.len()), (4, 5));
    }
}

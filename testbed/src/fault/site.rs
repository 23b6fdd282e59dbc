//! The hosts of a case, with servers, daemons and traffic, until it is dropped.

use std::any::Any;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::case::{Case, Patient, Place, Raised};
use super::cgroup::Cgroup;
use super::traffic::Traffic;
use super::verdict::Verdict;
use crate::address;
use crate::host::Host;
use crate::nic::{self, NicOptions, Nics};
use crate::process::Process;
use crate::program::server::{Server, ServerConfig};
use crate::topology::{Topology, TopologyConfig};
use crate::wan;

/// Port of the built-in server.
pub(super) const TCP_PORT: u16 = 8080;
/// Port at which datagrams are sent back.
pub(super) const UDP_PORT: u16 = 9000;
/// Round-trip time of the long leg.
const RTT: Duration = Duration::from_millis(10);
/// How long a doctor may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// A site.
pub(super) struct Site {
    // In the order in which they have to go.
    traffic: Vec<Traffic>,
    agent: Option<Process>,
    held: Vec<Box<dyn Any + Send>>,
    pub(super) nics: Option<Nics>,
    servers: Vec<Server>,
    cgroup: Option<Cgroup>,
    pub(super) topology: Topology,
    /// What the doctor is told besides, found out while the damage was done.
    pub(super) arguments: Vec<String>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("topology", &self.topology).finish_non_exhaustive()
    }
}

impl Site {
    /// Raises it, with a server for TCP and one that sends datagrams back.
    ///
    /// # Errors
    /// If any part can't be had.
    pub(super) fn raise(raised: &Raised) -> anyhow::Result<Self> {
        let path = wan::Path { loss: raised.loss, reorder: raised.reorder, ..wan::Path::with_rtt(RTT) };
        let config = TopologyConfig {
            path,
            offloads: raised.offloads,
            wiring: raised.wiring,
            ..TopologyConfig::default()
        };
        let topology = Topology::raise(&config).context("can't raise the topology")?;
        let arguments = raised.nic_arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let options = |mode| NicOptions { arguments, ..NicOptions::from(mode) };
        let nics = raised.nics.map(|mode| Nics::start(&topology, options(mode))).transpose()?;
        let mut site = Self {
            traffic: Vec::new(),
            agent: None,
            held: Vec::new(),
            nics,
            servers: Vec::new(),
            cgroup: None,
            topology,
            arguments: Vec::new(),
        };
        for (address, _) in address::SERVER.with_prefixes() {
            let server = ServerConfig::new(SocketAddr::new(address, TCP_PORT));
            site.servers.push(site.topology.server.enter(|| Server::start(server))??);
            let echo = site.host(Place::Server).enter(|| UdpSocket::bind((address, UDP_PORT)))??;
            site.traffic.push(Traffic::echo(echo)?);
        }
        Ok(site)
    }

    /// Does to the site what the case says, and examines it.
    ///
    /// # Errors
    /// If the damage can't be done, or the doctor can't be run.
    pub(super) fn examine(mut self, case: &Case) -> anyhow::Result<Verdict> {
        for kind in case.traffic.iter().filter(|kind| kind.goes_before()) {
            self.traffic.push(kind.start(&self)?);
        }
        (case.inject)(&mut self).context("the fault could not be injected")?;
        for kind in case.traffic.iter().filter(|kind| !kind.goes_before()) {
            self.traffic.push(kind.start(&self)?);
        }
        if let Some(place) = case.agent {
            self.agent = Some(self.listen(place)?);
        }
        let mut command = self.doctor(case.patient)?;
        command.args(case.arguments).args(&self.arguments).arg("--json");
        if let Some(cgroup) = &self.cgroup {
            cgroup.run_inside(&mut command);
        }
        let Output { status, stdout, stderr } = command.output().context("can't run the doctor")?;
        let said = String::from_utf8_lossy(&stderr);
        Verdict::read(&stdout)
            .with_context(|| format!("the doctor ended with {status} and said: {}", said.trim()))
    }

    /// Returns a host.
    pub(super) fn host(&self, place: Place) -> &Host {
        match place {
            Place::Client => &self.topology.client,
            Place::ClientNic => &self.topology.client_nic,
            Place::ServerNic => &self.topology.server_nic,
            Place::Server => &self.topology.server,
        }
    }

    /// Keeps something until the doctor has looked.
    pub(super) fn keep(&mut self, thing: impl Any + Send) {
        self.held.push(Box::new(thing));
    }

    /// Lends the control group in which the doctor, and what is started by [`Site::inside`], will be.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(super) fn cgroup(&mut self) -> anyhow::Result<&Cgroup> {
        if self.cgroup.is_none() {
            self.cgroup = Some(Cgroup::make()?);
        }
        self.cgroup.as_ref().context("no control group")
    }

    /// Stops the built-in server.
    pub(super) fn stop_servers(&mut self) {
        self.servers.clear();
    }

    /// Returns a command for the doctor of a patient.
    fn doctor(&self, patient: Patient) -> anyhow::Result<Command> {
        match (patient, &self.nics) {
            (Patient::Host(place), _) => {
                let mut command = self.host(place).command(nic::executable()?);
                command.arg("doctor");
                Ok(command)
            }
            (Patient::Nic(place), Some(nics)) => nics.doctor(self.host(place)),
            (Patient::Nic(_), None) => anyhow::bail!("there are no daemons to be examined"),
        }
    }

    /// Has a doctor listen on a host, at all its addresses of both IP versions.
    fn listen(&self, place: Place) -> anyhow::Result<Process> {
        let mut command = self.host(place).command(nic::executable()?);
        command.args(["doctor", "--listen", "[::]:9642"]).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut process = Process::spawn(command)?;
        let stderr = process.child().stderr.take().context("no pipe")?;
        let (send, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let line = heard.recv_timeout(PATIENCE).context("the doctor that is to listen says nothing")?;
        ensure!(line.contains("listening on"), "the doctor does not listen: {line}");
        Ok(process)
    }
}

//! A topology with daemons and a server, as most scenarios want it.

use crate::compare::choice::IpVersion;
use crate::nic::{NicMode, NicOptions, Nics};
use crate::program::client::{self, Exchange, FetchError, Request};
use crate::program::server::{Served, ServedHook, Server, ServerConfig};
use crate::record::{Recording, record_all};
use crate::topology::{Topology, TopologyConfig, Wiring};
use crate::wan;
use anyhow::Context;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The congestion controls that are compared: RFC 9438, and Linux's BBR.
pub(super) const CONGESTIONS: [&str; 2] = ["cubic", "bbr"];

/// Port of the built-in server.
pub(super) const PORT: u16 = 8080;

/// IP version and offloads: what nearly every scenario is run under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The IP version.
    pub ip: IpVersion,
    /// Whether devices carry super-packets and partial checksums.
    pub offloads: bool,
}

impl Case {
    /// Both IP versions with offloads as Linux has them.
    pub const IPS: [Self; 2] =
        [Self { ip: IpVersion::V4, offloads: true }, Self { ip: IpVersion::V6, offloads: true }];

    /// Each IP version and each state of the offloads, in no more than two cases.
    pub const EACH: [Self; 2] =
        [Self { ip: IpVersion::V4, offloads: true }, Self { ip: IpVersion::V6, offloads: false }];

    /// Both IP versions, offloads on and off.
    pub const ALL: [Self; 4] = [
        Self { ip: IpVersion::V4, offloads: true },
        Self { ip: IpVersion::V4, offloads: false },
        Self { ip: IpVersion::V6, offloads: true },
        Self { ip: IpVersion::V6, offloads: false },
    ];
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, offloads {}", self.ip, if self.offloads { "on" } else { "off" })
    }
}

/// How a lab is to be raised.
#[derive(Debug, Clone)]
pub struct Setting {
    /// IP version and offloads.
    pub case: Case,
    /// Round-trip time of the path.
    pub rtt: Duration,
    /// How the hosts are joined.
    pub wiring: Wiring,
    /// The daemons, or none for plain kernel forwarding.
    pub nics: Option<NicMode>,
    /// What the daemons are told besides.
    pub arguments: &'static [&'static str],
    /// Congestion control of the server's sockets, and of both ends' in dialogues.
    pub congestion: &'static str,
    /// What does not happen within this time in a dialogue counts as never.
    pub patience: Duration,
}

impl Setting {
    /// 50 ms, CUBIC, five seconds of patience, and the daemons in `nics`.
    pub fn new(case: Case, nics: Option<NicMode>) -> Self {
        Self {
            case,
            rtt: Duration::from_millis(50),
            wiring: Wiring::Direct,
            nics,
            arguments: &[],
            congestion: "cubic",
            patience: Duration::from_secs(5),
        }
    }
}

/// Where the labs of the running scenario record every hop: a folder, and how many labs it has.
/// Scenarios run one after the other, and none should have to pass this along.
static CAPTURES: Mutex<Option<(PathBuf, usize)>> = Mutex::new(None);

/// Lets every lab raised from now on record both sides of every hop into a subfolder of `folder`,
/// or none.
pub(super) fn record_into(folder: Option<PathBuf>) {
    *CAPTURES.lock().unwrap_or_else(PoisonError::into_inner) = folder.map(|folder| (folder, 0));
}

/// Starts the recording of a lab, if there is to be one.
fn record(topology: &Topology) -> anyhow::Result<Option<Recording>> {
    let mut captures = CAPTURES.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((folder, labs)) = captures.as_mut() else { return Ok(None) };
    *labs += 1;
    record_all(topology, &folder.join(format!("{labs:02}"))).map(Some)
}

/// Hosts, daemons and a built-in server.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they have to go.
    _recording: Option<Recording>,
    server: Option<Server>,
    nics: Option<Nics>,
    topology: Topology,
    setting: Setting,
    served: Mutex<Receiver<Served>>,
}

impl Lab {
    /// Raises it, verifies the RTT, and, if there are daemons, makes one connection so that they
    /// know the server.
    ///
    /// # Errors
    /// If any part can't be raised, or the RTT is off.
    pub fn raise(setting: Setting) -> anyhow::Result<Self> {
        let config = TopologyConfig {
            path: wan::Path::with_rtt(setting.rtt),
            offloads: setting.case.offloads,
            wiring: setting.wiring,
            ..TopologyConfig::default()
        };
        let topology = Topology::raise(&config).context("can't raise the topology")?;
        topology.verify_rtt_to(setting.case.ip.of(crate::address::SERVER), setting.rtt)?;
        let recording = record(&topology)?;
        let arguments = setting.arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let options = |mode| NicOptions { arguments, ..NicOptions::from(mode) };
        let nics = setting.nics.map(|mode| Nics::start(&topology, options(mode))).transpose()?;
        let (send, served) = mpsc::channel();
        let mut lab =
            Self { _recording: recording, server: None, nics, topology, setting, served: Mutex::new(served) };
        let send = Mutex::new(send);
        lab.server = Some(lab.serve(
            PORT,
            Some(Arc::new(move |served| {
                // A scenario that no longer listens does not want to know.
                if let Ok(send) = send.lock() {
                    let _ = send.send(served);
                }
            })),
        )?);
        if lab.nics.is_some() {
            lab.fetch(&lab.request()).context("the connection that teaches the daemons failed")?;
            lab.served()?;
        }
        Ok(lab)
    }

    /// Starts another built-in server in the server's namespace.
    ///
    /// # Errors
    /// If it can't listen on `port`.
    pub fn serve(&self, port: u16, on_served: Option<ServedHook>) -> anyhow::Result<Server> {
        self.serve_under(self.setting.congestion, port, on_served)
    }

    /// As [`Lab::serve`], under another congestion control.
    ///
    /// # Errors
    /// As [`Lab::serve`].
    pub fn serve_under(
        &self,
        congestion: &str,
        port: u16,
        on_served: Option<ServedHook>,
    ) -> anyhow::Result<Server> {
        let config = ServerConfig {
            congestion: Some(congestion.to_owned()),
            on_served,
            ..ServerConfig::new(SocketAddr::new(self.server_address(), port))
        };
        self.topology.server.enter(|| Server::start(config))?
    }

    /// Stops the built-in server: its port is closed from then on.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Returns how it was raised.
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Returns the topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the daemons.
    ///
    /// # Errors
    /// If the lab was raised without, or they were taken out.
    pub fn nics(&mut self) -> anyhow::Result<&mut Nics> {
        self.nics.as_mut().context("this lab has no daemons")
    }

    /// Takes the daemons out, with the topology for which they can be started again.
    pub fn take_nics(&mut self) -> Option<Nics> {
        self.nics.take()
    }

    /// Lends daemons and topology at once, for starting one of the daemons again.
    ///
    /// # Errors
    /// As [`Lab::nics`].
    pub fn nics_and_topology(&mut self) -> anyhow::Result<(&mut Nics, &Topology)> {
        Ok((self.nics.as_mut().context("this lab has no daemons")?, &self.topology))
    }

    /// Returns the client's address of the lab's IP version.
    pub fn client_address(&self) -> IpAddr {
        self.setting.case.ip.of(crate::address::CLIENT)
    }

    /// Returns the server's address of the lab's IP version.
    pub fn server_address(&self) -> IpAddr {
        self.setting.case.ip.of(crate::address::SERVER)
    }

    /// Returns where the built-in server listens.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(self.server_address(), PORT)
    }

    /// Makes a request for the small answer with CUBIC at the client.
    pub fn request(&self) -> Request {
        Request { congestion: Some("cubic".to_owned()), ..Request::new(self.target()) }
    }

    /// Makes one exchange from the client.
    ///
    /// # Errors
    /// Where and why it failed; the inner error is the exchange's own.
    pub fn fetch(&self, request: &Request) -> anyhow::Result<Exchange> {
        Ok(self.try_fetch(request)??)
    }

    /// Makes one exchange from the client and returns how it failed, if it did.
    ///
    /// # Errors
    /// If the client's namespace can't be entered.
    pub fn try_fetch(&self, request: &Request) -> anyhow::Result<Result<Exchange, FetchError>> {
        self.topology.client.enter(|| client::fetch(request))
    }

    /// Waits for the server's view of the next finished connection.
    ///
    /// # Errors
    /// If none finishes within 10 s.
    pub fn served(&self) -> anyhow::Result<Served> {
        let served = self.served.lock().map_err(|_| anyhow::anyhow!("a scenario thread panicked"))?;
        served.recv_timeout(Duration::from_secs(10)).context("the server finished no connection")
    }
}

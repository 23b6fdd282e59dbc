//! Whom the doctor looks at.

use std::fmt;
use std::path::PathBuf;

use rtt0_core::service::Services;
use rtt0_netio::interface;
use serde::Serialize;
use serde_json::Value;

/// What the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has a ClientNIC, or should.
    ClientNic,
    /// It has a ServerNIC, or should.
    ServerNic,
    /// Any host.
    Host,
}

impl Role {
    /// Tells whether packets of others are to be forwarded here.
    pub fn forwards(self) -> bool {
        self != Self::Host
    }

    /// Returns the name of the daemon's executable.
    pub fn program(self) -> &'static str {
        match self {
            Self::ClientNic => "clientnic",
            Self::ServerNic => "servernic",
            Self::Host => "testbed",
        }
    }
}

/// A host, and what is expected of it.
#[derive(Debug)]
pub struct Patient {
    /// What it is.
    pub role: Role,
    /// The interfaces that matter: those that the daemon has, or all but loopback.
    pub interfaces: Vec<String>,
    /// What the daemon serves; none on a host without one.
    pub services: Services,
    /// The daemon that should run here.
    pub daemon: Option<Daemon>,
}

impl Patient {
    /// Any host, with all its interfaces but loopback, or those named.
    pub fn host(interfaces: Vec<String>) -> Self {
        let all =
            || interface::list().into_iter().map(|interface| interface.name).filter(|name| name != "lo");
        let interfaces = if interfaces.is_empty() { all().collect() } else { interfaces };
        let services = Services::new(Vec::new(), interface::local_addresses());
        Self { role: Role::Host, interfaces, services, daemon: None }
    }
}

/// The daemon that should run on a host, by its configuration.
pub struct Daemon {
    /// Its executable's name.
    pub name: &'static str,
    /// Where it may be asked, if anywhere.
    pub control_socket: Option<PathBuf>,
    /// Where what outlives it in the kernel is pinned.
    pub bpf_dir: PathBuf,
    /// Whether established flows are to be forwarded by the kernel.
    pub is_offloading: bool,
    /// Asks the running daemon for its counters: what `show stats --json` prints.
    pub stats: Box<dyn Fn() -> Result<Value, String> + Send + Sync>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("name", &self.name).finish_non_exhaustive()
    }
}

//! The four hosts, wired up.

use std::time::Duration;

use crate::host::Host;
use crate::wan;

/// How the topology is to be raised.
#[derive(Debug, Clone)]
pub struct TopologyConfig {
    /// The long leg.
    pub path: wan::Path,
    /// Whether devices may carry super-packets and partial checksums (TSO, GSO, GRO, checksums).
    pub offloads: bool,
    /// MTU of the two local legs in bytes.
    pub mtu: u16,
    /// MTU of the long leg in bytes.
    pub wan_mtu: u16,
}

/// client – clientnic – WAN – servernic – server. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    /// The client.
    pub client: Host,
    /// The client's NIC.
    pub client_nic: Host,
    /// The server's NIC.
    pub server_nic: Host,
    /// The server.
    pub server: Host,
}

impl Topology {
    /// Raises the topology.
    pub fn raise(_config: &TopologyConfig) -> anyhow::Result<Self> {
        anyhow::bail!("not built yet")
    }
    /// Changes the long leg for packets that enter it from now on.
    pub fn set_path(&self, _path: wan::Path) {}
    /// Measures the path RTT between client and server.
    pub fn measure_rtt(&self) -> anyhow::Result<Duration> {
        anyhow::bail!("not built yet")
    }
    /// Measures the path RTT and refuses if it is off by more than 2 % + 0.3 ms.
    pub fn verify_rtt(&self, _rtt: Duration) -> anyhow::Result<Duration> {
        anyhow::bail!("not built yet")
    }
    /// Lists the hosts from client to server.
    pub fn hosts(&self) -> [&Host; 4] {
        [&self.client, &self.client_nic, &self.server_nic, &self.server]
    }
}

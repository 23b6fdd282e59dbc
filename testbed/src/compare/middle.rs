//! What stands between the endpoints while one mode is measured.

use super::choice::Mode;
use super::plan::{Installed, Step};
use crate::host::Host;
use crate::nic::{NicMode, Nics};
use crate::program::haproxy::{Chain, HaproxyPair, ProxyMode};
use crate::topology::Topology;
use anyhow::Context;
use rtt0_netio::sysctl;
use std::net::SocketAddr;

/// Client and server side of TCP Fast Open, without the switches that make cookies optional.
const FASTOPEN_BOTH: &str = "3";
const FASTOPEN: &str = "net.ipv4.tcp_fastopen";

/// The machinery of a mode; dropping it leaves plain forwarding.
#[derive(Debug)]
pub enum Middle<'a> {
    /// Nothing: the kernels forward.
    Forwarding,
    /// The endpoints' kernels are told to use TCP Fast Open.
    FastOpen {
        /// Switches it off again.
        client: FastOpen<'a>,
        /// Switches it off again.
        server: FastOpen<'a>,
    },
    /// The daemons.
    Nics(Nics),
    /// HAProxy on both NICs.
    Proxies(HaproxyPair),
}

impl<'a> Middle<'a> {
    /// Raises what the mode of `step` needs, with a fresh state.
    ///
    /// # Errors
    /// If a daemon or proxy does not start.
    pub fn start(topology: &'a Topology, installed: &Installed, step: &Step) -> anyhow::Result<Self> {
        let proxies = |mode| {
            let program = installed.haproxy.as_deref().context("haproxy is not installed")?;
            let chain = Chain {
                client_nic: step.ip.client_nic(),
                server_nic: step.ip.server_nic(),
                server: step.ip.server(),
            };
            HaproxyPair::start(topology, program, mode, chain).map(Self::Proxies)
        };
        match step.mode {
            Mode::Kernel => Ok(Self::Forwarding),
            Mode::Solo => Nics::start(topology, NicMode::Solo).map(Self::Nics),
            Mode::Paired => Nics::start(topology, NicMode::Paired).map(Self::Nics),
            Mode::Tfo => Ok(Self::FastOpen {
                client: FastOpen::switch_on(&topology.client)?,
                server: FastOpen::switch_on(&topology.server)?,
            }),
            Mode::HaproxyTcp => proxies(ProxyMode::Tcp),
            Mode::HaproxyHttp => proxies(ProxyMode::Http),
        }
    }

    /// Returns where the client connects to: the server, or the proxy in its stead.
    pub fn target(&self, step: &Step) -> SocketAddr {
        match self {
            Self::Proxies(_) => step.ip.client_nic(),
            _ => step.ip.server(),
        }
    }
}

/// TCP Fast Open switched on at a host (RFC 7413); restored when dropped.
#[derive(Debug)]
pub struct FastOpen<'a> {
    host: &'a Host,
    before: String,
}

impl<'a> FastOpen<'a> {
    fn switch_on(host: &'a Host) -> anyhow::Result<Self> {
        let before = sysctl::read(host.namespace(), FASTOPEN)
            .with_context(|| format!("can't read {FASTOPEN} of {}", host.name()))?;
        sysctl::set(host.namespace(), &[(FASTOPEN, FASTOPEN_BOTH)])
            .with_context(|| format!("can't switch on TCP Fast Open at {}", host.name()))?;
        Ok(Self { host, before })
    }
}

impl Drop for FastOpen<'_> {
    fn drop(&mut self) {
        // It was set before, so it can be set; and the namespace goes with the topology anyway.
        let _ = sysctl::set(self.host.namespace(), &[(FASTOPEN, &self.before)]);
    }
}

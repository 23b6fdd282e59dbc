//! What stands between the endpoints while one variant is measured.

mod naive;
mod synproxy;

use super::cpu;
use super::variant::{Abilities, Variant};
use crate::compare::IpVersion;
use crate::nic::{Counts, NicMode, Nics};
use crate::program::haproxy::{Chain, HaproxyPair, ProxyMode};
use crate::program::nginx::Nginx;
use crate::topology::Topology;
use anyhow::Context;
use naive::Naive;
use std::time::Duration;
use synproxy::Synproxy;

/// The machinery of a variant; dropping it leaves plain forwarding.
#[derive(Debug)]
pub enum Middle<'a> {
    /// Nothing: the kernels forward.
    Kernel,
    /// The daemons.
    Nics(Nics),
    /// HAProxy on both NICs.
    Haproxy(HaproxyPair),
    /// nginx on both NICs, ClientNIC's first.
    Nginx([Nginx; 2]),
    /// SYNPROXY rules on ClientNIC.
    Synproxy(Synproxy<'a>),
    /// Loops of `pnet` on both NICs, ClientNIC's first.
    Naive([Naive<'a>; 2]),
}

impl<'a> Middle<'a> {
    /// Raises what a variant needs, with a fresh state.
    ///
    /// # Errors
    /// If something does not start.
    pub fn start(
        topology: &'a Topology,
        variant: Variant,
        abilities: &Abilities,
        workers: Option<u32>,
    ) -> anyhow::Result<Self> {
        let v4 = IpVersion::V4;
        let nics = |mode| {
            let options = abilities.options(variant, mode, workers);
            Nics::start(topology, options).map(Self::Nics)
        };
        match variant {
            Variant::Kernel => Ok(Self::Kernel),
            Variant::Nics | Variant::NicsMixed | Variant::NicsOffload => nics(NicMode::Paired),
            Variant::Solo => nics(NicMode::Solo),
            Variant::HaproxyTcp => {
                let program = abilities.installed.haproxy.as_deref().context("haproxy is not installed")?;
                let chain =
                    Chain { client_nic: v4.client_nic(), server_nic: v4.server_nic(), server: v4.server() };
                HaproxyPair::start(topology, program, ProxyMode::Tcp, chain).map(Self::Haproxy)
            }
            Variant::NginxStream => {
                let program = abilities.installed.nginx.as_deref().context("nginx is not installed")?;
                let module = abilities.nginx_stream.as_ref().context("nginx lacks its stream module")?;
                let start = |host, listen, next| Nginx::start_stream(host, program, module, listen, next);
                let far = start(&topology.server_nic, v4.server_nic(), v4.server())?;
                let near = start(&topology.client_nic, v4.client_nic(), v4.server_nic())?;
                Ok(Self::Nginx([near, far]))
            }
            Variant::Synproxy => Synproxy::start(&topology.client_nic).map(Self::Synproxy),
            Variant::Pnet => {
                Ok(Self::Naive([Naive::start(&topology.client_nic)?, Naive::start(&topology.server_nic)?]))
            }
        }
    }

    /// Returns the processes between the endpoints, ClientNIC's first.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let pair = |[near, far]: [u32; 2]| vec![("clientnic", near), ("servernic", far)];
        match self {
            Self::Kernel | Self::Synproxy(_) | Self::Naive(_) => Vec::new(),
            Self::Nics(nics) => nics.ids(),
            Self::Haproxy(haproxy) => pair(haproxy.ids()),
            Self::Nginx(nginx) => pair([nginx[0].id(), nginx[1].id()]),
        }
    }

    /// Returns the processor time of all processes or threads between the endpoints so far.
    ///
    /// # Errors
    /// If one is gone.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut sum = self.own_threads_time();
        for (_, id) in self.processes() {
            sum += cpu::of_process(id)?;
        }
        Ok(sum)
    }

    /// Returns the part of it that threads of this process used.
    pub fn own_threads_time(&self) -> Duration {
        match self {
            Self::Naive(pair) => pair.iter().map(Naive::processor_time).sum(),
            _ => Duration::ZERO,
        }
    }

    /// Ends it and returns what the daemons counted, if it is them: ClientNIC, ServerNIC.
    ///
    /// # Errors
    /// If a daemon ended badly.
    pub fn stop(self) -> anyhow::Result<Option<(Counts, Counts)>> {
        match self {
            Self::Nics(nics) => nics.stop().map(Some),
            _ => Ok(None),
        }
    }
}

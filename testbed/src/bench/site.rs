//! Where a measurement takes place: a topology, what stands in it, and where to connect.

use super::cpu::{self, Usage};
use super::middle::Middle;
use super::variant::Variant;
use crate::address::{CLIENT, ETH0, PREFIX_V4};
use crate::compare::IpVersion;
use crate::topology::{Topology, TopologyConfig};
use crate::wan::{self, Backend};
use anyhow::Context;
use rtt0_netio::links::Links;
use rtt0_netio::sysctl;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Addresses of the client: ports alone don't last for 100,000 connections.
pub const CLIENT_ADDRESSES: u8 = 16;

/// Kernel parameters of all hosts. A tuple is free again as soon as its connection has ended in an
/// orderly way: the server keeps TIME-WAIT, not the client.
const PARAMETERS: &[(&str, &str)] = &[
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.ipv4.tcp_max_syn_backlog", "65536"),
    ("net.core.somaxconn", "65536"),
];

/// The way between the NICs that a measurement wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// Cables everywhere: nothing but forwarding takes time. Super-packets and checksum offload on
    /// or off.
    Cable {
        /// Whether devices carry super-packets and partial checksums.
        offloads: bool,
    },
    /// The delay line between the NICs.
    Line(wan::Path),
}

/// Raised topologies, each kept for the next measurement that wants it.
#[derive(Debug, Default)]
pub struct Places {
    cables: [Option<Topology>; 2],
    line: Option<Topology>,
}

impl Places {
    /// Returns the topology of a place, raised if it was not yet.
    ///
    /// # Errors
    /// If it can't be raised.
    pub fn find(&mut self, place: Place) -> anyhow::Result<&Topology> {
        let none = wan::Path::with_rtt(Duration::ZERO);
        match place {
            Place::Cable { offloads } => {
                let slot = &mut self.cables[usize::from(offloads)];
                keep(slot, || raise(none, offloads, Some(Backend::Cable)))
            }
            Place::Line(path) => {
                let topology = keep(&mut self.line, || raise(path, true, None))?;
                topology.set_path(path);
                Ok(topology)
            }
        }
    }

    /// Says what the delay line is made of, if one was raised.
    pub fn line_backend(&self) -> Option<Backend> {
        self.line.as_ref().map(|topology| topology.wan().backend())
    }
}

fn keep(
    slot: &mut Option<Topology>,
    make: impl FnOnce() -> anyhow::Result<Topology>,
) -> anyhow::Result<&Topology> {
    if slot.is_none() {
        *slot = Some(make()?);
    }
    slot.as_ref().context("no topology")
}

fn raise(path: wan::Path, offloads: bool, backend: Option<Backend>) -> anyhow::Result<Topology> {
    let config = TopologyConfig { path, offloads, ..TopologyConfig::default() };
    let topology = match backend {
        Some(backend) => Topology::raise_with(&config, backend)?,
        None => Topology::raise(&config)?,
    };
    let links = Links::open(topology.client.namespace())?;
    for address in client_addresses().skip(1) {
        links.add_address(ETH0, address, PREFIX_V4)?;
    }
    for host in topology.hosts() {
        sysctl::set(host.namespace(), PARAMETERS)?;
    }
    Ok(topology)
}

/// Lists the client's addresses.
pub fn client_addresses() -> impl Iterator<Item = IpAddr> {
    let [a, b, c, d] = CLIENT.v4.octets();
    (0..CLIENT_ADDRESSES).map(move |index| Ipv4Addr::new(a, b, c, d + index).into())
}

/// A topology with a variant running in it.
#[derive(Debug)]
pub struct Site<'a> {
    /// The hosts.
    pub topology: &'a Topology,
    /// What stands between them.
    pub middle: &'a Middle<'a>,
    /// Which variant that is.
    pub variant: Variant,
    /// The kernel's softirq threads.
    pub softirq: &'a [u32],
    /// Seed of a lossy path: the same for all variants of a round.
    pub dice: u64,
}

impl Site<'_> {
    /// Returns where the server listens.
    pub fn server(&self) -> SocketAddr {
        IpVersion::V4.server()
    }

    /// Returns where the client connects to: the server, or the proxy in its stead.
    pub fn target(&self) -> SocketAddr {
        if self.variant.is_proxy() { IpVersion::V4.client_nic() } else { self.server() }
    }

    /// Reads the processor time used so far by all parties; `endpoints` are processes besides this
    /// one that take part as endpoints.
    ///
    /// # Errors
    /// If a process is gone, which means that it died.
    pub fn usage(&self, endpoints: &[u32]) -> anyhow::Result<Usage> {
        let middle = self.middle.processor_time()?;
        let own = cpu::of_this_process().saturating_sub(self.middle.own_threads_time());
        let mut rest = own + cpu::of_softirq_threads(self.softirq);
        for id in endpoints {
            rest += cpu::of_process(*id)?;
        }
        Ok(Usage { middle, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_addresses_begin_with_its_own_and_avoid_the_nic() {
        let addresses: Vec<_> = client_addresses().collect();
        assert_eq!(addresses.len(), usize::from(CLIENT_ADDRESSES));
        assert_eq!(addresses[0], IpAddr::from(CLIENT.v4));
        assert!(!addresses.contains(&crate::address::CLIENT_NIC_LAN.v4.into()));
        assert!(!addresses.contains(&crate::address::CLIENT_GATE.v4.into()));
    }
}

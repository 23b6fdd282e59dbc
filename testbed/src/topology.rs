//! The four hosts, wired up.
//!
//! Everything is held by descriptors and threads of this process: namespaces, devices and the
//! delay line vanish when the [`Topology`] is dropped and when the process dies, however it dies.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;

use crate::address::{
    CLIENT, CLIENT_LEG, CLIENT_NIC_LAN, CLIENT_NIC_WAN, Dual, ETH0, LAN0, SERVER, SERVER_LEG, SERVER_NIC_LAN,
    SERVER_NIC_WAN, WAN0,
};
use crate::host::Host;
use crate::wan::{self, Backend, End, Wan};

/// How far the measured path RTT may be off: a share of the RTT and a constant for the wake-ups
/// on the way.
const TOLERANCE: (f64, Duration) = (0.02, Duration::from_micros(300));

/// Kernel parameters of every host. `default` is set before devices exist, so they inherit it.
const EVERY_HOST: &[(&str, &str)] = &[
    // Packets that a NIC emits with other hosts' addresses must not be taken for spoofs.
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    // Addresses are usable at once, and no device tells the other about routers.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    // The default maximum caps one flow at 0.5 Gbit/s over 50 ms.
    ("net.ipv4.tcp_rmem", "4096 131072 67108864"),
    ("net.ipv4.tcp_wmem", "4096 65536 67108864"),
    // One connection must not teach the next. The parameter rules TCP over both IP versions.
    ("net.ipv4.tcp_no_metrics_save", "1"),
];

/// Kernel parameters of the NICs besides.
const ROUTERS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
];

/// How the topology is to be raised.
#[derive(Debug, Clone)]
pub struct TopologyConfig {
    /// The long leg.
    pub path: wan::Path,
    /// Whether devices may carry super-packets and partial checksums (TSO, GSO, checksums).
    pub offloads: bool,
    /// Whether the local legs are lines of no delay, too, so that packets on them can be picked.
    pub lines: bool,
    /// MTU of the two local legs in bytes (1,280–65,535).
    pub mtu: u16,
    /// MTU of the long leg in bytes (1,280–65,535).
    pub wan_mtu: u16,
}

impl Default for TopologyConfig {
    /// A clean path of 50 ms, Ethernet's MTU, offloads on as Linux has them.
    fn default() -> Self {
        Self {
            path: wan::Path::with_rtt(Duration::from_millis(50)),
            offloads: true,
            lines: false,
            mtu: 1500,
            wan_mtu: 1500,
        }
    }
}

/// A leg of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Between the client and ClientNIC.
    Client,
    /// Between the NICs.
    Long,
    /// Between ServerNIC and the server.
    Server,
}

impl Leg {
    /// All of them, from client to server.
    pub const ALL: [Self; 3] = [Self::Client, Self::Long, Self::Server];
}

impl std::fmt::Display for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client's leg",
            Self::Long => "long leg",
            Self::Server => "server's leg",
        })
    }
}

/// client – clientnic – WAN – servernic – server. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    // Dropped first: their threads use the hosts' devices.
    wan: Wan,
    local: Option<[Wan; 2]>,
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
    /// Raises the topology, with TAP devices for the long leg if `/dev/net/tun` can be used, else
    /// with packet sockets. Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`
    /// ([`crate::privilege::acquire`]).
    ///
    /// # Errors
    /// A namespace, device, address or route cannot be made; nothing is left behind.
    pub fn raise(config: &TopologyConfig) -> anyhow::Result<Self> {
        let tap = Backend::Tap.is_available();
        Self::raise_with(config, if tap { Backend::Tap } else { Backend::Packet })
    }

    /// Raises the topology with the given kind of long leg.
    ///
    /// # Errors
    /// As [`Topology::raise`], and if the backend cannot be had.
    pub fn raise_with(config: &TopologyConfig, backend: Backend) -> anyhow::Result<Self> {
        let client = Host::create("client")?;
        let client_nic = Host::create("clientnic")?;
        let server_nic = Host::create("servernic")?;
        let server = Host::create("server")?;
        for (host, router) in [(&client, false), (&client_nic, true), (&server_nic, true), (&server, false)] {
            sysctl::set(host.namespace(), EVERY_HOST)?;
            if router {
                sysctl::set(host.namespace(), ROUTERS)?;
            }
        }
        let line = |ends: [(&Host, &'static str); 2], path, mtu| {
            let ends = ends.map(|(host, device)| End { namespace: host.namespace(), device });
            Wan::raise(ends, backend, path, config.offloads, mtu)
        };
        let local = if config.lines {
            let none = wan::Path::with_rtt(Duration::ZERO);
            let near = line([(&client, ETH0), (&client_nic, LAN0)], none, config.mtu)?;
            Some([near, line([(&server_nic, LAN0), (&server, ETH0)], none, config.mtu)?])
        } else {
            join(&client_nic, &client, config)?;
            join(&server_nic, &server, config)?;
            None
        };
        let wan = line([(&client_nic, WAN0), (&server_nic, WAN0)], config.path, config.wan_mtu)?;
        let topology = Self { wan, local, client, client_nic, server_nic, server };
        topology.address()?;
        topology.route()?;
        Ok(topology)
    }

    fn address(&self) -> anyhow::Result<()> {
        let devices = [
            (&self.client, ETH0, CLIENT),
            (&self.client_nic, LAN0, CLIENT_NIC_LAN),
            (&self.client_nic, WAN0, CLIENT_NIC_WAN),
            (&self.server_nic, WAN0, SERVER_NIC_WAN),
            (&self.server_nic, LAN0, SERVER_NIC_LAN),
            (&self.server, ETH0, SERVER),
        ];
        for (host, device, addresses) in devices {
            let links = Links::open(host.namespace())?;
            links.bring_up(device)?;
            for (address, prefix) in addresses.with_prefixes() {
                links.add_address(device, address, prefix)?;
            }
        }
        Ok(())
    }

    fn route(&self) -> anyhow::Result<()> {
        let all = Dual { v4: [0; 4].into(), v6: [0; 16].into() };
        for (host, gateway) in [(&self.client, CLIENT_NIC_LAN), (&self.server, SERVER_NIC_LAN)] {
            let links = Links::open(host.namespace())?;
            links.add_route(all.v4.into(), 0, gateway.v4.into())?;
            links.add_route(all.v6.into(), 0, gateway.v6.into())?;
        }
        let near = Links::open(self.client_nic.namespace())?;
        let far = Links::open(self.server_nic.namespace())?;
        let (near_mac, far_mac) = (near.mac(WAN0)?, far.mac(WAN0)?);
        for (links, leg, gateway, mac) in
            [(near, SERVER_LEG, SERVER_NIC_WAN, far_mac), (far, CLIENT_LEG, CLIENT_NIC_WAN, near_mac)]
        {
            for ((network, prefix), (router, _)) in
                leg.with_prefixes().into_iter().zip(gateway.with_prefixes())
            {
                // A lost ARP request would cost a second and blur what the path does to TCP.
                links.add_neighbour(WAN0, router, mac)?;
                links.add_route(network, prefix, router)?;
            }
        }
        Ok(())
    }

    /// Changes the long leg for packets that enter it from now on.
    pub fn set_path(&self, path: wan::Path) {
        if let Err(error) = self.wan.set_path(path) {
            eprintln!("the long leg keeps its super-packets: {error:#}");
        }
    }

    /// Lends the long leg, for its counters.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// Lends the line of a leg.
    ///
    /// # Errors
    /// It is a local leg and was raised without one ([`TopologyConfig::lines`]).
    pub fn line(&self, leg: Leg) -> anyhow::Result<&Wan> {
        let local = || self.local.as_ref().with_context(|| format!("the {leg} is no line"));
        Ok(match leg {
            Leg::Client => &local()?[0],
            Leg::Long => &self.wan,
            Leg::Server => &local()?[1],
        })
    }

    /// Measures the path RTT between client and server over IPv4, through the kernels' forwarding:
    /// the median of at least eleven UDP datagrams there and back.
    ///
    /// # Errors
    /// Too few ICMP echoes come back within three seconds.
    pub fn measure_rtt(&self) -> anyhow::Result<Duration> {
        self.measure_rtt_to(SERVER.v4.into())
    }

    /// As [`Topology::measure_rtt`], to another address of the server.
    ///
    /// # Errors
    /// As [`Topology::measure_rtt`].
    pub fn measure_rtt_to(&self, address: IpAddr) -> anyhow::Result<Duration> {
        wan::measure_rtt(&self.client, address)
    }

    /// Measures the path RTT and returns it.
    ///
    /// # Errors
    /// It is off `rtt` by more than 2 % + 0.3 ms, three times in a row; or it cannot be measured.
    pub fn verify_rtt(&self, rtt: Duration) -> anyhow::Result<Duration> {
        self.verify_rtt_to(SERVER.v4.into(), rtt)
    }

    /// As [`Topology::verify_rtt`], to another address of the server.
    ///
    /// # Errors
    /// As [`Topology::verify_rtt`].
    pub fn verify_rtt_to(&self, address: IpAddr, rtt: Duration) -> anyhow::Result<Duration> {
        let tolerance = rtt.mul_f64(TOLERANCE.0) + TOLERANCE.1;
        let mut measured = Duration::ZERO;
        // Another program may have had the processor for a moment.
        for _ in 0..3 {
            measured = self.measure_rtt_to(address)?;
            if measured.abs_diff(rtt) <= tolerance {
                return Ok(measured);
            }
        }
        bail!(
            "the path RTT is {measured:.2?} instead of {rtt:.2?} (tolerance {tolerance:.2?}): \
             is the machine busy with something else?"
        )
    }

    /// Lists the six devices on the path, from client to server, each with its host.
    pub fn devices(&self) -> [(&Host, &'static str); 6] {
        [
            (&self.client, ETH0),
            (&self.client_nic, LAN0),
            (&self.client_nic, WAN0),
            (&self.server_nic, WAN0),
            (&self.server_nic, LAN0),
            (&self.server, ETH0),
        ]
    }

    /// Lists the hosts from client to server.
    pub fn hosts(&self) -> [&Host; 4] {
        [&self.client, &self.client_nic, &self.server_nic, &self.server]
    }
}

/// Makes a local leg: `lan0` of a NIC and `eth0` of its endpoint.
fn join(nic: &Host, endpoint: &Host, config: &TopologyConfig) -> anyhow::Result<()> {
    let near = VethEnd { namespace: nic.namespace(), name: LAN0 };
    let far = VethEnd { namespace: endpoint.namespace(), name: ETH0 };
    Links::add_veth(near, far, config.mtu.into())?;
    if !config.offloads {
        for (host, device) in [(nic, LAN0), (endpoint, ETH0)] {
            host.enter(|| switch_off_offloads(device))?
                .with_context(|| format!("cannot switch off the offloads of {device} on {}", host.name()))?;
        }
    }
    Ok(())
}

/// Makes every packet on `device` a single segment with a full checksum.
fn switch_off_offloads(device: &str) -> std::io::Result<()> {
    // Veth cannot switch off the verification of received checksums.
    let rx_checksum = offload::read(device)?.rx_checksum;
    offload::write(device, Offloads { rx_checksum, ..Offloads::NONE })
}

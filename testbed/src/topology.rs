//! The four hosts, wired up.
//!
//! Everything is held by descriptors and threads of this process: namespaces, devices and the
//! delay line vanish when the [`Topology`] is dropped and when the process dies, however it dies.

mod gate;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;

use crate::address::{
    CLIENT, CLIENT_GATE, CLIENT_LEG, CLIENT_NIC_LAN, CLIENT_NIC_WAN, Dual, ETH0, LAN0, SERVER, SERVER_GATE,
    SERVER_LEG, SERVER_NIC_LAN, SERVER_NIC_WAN, WAN0,
};
use crate::host::Host;
use crate::wan::{self, Backend, End, Wan};

/// How far the measured path RTT should be off at most: a share of the RTT and a constant for the
/// wake-ups on the way.
const TOLERANCE: (f64, Duration) = (0.02, Duration::from_micros(300));

/// What share of the RTT a busy machine may add to it.
const LATE: f64 = 0.25;

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
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
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
    /// How the hosts are joined.
    pub wiring: Wiring,
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
            wiring: Wiring::Direct,
            mtu: 1500,
            wan_mtu: 1500,
        }
    }
}

/// How endpoints and NICs are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Each endpoint by a veth pair to its NIC, which stands between it and the long leg.
    Direct,
    /// Likewise, but the local legs are lines of no delay, so that packets on them can be picked.
    Lines,
    /// A NIC has a single device. Each side has a switch and, between it and the long leg, a gateway:
    /// routes alone lead packets through the NIC.
    ///
    /// ```text
    /// client ──┐                                   ┌── server
    ///        switch–gateway ══ long leg ══ gateway–switch
    /// clientnic ─┘                                 └── servernic
    /// ```
    OneArmed,
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
    /// Gateways of the client's and the server's side, with [`Wiring::OneArmed`].
    pub gates: Option<[Host; 2]>,
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
        for host in [&client, &client_nic, &server_nic, &server] {
            sysctl::set(host.namespace(), EVERY_HOST)?;
        }
        for router in [&client_nic, &server_nic] {
            sysctl::set(router.namespace(), ROUTERS)?;
        }
        let gates = match config.wiring {
            Wiring::OneArmed => Some([gate::create("clientgate")?, gate::create("servergate")?]),
            Wiring::Direct | Wiring::Lines => None,
        };
        let line = |ends: [(&Host, &'static str); 2], path, mtu| {
            let ends = ends.map(|(host, device)| End { namespace: host.namespace(), device });
            Wan::raise(ends, backend, path, config.offloads, mtu)
        };
        let sides = [(&client, &client_nic), (&server, &server_nic)];
        let mut local = None;
        match (config.wiring, &gates) {
            (Wiring::Lines, _) => {
                let none = wan::Path::with_rtt(Duration::ZERO);
                let near = line([(&client, ETH0), (&client_nic, LAN0)], none, config.mtu)?;
                local = Some([near, line([(&server_nic, LAN0), (&server, ETH0)], none, config.mtu)?]);
            }
            (_, Some(gates)) => {
                for ((endpoint, nic), gate) in sides.into_iter().zip(gates) {
                    gate::join_to(gate, endpoint, nic, config)?;
                }
            }
            (_, None) => {
                for (endpoint, nic) in sides {
                    join((nic, LAN0), (endpoint, ETH0), config)?;
                }
            }
        }
        let [near, far] = gates.as_ref().map_or([&client_nic, &server_nic], |[near, far]| [near, far]);
        let wan = line([(near, WAN0), (far, WAN0)], config.path, config.wan_mtu)?;
        let topology = Self { wan, local, gates, client, client_nic, server_nic, server };
        topology.address()?;
        topology.route()?;
        Ok(topology)
    }

    /// Returns the hosts at the two ends of the long leg.
    fn brinks(&self) -> [&Host; 2] {
        self.gates.as_ref().map_or([&self.client_nic, &self.server_nic], |[near, far]| [near, far])
    }

    fn address(&self) -> anyhow::Result<()> {
        let [near, far] = self.brinks();
        let devices = [
            (&self.client, ETH0, CLIENT),
            (&self.client_nic, LAN0, CLIENT_NIC_LAN),
            (near, WAN0, CLIENT_NIC_WAN),
            (far, WAN0, SERVER_NIC_WAN),
            (&self.server_nic, LAN0, SERVER_NIC_LAN),
            (&self.server, ETH0, SERVER),
        ];
        for (host, device, addresses) in devices {
            assign(host, device, addresses)?;
        }
        Ok(())
    }

    fn route(&self) -> anyhow::Result<()> {
        for (host, gateway) in [(&self.client, CLIENT_NIC_LAN), (&self.server, SERVER_NIC_LAN)] {
            route_all(host, gateway)?;
        }
        let [near, far] = self.brinks().map(|host| Links::open(host.namespace()));
        let (near, far) = (near?, far?);
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
        if let Some([near, far]) = &self.gates {
            gate::route(near, &self.client_nic, CLIENT_GATE, (CLIENT, CLIENT_NIC_LAN))?;
            gate::route(far, &self.server_nic, SERVER_GATE, (SERVER, SERVER_NIC_LAN))?;
        }
        Ok(())
    }

    /// Joins the client to its NIC again, whose device has been removed, as they were joined with [`Wiring::Direct`].
    ///
    /// # Errors
    /// If a device, address or route can't be made.
    pub fn rejoin_client(&self) -> anyhow::Result<()> {
        join((&self.client_nic, LAN0), (&self.client, ETH0), &TopologyConfig::default())?;
        assign(&self.client_nic, LAN0, CLIENT_NIC_LAN)?;
        assign(&self.client, ETH0, CLIENT)?;
        route_all(&self.client, CLIENT_NIC_LAN)
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
    /// It is a local leg and was raised without one ([`Wiring::Lines`]).
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

    /// Measures the path RTT and returns it: nearly `rtt`, or up to a quarter more where the machine is
    /// busy with something else for ten seconds.
    ///
    /// # Errors
    /// It is shorter than `rtt` by more than 2 % + 0.3 ms, or longer by more than a quarter besides;
    /// or it cannot be measured.
    pub fn verify_rtt(&self, rtt: Duration) -> anyhow::Result<Duration> {
        self.verify_rtt_to(SERVER.v4.into(), rtt)
    }

    /// As [`Topology::verify_rtt`], to another address of the server.
    ///
    /// # Errors
    /// As [`Topology::verify_rtt`].
    pub fn verify_rtt_to(&self, address: IpAddr, rtt: Duration) -> anyhow::Result<Duration> {
        let tolerance = rtt.mul_f64(TOLERANCE.0) + TOLERANCE.1;
        let mut shortest = Duration::MAX;
        // Another program, or another guest of this machine's, may have the processor for a while.
        for _ in 0..10 {
            let measured = self.measure_rtt_to(address)?;
            if measured.abs_diff(rtt) <= tolerance {
                return Ok(measured);
            }
            shortest = shortest.min(measured);
            std::thread::sleep(Duration::from_secs(1));
        }
        let longest = rtt.mul_f64(1.0 + LATE) + tolerance;
        ensure!(
            (rtt.saturating_sub(tolerance)..=longest).contains(&shortest),
            "the path RTT is {shortest:.2?} instead of {rtt:.2?} (at most {longest:.2?}): \
             is the machine busy with something else?"
        );
        Ok(shortest)
    }

    /// Lists the six devices on the path, from client to server, each with its host.
    pub fn devices(&self) -> [(&Host, &'static str); 6] {
        let [near, far] = self.brinks();
        [
            (&self.client, ETH0),
            (&self.client_nic, LAN0),
            (near, WAN0),
            (far, WAN0),
            (&self.server_nic, LAN0),
            (&self.server, ETH0),
        ]
    }

    /// Lists the hosts from client to server.
    pub fn hosts(&self) -> [&Host; 4] {
        [&self.client, &self.client_nic, &self.server_nic, &self.server]
    }
}

/// Gives a device its addresses and brings it up.
fn assign(host: &Host, device: &str, addresses: Dual) -> anyhow::Result<()> {
    let links = Links::open(host.namespace())?;
    links.bring_up(device)?;
    for (address, prefix) in addresses.with_prefixes() {
        links.add_address(device, address, prefix)?;
    }
    Ok(())
}

/// Gives a host its default routes.
fn route_all(host: &Host, gateway: Dual) -> anyhow::Result<()> {
    let links = Links::open(host.namespace())?;
    links.add_route([0; 4].into(), 0, gateway.v4.into())?;
    links.add_route([0; 16].into(), 0, gateway.v6.into())?;
    Ok(())
}

/// Makes a cable between two hosts.
fn join(near: (&Host, &str), far: (&Host, &str), config: &TopologyConfig) -> anyhow::Result<()> {
    Links::add_veth(veth(near), veth(far), config.mtu.into())?;
    if !config.offloads {
        for (host, device) in [near, far] {
            host.enter(|| switch_off_offloads(device))?
                .with_context(|| format!("cannot switch off the offloads of {device} on {}", host.name()))?;
        }
    }
    Ok(())
}

fn veth<'a>((host, name): (&'a Host, &'a str)) -> VethEnd<'a> {
    VethEnd { namespace: host.namespace(), name }
}

/// Makes every packet on `device` a single segment with a full checksum.
fn switch_off_offloads(device: &str) -> std::io::Result<()> {
    // Veth cannot switch off the verification of received checksums.
    let rx_checksum = offload::read(device)?.rx_checksum;
    offload::write(device, Offloads { rx_checksum, ..Offloads::NONE })
}

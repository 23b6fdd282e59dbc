//! Where the mirror runs.
//!
//! ```text
//!  source ──────────── in0  box  out0 ──────────── analyser
//!  src0 10.50.0.2   10.50.0.1    10.70.0.1      ana0 10.70.0.2
//!                        else0                       172.30.82.95, fd82::95
//!                      10.60.0.1 ◄─ default route
//!                          │
//!                      elsewhere, far0 10.60.0.2
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;

use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;

/// The box's address at its mirrored side: where the tunnels end.
pub const TUNNEL_END: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// The same over IPv6.
pub const TUNNEL_END_6: Ipv6Addr = Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 1);
/// The analyser.
pub const ANALYSER: Ipv4Addr = Ipv4Addr::new(172, 30, 82, 95);
/// The same over IPv6.
pub const ANALYSER_6: Ipv6Addr = Ipv6Addr::new(0xfd82, 0, 0, 0, 0, 0, 0, 0x95);
/// The network behind the egress, and its router.
pub const BEHIND: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(172, 30, 82, 0)), 24);
/// The next hop of [`BEHIND`].
pub const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 70, 0, 2));
/// The next hop of the default route, on a link where nothing of the mirror has to be.
pub const WRONG_ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 60, 0, 2));

/// The four namespaces and what joins them. All goes when this is dropped.
pub struct Site {
    pub source: Namespace,
    pub middle: Namespace,
    pub analyser: Namespace,
    pub elsewhere: Namespace,
}

impl Site {
    /// Makes it; `None`, with a word on why, if that needs privileges this process lacks.
    pub fn new() -> Option<Self> {
        Self::of_queues(1)
    }

    /// As [`Site::new`]; packets arrive at `in0` by so many queues, each by that of its flow.
    pub fn of_queues(queues: u32) -> Option<Self> {
        match namespace() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                None
            }
            source => Some(Self::of(source.unwrap(), queues)),
        }
    }

    fn of(source: Namespace, queues: u32) -> Self {
        let [middle, analyser, elsewhere] = std::array::from_fn(|_| namespace().unwrap());
        let site = Self { source, middle, analyser, elsewhere };
        // What the tunnel adds to 1500 bytes has room.
        join((&site.source, "src0"), (&site.middle, "in0"), 1600, queues);
        join((&site.middle, "out0"), (&site.analyser, "ana0"), 1500, 1);
        join((&site.middle, "else0"), (&site.elsewhere, "far0"), 1500, 1);
        let links = |namespace| Links::open(namespace).unwrap();
        let (source, middle) = (links(&site.source), links(&site.middle));
        let (analyser, elsewhere) = (links(&site.analyser), links(&site.elsewhere));
        let ends = [
            ((&source, "src0", "10.50.0.2", "fd50::2"), (&middle, "in0", "10.50.0.1", "fd50::1")),
            ((&middle, "out0", "10.70.0.1", "fd70::1"), (&analyser, "ana0", "10.70.0.2", "fd70::2")),
            ((&middle, "else0", "10.60.0.1", "fd60::1"), (&elsewhere, "far0", "10.60.0.2", "fd60::2")),
        ];
        for (near, far) in ends {
            for (own, other) in [(near, far), (far, near)] {
                own.0.add_address(own.1, own.2.parse().unwrap(), 24).unwrap();
                own.0.add_address(own.1, own.3.parse().unwrap(), 64).unwrap();
                // Nobody has to be asked who is who: nothing is lost before the answer.
                let mac = other.0.mac(other.1).unwrap();
                own.0.add_neighbour(own.1, other.2.parse().unwrap(), mac).unwrap();
                own.0.add_neighbour(own.1, other.3.parse().unwrap(), mac).unwrap();
            }
        }
        analyser.add_address("ana0", ANALYSER.into(), 32).unwrap();
        analyser.add_address("ana0", ANALYSER_6.into(), 128).unwrap();
        middle.add_route(BEHIND.0, BEHIND.1, ROUTER).unwrap();
        middle.add_route(ANALYSER_6.into(), 128, "fd70::2".parse().unwrap()).unwrap();
        middle.add_route("0.0.0.0".parse().unwrap(), 0, WRONG_ROUTER).unwrap();
        middle.add_route("::".parse().unwrap(), 0, "fd60::2".parse().unwrap()).unwrap();
        // Sources are on no route of the analyser's: it has to take them all the same, as the field's does.
        analyser.add_route("0.0.0.0".parse().unwrap(), 0, "10.70.0.1".parse().unwrap()).unwrap();
        analyser.add_route("::".parse().unwrap(), 0, "fd70::1".parse().unwrap()).unwrap();
        site
    }

    /// A socket that sends to the tunnels' end at `port`, at the source.
    pub fn tunnel(&self, port: u16) -> UdpSocket {
        let open = || {
            let socket = UdpSocket::bind("10.50.0.2:0").unwrap();
            socket.connect((TUNNEL_END, port)).unwrap();
            socket
        };
        self.source.enter(open).unwrap()
    }

    /// As [`Site::tunnel`], over IPv6.
    pub fn tunnel_6(&self, port: u16) -> UdpSocket {
        let open = || {
            let socket = UdpSocket::bind("[fd50::2]:0").unwrap();
            socket.connect((TUNNEL_END_6, port)).unwrap();
            socket
        };
        self.source.enter(open).unwrap()
    }
}

/// Runs a program in `namespace`; `None` if it isn't installed, or failed (a word says which).
pub fn ran(namespace: &Namespace, program: &str, arguments: &str) -> Option<String> {
    let run = || Command::new(program).args(arguments.split_whitespace()).output();
    match namespace.enter(run).unwrap() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            println!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) => {
            println!("{program}: {error}");
            None
        }
    }
}

fn namespace() -> io::Result<Namespace> {
    let namespace = Namespace::create()?;
    let parameters = [
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv6.conf.all.accept_dad", "0"),
        ("net.ipv6.conf.default.router_solicitations", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
    ];
    sysctl::set(&namespace, &parameters).map_err(io::Error::other)?;
    Ok(namespace)
}

/// Joins two namespaces by a veth pair that is up, and leaves nothing to offloads: what one end sends is on the wire as the
/// other sees it, checksums included, as from a real link.
fn join(near: (&Namespace, &str), far: (&Namespace, &str), mtu: u32, queues: u32) {
    let end = |(namespace, name)| VethEnd { namespace, name };
    Links::add_veth_of_queues(end(near), end(far), mtu, queues).unwrap();
    for (namespace, name) in [near, far] {
        namespace.enter(|| offload::write(name, Offloads::NONE)).unwrap().unwrap();
        Links::open(namespace).unwrap().bring_up(name).unwrap();
    }
    for (namespace, name) in [near, far] {
        // The kernel notices the carrier up to a second late, and drops what is sent until then.
        let running = || {
            let links = pnet_datalink::interfaces();
            links.iter().any(|link| link.name == name && link.is_running())
        };
        super::eventually("the link must come up", || namespace.enter(running).unwrap().then_some(()));
    }
}

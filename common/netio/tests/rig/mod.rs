//! Namespaces joined by veth pairs, made by each test for itself.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use pnet_datalink::{Channel, DataLinkReceiver, DataLinkSender};
use rtt0_core::gateway::age;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::{Direction, Services};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::segment::{Endpoint, Segment};
use rtt0_netio::capture::Capture;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::fast_path::{KernelOffload, OffloadOptions};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::sysctl;

/// Makes `N` namespaces with IPv6 duplicate address detection off; `None`, with a word on why,
/// if that needs privileges this process lacks.
pub fn namespaces<const N: usize>() -> Option<[Namespace; N]> {
    let create = || {
        let namespace = Namespace::create()?;
        let parameters = [
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
        ];
        sysctl::set(&namespace, &parameters).map_err(io::Error::other)?;
        Ok::<_, io::Error>(namespace)
    };
    match create() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            None
        }
        first => {
            let mut first = Some(first.unwrap());
            Some(std::array::from_fn(|_| first.take().unwrap_or_else(|| create().unwrap())))
        }
    }
}

/// One end of a cable.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub namespace: &'a Namespace,
    pub link: &'a str,
    pub v4: [u8; 4],
    pub v6: &'a str,
}

/// Joins two ends by a veth pair, gives them their addresses (/24, /64) and brings them up.
pub fn join(near: End<'_>, far: End<'_>, mtu: u32) {
    join_by_queues(near, far, mtu, 1);
}

/// As [`join`], each end with so many queues either way.
pub fn join_by_queues(near: End<'_>, far: End<'_>, mtu: u32, queues: u32) {
    Links::add_veth_of_queues(
        VethEnd { namespace: near.namespace, name: near.link },
        VethEnd { namespace: far.namespace, name: far.link },
        mtu,
        queues,
    )
    .unwrap();
    for end in [near, far] {
        let links = Links::open(end.namespace).unwrap();
        links.bring_up(end.link).unwrap();
        links.add_address(end.link, end.v4.into(), 24).unwrap();
        links.add_address(end.link, end.v6.parse().unwrap(), 64).unwrap();
    }
    for end in [near, far] {
        // The kernel notices the carrier up to a second late, and drops what is sent until then.
        let running = || {
            let links = pnet_datalink::interfaces();
            links.iter().any(|link| link.name == end.link && link.is_running())
        };
        eventually("the link must come up", || end.namespace.enter(running).unwrap().then_some(()));
    }
}

/// Adds routes to the networks of `destination` through `gateway`.
pub fn route(namespace: &Namespace, destination: End<'_>, gateway: End<'_>) {
    let links = Links::open(namespace).unwrap();
    let [a, b, c, _] = destination.v4;
    links.add_route([a, b, c, 0].into(), 24, gateway.v4.into()).unwrap();
    let v6: std::net::Ipv6Addr = destination.v6.parse().unwrap();
    let network = std::net::Ipv6Addr::from(u128::from(v6) & (!0 << 64));
    links.add_route(network.into(), 64, gateway.v6.parse::<IpAddr>().unwrap()).unwrap();
}

/// A way to put frames on a link as they are.
pub fn frame_sender(namespace: &Namespace, link: &str) -> Box<dyn DataLinkSender> {
    let open = || {
        let links = pnet_datalink::interfaces();
        let link = links.into_iter().find(|candidate| candidate.name == link).unwrap();
        match pnet_datalink::channel(&link, pnet_datalink::Config::default()).unwrap() {
            Channel::Ethernet(sender, _) => sender,
            _ => unreachable!("an AF_PACKET channel is an Ethernet channel"),
        }
    };
    namespace.enter(open).unwrap()
}

/// Tells whether this process is root in a user namespace only.
pub fn is_in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What comes to a link, frame by frame; waits for 100 ms at most.
pub fn frame_receiver(namespace: &Namespace, link: &str) -> Box<dyn DataLinkReceiver> {
    let open = || {
        let link = pnet_datalink::interfaces().into_iter().find(|found| found.name == link).unwrap();
        let timeout = Some(Duration::from_millis(100));
        let config = pnet_datalink::Config { read_timeout: timeout, ..Default::default() };
        match pnet_datalink::channel(&link, config).unwrap() {
            Channel::Ethernet(_, receiver) => receiver,
            _ => unreachable!("an AF_PACKET channel is an Ethernet channel"),
        }
    };
    namespace.enter(open).unwrap()
}

/// Calls `attempt` until it gives something; fails the test after ten seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The hosts on both sides of a router: 10.8.0.1 and fd08::1, the client; 10.9.0.1 and fd09::1, the server.
pub struct Hosts {
    pub client: Host,
    pub server: Host,
}

/// A host that sends and receives frames.
pub struct Host {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    /// Its own, and the router's on its side.
    pub mac: [u8; 6],
    router: [u8; 6],
}

/// The router's interfaces, towards the client and towards the server.
pub const ROUTER: [&str; 2] = ["lan0", "wan0"];

/// Runs `test` on a router between two hosts; not at all, with a word on why, without the privileges that takes.
pub fn on_router(test: impl FnOnce(Hosts) + Send) {
    let Some([left, router, right]) = namespaces() else { return };
    let client = End { namespace: &left, link: "client0", v4: [10, 8, 0, 1], v6: "fd08::1" };
    let lan = End { namespace: &router, link: ROUTER[0], v4: [10, 8, 0, 9], v6: "fd08::9" };
    let wan = End { namespace: &router, link: ROUTER[1], v4: [10, 9, 0, 9], v6: "fd09::9" };
    let server = End { namespace: &right, link: "server0", v4: [10, 9, 0, 1], v6: "fd09::1" };
    join(client, lan, 1500);
    join(wan, server, 1500);
    sysctl::set(&router, &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]).unwrap();
    let mac = |end: End<'_>| Links::open(end.namespace).unwrap().mac(end.link).unwrap();
    let host = |end: End<'_>, router| Host {
        sender: frame_sender(end.namespace, end.link),
        receiver: frame_receiver(end.namespace, end.link),
        mac: mac(end),
        router: mac(router),
    };
    let hosts = Hosts { client: host(client, lan), server: host(server, wan) };
    std::thread::scope(|scope| scope.spawn(|| router.enter(|| test(hosts)).unwrap()).join().unwrap());
}

/// Starts the kernel's programs; `None`, with a word on why, if that needs privileges this process lacks.
pub fn start(options: &OffloadOptions<'_>) -> Option<KernelOffload> {
    match KernelOffload::start(options) {
        Err(error) if !rustix::process::geteuid().is_root() || is_in_user_namespace() => {
            println!("SKIPPED: BPF needs root: {error}");
            None
        }
        started => Some(started.unwrap()),
    }
}

impl Host {
    /// Sends a packet to the router.
    pub fn send(&mut self, packet: &[u8]) {
        let mut frame = [self.router, self.mac].concat();
        frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(packet);
        self.sender.send_to(&frame, None).unwrap().unwrap();
    }

    /// Returns the next frame, of whatever kind.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        self.receiver.next().ok().map(<[u8]>::to_vec)
    }

    /// Returns the next TCP segment that comes here, if there is one soon: to the client's `port`, or from there to the server.
    pub fn arrived(&mut self, to: Direction, port: u16) -> Option<Vec<u8>> {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            let Some(frame) = self.frame() else { continue };
            let mut bytes = frame[14..].to_vec();
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            let Ok(segment) = Segment::parse(&mut packet) else { continue };
            // What leaves is seen, too.
            let client = if to == Direction::ToClient { segment.destination() } else { segment.source() };
            if client.1 == port {
                return Some(bytes);
            }
        }
        None
    }
}

/// Tells whether the daemon has got a TCP segment from or to this port.
pub fn has_captured(capture: &mut Capture, port: u16) -> bool {
    capture.receive(&IoCounters::default());
    let captured = (0..).map_while(|index| capture.packet(index));
    let mut found = captured.map(|(bytes, _)| {
        let at = if bytes[0] >> 4 == 6 { 40 } else { 20 };
        [at, at + 2].map(|at| u16::from_be_bytes([bytes[at], bytes[at + 1]])).contains(&port)
    });
    let found = found.any(|is_found| is_found);
    capture.release();
    found
}

/// Writes a segment whose IP header has whatever a sender may put there.
pub fn any_packet(control: Control, options: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut packet = Vec::new();
    control.write(options, &mut packet);
    if control.source.0.is_ipv6() {
        packet[1..4].copy_from_slice(&[random.u8(..) & 0xf0, random.u8(..), random.u8(..)]);
        packet[7] = random.u8(2..);
    } else {
        packet[1] = random.u8(..);
        packet[4..6].copy_from_slice(&random.u16(..).to_be_bytes());
        packet[8] = random.u8(2..);
        Ipv4::unverified(&mut packet[..]).unwrap().fill_checksum();
    }
    packet
}

/// The client's address.
pub fn client(is_v6: bool) -> IpAddr {
    if is_v6 { "fd08::1" } else { "10.8.0.1" }.parse().unwrap()
}

/// The server's end.
pub fn server(is_v6: bool) -> Endpoint {
    (if is_v6 { "fd09::1" } else { "10.9.0.1" }.parse().unwrap(), 443)
}

/// A port of the client's that is served, too, in [`services`].
const SERVED_CLIENT: &str = "10.8.0.1:39999";

/// The server's ends, and [`SERVED_CLIENT`].
pub fn services() -> Services {
    let rules = ["10.9.0.1:443", "[fd09::1]:443", SERVED_CLIENT];
    Services::new(rules.map(|rule| rule.parse().unwrap()).to_vec(), Vec::new())
}

/// Has the kernel ask for the link-layer addresses of these.
pub fn meet(ends: [&str; 2]) {
    for to in ends {
        let from = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        UdpSocket::bind(from).unwrap().send_to(b"who are you?", to).unwrap();
    }
}

/// What a router makes of a packet.
pub fn aged(mut packet: Vec<u8>) -> Vec<u8> {
    assert!(age(&mut packet));
    packet
}

//! What the kernel's programs do with real packets: who has them while a flow is handed over, and by which way they
//! leave. Needs root: a user namespace may not load BPF.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod rig;

use std::net::IpAddr;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use rig::{Host, Hosts, ROUTER, eventually, on_router, start};
use rtnetlink::RouteMessageBuilder;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{FastPath, Offloaded, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::seq::Seq;
use rtt0_core::service::{Direction, Services};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::clock;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Way;
use rtt0_netio::fast_path::{Attach, KernelOffload, OffloadOptions};
use rtt0_netio::links::Links;

const WORKER: u8 = 3;

/// A router between two hosts.
struct Bench {
    kernel: KernelOffload,
    capture: Capture,
    client: Host,
    server: Host,
}

fn run(test: impl FnOnce(Bench) + Send) {
    run_with(None, test);
}

fn run_with(outlet: Option<Way>, test: impl FnOnce(Bench) + Send) {
    on_router(|Hosts { client, server }| {
        let services = services();
        let started = start(&OffloadOptions {
            interfaces: &ROUTER.map(str::to_owned),
            services: &services,
            largest: 1500,
            flows: 10,
            pins: None,
            attach: Attach::Auto,
            outlet,
            handshakes: None,
        });
        let Some(kernel) = started else { return };
        let options = CaptureOptions { sent: true, ..CaptureOptions::default() };
        let capture = Capture::open(kernel.outlet(), &services, &options).unwrap();
        test(Bench { kernel, capture, client, server });
    });
}

fn services() -> Services {
    Services::new(vec!["10.9.0.1:443".parse().unwrap(), "[fd09::1]:443".parse().unwrap()], Vec::new())
}

/// Returns how many IPv4 and IPv6 packets the kernel has forwarded in this namespace.
fn forwarded() -> [u64; 2] {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut ip = snmp.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
    let v4 = names.zip(values).find(|(name, _)| *name == "ForwDatagrams").unwrap().1;
    let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let v6 = snmp6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap().trim();
    [v4, v6].map(|count| count.parse().unwrap())
}

fn ends(is_v6: bool) -> [(IpAddr, u16); 2] {
    let (client, server) = if is_v6 { ("fd08::1", "fd09::1") } else { ("10.8.0.1", "10.9.0.1") };
    [(client.parse().unwrap(), 40_000), (server.parse().unwrap(), 443)]
}

fn flow(is_v6: bool) -> Offloaded {
    let [client, server] = ends(is_v6);
    Offloaded::passing(FlowKey::new(client, server, Direction::ToServer), Seq::new(1), Seq::new(2))
}

fn segment(is_v6: bool) -> Vec<u8> {
    let [source, destination] = ends(is_v6);
    let mut packet = Vec::new();
    let flags = Flags::ACK;
    Control { source, destination, sequence: 2, acknowledgement: 9, flags, window: 500 }
        .write(&[], &mut packet);
    if !is_v6 {
        Ipv4::unverified(&mut packet[..]).unwrap().fill_checksum();
    }
    packet
}

/// A reset of it.
fn reset() -> Vec<u8> {
    let mut packet = segment(false);
    packet[33] = Flags::RST.bits() as u8;
    packet
}

/// The same, with data.
fn data(is_v6: bool) -> Vec<u8> {
    let mut packet = segment(is_v6);
    packet.extend(b"GET /");
    let length = packet.len() as u16;
    if is_v6 {
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    } else {
        Ipv4::unverified(&mut packet[..]).unwrap().set_total_length(length);
    }
    let mut whole = Packet { bytes: &mut packet, offload: Offload::default() };
    Segment::parse(&mut whole).unwrap().fill_checksum();
    packet
}

impl Bench {
    fn send(&mut self, is_v6: bool) {
        self.client.send(&segment(is_v6));
    }

    /// Returns how many segments of the flow the kernel has taken.
    fn taken(&self, flow: &Offloaded) -> u64 {
        self.kernel.path(None).unwrap().look(&flow.key).map_or(0, |progress| progress.to_server.packets)
    }

    /// Sends a segment of the flow; returns who has it.
    fn send_and_see(&mut self, flow: &Offloaded) -> Who {
        self.send_packet_and_see(flow, &segment(false))
    }

    /// Returns the next frame with a segment that arrives at the server.
    fn arrived(&mut self) -> Vec<u8> {
        eventually("a segment arrives", || {
            let frame = self.server.frame()?;
            let transport = SlicedPacket::from_ethernet(&frame).ok()?.transport;
            matches!(transport, Some(TransportSlice::Tcp(_))).then_some(frame)
        })
    }

    fn send_packet_and_see(&mut self, flow: &Offloaded, packet: &[u8]) -> Who {
        let before = self.taken(flow);
        self.client.send(packet);
        eventually("the worker or the kernel takes the segment", || {
            self.capture.receive(&IoCounters::default());
            let is_captured = self.capture.packet(0).is_some();
            let is_taken = self.taken(flow) > before;
            assert!(!(is_captured && is_taken), "both have it");
            is_captured.then_some(Who::Worker).or(is_taken.then_some(Who::Kernel))
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Worker,
    Kernel,
}

#[test]
fn what_a_worker_may_have_queued_is_not_overtaken() {
    run(|mut bench| {
        let flow = flow(false);
        let [served, another] =
            [WORKER, WORKER + 1].map(|worker| bench.kernel.served(worker.into()).unwrap());
        let mut path = bench.kernel.path(Some(WORKER)).unwrap();
        // On a busy machine it may take longer than the kernel waits at all.
        for _ in 0..50 {
            let before = clock::now();
            served.tell(before);
            std::thread::sleep(Duration::from_millis(1));
            let not_handed = bench.send_and_see(&flow);
            assert!(path.hand(&flow, Queued::BothWays));
            let not_caught_up = bench.send_and_see(&flow);
            another.tell(clock::now() + Duration::from_secs(1));
            let by_another_worker = bench.send_and_see(&flow);
            served.tell(before);
            let long_ago = bench.send_and_see(&flow);
            if clock::now() - before > Duration::from_millis(150) {
                path.recall(&flow.key);
                continue;
            }
            let by_worker = [not_handed, not_caught_up, by_another_worker, long_ago];
            assert!(by_worker.iter().all(|who| *who == Who::Worker), "{by_worker:?}");
            std::thread::sleep(Duration::from_millis(1));
            served.tell(clock::now());
            assert_eq!([(); 3].map(|()| bench.send_and_see(&flow)), [Who::Kernel, Who::Kernel, Who::Kernel]);
            return;
        }
        panic!("the machine is too busy");
    });
}

#[test]
fn what_follows_a_reset_is_the_worker_s_until_it_has_judged() {
    run(|mut bench| {
        let flow = flow(false);
        let served = bench.kernel.served(WORKER.into()).unwrap();
        // On a busy machine it may take longer than the kernel waits at all.
        for _ in 0..50 {
            assert!(bench.kernel.path(Some(WORKER)).unwrap().hand(&flow, Queued::Nothing));
            let before = bench.send_and_see(&flow);
            let began = clock::now();
            let by_worker = [bench.send_packet_and_see(&flow, &reset()), bench.send_and_see(&flow)];
            if clock::now() - began > Duration::from_millis(150) {
                continue;
            }
            assert_eq!((before, by_worker), (Who::Kernel, [Who::Worker, Who::Worker]));
            std::thread::sleep(Duration::from_millis(1));
            served.tell(clock::now());
            assert_eq!(bench.send_and_see(&flow), Who::Kernel, "it has judged, and left the flow here");
            return;
        }
        panic!("the machine is too busy");
    });
}

#[test]
fn a_worker_gets_packets_as_they_came() {
    for way in [Way::Tun, Way::Veth] {
        run_with(Some(way), |mut bench| {
            for is_v6 in [false, true] {
                bench.send(is_v6);
                eventually("it is captured", || {
                    bench.capture.receive(&IoCounters::default());
                    let (packet, offload) = bench.capture.packet(0)?;
                    assert_eq!((packet, offload), (&segment(is_v6)[..], Offload::default()));
                    Some(())
                });
            }
        });
    }
}

#[test]
fn a_worker_that_never_catches_up_is_not_waited_for_forever() {
    run(|mut bench| {
        let flow = flow(false);
        assert!(bench.kernel.path(Some(WORKER)).unwrap().hand(&flow, Queued::BothWays));
        eventually("the kernel goes on by itself", || {
            (bench.send_and_see(&flow) == Who::Kernel).then_some(())
        });
    });
}

/// Returns a packet with another hop limit.
fn with_hop_limit(mut packet: Vec<u8>, limit: u8) -> Vec<u8> {
    match Ipv4::unverified(&mut packet[..]) {
        Ok(mut ip) => ip.set_ttl(limit),
        Err(_) => packet[7] = limit,
    }
    packet
}

#[test]
fn of_early_data_the_worker_gets_a_copy_without_hop_limit() {
    run(|mut bench| {
        for is_v6 in [false, true] {
            let [client, server] = ends(is_v6);
            let key = FlowKey::new(client, server, Direction::ToServer);
            let flow = Offloaded::opening(key, Seq::new(1), Seq::new(8));
            assert!(bench.kernel.path(None).unwrap().hand(&flow, Queued::Nothing));
            // One that acknowledges only has nothing in it that would be worth a copy.
            bench.send(is_v6);
            bench.client.send(&data(is_v6));
            let copy = eventually("it is captured", || {
                bench.capture.receive(&IoCounters::default());
                bench.capture.packet(0).map(|(packet, _)| packet.to_vec())
            });
            assert_eq!(copy, with_hop_limit(data(is_v6), 0));
            let arrived = eventually("it arrives as it was", || {
                let frame = bench.server.frame()?;
                frame.ends_with(b"GET /").then(|| frame[14..].to_vec())
            });
            assert_eq!(arrived, with_hop_limit(data(is_v6), 63));
            let progress = bench.kernel.path(None).unwrap().look(&key).unwrap();
            assert_eq!(
                progress.client_acknowledged(),
                Seq::new(9),
                "and the client has proven that it exists"
            );
        }
    });
}

#[test]
fn a_segment_leaves_by_route_and_neighbour_with_a_router_s_step() {
    run(|mut bench| {
        for is_v6 in [false, true] {
            let flow = flow(is_v6);
            assert!(bench.kernel.path(None).unwrap().hand(&flow, Queued::BothWays));
            // The neighbour is not known yet: the kernel asks for it.
            bench.send(is_v6);
            let frame = bench.arrived();
            let limit = match SlicedPacket::from_ethernet(&frame).unwrap().net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                    header.ttl()
                }
                NetSlice::Ipv6(ip) => ip.header().hop_limit(),
                other => panic!("a segment in {other:?}"),
            };
            assert_eq!(forwarded(), [0, 0], "kernel forwarding has no part in it");
            assert_eq!((limit, &frame[..6]), (63, &bench.server.mac[..]));
            assert_eq!(bench.taken(&flow), 1);
        }
    });
}

/// Routes that lead to the next hop itself, another one on its network, and one by its link-local address.
const ROUTES: [(bool, &[Option<&str>]); 2] = [
    (false, &[None, Some("10.9.0.2"), Some("10.9.0.3"), None]),
    (true, &[None, Some("fe80::2"), Some("fe80::3"), Some("fd09::2"), Some("fd09::3"), None]),
];

#[test]
fn a_route_that_changes_counts_from_the_next_tick_on() {
    run(|mut bench| {
        let links = Links::here().unwrap();
        for (is_v6, gateways) in ROUTES {
            let [_, (server, _)] = ends(is_v6);
            assert!(bench.kernel.path(None).unwrap().hand(&flow(is_v6), Queued::Nothing));
            let mut before = None;
            for (number, gateway) in gateways.iter().enumerate() {
                let gateway: Option<IpAddr> = gateway.map(|address| address.parse().unwrap());
                let mac = if gateway.is_some() { [2, 0, 0, 0, 1, number as u8] } else { bench.server.mac };
                if before.is_none() || gateway.is_some() {
                    links.add_neighbour("wan0", gateway.unwrap_or(server), mac).unwrap();
                }
                change_host_route(&links, server, before, gateway);
                before = gateway;
                // No kernel's tick is longer than 10 ms.
                std::thread::sleep(Duration::from_millis(25));
                for _ in 0..20 {
                    bench.send(is_v6);
                }
                for _ in 0..20 {
                    assert_eq!(bench.arrived()[..6], mac, "{server} by {gateway:?}");
                }
            }
        }
        assert_eq!(forwarded(), [0, 0], "kernel forwarding has no part in it");
    });
}

/// Has a host be reached by another router; `None` is by none.
fn change_host_route(links: &Links, host: IpAddr, before: Option<IpAddr>, after: Option<IpAddr>) {
    let device = links.index("wan0").unwrap();
    let message = |gateway: IpAddr| {
        RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(host, if host.is_ipv4() { 32 } else { 128 })
            .and_then(|route| route.gateway(gateway))
            .unwrap()
            .output_interface(device)
            .build()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        if let Some(gateway) = before {
            handle.route().del(message(gateway)).execute().await.unwrap();
        }
        if let Some(gateway) = after {
            handle.route().add(message(gateway)).execute().await.unwrap();
        }
    });
}

//! Super-packets through a device of ours: they arrive whole and right, and nothing stays behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::{IpAddr, Ipv6Addr};
use std::process::{Child, Command, Stdio};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use rig::{End, eventually, join, namespaces};
use rtt0_core::packet::Offload;
use rtt0_core::service::Services;
use rtt0_core::wire::checksum;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::{DEVICE_PREFIX, Emitter, Way};
use rtt0_netio::interface;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;

const FAR: [u8; 4] = [10, 1, 1, 2];
const FAR6: &str = "fd00:1::2";
const SOURCE: [u8; 4] = [192, 0, 2, 7];
const SOURCE6: &str = "2001:db8::7";
const HOPS: u8 = 60;

struct Bench {
    capture: Capture,
    emitter: Emitter,
    counters: IoCounters,
    near: Namespace,
    _far: Namespace,
}

/// Opens an emitter that knows one way; `None`, with a word on why, if this machine lacks it.
fn open(namespace: &Namespace, way: Way) -> Option<Emitter> {
    let emitter = namespace.enter(|| Emitter::open_with(&[way])).unwrap().unwrap();
    if emitter.way().is_none() {
        println!("skipped: no {way:?} here (needs /dev/net/tun or CAP_SYS_ADMIN)");
    }
    emitter.way().map(|_| emitter)
}

impl Bench {
    fn new(way: Way) -> Option<Self> {
        let [near, far] = namespaces()?;
        join(
            End { namespace: &near, link: "near0", v4: [10, 1, 1, 1], v6: "fd00:1::1" },
            End { namespace: &far, link: "far0", v4: FAR, v6: FAR6 },
            1500,
        );
        sysctl::set(&near, &[("net.ipv6.conf.all.forwarding", "1")]).unwrap();
        let mac = Links::open(&far).unwrap().mac("far0").unwrap();
        let links = Links::open(&near).unwrap();
        links.add_neighbour("near0", FAR.into(), mac).unwrap();
        links.add_neighbour("near0", FAR6.parse().unwrap(), mac).unwrap();
        // A source is accepted by the loose reverse path check only if there is a way back.
        links.add_route([192, 0, 2, 0].into(), 24, FAR.into()).unwrap();
        let rules = ["0.0.0.0/0:443", "[::/0]:443"];
        let services = Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new());
        let capture =
            far.enter(|| Capture::open("far0", &services, &CaptureOptions::default())).unwrap().unwrap();
        let emitter = open(&near, way)?;
        Some(Self { capture, emitter, counters: IoCounters::default(), near, _far: far })
    }

    fn send(&mut self, packets: &[(Vec<u8>, Offload)]) -> Vec<u16> {
        let mut refused = Vec::new();
        let packets = packets.iter().map(|(bytes, offload)| (bytes.as_slice(), *offload));
        self.emitter.send(packets, &self.counters, |_, mtu| refused.push(mtu));
        refused
    }

    fn receive(&mut self, count: usize) -> Vec<(Vec<u8>, Offload)> {
        let mut packets = Vec::new();
        let counters = IoCounters::default();
        eventually("all packets must arrive", || {
            self.capture.receive(&counters);
            packets.extend(self.capture.packets_mut().map(|packet| (packet.bytes.to_vec(), packet.offload)));
            (packets.len() >= count).then_some(())
        });
        packets
    }
}

fn packet(v6: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut bytes = Vec::new();
    match v6 {
        false => PacketBuilder::ipv4(SOURCE, FAR, HOPS)
            .tcp(50_000, 443, sequence, 9)
            .psh()
            .write(&mut bytes, payload),
        true => PacketBuilder::ipv6(octets(SOURCE6), octets(FAR6), HOPS)
            .tcp(50_000, 443, sequence, 9)
            .psh()
            .write(&mut bytes, payload),
    }
    .unwrap();
    bytes
}

/// A packet whose checksum is partial: the sum over the pseudo-header.
fn partial(v6: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(v6, sequence, payload);
    let (ip, ends): (usize, (IpAddr, IpAddr)) = match v6 {
        false => (20, (SOURCE.into(), FAR.into())),
        true => (40, (SOURCE6.parse().unwrap(), FAR6.parse().unwrap())),
    };
    let sum = checksum::pseudo_header(ends.0, ends.1, 6, bytes.len() - ip);
    bytes[ip + 16..ip + 18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}

/// Returns hop limit, sequence number and payload; checks the checksum if it is complete.
fn read((bytes, offload): &(Vec<u8>, Offload)) -> (u8, u32, Vec<u8>) {
    let headers = PacketHeaders::from_ip_slice(bytes).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP") };
    let payload = headers.payload.slice();
    let (hops, expected) = match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            (ip.time_to_live, tcp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        NetHeaders::Ipv6(ip, _) => (ip.hop_limit, tcp.calc_checksum_ipv6(ip, payload).unwrap()),
        other => panic!("not IP: {other:?}"),
    };
    assert!(offload.needs_csum || tcp.checksum == expected, "a complete checksum must be right");
    (hops, tcp.sequence_number, payload.to_vec())
}

const SUPER: Offload = Offload { needs_csum: true, gso_size: 1400 };

fn passes_whole(way: Way) {
    let Some(mut bench) = Bench::new(way) else { return };
    for v6 in [false, true] {
        let data = payload(40_000);
        assert!(bench.send(&[(partial(v6, 5, &data), SUPER)]).is_empty());
        let received = bench.receive(1);
        assert_eq!(received[0].1, SUPER, "{way:?} ipv6={v6}");
        assert_eq!(read(&received[0]), (HOPS, 5, data), "the hop that the engine took is the only one");
    }
    assert_eq!((bench.counters.sent_whole.value(), bench.counters.resegmented.value()), (2, 0));
}

#[test]
fn a_super_packet_passes_a_tun_device_whole() {
    passes_whole(Way::Tun);
}

#[test]
fn a_super_packet_passes_a_veth_pair_whole() {
    passes_whole(Way::Veth);
}

/// A device without offloads gets segments, cut by the kernel, with complete checksums; what follows in
/// the same flow stays in order.
#[test]
fn the_kernel_cuts_for_a_device_that_cannot() {
    let Some(mut bench) = Bench::new(Way::Tun) else { return };
    bench.near.enter(|| offload::write("near0", Offloads::NONE)).unwrap().unwrap();
    for v6 in [false, true] {
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        let mut sequence = 0;
        for round in 0..20 {
            // A lone segment first, so that the flow changes from the raw socket to the device.
            for (length, offload) in [(100, Offload::default()), (14_000 + round, SUPER), (50, SUPER)] {
                let data = payload(length);
                let make = if offload.needs_csum { partial } else { packet };
                sent.push((make(v6, sequence, &data), offload));
                expected.extend(data);
                sequence += length as u32;
            }
        }
        assert!(bench.send(&sent).is_empty());
        let segments: usize = (0..20).map(|round| 2 + (14_000usize + round).div_ceil(1400)).sum();
        let received: Vec<_> = bench.receive(segments).iter().map(read).collect();
        assert!(received.iter().all(|(hops, _, _)| *hops == HOPS));
        let stream: Vec<u8> = received.iter().flat_map(|(_, _, data)| data.clone()).collect();
        assert!(stream == expected, "in order, nothing lost and nothing twice, ipv6={v6}");
    }
    assert_eq!(bench.counters.resegmented.value(), 0);
    assert!(bench.counters.sent_whole.value() >= 100);
}

/// Segments above the MTU would make the kernel complain in numbers the sender does not know.
#[test]
fn what_exceeds_the_mtu_is_told_to_the_engine() {
    let Some(mut bench) = Bench::new(Way::Tun) else { return };
    for v6 in [false, true] {
        let sent = [(partial(v6, 5, &payload(8_000)), Offload { needs_csum: true, gso_size: 1480 })];
        assert_eq!(bench.send(&sent), [1500]);
    }
    assert_eq!(bench.counters.sent_whole.value(), 0);
}

#[test]
fn without_a_way_super_packets_are_cut() {
    let Some([near, _]) = namespaces() else { return };
    let emitter = near.enter(|| Emitter::open_with(&[])).unwrap().unwrap();
    assert_eq!(emitter.way(), None);
}

fn devices(namespace: &Namespace) -> Vec<String> {
    let names = || interface::list().into_iter().map(|interface| interface.name);
    namespace.enter(|| names().filter(|name| name.starts_with(DEVICE_PREFIX)).collect()).unwrap()
}

/// A user who may not open /dev/net/tun but has the capabilities otherwise.
#[test]
fn a_veth_pair_serves_where_tun_is_denied() {
    let Some([near, _]) = namespaces() else { return };
    let denied = near.enter(|| {
        // SAFETY: takes no pointers; changes this thread only, which ends with the closure.
        unsafe { libc::setfsuid(65_534) };
        match std::fs::File::open("/dev/net/tun") {
            Ok(_) => None,
            Err(_) => Some(Emitter::open().unwrap()),
        }
    });
    match denied.unwrap() {
        None => println!("skipped: everybody may open /dev/net/tun here"),
        Some(emitter) => assert_eq!(emitter.way(), Some(Way::Veth)),
    }
}

#[test]
fn a_strict_reverse_path_check_leaves_ipv4_to_be_cut() {
    let Some(mut bench) = Bench::new(Way::Tun) else { return };
    let mut sends_until = |rp_filter: &str, wanted: [u64; 2]| {
        sysctl::set(&bench.near, &[("net.ipv4.conf.all.rp_filter", rp_filter)]).unwrap();
        // It is looked at once a second.
        eventually("the emitter must take note of it", || {
            let counts = |of: &IoCounters| [&of.resegmented, &of.sent_whole].map(|counter| counter.value());
            let before = counts(&bench.counters);
            let data = payload(2800);
            bench.send(&[(partial(false, 5, &data), SUPER), (partial(true, 5, &data), SUPER)]);
            let after = counts(&bench.counters);
            (std::array::from_fn(|index| after[index] - before[index]) == wanted).then_some(())
        });
    };
    sends_until("1", [1, 1]);
    sends_until("2", [0, 2]);
    bench.send(&[(partial(false, 9, &payload(2800)), SUPER)]);
    eventually("loose lets it pass", || {
        let received = bench.receive(1);
        received.iter().any(|packet| (read(packet).1, packet.1) == (9, SUPER)).then_some(())
    });
}

#[test]
fn nothing_is_left_when_the_emitter_is_dropped() {
    for way in [Way::Tun, Way::Veth] {
        let Some([near, _]) = namespaces() else { return };
        let Some(emitter) = open(&near, way) else { continue };
        let second = open(&near, way);
        assert_eq!(devices(&near).len(), 2, "each has its own: {way:?}");
        drop((emitter, second));
        eventually("the devices must go", || devices(&near).is_empty().then_some(()));
    }
}

/// What the child below is to open.
const WAY: &str = "RTT0_TEST_WAY";

#[test]
#[ignore = "is run by nothing_is_left_after_kill_9 as a process of its own"]
fn holds_an_emitter() {
    let Ok(way) = std::env::var(WAY) else { return };
    let way = if way == "Tun" { Way::Tun } else { Way::Veth };
    let _emitter = Emitter::open_with(&[way]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn nothing_is_left_after_kill_9() {
    for way in [Way::Tun, Way::Veth] {
        let Some([near, _]) = namespaces() else { return };
        if open(&near, way).is_none() {
            continue;
        }
        eventually("the first device must go", || devices(&near).is_empty().then_some(()));
        let spawn = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "holds_an_emitter", "--ignored"])
                .env(WAY, format!("{way:?}"))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut child: Child = near.enter(spawn).unwrap();
        eventually("the child must open its device", || (!devices(&near).is_empty()).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the device must go", || devices(&near).is_empty().then_some(()));
    }
}

//! The topology carries traffic, keeps its RTT and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use sha2::{Digest, Sha256};
use testbed::address::SERVER;
use testbed::privilege;
use testbed::process::Process;
use testbed::record::{Filter, Recorder, record_all};
use testbed::topology::{Topology, TopologyConfig};
use testbed::wan::{Backend, Path};

/// One topology at a time: others would take the processor from its delay line.
static ALONE: Mutex<()> = Mutex::new(());

const RTT: Duration = Duration::from_millis(50);
const MEGABYTE: usize = 1 << 20;

fn with_topology(config: &TopologyConfig, backend: Backend, test: impl FnOnce(&Topology)) {
    if !privilege::is_held() {
        println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
        return;
    }
    if backend == Backend::Tap && !Backend::Tap.is_available() {
        println!("skipped: needs /dev/net/tun");
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let start = Instant::now();
    let topology = Topology::raise_with(config, backend).unwrap();
    println!("{backend:?}: raised in {:.1?}", start.elapsed());
    test(&topology);
    for (way, direction) in ["to server", "to client"].iter().zip(topology.wan().directions()) {
        println!(
            "{way}: {:?}, late p50 {:?} p99 {:?}",
            direction.counters,
            direction.lateness.quantile(0.5),
            direction.lateness.quantile(0.99)
        );
    }
}

fn config(offloads: bool, path: Path) -> TopologyConfig {
    TopologyConfig { offloads, path, ..TopologyConfig::default() }
}

/// Sends `bytes` from server to client and back again, and returns both rates in Mbit/s.
fn transfer(topology: &Topology, address: IpAddr, bytes: usize) -> [f64; 2] {
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
    let expected = Sha256::digest(&data);
    let listener = topology.server.enter(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            limit(&stream);
            stream.write_all(&data).unwrap();
            let mut back = vec![0; bytes];
            stream.read_exact(&mut back).unwrap();
            stream.write_all(&[1]).unwrap();
            Sha256::digest(&back)
        });
        let mut stream = topology.client.enter(|| TcpStream::connect(target)).unwrap().unwrap();
        limit(&stream);
        let mut received = vec![0; bytes];
        let start = Instant::now();
        stream.read_exact(&mut received).unwrap();
        let down = start.elapsed();
        assert_eq!(Sha256::digest(&received), expected);
        let start = Instant::now();
        stream.write_all(&received).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let up = start.elapsed();
        assert_eq!(server.join().unwrap(), expected);
        [down, up].map(|time| bytes as f64 * 8.0 / 1e6 / time.as_secs_f64())
    })
}

/// A stalled transfer fails instead of hanging.
fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
}

fn carries(offloads: bool, backend: Backend) {
    with_topology(&config(offloads, Path::with_rtt(RTT)), backend, |topology| {
        println!("offloads {offloads}: RTT {:.3?}", topology.verify_rtt(RTT).unwrap());
        let v6 = topology.measure_rtt_to(SERVER.v6.into()).unwrap();
        assert!(v6 >= RTT, "{v6:?}");
        for address in [SERVER.v4.into(), SERVER.v6.into()] {
            let [down, up] = transfer(topology, address, 32 * MEGABYTE);
            println!("{address}: down {down:.0} Mbit/s, up {up:.0} Mbit/s");
        }
        for direction in topology.wan().directions() {
            assert_eq!(direction.counters.overflow, 0);
            assert_eq!(direction.counters.refused, 0);
        }
    });
}

#[test]
fn tap_carries_super_packets() {
    carries(true, Backend::Tap);
}

#[test]
fn tap_carries_single_segments() {
    carries(false, Backend::Tap);
}

#[test]
fn packet_sockets_carry_super_packets() {
    carries(true, Backend::Packet);
}

#[test]
fn packet_sockets_carry_single_segments() {
    carries(false, Backend::Packet);
}

#[test]
fn every_rtt_is_kept_and_can_be_changed() {
    let ms = Duration::from_millis;
    with_topology(&config(true, Path::with_rtt(ms(10))), Backend::Tap, |topology| {
        for rtt in [ms(10), ms(200), ms(100), ms(10), ms(1)] {
            topology.set_path(Path::with_rtt(rtt));
            println!("{rtt:?}: {:.3?}", topology.verify_rtt(rtt).unwrap());
        }
        assert!(topology.verify_rtt(ms(20)).is_err());
    });
}

fn impaired(backend: Backend) {
    with_topology(&config(true, Path::with_rtt(Duration::from_millis(10))), backend, |topology| {
        let clean = Path::with_rtt(Duration::from_millis(10));
        topology.set_path(Path { loss: 0.01, reorder: 0.01, duplicate: 0.01, ..clean });
        transfer(topology, SERVER.v4.into(), 2 * MEGABYTE);
        for direction in topology.wan().directions() {
            let counters = direction.counters;
            assert!(counters.lost > 0 && counters.reordered > 0 && counters.duplicated > 0, "{counters:?}");
            // Acknowledgements are smaller; nothing is larger than a frame.
            assert!(counters.bytes / counters.packets <= 1514, "{counters:?}");
        }
        topology.set_path(Path { rate_bits: Some(20_000_000), ..clean });
        let [down, up] = transfer(topology, SERVER.v4.into(), 2 * MEGABYTE);
        println!("limited to 20 Mbit/s: down {down:.1}, up {up:.1}");
        // Bursts of the queue aside, a limit cannot be beaten on any machine.
        assert!(down < 22.0 && up < 22.0, "{down} {up}");
    });
}

#[test]
fn impairments_act_on_single_segments_of_taps() {
    impaired(Backend::Tap);
}

#[test]
fn impairments_act_on_single_segments_of_packet_sockets() {
    impaired(Backend::Packet);
}

#[test]
fn a_small_mtu_of_the_long_leg_is_learned() {
    let config = TopologyConfig { wan_mtu: 1300, ..config(true, Path::with_rtt(Duration::from_millis(10))) };
    with_topology(&config, Backend::Tap, |topology| {
        for address in [SERVER.v4.into(), SERVER.v6.into()] {
            transfer(topology, address, MEGABYTE);
        }
    });
}

#[test]
fn both_sides_of_every_hop_are_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let path = Path::with_rtt(Duration::from_millis(10));
    with_topology(&config(true, path), Backend::Tap, |topology| {
        let only_tcp: Filter = Box::new(|packet| packet[0] >> 4 == 4 && packet[9] == 6);
        let files = record_all(topology, directory.path()).unwrap();
        let client = Recorder::start(&topology.client, "eth0", 100, Some(only_tcp)).unwrap();
        let nic = Recorder::start(&topology.client_nic, "wan0", 1 << 16, None).unwrap();
        transfer(topology, SERVER.v4.into(), MEGABYTE);
        // Both sides have closed; their last segments are on the way for half an RTT.
        thread::sleep(Duration::from_millis(50));
        let records = client.stop().unwrap();
        let syn = &records[0];
        assert!(syn.outgoing && syn.bytes[33] == 2 && syn.interface == "client:eth0", "{syn:?}");
        let syn_ack = records.iter().find(|record| !record.outgoing).unwrap();
        assert_eq!(syn_ack.bytes[33], 0x12);
        assert!(syn_ack.at - syn.at >= Duration::from_millis(10), "{:?}", syn_ack.at - syn.at);
        assert!(
            records.iter().all(|record| record.bytes.len() <= 100 && record.length >= record.bytes.len())
        );
        assert!(records.iter().any(|record| record.gso_size > 1000 && record.needs_csum));
        let carried: usize = nic.stop().unwrap().iter().map(|record| record.length).sum();
        assert!(carried > 2 * MEGABYTE, "{carried}");
        let files = files.stop().unwrap();
        assert_eq!(files.len(), 6);
        for file in files {
            let mut reader = PcapNgReader::new(std::fs::File::open(&file).unwrap()).unwrap();
            let (mut bytes, mut directions) = (0, [0, 0, 0]);
            while let Some(block) = reader.next_block() {
                if let Block::EnhancedPacket(packet) = block.unwrap().0 {
                    bytes += packet.data.len();
                    let flags = packet.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Flags(flags) => Some(*flags as usize),
                        _ => None,
                    });
                    directions[flags.unwrap()] += 1;
                }
            }
            assert!(bytes > 2 * MEGABYTE, "{bytes} in {}", file.display());
            assert!(directions[1] > 10 && directions[2] > 10, "{directions:?}");
        }
        if std::env::var_os("KEEP_RECORDINGS").is_some() {
            println!("kept {}", directory.keep().display());
        }
    });
}

/// Set for the copy of this test that is to be killed.
const VICTIM: &str = "TESTBED_TEST_VICTIM";

#[test]
fn a_killed_testbed_takes_its_children_along() {
    if std::env::var_os(VICTIM).is_some() {
        be_killed();
    }
    with_topology(&TopologyConfig::default(), Backend::Packet, |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_killed_testbed_takes_its_children_along", "--nocapture"]);
        let mut victim = command.env(VICTIM, "1").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let child = lines.find_map(|line| line.unwrap().strip_prefix("child ").map(str::to_owned)).unwrap();
        let proc = std::path::PathBuf::from(format!("/proc/{child}"));
        assert!(proc.exists());
        victim.kill().unwrap();
        victim.wait().unwrap();
        let patience = Instant::now();
        while proc.exists() {
            assert!(patience.elapsed() < Duration::from_secs(5), "process {child} survived");
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// Starts a child on a host, from a thread that ends, says its process id and waits.
fn be_killed() -> ! {
    let topology = Topology::raise_with(&TopologyConfig::default(), Backend::Packet).unwrap();
    let mut sleep = topology.client.command("sleep");
    sleep.arg("60");
    let child = thread::spawn(move || Process::spawn(sleep).unwrap()).join().unwrap();
    println!("\nchild {}", child.id());
    thread::sleep(Duration::from_secs(60));
    unreachable!("the test that started this kills it")
}

#[test]
fn a_command_runs_on_its_host() {
    with_topology(&TopologyConfig::default(), Backend::Packet, |topology| {
        for host in topology.hosts() {
            let output = host.command("cat").arg("/proc/net/dev").output().unwrap();
            let devices = String::from_utf8(output.stdout).unwrap();
            let is_nic = host.name().ends_with("nic");
            assert_eq!(devices.contains("eth0"), !is_nic, "{}: {devices}", host.name());
            assert_eq!(devices.contains("lan0") && devices.contains("wan0"), is_nic, "{devices}");
        }
    });
}

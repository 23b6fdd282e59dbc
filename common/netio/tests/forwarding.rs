//! A worker forwards real TCP between two namespaces whose kernel path is shut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rig::{End, eventually, join, namespaces, route};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::{Counters, DropReason};
use rtt0_core::service::Services;
use rtt0_core::time::Instant as CoreInstant;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use rtt0_netio::capture::{Backend, Capture, CaptureOptions};
use rtt0_netio::clock;
use rtt0_netio::emit::Emitter;
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;
use rtt0_netio::worker::{Worker, WorkerError, WorkerHandle, WorkerOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PORT: u16 = 443;

/// Forwards every packet, its hop limit decremented; half of them through the outbox.
#[derive(Default)]
struct Router {
    counters: Counters,
    turn: bool,
    panic_at: Option<CoreInstant>,
}

impl Engine for Router {
    fn handle(&mut self, _: CoreInstant, packet: &mut Packet<'_>, out: &mut Outbox) -> Verdict {
        if let Ok(mut ip) = Ipv4::new(&mut *packet.bytes) {
            let ttl = ip.ttl() - 1;
            ip.set_ttl(ttl);
        } else if let Ok(mut ip) = Ipv6::new(&mut *packet.bytes) {
            let hops = ip.hop_limit() - 1;
            ip.set_hop_limit(hops);
        } else {
            self.counters.discard(DropReason::MalformedIp);
            return Verdict::Drop(DropReason::MalformedIp);
        }
        self.turn = !self.turn;
        if self.turn {
            return Verdict::Forward;
        }
        out.push(packet.bytes, packet.offload);
        Verdict::Taken
    }

    fn too_big(&mut self, _: CoreInstant, packet: &[u8], mtu: u16, _: &mut Outbox) {
        panic!("no packet here exceeds the MTU of {mtu}, least of all one of {} bytes", packet.len());
    }

    fn next_timeout(&self) -> Option<CoreInstant> {
        self.panic_at
    }

    fn handle_timeout(&mut self, _: CoreInstant, _: &mut Outbox) {
        panic!("as the test wants it");
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Path {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

const SERVER_V4: [u8; 4] = [10, 1, 2, 10];
const SERVER_V6: &str = "fd00:2::10";

impl Path {
    fn new() -> Option<Self> {
        let [client, router, server] = namespaces()?;
        let end = |namespace, link, v4, v6| End { namespace, link, v4, v6 };
        let c = end(&client, "eth0", [10, 1, 1, 10], "fd00:1::10");
        let west = end(&router, "west0", [10, 1, 1, 1], "fd00:1::1");
        let east = end(&router, "east0", [10, 1, 2, 1], "fd00:2::1");
        let s = end(&server, "eth0", SERVER_V4, SERVER_V6);
        join(c, west, 1500);
        join(east, s, 1500);
        route(&client, s, west);
        route(&server, c, east);
        sysctl::set(&router, &[("net.ipv4.ip_forward", "0"), ("net.ipv6.conf.all.forwarding", "0")]).unwrap();
        Some(Self { client, router, server })
    }

    fn switch_offloads_off(&self) {
        let links = [
            (&self.client, "eth0"),
            (&self.router, "west0"),
            (&self.router, "east0"),
            (&self.server, "eth0"),
        ];
        for (namespace, link) in links {
            namespace.enter(|| offload::write(link, Offloads::NONE)).unwrap().unwrap();
        }
    }

    fn start(&self, router: Router, backend: Backend) -> WorkerHandle {
        let rules = ["10.1.2.0/24:443", "[fd00:2::/64]:443"];
        let services = Services::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), Vec::new());
        let options = CaptureOptions { backend, ..CaptureOptions::default() };
        let spawn = || {
            let open = |link| Capture::open(link, &services, &options).unwrap();
            let captures = vec![open("west0"), open("east0")];
            let worker = WorkerOptions {
                name: "router".to_owned(),
                realtime_priority: Some(10),
                ..WorkerOptions::default()
            };
            Worker::spawn(router, captures, Emitter::open().unwrap(), None, None, &worker).unwrap()
        };
        self.router.enter(spawn).unwrap()
    }

    /// Sends `length` bytes to a server that sends them back, and compares.
    fn echo(&self, server: IpAddr, length: usize) {
        let address = SocketAddr::new(server, PORT);
        let listener = self.server.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        let received = thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut data = Vec::with_capacity(length);
                stream.read_to_end(&mut data).unwrap();
                stream.write_all(&data).unwrap();
            });
            let timeout = Duration::from_secs(10);
            let connect = || TcpStream::connect_timeout(&address, timeout);
            let mut stream = self.client.enter(connect).unwrap().unwrap();
            stream.set_read_timeout(Some(timeout)).unwrap();
            let start = Instant::now();
            stream.write_all(&pattern(length)).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut data = Vec::with_capacity(length);
            stream.read_to_end(&mut data).unwrap();
            let rate = 2.0 * length as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6;
            println!("{length} bytes to {server} and back: {rate:.0} Mbit/s");
            data
        });
        assert!(received == pattern(length), "the bytes that come back are those that were sent");
    }
}

/// Bytes without a short period, so that a lost, doubled or swapped segment shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(length);
    bytes
}

fn servers() -> [IpAddr; 2] {
    [SERVER_V4.into(), SERVER_V6.parse().unwrap()]
}

#[test]
fn carries_bulk_data_with_offloads_on() {
    let Some(path) = Path::new() else { return };
    let worker = path.start(Router::default(), Backend::Ring);
    for server in servers() {
        path.echo(server, 50_000_000);
    }
    let stats = worker.stats();
    for (label, count) in stats.iter() {
        println!("{label} {count}");
    }
    let super_packets = stats.resegmented.value() + stats.sent_whole.value();
    assert!(super_packets > 100, "veth hands over super-packets by default");
    let lost = [&stats.send_malformed, &stats.send_too_big, &stats.send_refused, &stats.send_failed];
    assert!(lost.iter().all(|counter| counter.value() == 0));
    worker.stop();
    worker.join().unwrap();
}

#[test]
fn carries_bulk_data_with_offloads_off() {
    let Some(path) = Path::new() else { return };
    path.switch_offloads_off();
    for backend in [Backend::Ring, Backend::Pnet] {
        let worker = path.start(Router::default(), backend);
        for server in servers() {
            path.echo(server, 5_000_000);
        }
        assert_eq!(worker.stats().resegmented.value(), 0);
        worker.stop();
        worker.join().unwrap();
    }
}

#[test]
fn nothing_passes_without_the_worker() {
    let Some(path) = Path::new() else { return };
    path.start(Router::default(), Backend::Ring).join_after_stop();
    let connect =
        || TcpStream::connect_timeout(&SocketAddr::new(servers()[0], PORT), Duration::from_millis(300));
    let error = path.client.enter(connect).unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

trait JoinAfterStop {
    fn join_after_stop(self);
}

impl JoinAfterStop for WorkerHandle {
    fn join_after_stop(self) {
        self.stop();
        self.join().unwrap();
    }
}

/// What is queued when the stop signal comes is still forwarded.
#[test]
fn a_stop_drains_the_captures() {
    let Some(path) = Path::new() else { return };
    let worker = path.start(Router::default(), Backend::Ring);
    let start =
        || TcpStream::connect_timeout(&SocketAddr::new(servers()[0], PORT), Duration::from_millis(50));
    // Nobody listens; the SYN must reach the server, whose reset must come back.
    let error = path.client.enter(start).unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let stats = worker.stats().clone();
    worker.join_after_stop();
    assert_eq!((stats.received.value(), stats.sent.value()), (2, 2));
}

#[test]
fn a_panic_is_noticed_by_the_owner() {
    let Some(path) = Path::new() else { return };
    let due = clock::now() + Duration::from_millis(20);
    let worker = path.start(Router { panic_at: Some(due), ..Router::default() }, Backend::Ring);
    let hung_up = || {
        let mut polled = [PollFd::new(&worker, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        polled[0].revents().contains(PollFlags::HUP).then_some(())
    };
    assert_eq!(hung_up(), None, "the worker lives until its time-out");
    eventually("the descriptor must tell that the worker died", hung_up);
    assert!(clock::now() >= due, "a time-out never comes early");
    match worker.join() {
        Err(WorkerError::Panicked(message)) => assert_eq!(message, "as the test wants it"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vanished_interface_ends_the_worker() {
    let Some(path) = Path::new() else { return };
    let worker = path.start(Router::default(), Backend::Ring);
    let Path { client, router: _router, server: _server } = path;
    drop(client);
    let error = worker.join().unwrap_err();
    assert!(matches!(error, WorkerError::Capture(_)), "{error}");
}

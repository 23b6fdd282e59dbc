//! Measures a worker with an engine that does nothing against the kernel's own forwarding, between
//! namespaces of its own (`cargo run --release -p rtt0-netio --example worker_rate -- help`).
//!
//! Kernel and worker take turns, so that what else the machine does falls on both; the medians are
//! what counts. *Bulk* is one TCP stream. *Small* are 64-byte segments, sent as fast as the kernel
//! forwards them; what the worker spends on them is its thread's processor time. A veth pair has that thread also do what
//! the receiving host does, which no wire would. *Bare* is small ones whose receiver drops them as they come in, for kernel
//! and worker alike.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::io::{Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use rig::{End, join, namespaces, route};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::service::Services;
use rtt0_core::time::Instant as CoreInstant;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::emit::{EMIT_MARK, Emitter, Way};
use rtt0_netio::guard::Guard;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;
use rtt0_netio::worker::{Worker, WorkerHandle, WorkerOptions};

const SERVER: [u8; 4] = [10, 1, 2, 10];
/// Nobody's addresses: what is sent to them arrives at the server's device and ends there. The first is on the link, the
/// second behind it: the kernel keeps a route by a next hop, but makes one for each packet of a raw socket to a neighbour.
const NOBODY: [u8; 4] = [10, 1, 2, 99];
const BEHIND_NOBODY: [u8; 4] = [10, 9, 9, 9];
const PORT: u16 = 443;

const HELP: &str =
    "worker_rate [WORD…]: on | off | small | bare | kernel | user | way=tun | way=veth | way=cut |
  seconds=2 | rounds=5 | priority=10 | gather=100 (microseconds, as the daemons do) |
  rate=200000 (small packets a second, instead of what the kernel forwards)";

/// Forwards every packet, its hop limit decremented.
#[derive(Default)]
struct Router(Counters);

impl Engine for Router {
    fn handle(&mut self, _: CoreInstant, packet: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        if let Ok(mut ip) = Ipv4::new(&mut *packet.bytes) {
            let ttl = ip.ttl() - 1;
            ip.set_ttl(ttl);
        }
        Verdict::Forward
    }

    fn too_big(&mut self, _: CoreInstant, _: &[u8], _: u16, _: &mut Outbox) {}

    fn next_timeout(&self) -> Option<CoreInstant> {
        None
    }

    fn handle_timeout(&mut self, _: CoreInstant, _: &mut Outbox) {}

    fn counters(&self) -> &Counters {
        &self.0
    }
}

fn services() -> Services {
    Services::new(vec!["10.1.2.0/24:443".parse().unwrap(), "10.9.9.9:443".parse().unwrap()], Vec::new())
}

struct Path {
    client: Namespace,
    router: Namespace,
    server: Namespace,
    to_router: [u8; 6],
    /// Drops what comes to the server.
    _sink: Option<Guard>,
}

impl Path {
    fn new(offloads: bool) -> Option<Self> {
        let [client, router, server] = namespaces()?;
        let end = |namespace, link, v4, v6| End { namespace, link, v4, v6 };
        let c = end(&client, "eth0", [10, 1, 1, 10], "fd00:1::10");
        let west = end(&router, "west0", [10, 1, 1, 1], "fd00:1::1");
        let east = end(&router, "east0", [10, 1, 2, 1], "fd00:2::1");
        let s = end(&server, "eth0", SERVER, "fd00:2::10");
        join(c, west, 1500);
        join(east, s, 1500);
        route(&client, s, west);
        route(&server, c, east);
        let links = Links::open(&router).unwrap();
        let to_server = Links::open(&server).unwrap().mac("eth0").unwrap();
        links.add_neighbour("east0", NOBODY.into(), to_server).unwrap();
        links.add_route(BEHIND_NOBODY.into(), 32, NOBODY.into()).unwrap();
        sysctl::set(&router, &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]).unwrap();
        if !offloads {
            for end in [c, west, east, s] {
                end.namespace.enter(|| offload::write(end.link, Offloads::NONE)).unwrap().unwrap();
            }
        }
        let to_router = links.mac("west0").unwrap();
        Some(Self { client, router, server, to_router, _sink: None })
    }

    /// Has the server drop small segments at its device.
    fn sink(&mut self) {
        let install = || Guard::install(&["eth0".to_owned()], &services(), EMIT_MARK, false).unwrap();
        self._sink = Some(self.server.enter(install).unwrap());
    }

    fn worker(&self, plan: &Plan) -> (WorkerHandle, Guard) {
        let services = services();
        let spawn = || {
            let open = |link| Capture::open(link, &services, &CaptureOptions::default()).unwrap();
            let captures = vec![open("west0"), open("east0")];
            let emitter = Emitter::open_with(&plan.ways).unwrap();
            let interfaces = ["west0".to_owned(), "east0".to_owned()];
            let guard = Guard::install(&interfaces, &services, EMIT_MARK, false).unwrap();
            let options = WorkerOptions {
                name: "measured".to_owned(),
                realtime_priority: Some(plan.priority).filter(|priority| *priority > 0),
                gather: plan.gather,
                ..WorkerOptions::default()
            };
            (Worker::spawn(Router::default(), captures, emitter, None, None, &options).unwrap(), guard)
        };
        self.router.enter(spawn).unwrap()
    }

    /// One TCP stream for `time`; returns Gbit/s.
    fn bulk(&self, time: Duration) -> f64 {
        let address = SocketAddr::new(SERVER.into(), PORT);
        let listener = self.server.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        let mut stream = self.client.enter(|| TcpStream::connect(address)).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let data = vec![7; 256 << 10];
                while !done.load(Ordering::Relaxed) {
                    stream.write_all(&data).unwrap();
                }
                // The last bytes need no reader.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
            let mut buffer = vec![0; 256 << 10];
            let mut read_for = |time| {
                let (start, mut total) = (Instant::now(), 0);
                while start.elapsed() < time {
                    total += accepted.read(&mut buffer).unwrap();
                }
                total as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
            };
            read_for(Duration::from_millis(300));
            let rate = read_for(time);
            done.store(true, Ordering::Relaxed);
            while accepted.read(&mut buffer).is_ok_and(|length| length > 0) {}
            rate
        })
    }

    /// Small segments for `time`, at most `rate` a second; returns how many were sent and arrived.
    fn small(&self, to: [u8; 4], time: Duration, rate: f64) -> (u64, u64) {
        let frames: Vec<Vec<u8>> = (0..64)
            .map(|flow| {
                let mut frame = Vec::new();
                PacketBuilder::ethernet2([2; 6], self.to_router)
                    .ipv4([10, 1, 1, 10], to, 64)
                    .tcp(40_000 + flow, PORT, 1, 9)
                    .write(&mut frame, &[0; 10])
                    .unwrap();
                frame
            })
            .collect();
        let before = self.arrived();
        let sent = self.client.enter(|| send_frames(&frames, time, rate)).unwrap();
        thread::sleep(Duration::from_millis(100));
        (sent, self.arrived() - before)
    }

    fn arrived(&self) -> u64 {
        let text =
            self.server.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn send_frames(frames: &[Vec<u8>], time: Duration, rate: f64) -> u64 {
    // SAFETY: socket(2) takes no pointers; the result is a descriptor nobody else owns.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all-zero bytes are valid for plain data.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    // SAFETY: the name is NUL-terminated.
    address.sll_ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) }.cast_signed();
    let mut vectors: Vec<_> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let messages = vectors.iter_mut().map(|vector| {
        // SAFETY: all-zero bytes are valid for plain data.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_name = (&raw mut address).cast();
        message.msg_hdr.msg_namelen = mem::size_of_val(&address) as u32;
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    let mut messages: Vec<_> = messages.collect();
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        if sent as f64 > rate * start.elapsed().as_secs_f64() {
            std::hint::spin_loop();
            continue;
        }
        // SAFETY: the messages point to vectors, and these to frames, that live through the call.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        sent += u64::try_from(count).unwrap_or(0);
    }
    sent
}

/// Processor time in seconds that threads called `name` have had.
fn processor_time(name: &str) -> f64 {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            total += read("schedstat").split_whitespace().next().map_or(0, |ns| ns.parse::<u64>().unwrap());
        }
    }
    total as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Plan {
    rounds: usize,
    time: Duration,
    priority: u8,
    only: Option<String>,
    ways: Vec<Way>,
    gather: Duration,
    rate: Option<f64>,
}

fn bulk(plan: &Plan, offloads: bool) {
    let Some(path) = Path::new(offloads) else { return };
    let (mut kernel, mut user, mut ratios, mut times) = (vec![], vec![], vec![], vec![]);
    for _ in 0..plan.rounds {
        let plain = if plan.only.as_deref() == Some("user") { f64::NAN } else { path.bulk(plan.time) };
        kernel.push(plain);
        if plan.only.as_deref() == Some("kernel") {
            continue;
        }
        let (worker, guard) = path.worker(plan);
        let served = path.bulk(plan.time);
        let stats = worker.stats().clone();
        times.push(processor_time("measured") * 1e6 / stats.received.value() as f64);
        drop(guard);
        worker.stop();
        worker.join().unwrap();
        user.push(served);
        ratios.push(served / plain);
        let counted: Vec<_> = stats.iter().filter(|(_, count)| *count != 0).collect();
        println!("  kernel {plain:.2} Gbit/s, user {served:.2} Gbit/s; {counted:?}");
    }
    println!(
        "bulk, offloads {}: kernel {:.2} Gbit/s, user {:.2} Gbit/s, ratio {:.3}, {:.2} µs a captured packet",
        if offloads { "on" } else { "off" },
        median(kernel),
        median(user),
        median(ratios),
        median(times),
    );
}

fn small(plan: &Plan, to: [u8; 4], is_bare: bool) {
    let Some(mut path) = Path::new(true) else { return };
    if is_bare {
        path.sink();
    }
    let (mut rates, mut losses, mut times) = (vec![], vec![], vec![]);
    for _ in 0..plan.rounds {
        let (_, arrived) = path.small(to, plan.time, f64::MAX);
        let rate = plan.rate.unwrap_or(arrived as f64 / plan.time.as_secs_f64());
        let (worker, guard) = path.worker(plan);
        let (sent, arrived) = path.small(to, plan.time, rate);
        times.push(processor_time("measured") * 1e6 / worker.stats().received.value() as f64);
        losses.push(1.0 - arrived as f64 / sent as f64);
        rates.push(rate);
        drop(guard);
        println!("  {rate:.0}/s: sent {sent}, arrived {arrived}");
        let stats = worker.stats().clone();
        worker.stop();
        worker.join().unwrap();
        let counted: Vec<_> = stats.iter().filter(|(_, count)| *count != 0).collect();
        println!("  {counted:?}");
    }
    println!(
        "{}, {}: at {:.0} packets/s {:.3} % lost, {:.2} µs of processor a packet",
        if is_bare { "bare" } else { "small" },
        if to == NOBODY { "on the link" } else { "by a next hop" },
        median(rates),
        median(losses) * 100.0,
        median(times),
    );
}

fn main() {
    let mut plan = Plan {
        rounds: 5,
        time: Duration::from_secs(2),
        priority: 10,
        only: None,
        ways: vec![Way::Tun],
        gather: Duration::from_micros(100),
        rate: None,
    };
    let mut what = Vec::new();
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("seconds", value)) => plan.time = Duration::from_secs_f64(value.parse().unwrap()),
            Some(("rounds", value)) => plan.rounds = value.parse().unwrap(),
            Some(("gather", value)) => plan.gather = Duration::from_micros(value.parse().unwrap()),
            Some(("rate", value)) => plan.rate = Some(value.parse().unwrap()),
            Some(("priority", value)) => plan.priority = value.parse().unwrap(),
            Some(("way", "tun")) => plan.ways = vec![Way::Tun],
            Some(("way", "veth")) => plan.ways = vec![Way::Veth],
            Some(("way", "cut")) => plan.ways = Vec::new(),
            None if ["on", "off", "small", "bare"].contains(&word.as_str()) => what.push(word),
            None if ["kernel", "user"].contains(&word.as_str()) => plan.only = Some(word),
            _ => return println!("{HELP}"),
        }
    }
    for word in if what.is_empty() { ["on", "off", "small", "bare"].map(String::from).to_vec() } else { what }
    {
        match word.as_str() {
            "on" => bulk(&plan, true),
            "off" => bulk(&plan, false),
            "bare" => [NOBODY, BEHIND_NOBODY].into_iter().for_each(|to| small(&plan, to, true)),
            _ => [NOBODY, BEHIND_NOBODY].into_iter().for_each(|to| small(&plan, to, false)),
        }
    }
}

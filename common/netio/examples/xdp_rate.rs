//! Measures reception by AF_XDP against a packet socket (recvmmsg(2)) on the same veth, between namespaces of its own
//! (`cargo run --release -p rtt0-netio --example xdp_rate`).
//!
//! A plain UDP socket sends packets of 150 bytes as fast as it can, on one processor; the receiver has the other. The ways take
//! turns, so that what else the machine does falls on all; the medians are what counts. A veth's driver runs on the
//! sender's or the receiver's processor as the kernel likes, so that a receiver's thread time is only what it spends itself.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rig::{End, join, namespaces};
use rtt0_core::service::Services;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::netns::Namespace;
use rtt0_netio::xdp::{Mode, Options, Receiver};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

const PORT: u16 = 4789;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy)]
enum Way {
    PacketSocket,
    Generic,
    Native,
}

/// What a round has given: packets per second sent and received, and the receiver's processor time for each in ns.
struct Outcome {
    sent: f64,
    received: f64,
    /// Packets per second that found no room in the socket.
    overflow: f64,
    each: f64,
}

fn main() {
    let Some([left, right]) = namespaces() else { return };
    join(
        End { namespace: &left, link: "left0", v4: [10, 9, 1, 1], v6: "fd00:9::1" },
        End { namespace: &right, link: "right0", v4: [10, 9, 1, 2], v6: "fd00:9::2" },
        1500,
    );
    let ways = [Way::PacketSocket, Way::Generic, Way::Native];
    let mut outcomes: [Vec<Outcome>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (way, outcomes) in ways.iter().zip(&mut outcomes) {
            outcomes.push(round(*way, &left, &right));
        }
    }
    for (way, outcomes) in ways.iter().zip(&outcomes) {
        let median = |value: fn(&Outcome) -> f64| {
            let mut values: Vec<f64> = outcomes.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{way:?}: {:.0} packets/s received of {:.0} sent, {:.0} too many for the socket, {:.0} ns of the receiver's thread for each",
            median(|outcome| outcome.received),
            median(|outcome| outcome.sent),
            median(|outcome| outcome.overflow),
            median(|outcome| outcome.each)
        );
    }
}

fn round(way: Way, left: &Namespace, right: &Namespace) -> Outcome {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            bind_to(0);
            right.enter(|| receive(way, &stop)).unwrap()
        });
        thread::sleep(Duration::from_millis(100));
        let sent = left.enter(|| send(TIME)).unwrap();
        stop.store(true, Ordering::Relaxed);
        let (received, overflow, spent) = receiver.join().unwrap();
        Outcome {
            sent: sent as f64 / TIME.as_secs_f64(),
            received: received as f64 / TIME.as_secs_f64(),
            overflow: overflow as f64 / TIME.as_secs_f64(),
            each: spent.as_nanos() as f64 / received.max(1) as f64,
        }
    })
}

/// Sends for a while; returns how many packets.
fn send(time: Duration) -> u64 {
    bind_to(1);
    let socket = UdpSocket::bind((IpAddr::from([10, 9, 1, 1]), 0)).unwrap();
    socket.connect((IpAddr::from([10, 9, 1, 2]), PORT)).unwrap();
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        for _ in 0..64 {
            // Refused where nobody listens: the kernel of the other end answers so.
            sent += u64::from(socket.send(&[7; 122]).is_ok());
        }
    }
    sent
}

/// Receives until it is told to stop; returns how many packets, how many were lost, and the processor time.
fn receive(way: Way, stop: &AtomicBool) -> (u64, u64, Duration) {
    let counters = IoCounters::default();
    let mode = if matches!(way, Way::Native) { Mode::Native } else { Mode::Generic };
    let options = Options { ports: vec![PORT], mode, ..Options::default() };
    // What a rule for everything lets in comes nearest to the tunnels' packets.
    let mut socket = matches!(way, Way::PacketSocket).then(|| {
        let services = Services::new(vec!["10.9.1.0/24:4789".parse().unwrap()], Vec::new());
        let capture = Capture::open("right0", &services, &CaptureOptions::default()).unwrap();
        rig_filter(&capture);
        capture
    });
    let mut xdp = socket.is_none().then(|| Receiver::open("right0", &options).unwrap());
    let before = thread_time();
    let (mut seen, mut sum) = (0u64, 0u64);
    while !stop.load(Ordering::Relaxed) {
        let has_more = match (&mut socket, &mut xdp) {
            (Some(capture), _) => {
                let has_more = capture.receive(&counters);
                for packet in capture.packets_mut() {
                    sum += u64::from(packet.bytes[packet.bytes.len() - 1]);
                    seen += 1;
                }
                has_more
            }
            (_, Some(receiver)) => {
                let has_more = receiver.receive(&counters);
                for packet in receiver.packets_mut() {
                    sum += u64::from(packet.bytes[packet.bytes.len() - 1]);
                    seen += 1;
                }
                has_more
            }
            _ => break,
        };
        if !has_more {
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            fds.extend(socket.iter().map(|capture| PollFd::new(capture, PollFlags::IN)));
            fds.extend(
                xdp.iter().flat_map(Receiver::fds).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
            );
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
    }
    assert_eq!(sum, seen * 7);
    let spent = thread_time() - before;
    if let Some(capture) = &socket {
        let _ = capture.check(&counters);
    }
    if let Some(receiver) = &mut xdp {
        let _ = receiver.check(&counters);
    }
    (seen, counters.received_overflow.value(), spent)
}

/// Has a capture, which takes TCP, take UDP to the tunnels' port.
fn rig_filter(capture: &Capture) {
    use std::os::fd::{AsFd, AsRawFd};
    let code = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The protocol at 23, the destination port at 36, both behind Ethernet and an IPv4 header without options.
        code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 23),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, 17),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 36),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, PORT.into()),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the pointer and length describe `filter`, and what that points to outlives the call too.
    let result = unsafe {
        libc::setsockopt(
            capture.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as u32,
        )
    };
    assert_eq!(result, 0);
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps the thread on one processor; threads it starts inherit that.
fn bind_to(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}

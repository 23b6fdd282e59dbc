//! What each subject goes through.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_netio::links::Links;
use rtt0_netio::sysctl;

use crate::load::{self, Load};
use crate::rig::crafted::{self, FIELD_PORT};
use crate::rig::files::{Files, RULES, allowlist, field_sources};
use crate::rig::site::{ANALYSER, BEHIND, ROUTER, Site};
use crate::subject::Running;

/// A next hop of nobody's: what is sent there arrives at the analyser's device, is counted and ends.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 70, 0, 99));
const NOBODYS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
/// Packets a second while latency is measured, and for how long.
const LATENCY_RATE: f64 = 50_000.0;
const LATENCY_SPAN: Duration = Duration::from_millis(400);
/// How long a spell is. A machine that wakes its processors late now and then has milliseconds in the p99 of the whole span,
/// whoever forwards. A median over spells tells what lies between such times.
const SPELL: Duration = Duration::from_millis(20);
/// How long a subject is left alone after its start, and the real-time priority of the thread at both ends.
const SETTLING: Duration = Duration::from_millis(500);
const ENDS_PRIORITY: u8 = 5;
/// Trials between a rate that lost nothing and one that lost something.
const STEPS: usize = 7;
/// Part of a trial's packets that may be under way at its end.
const WAITING: f64 = 0.05;

/// The surroundings.
pub(crate) struct Course {
    pub(crate) site: Site,
    pub(crate) files: Files,
    pub(crate) allowed: Vec<IpAddr>,
    /// Whether the kernel's receive path is on the measured processor.
    pub(crate) is_steered: bool,
    /// Packets a second that the sender manages to a device which drops them.
    pub(crate) sender: f64,
    /// Bytes of the UDP payload on the mirrored side.
    pub(crate) length: usize,
    plain: Load,
    tunnelled: Load,
    links: Links,
}

/// How a subject has done in one round. Rates are packets a second, times microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Result {
    /// The highest rate found at which nothing was lost and no queue grew.
    pub(crate) lossless: f64,
    /// What arrives, while more is offered than it can take.
    pub(crate) saturated: f64,
    /// Processor time of its threads for a packet.
    pub(crate) thread: f64,
    /// Latency from before sending until the receiver has it.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Median over spells of 20 ms of each spell's p99.
    pub(crate) spell_p99: f64,
    /// Part of the packets that got lost meanwhile.
    pub(crate) latency_loss: f64,
    /// Resident memory in KiB.
    pub(crate) resident: Option<u64>,
}

impl Course {
    pub(crate) fn new(bytes: usize, keys: &str) -> Option<Self> {
        let site = Site::new()?;
        let organisations = field_sources();
        let allowed: Vec<IpAddr> = organisations.iter().flatten().copied().collect();
        let files = Files::with_keys(&allowlist(&organisations), keys, RULES);
        sysctl::set(&site.middle, &[("net.ipv4.ip_forward", "1")]).unwrap();
        let links = Links::open(&site.middle).unwrap();
        links.add_neighbour("out0", NOBODY, NOBODYS_MAC).unwrap();
        let source = Links::open(&site.source).unwrap();
        source.add_route(BEHIND.0, BEHIND.1, "10.50.0.1".parse().unwrap()).unwrap();
        let nobody: IpAddr = "10.50.0.99".parse().unwrap();
        source.add_neighbour("src0", nobody, NOBODYS_MAC).unwrap();

        let datagram =
            |source: &IpAddr| crafted::vxlan(1, &crafted::udp(*source, FIELD_PORT, &vec![7; bytes]));
        let datagrams: Vec<_> = allowed.iter().map(datagram).collect();
        let to = |address: IpAddr, port: u16| {
            let open = || {
                let socket = UdpSocket::bind("10.50.0.2:0").unwrap();
                socket.connect((address, port)).unwrap();
                socket
            };
            Load::new(site.source.enter(open).unwrap(), &datagrams)
        };
        let tunnelled = to("10.50.0.1".parse().unwrap(), 4789);
        let plain = to(ANALYSER.into(), 8081);
        let (sent, seconds) = to(nobody, 9).send(f64::MAX, Duration::from_millis(300));
        let is_steered = steer(&site);
        let (sender, length) = (sent as f64 / seconds, plain.length());
        Some(Self { site, files, allowed, is_steered, sender, length, plain, tunnelled, links })
    }

    fn load(&self, subject: &Running) -> &Load {
        if subject.is_tunnelled() { &self.tunnelled } else { &self.plain }
    }

    /// Takes a subject through all.
    pub(crate) fn run(&self, subject: &Running, trial: Duration) -> Result {
        let mut result = Result { resident: subject.resident(), ..Result::default() };
        self.latency(subject, &mut result);
        if trial.is_zero() {
            return result;
        }

        self.links.remove_route(BEHIND.0, BEHIND.1, ROUTER).unwrap();
        self.links.add_route(BEHIND.0, BEHIND.1, NOBODY).unwrap();
        let load = self.load(subject);
        // Warm-up: pages, caches, clock.
        self.trial(load, 50_000.0, trial / 2);
        let flood = self.trial(load, f64::MAX, trial);
        result.saturated = flood.in_time as f64 / flood.seconds;
        let (mut low, mut high) = (0.0, flood.sent as f64 / flood.seconds);
        // Loss-free is mostly found a little below or above what arrives of a flood.
        let mut rate = result.saturated.min(high * 0.98);
        for _ in 0..STEPS {
            let before = subject.processor_time();
            let seen = self.trial(load, rate, trial);
            if seen.is_sustained() {
                result.thread = (subject.processor_time() - before) * 1e6 / seen.sent as f64;
                // What was offered may be less than was asked for.
                low = seen.sent as f64 / seen.seconds;
                rate = f64::midpoint(rate.max(low), high);
            } else {
                high = rate;
                rate = f64::midpoint(low, rate);
            }
        }
        result.lossless = low;
        self.links.remove_route(BEHIND.0, BEHIND.1, NOBODY).unwrap();
        self.links.add_route(BEHIND.0, BEHIND.1, ROUTER).unwrap();
        result
    }

    fn trial(&self, load: &Load, rate: f64, time: Duration) -> Seen {
        let before = self.arrived();
        let (sent, seconds) = load.send(rate, time);
        let in_time = self.arrived() - before;
        Seen { sent, seconds, in_time, arrived: self.settled() - before }
    }

    /// Packets that have come to the analyser's device, once no more come.
    pub(crate) fn settled(&self) -> u64 {
        let mut last = self.arrived();
        loop {
            thread::sleep(Duration::from_millis(30));
            let now = self.arrived();
            if now == last {
                return now;
            }
            last = now;
        }
    }

    /// Packets that have come to the analyser's device.
    pub(crate) fn arrived(&self) -> u64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        let text = self.site.analyser.enter(read).unwrap().unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("ana0:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends packets that say when they were sent; one thread sends and receives, so that only the box is in between.
    fn latency(&self, subject: &Running, result: &mut Result) {
        let sender = if subject.is_tunnelled() {
            self.site.tunnel(4789)
        } else {
            let socket = self.site.source.enter(|| UdpSocket::bind("10.50.0.2:0")).unwrap().unwrap();
            socket.connect((ANALYSER, 8081)).unwrap();
            socket
        };
        let analyser = self.site.analyser.enter(|| UdpSocket::bind((ANALYSER, 8081))).unwrap().unwrap();
        analyser.set_nonblocking(true).unwrap();
        // The receiver may be kept waiting for the processor: what is lost should be the box's.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&analyser, 64 << 20).unwrap();
        let (source, filler) = (self.allowed[0], vec![7; self.length - 8 - 14 - 28 - 8]);
        let work = || {
            load::stay_on(load::SENDERS);
            // What an ordinary thread waits for others to give up its processor is not the box's delay.
            rtt0_netio::worker::run_at(ENDS_PRIORITY);
            thread::sleep(SETTLING);
            let (start, mut sent, mut times) = (Instant::now(), 0u64, Vec::new());
            let mut buffer = [0; 2048];
            let now = || start.elapsed().as_nanos() as u64;
            let end = LATENCY_SPAN.as_nanos() as u64;
            // What is under way at the end has another while.
            while now() < end + 50_000_000 {
                if now() < end && sent as f64 <= LATENCY_RATE * 1e-9 * now() as f64 {
                    let payload = |time: u64| [&time.to_be_bytes()[..], &filler].concat();
                    let datagram = if subject.is_tunnelled() {
                        crafted::vxlan(1, &crafted::udp(source, FIELD_PORT, &payload(now())))
                    } else {
                        let plain = payload(now());
                        [&plain[..], &[0; 50]].concat()
                    };
                    sent += u64::from(sender.send(&datagram).is_ok());
                }
                while let Ok(length) = analyser.recv(&mut buffer) {
                    let stamp = u64::from_be_bytes(buffer[..length][..8].try_into().unwrap());
                    times.push((stamp, (now() - stamp) as f64 / 1e3));
                }
            }
            (sent, times)
        };
        let (sent, times) = thread::scope(|scope| scope.spawn(work).join().unwrap());
        let of = |range: std::ops::Range<u128>| {
            let within = times.iter().filter(|(stamp, _)| range.contains(&u128::from(*stamp)));
            within.map(|(_, time)| *time).collect::<Vec<_>>()
        };
        let spell = SPELL.as_nanos();
        let spells =
            (0..LATENCY_SPAN.as_nanos() / spell).map(|n| quantile(of(n * spell..(n + 1) * spell), 0.99));
        result.p50 = quantile(of(0..u128::MAX), 0.5);
        result.p99 = quantile(of(0..u128::MAX), 0.99);
        result.spell_p99 = quantile(spells.collect(), 0.5);
        result.latency_loss = 1.0 - times.len() as f64 / sent as f64;
    }
}

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

struct Seen {
    sent: u64,
    seconds: f64,
    /// What had arrived when the last was sent.
    in_time: u64,
    /// What has arrived at last.
    arrived: u64,
}

impl Seen {
    /// Tells whether nothing was lost, and no queue has grown meanwhile: a large buffer takes any rate for a while.
    fn is_sustained(&self) -> bool {
        let waiting = self.sent.saturating_sub(self.in_time) as f64 / self.sent as f64;
        self.sent == self.arrived && waiting <= WAITING
    }
}

/// Has what the mirrored interface receives worked on by the measured processor: by RPS, or by a thread of the interface's
/// own where an XDP program takes packets before RPS does. The files are of the sysfs of this network namespace.
fn steer(site: &Site) -> bool {
    let mask = 1 << load::MEASURED;
    // An interface without an XDP program may have no thread to be asked for: that leaves RPS.
    let script = format!(
        "mount -t sysfs sysfs /sys && cd /sys/class/net/in0 && (echo 1 > threaded) 2> /dev/null; \
         echo {mask:x} > queues/rx-0/rps_cpus"
    );
    let run = || Command::new("unshare").args(["--mount", "sh", "-c", &script]).status();
    site.middle.enter(run).unwrap().is_ok_and(|status| status.success())
}

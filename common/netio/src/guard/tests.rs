//! The guard in the kernel against `claims`, packet by packet; and how long it lives.

mod outlet;
mod packets;
mod replies;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::Duration;

use netlink_socket2::NetlinkSocket;
use rtt0_core::claim::{Bypass, Claim, claims};
use rtt0_core::service::{Direction, Services};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Guard;
use super::netlink::{INET, NETDEV, list_tables};
use crate::links::{Links, VethEnd};
use crate::netns::Namespace;
use packets::Random;

const MARK: u32 = 0x7274_7430;
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Marks our frames among those the kernel sends by itself.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// A namespace with a veth pair: frames sent into `near` arrive at `far`.
fn veth() -> Option<Namespace> {
    let namespace = match Namespace::create() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return None;
        }
        outcome => outcome.unwrap(),
    };
    let end = |name| VethEnd { namespace: &namespace, name };
    Links::add_veth(end("near"), end("far"), 1500).unwrap();
    let links = Links::open(&namespace).unwrap();
    links.bring_up("near").unwrap();
    links.bring_up("far").unwrap();
    Some(namespace)
}

fn services(rules: &[&str]) -> Services {
    let local = ["10.1.2.1", "10.1.1.2", "fd00:1:2::1", "fd00:1:1::2"];
    Services::new(
        rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        local.map(|address| address.parse().unwrap()).to_vec(),
    )
}

fn packet_socket(index: u32, protocol: u16) -> Socket {
    let protocol = i32::from(protocol.to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol))).unwrap();
    // SAFETY: a `sockaddr_ll` fits a `sockaddr_storage`, every bit pattern of it is valid, and
    // the length is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut link: libc::sockaddr_ll = std::mem::zeroed();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = protocol as u16;
            link.sll_ifindex = index as i32;
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }
    .unwrap();
    socket.bind(&address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends frames into the guarded interface and tells which ones got past the hook.
struct Bench {
    sender: Socket,
    before: Socket,
    behind: [Socket; 2],
    far: [u8; 6],
    next: u32,
}

impl Bench {
    /// Must be called in the namespace.
    fn new(links: &Links) -> Self {
        // The kernel delivers in order only what one CPU sent.
        let one = (0..CpuSet::MAX_CPU).find(|cpu| sched_getaffinity(None).unwrap().is_set(*cpu)).unwrap();
        let mut set = CpuSet::new();
        set.set(one);
        sched_setaffinity(None, &set).unwrap();
        let far = links.index("far").unwrap();
        Self {
            sender: packet_socket(links.index("near").unwrap(), 0),
            before: packet_socket(far, ETH_P_ALL),
            behind: [packet_socket(far, ETH_P_IP), packet_socket(far, ETH_P_IPV6)],
            far: links.mac("far").unwrap(),
            next: 0,
        }
    }

    /// Sends `packet` with a number behind it, which stays in the captured bytes.
    fn send(&mut self, destination: [u8; 6], packet: &mut Vec<u8>) -> u32 {
        let ether_type =
            if packet.first().is_some_and(|byte| byte >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP };
        let number = self.next;
        self.next += 1;
        packet.extend(number.to_be_bytes());
        let frame = [&destination[..], &SENDER, &ether_type.to_be_bytes(), packet].concat();
        assert_eq!(self.sender.send(&frame).unwrap(), frame.len());
        number
    }

    /// Sends one packet of each version that is certainly not claimed, and reads all sockets up
    /// to it. Returns the numbers seen before the hook and behind it.
    fn drain(&mut self) -> (HashSet<u32>, HashSet<u32>) {
        let far = self.far;
        let mut udp_v4 = packets::header_v4([192, 0, 2, 1], [192, 0, 2, 2], 17, 8);
        let mut udp_v6 = packets::header_v6([0x20; 16], [0x21; 16], 17, 8);
        for packet in [&mut udp_v4, &mut udp_v6] {
            packet.extend([0; 8]);
        }
        let last = [self.send(far, &mut udp_v4), self.send(far, &mut udp_v6)];
        let before = read_until(&self.before, last[1]);
        let mut behind = read_until(&self.behind[0], last[0]);
        behind.extend(read_until(&self.behind[1], last[1]));
        (before, behind)
    }
}

fn read_until(socket: &Socket, last: u32) -> HashSet<u32> {
    let mut seen = HashSet::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    while !seen.contains(&last) {
        let length = socket.recv(&mut buffer).unwrap();
        // SAFETY: recv initialised that many bytes.
        let frame: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        if frame.get(6..12) == Some(&SENDER) {
            seen.insert(u32::from_be_bytes(*frame.last_chunk().unwrap()));
        }
    }
    seen
}

/// Sends `count` random packets and compares kernel and `claims` for each, while the kernel is to
/// forward some by itself.
fn compare(rules: &[&str], seed: u64, count: usize, bypass: Bypass) {
    let Some(namespace) = veth() else { return };
    let services = services(rules);
    let mut random = Random(seed);
    let (mut kinds, mut bypassed) = (HashMap::<Claim, u64>::new(), 0);
    let links = Links::open(&namespace).unwrap();
    namespace
        .enter(|| {
            let mut guard = Guard::install(&["far".to_owned()], &services, MARK, false).unwrap();
            // Wherever it comes from, it arrives.
            for bypass in [Bypass::Handshakes, Bypass::Nothing, Bypass::Syns, bypass] {
                guard.let_through(bypass).unwrap();
            }
            let mut bench = Bench::new(&links);
            let mut sent = 0;
            while sent < count {
                let mut batch = HashMap::new();
                for _ in 0..64 {
                    let mut packet = random.packet();
                    let number = bench.send(bench.far, &mut packet);
                    batch.insert(number, packet);
                }
                sent += batch.len();
                let (before, behind) = bench.drain();
                for (number, packet) in batch {
                    let claim = claims(&services, &packet);
                    let included = bypass.includes(&services, &packet);
                    bypassed += u64::from(included && claim == Some(Claim::Tcp(Direction::ToServer)));
                    let claim = claim.filter(|_| !included);
                    assert!(before.contains(&number), "the tap missed a packet");
                    assert_eq!(
                        claim.is_none(),
                        behind.contains(&number),
                        "seed {seed}, packet {number}: {claim:?} {packet:02x?}"
                    );
                    if let Some(claim) = claim {
                        *kinds.entry(claim).or_default() += 1;
                    }
                }
            }
            let counted: u64 = guard.dropped().unwrap().iter().map(|rule| rule.packets).sum();
            assert_eq!(counted, kinds.values().sum::<u64>());
            assert_eq!(guard.bypassed().unwrap(), bypassed);
        })
        .unwrap();
    println!("{count} packets: {kinds:?}, {bypassed} let through");
    assert_eq!(bypassed > 20, bypass != Bypass::Nothing);
    // A test in which nothing is claimed would show nothing.
    for direction in [Direction::ToServer, Direction::ToClient] {
        for claim in [Claim::Tcp(direction), Claim::IcmpError { quoted: direction }] {
            assert!(kinds.get(&claim).copied().unwrap_or(0) > 20, "too few of {claim:?}");
        }
    }
}

#[test]
fn drops_exactly_what_is_claimed() {
    compare(packets::RULES, 1, 20_000, Bypass::Nothing);
}

#[test]
fn drops_exactly_what_is_claimed_of_everything() {
    compare(&["0.0.0.0/0:443", "[::/0]:443"], 2, 8_000, Bypass::Nothing);
}

#[test]
fn lets_exactly_what_is_bypassed_through() {
    compare(packets::RULES, 3, 20_000, Bypass::Syns);
    compare(packets::RULES, 4, 20_000, Bypass::Handshakes);
}

#[test]
fn frames_for_other_hosts_are_not_touched() {
    let Some(namespace) = veth() else { return };
    let services = services(packets::RULES);
    let links = Links::open(&namespace).unwrap();
    namespace
        .enter(|| {
            let _guard = Guard::install(&["far".to_owned()], &services, MARK, false).unwrap();
            let mut bench = Bench::new(&links);
            let packet = packets::tcp_v4([10, 1, 0, 10], 40_000, [10, 1, 2, 10], 443);
            let to_host = bench.send(bench.far, &mut packet.clone());
            let to_other = bench.send([0x02, 0, 0, 0, 0, 0x77], &mut packet.clone());
            let to_all = bench.send([0xff; 6], &mut packet.clone());
            let (before, behind) = bench.drain();
            assert!([to_host, to_other, to_all].iter().all(|number| before.contains(number)));
            assert_eq!(
                [to_host, to_other, to_all].map(|number| behind.contains(&number)),
                [false, true, true]
            );
        })
        .unwrap();
}

fn tables() -> usize {
    let mut socket = NetlinkSocket::new();
    [NETDEV, INET].map(|family| list_tables(&mut socket, family).unwrap().len()).iter().sum()
}

#[test]
fn guards_side_by_side_vanish_when_dropped() {
    let Some(namespace) = veth() else { return };
    namespace
        .enter(|| {
            let interfaces = ["far".to_owned(), "near".to_owned()];
            let first = Guard::install(&interfaces, &services(packets::RULES), MARK, false).unwrap();
            let second = Guard::install(&interfaces, &services(packets::RULES), MARK, false).unwrap();
            assert_ne!(first.table(), second.table());
            // One to drop; and one to keep conntrack away, where the kernel has that.
            let each = if first.untracked() { 2 } else { 1 };
            assert_eq!(tables(), 2 * each);
            drop(first);
            assert_eq!(tables(), each);
            drop(second);
            assert_eq!(tables(), 0);
        })
        .unwrap();
}

#[test]
fn an_unknown_interface_leaves_nothing() {
    let Some(namespace) = veth() else { return };
    namespace
        .enter(|| {
            let error =
                Guard::install(&["nosuch0".to_owned()], &services(packets::RULES), MARK, false).unwrap_err();
            assert!(error.to_string().contains("nosuch0"), "{error}");
            assert_eq!(tables(), 0);
        })
        .unwrap();
}

#[test]
fn many_services_fit() {
    let Some(namespace) = veth() else { return };
    let rules: Vec<String> = (0..300).map(|n| format!("10.{}.{}.0/24:443", 100 + n / 256, n % 256)).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    namespace
        .enter(|| {
            let _guard = Guard::install(&["far".to_owned()], &services(&rules), MARK, false).unwrap();
        })
        .unwrap();
}

const HOLDER: &str = "RTT0_GUARD_HOLDER";

#[test]
#[ignore = "the child process of a_killed_process_leaves_nothing"]
fn holder() {
    if std::env::var_os(HOLDER).is_some() {
        let _guard = Guard::install(&["far".to_owned()], &services(packets::RULES), MARK, false).unwrap();
        println!("installed");
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_killed_process_leaves_nothing() {
    let Some(namespace) = veth() else { return };
    namespace
        .enter(|| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "guard::tests::holder", "--ignored", "--nocapture"])
                .env(HOLDER, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let installed = lines.any(|line| line.unwrap().contains("installed"));
            let held = tables();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(installed && held > 0);
            assert_eq!(tables(), 0);
        })
        .unwrap();
}

#[test]
fn the_description_is_what_nft_understands() {
    let Some(namespace) = veth() else { return };
    let services = services(packets::RULES);
    let text = Guard::describe(&["far".to_owned()], &services, MARK, false);
    for expected in ["flags owner", "device \"far\"", "ip daddr 10.8.0.0/15 tcp dport 8000-8010", "notrack"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let file = std::env::temp_dir().join(format!("rtt0-guard-{}.nft", std::process::id()));
    std::fs::write(&file, &text).unwrap();
    let outcome =
        namespace.enter(|| Command::new("nft").arg("--check").arg("--file").arg(&file).output()).unwrap();
    std::fs::remove_file(&file).unwrap();
    match outcome {
        Err(_) => println!("skipped: nft is not installed"),
        Ok(output) => {
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

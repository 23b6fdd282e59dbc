//! Two hosts on a cable, and ways to lose packets between them.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]
#![allow(clippy::unwrap_used, reason = "part of tests")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rtt0_doctor::probe::{self, Protocol, Target};
use rtt0_doctor::report::Report;
use rtt0_doctor::{Layer, Patient};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::sysctl;

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const FAR6: &str = "fd77::2";
pub const PORT: u16 = 7777;

/// The host that is examined has `eth0`; the other end is `far0`.
pub struct Rig {
    pub near: Namespace,
    pub far: Namespace,
}

impl Rig {
    /// Builds one; `None`, with a word on why, if that needs privileges that this process lacks.
    pub fn new() -> Option<Self> {
        let near = match Namespace::create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return None;
            }
            outcome => outcome.unwrap(),
        };
        let rig = Self { near, far: Namespace::create().unwrap() };
        for namespace in [&rig.near, &rig.far] {
            sysctl::set(namespace, &[("net.ipv6.conf.default.accept_dad", "0")]).unwrap();
        }
        let near = VethEnd { namespace: &rig.near, name: "eth0" };
        Links::add_veth(near, VethEnd { namespace: &rig.far, name: "far0" }, 1500).unwrap();
        for (namespace, link, v4, v6) in [(&rig.near, "eth0", NEAR, "fd77::1"), (&rig.far, "far0", FAR, FAR6)]
        {
            let links = Links::open(namespace).unwrap();
            links.bring_up(link).unwrap();
            links.add_address(link, v4.into(), 24).unwrap();
            links.add_address(link, v6.parse().unwrap(), 64).unwrap();
        }
        rig.wait_for_the_cable();
        Some(rig)
    }

    /// The kernel notices the carrier late, and drops what is sent until then.
    fn wait_for_the_cable(&self) {
        let start = Instant::now();
        let answers = || {
            let report = self.probe(Protocol::Tcp, (FAR, 1).into(), 1);
            report.findings().is_empty()
        };
        while !answers() {
            assert!(start.elapsed() < Duration::from_secs(20), "the hosts must reach each other");
        }
    }

    /// Runs a program in a host; `None`, with a word on why, if it is not installed.
    pub fn run(namespace: &Namespace, command: &str) -> Option<()> {
        let mut words = command.split_ascii_whitespace();
        let run = || Command::new(words.next().unwrap()).args(words).output();
        match namespace.enter(run).unwrap() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("skipped: {command}: {error}");
                None
            }
            output => {
                let output = output.unwrap();
                assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
                Some(())
            }
        }
    }

    /// Loads a chain with one rule into a host.
    pub fn rule(namespace: &Namespace, family: &str, hook: &str, rule: &str) -> Option<()> {
        Self::nft(
            namespace,
            &format!(
                "add table {family} t; add chain {family} t c {{ {hook} }}; add rule {family} t c {rule}"
            ),
        )
    }

    /// Loads a script into a host; `None`, with a word on why, without the program for that.
    #[track_caller]
    pub fn nft(namespace: &Namespace, script: &str) -> Option<()> {
        let run = || Command::new("nft").arg(script).output();
        match namespace.enter(run).unwrap() {
            Err(error) => {
                println!("skipped: nft: {error}");
                None
            }
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(())
            }
        }
    }

    /// Probes from the near host.
    pub fn probe(&self, protocol: Protocol, address: SocketAddr, count: u32) -> Report {
        self.near
            .enter(|| {
                let patient = Patient::host(vec!["eth0".to_owned()]);
                let mut report = Report::default();
                probe::probe(&patient, &Target { protocol, address, count, agent: None }, &mut report);
                report.conclude();
                report
            })
            .unwrap()
    }

    /// Probes the far host and asserts what is found first.
    #[track_caller]
    pub fn assert_found(&self, protocol: Protocol, cause: &str, layer: Layer, subject: &str) {
        let report = self.probe(protocol, (FAR, PORT).into(), 20);
        assert_first(&report, cause, layer, subject);
    }
}

#[track_caller]
pub fn assert_first(report: &Report, cause: &str, layer: Layer, subject: &str) {
    let text = report.text(false);
    let first = report.findings().first().unwrap_or_else(|| panic!("nothing was found\n{text}"));
    assert_eq!((first.cause.id, first.layer), (cause, layer), "{text}");
    assert!(first.subject.contains(subject), "{text}");
    assert!(!first.evidence.is_empty() && !first.command.is_empty() && !first.fix.is_empty(), "{text}");
    assert!(first.lost > 0, "{text}");
}

/// How a program is attached (`enum bpf_attach_type`), and what it is (`enum bpf_prog_type`).
#[derive(Clone, Copy)]
pub enum Attach {
    TcxIngress,
    TcxEgress,
    Xdp,
    CgroupEgress,
    CgroupSend4,
    CgroupConnect4,
}

impl Attach {
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::TcxIngress => (46, 3),
            Self::TcxEgress => (47, 3),
            Self::Xdp => (37, 6),
            Self::CgroupEgress => (1, 8),
            Self::CgroupSend4 => (14, 18),
            Self::CgroupConnect4 => (10, 18),
        }
    }
}

/// Attaches a program that returns `verdict` whatever comes, to the device or control group `target`, as long as what is
/// returned lives.
pub fn attach(attach: Attach, target: u32, verdict: i32) -> io::Result<[OwnedFd; 2]> {
    const LINK_CREATE: i32 = 28;
    let (attach_type, kind) = attach.numbers();
    let loaded = load(kind, attach_type, verdict)?;
    let mut create = [0u64; 8];
    create[0] = u64::from(loaded.as_raw_fd().cast_unsigned()) | u64::from(target) << 32;
    create[1] = u64::from(attach_type);
    let link = bpf(LINK_CREATE, &mut create)?;
    Ok([loaded, link])
}

fn load(kind: u32, attach_type: u32, verdict: i32) -> io::Result<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    // r0 = verdict; exit
    let program: [u64; 2] = [0xb7 | (u64::from(verdict.cast_unsigned()) << 32), 0x95];
    let license = c"GPL";
    let mut load = [0u64; 16];
    load[0] = u64::from(kind) | 2 << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    // The name, at byte 48; the expected type, at byte 68.
    load[6] = u64::from_le_bytes(*b"injected");
    load[8] = u64::from(attach_type) << 32;
    bpf(PROG_LOAD, &mut load)
}

/// Adds a filter to a device's clsact qdisc, where packets leave, that drops whatever comes.
pub fn add_filter(namespace: &Namespace, link: &str) -> io::Result<()> {
    use netlink_bindings::tc::{Request, Tcmsg};

    let program = load(3, 0, 2)?;
    let device = index(namespace, link).cast_signed();
    let ask = || {
        let mut socket = netlink_socket2::NetlinkSocket::new();
        let at = Tcmsg { ifindex: device, parent: 0xffff_fff1, handle: 0xffff_0000, ..Tcmsg::new() };
        let mut qdisc = Request::new().set_create().op_newqdisc_do(&at);
        qdisc.encode().push_kind(c"clsact");
        socket.request(&qdisc)?.recv_ack()?;
        let info = 5 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        let at = Tcmsg { ifindex: device, parent: 0xffff_fff3, handle: 1, info, ..Tcmsg::new() };
        let mut filter = Request::new().set_create().op_newtfilter_do(&at);
        let options = filter.encode().push_kind(c"bpf").nested_options_bpf();
        // TCA_BPF_FLAG_ACT_DIRECT: what it returns is the action.
        options.push_fd(number(&program)).push_name(c"injected").push_flags(1).end_nested();
        socket.request(&filter)?.recv_ack()?;
        Ok(())
    };
    namespace.enter(ask).unwrap()
}

fn bpf<const N: usize>(command: i32, attributes: &mut [u64; N]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes, and what they point to, live through the call; the size is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), 8 * N) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Returns the index of a host's device.
pub fn index(namespace: &Namespace, link: &str) -> u32 {
    Links::open(namespace).unwrap().index(link).unwrap()
}

/// Borrows for a number: what the kernel calls a folder that is open.
pub fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

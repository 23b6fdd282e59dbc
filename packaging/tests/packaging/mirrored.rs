//! The mirror's unit, as a real systemd runs it, between a mirror session on eth0 and an analyser on eth1.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use libtest_mimic::{Completion, Failed};
use rtt0_netio::links::Links;
use rtt0_netio::ruleset_dump;

use crate::machine::{self, Files, Machine, Network};
use crate::{Outcome, skipped};

/// The capabilities that the unit gives, as /proc shows them. It keeps them.
const GIVEN: [&str; 2] = ["CapBnd:\t000000c000003000", "CapPrm:\t000000c000003000"];
/// How long packets, and the kernel's removals, are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);

/// Has the example configuration fit the machine's network.
pub(crate) fn configure(machine: &Machine) -> Result<(), Failed> {
    let edit = "sed -i 's/ens5/eth0/; s/ens6/eth1/; s/192.0.2.95:8081/10.1.2.10:8081/' /etc/rtt0/mirror.toml";
    machine.sh(edit).map(drop)
}

/// A mirror session, and the analyser that its packets are for.
pub(crate) struct Session {
    mirror: UdpSocket,
    analyser: UdpSocket,
}

impl Session {
    pub(crate) fn new(network: &Network) -> Result<Self, Failed> {
        let mirror = network.client.enter(|| UdpSocket::bind("10.1.0.10:0"))??;
        let analyser = network.server.enter(|| UdpSocket::bind("10.1.2.10:8081"))??;
        analyser.set_read_timeout(Some(POLL))?;
        Ok(Self { mirror, analyser })
    }

    /// Tells whether what is mirrored from a source arrives at the analyser, within `patience`.
    fn arrives(&self, source: [u8; 4], patience: Duration) -> Result<bool, Failed> {
        let mut frame = Vec::new();
        let inner = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, [203, 0, 113, 9], 64);
        inner.udp(40_000, 31_765).write(&mut frame, &source)?;
        // VXLAN, with identifier 1 (RFC 7348 section 5).
        let packet = [&[0x08, 0, 0, 0, 0, 0, 1, 0], &*frame].concat();
        let begin = Instant::now();
        while begin.elapsed() < patience {
            self.mirror.send_to(&packet, "10.1.0.1:4789")?;
            let mut payload = [0; 16];
            if matches!(self.analyser.recv(&mut payload), Ok(length) if payload[..length] == source) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails unless what the allowlist has is forwarded, and nothing else is.
    pub(crate) fn is_forwarded(&self) -> Result<(), Failed> {
        assert!(self.arrives([198, 51, 100, 7], PATIENCE)?, "what is allowed does not arrive");
        assert!(!self.arrives([198, 51, 101, 7], 2 * POLL)?, "what is not allowed arrives");
        Ok(())
    }
}

pub(crate) fn live() -> Outcome {
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let machine = Files::new()?.installed()?.start()?;
    let network = machine.network()?;
    let session = Session::new(&network)?;
    starts_when_its_interfaces_are_there(&machine)?;
    runs_confined(&machine, &network)?;
    session.is_forwarded()?;
    reloads(&machine, &session)?;
    restarts_by_itself(&machine, &network, &session)?;
    machine.sh("systemctl stop mirror")?;
    assert_eq!(machine.property("mirror", "Result")?, "success");
    only_of(None, &network)?;
    let log = machine.log("mirror")?;
    assert!(log.contains("stopped captured="), "{log}");
    Ok(Completion::Completed)
}

fn starts_when_its_interfaces_are_there(machine: &Machine) -> Result<(), Failed> {
    assert!(machine.sh("systemctl start mirror").is_err(), "started without its interface");
    let log = machine.log("mirror")?;
    assert!(log.contains("'ens5'") && log.contains("status=78"), "{log}");
    // It is tried again: an interface may come.
    assert_eq!(machine.property("mirror", "SubState")?, "auto-restart");
    machine.sh("systemctl stop mirror")?;
    configure(machine)?;
    machine.start("mirror")
}

fn main_process(machine: &Machine) -> Result<String, Failed> {
    machine.property("mirror", "MainPID")
}

fn runs_confined(machine: &Machine, network: &Network) -> Result<(), Failed> {
    assert_eq!(machine.property("mirror", "ActiveState")?, "active");
    let process = main_process(machine)?;
    let status = machine.sh(&format!("cat /proc/{process}/status"))?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"].into_iter().chain(GIVEN) {
        assert!(status.contains(line), "no {line} in {status}");
    }
    assert_eq!(machine.sh(&format!("stat --format %U /proc/{process}"))?, "rtt0-mirror\n");
    let log = machine.log("mirror")?;
    assert!(!log.contains("WARN"), "{log}");
    if log.contains("RLIMIT_MEMLOCK is") {
        println!("not shown: AF_XDP by LimitMEMLOCK: this systemd can't raise limits (CAP_SYS_RESOURCE)");
    }
    only_of(Some(&process), network)
}

fn reloads(machine: &Machine, session: &Session) -> Result<(), Failed> {
    let process = main_process(machine)?;
    let says = |words: &str| {
        machine.wait_for(&format!("systemctl show --property StatusText --value mirror | grep -q '{words}'"))
    };
    machine.sh("sed -i 's/198.51.100.0/198.51.99.0/' /etc/rtt0/allow.json && systemctl reload mirror")?;
    says("was read again")?;
    assert!(!session.arrives([198, 51, 100, 7], 2 * POLL)?, "the old list is in force");
    machine.sh("sed -i 's/198.51.99.0/198.51.100.0/' /etc/rtt0/allow.json && systemctl reload mirror")?;
    session.is_forwarded()?;
    // What is wrong is told to whoever reloads, and changes nothing.
    machine.sh("cp /etc/rtt0/mirror.toml /etc/rtt0/allow.json /tmp")?;
    for (wrong, told) in [
        ("echo 'workerz = 2' >> /etc/rtt0/mirror.toml", "workerz"),
        ("sed -i /^egress/d /etc/rtt0/mirror.toml", "forwarding needs 'egress'"),
        ("echo '{' > /etc/rtt0/allow.json", "/etc/rtt0/allow.json"),
    ] {
        machine.sh(wrong)?;
        assert!(machine.sh("systemctl reload mirror").is_err(), "reloaded: {wrong}");
        let log = machine.log("mirror")?;
        assert!(log.contains(told), "no {told} in {log}");
        session.is_forwarded()?;
        machine.sh("cp /tmp/mirror.toml /tmp/allow.json /etc/rtt0")?;
    }
    // What takes a restart is right by itself; the status says that it is not in force.
    machine.sh("sed -i 's/port = 4789/port = 4790/' /etc/rtt0/mirror.toml && systemctl reload mirror")?;
    says("it takes a restart")?;
    machine.sh("cp /tmp/mirror.toml /etc/rtt0 && systemctl reload mirror")?;
    says("was read again")?;
    session.is_forwarded()?;
    assert_eq!(
        (main_process(machine)?, machine.property("mirror", "ActiveState")?),
        (process, "active".into())
    );
    Ok(())
}

fn restarts_by_itself(machine: &Machine, network: &Network, session: &Session) -> Result<(), Failed> {
    // Sooner than in earnest; and packet memory by capability, where it can't be had by the limit.
    machine.sh("mkdir -p /run/systemd/system/mirror.service.d
         printf '%s\\n' '[Service]' WatchdogSec=3s TimeoutAbortSec=1s RestartSec=100ms \
             AmbientCapabilities=CAP_IPC_LOCK CapabilityBoundingSet=CAP_IPC_LOCK \
             > /run/systemd/system/mirror.service.d/soon.conf
         systemctl daemon-reload && systemctl restart mirror")?;
    let log = machine.log("mirror")?;
    if log.contains("backend=\"AF_XDP on eth0") {
        assert_eq!(programs(network)?, 1);
    } else {
        // Whether the kernel takes XDP programs is the kernel's affair; that it is tried is the unit's.
        assert!(!log.contains("is missing") && !log.contains("not permitted"), "{log}");
        println!("not shown: an XDP program goes with the process: lacks AF_XDP in the kernel");
    }
    session.is_forwarded()?;
    for (signal, result) in [("KILL", "signal"), ("STOP", "watchdog")] {
        let process = main_process(machine)?;
        machine.sh(&format!("kill -{signal} {process}"))?;
        machine.wait_for(&format!(
            "test $(systemctl show --property MainPID --value mirror) -ne {process} && systemctl is-active mirror"
        ))?;
        let log = machine.log("mirror")?;
        assert!(log.contains(&format!("Failed with result '{result}'")), "{log}");
        session.is_forwarded()?;
        only_of(Some(&main_process(machine)?), network)?;
    }
    Ok(())
}

/// Fails unless the only tables of nf_tables are those of one process, or there are none, and no XDP program either.
fn only_of(process: Option<&str>, network: &Network) -> Result<(), Failed> {
    let expected: Vec<String> = process.iter().map(|process| format!("rtt0_{process}")).collect();
    let begin = Instant::now();
    loop {
        let chains = network.router.enter(ruleset_dump::dump)??.chains;
        let mut tables: Vec<String> = chains.into_iter().map(|chain| chain.table).collect();
        tables.sort_unstable();
        tables.dedup();
        let programs = programs(network)?;
        if tables == expected && programs <= expected.len() {
            return Ok(());
        }
        // The kernel takes back what belonged to a process a moment after it.
        if begin.elapsed() > PATIENCE {
            return Err(format!("{tables:?} instead of {expected:?}, and {programs} XDP programs").into());
        }
        sleep(POLL);
    }
}

/// Returns how many XDP programs there are at the interface that the mirror arrives at.
fn programs(network: &Network) -> Result<usize, Failed> {
    Ok(Links::open(&network.router)?.xdp_programs("eth0")?.len())
}

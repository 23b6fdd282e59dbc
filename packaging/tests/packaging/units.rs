//! The units, alone and as a real systemd runs them.

use std::fs;
use std::process::Command;

use libtest_mimic::{Completion, Failed};

use crate::machine::{self, Files, Machine, Network};
use crate::{NICS, Outcome, PROGRAMS, is_installed, repository, skipped};

/// The capabilities that the unit gives, as /proc shows them, and what the control loop has kept of them once it serves.
const GIVEN: &str = "CapBnd:\t000000c000003000";
const KEPT: &str = "CapPrm:\t0000008000001000";
/// The same without the kernel's way for established connections.
const GIVEN_NETWORK: &str = "CapBnd:\t0000000000003000";
const KEPT_NETWORK: &str = "CapPrm:\t0000000000001000";

pub(crate) fn differ_in_names_only() -> Outcome {
    let text = |name: &str, kind: &str| {
        let text = fs::read_to_string(repository(&format!("deploy/systemd/{name}.{kind}")))?;
        let side =
            if name == "clientnic" { ["ClientNIC", "the client's"] } else { ["ServerNIC", "the server's"] };
        let text = text.replace(side[0], "NIC").replace(side[1], "one's");
        // Some sentences name both.
        Ok::<_, Failed>(NICS.iter().fold(text, |text, name| text.replace(name, "nic")))
    };
    for kind in ["service", "sysusers", "tmpfile"] {
        assert_eq!(text("clientnic", kind)?, text("servernic", kind)?, "{kind}");
    }
    Ok(Completion::Completed)
}

/// What the mirror's unit has in another way than the NICs', because it needs other things: less, but for AF_XDP's sockets.
const OF_ITS_OWN: [&str; 4] =
    ["ReadWritePaths=", "InaccessiblePaths=", "RestrictAddressFamilies=", "SystemCallFilter=bpf"];

pub(crate) fn forbids_no_less() -> Outcome {
    let forbidden = |name: &str| {
        let text = fs::read_to_string(repository(&format!("deploy/systemd/{name}.service")))?;
        let (_, rest) = text.split_once("# -- What it may not.").unwrap_or_default();
        let lines = rest.lines().take_while(|line| !line.starts_with('['));
        Ok::<Vec<String>, Failed>(lines.filter(|line| line.contains('=')).map(str::to_owned).collect())
    };
    let (nic, mirror) = (forbidden("clientnic")?, forbidden("mirror")?);
    assert!(nic.len() > 20, "{nic:?}");
    for line in nic {
        let is_its_own = OF_ITS_OWN.iter().any(|start| line.starts_with(start));
        assert!(is_its_own || mirror.contains(&line), "the mirror's unit lacks {line}");
    }
    Ok(Completion::Completed)
}

pub(crate) fn verified() -> Outcome {
    if !is_installed("systemd-analyze") {
        return skipped("systemd-analyze is not installed");
    }
    let folder = tempfile::tempdir()?;
    for name in PROGRAMS {
        let unit = folder.path().join(format!("{name}.service"));
        let text = fs::read_to_string(repository(&format!("deploy/systemd/{name}.service")))?;
        // Some program that exists, where no daemon is installed.
        let text = text.replace(&format!("/usr/bin/{name}"), env!("CARGO_BIN_EXE_packaging"));
        fs::write(&unit, text)?;
        let verify = |unit| Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output();
        let output = verify(&unit)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        // notify-reload.conf is for a later systemd than some have.
        let drop_ins: &[&str] = if NICS.contains(&name) { &["credential", "no-offload"] } else { &[] };
        for drop_in in drop_ins {
            let place = folder.path().join(format!("{name}.service.d"));
            fs::create_dir_all(&place)?;
            let original = repository(&format!("deploy/systemd/drop-ins/{drop_in}.conf"));
            fs::copy(original, place.join("drop-in.conf"))?;
            let output = verify(&unit)?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name} with {drop_in}: {said}");
        }
    }
    Ok(Completion::Completed)
}

pub(crate) fn live() -> Outcome {
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let machine = Files::new()?.installed()?.start()?;
    let network = machine.network()?;
    starts_when_it_has_a_key(&machine)?;
    runs_confined_and_serves(&machine, &network)?;
    reloads(&machine)?;
    restarts_by_itself(&machine, &network)?;
    stops(&machine)?;
    // The other one, by the same rules.
    machine.start("servernic")?;
    machine.sh("servernic show stats && systemctl reload servernic && systemctl stop servernic")?;
    assert_eq!(machine.property("servernic", "Result")?, "success");
    Ok(Completion::Completed)
}

fn starts_when_it_has_a_key(machine: &Machine) -> Result<(), Failed> {
    assert!(machine.sh("systemctl start clientnic").is_err(), "started without a key");
    let log = machine.log("clientnic")?;
    assert!(log.contains("'/etc/rtt0/key' does not exist") && log.contains("keygen"), "{log}");
    // It is tried again.
    assert_eq!(machine.property("clientnic", "SubState")?, "auto-restart");
    machine.sh("systemctl stop clientnic; clientnic keygen /etc/rtt0/key && chown rtt0: /etc/rtt0/key")?;
    machine.start("clientnic")
}

fn main_process(machine: &Machine) -> Result<String, Failed> {
    machine.property("clientnic", "MainPID")
}

fn runs_confined_and_serves(machine: &Machine, network: &Network) -> Result<(), Failed> {
    assert_eq!(machine.property("clientnic", "ActiveState")?, "active");
    let process = main_process(machine)?;
    let status = machine.sh(&format!("cat /proc/{process}/status"))?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", GIVEN, KEPT] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    let owner = machine.sh(&format!("stat --format %U /proc/{process}; stat --format '%U %a' /run/rtt0"))?;
    assert_eq!(owner, "rtt0\nrtt0 750\n");
    let log = machine.log("clientnic")?;
    // Whether the kernel takes BPF programs is the kernel's affair; that it is tried is the unit's.
    assert!(!log.contains("keeps its capabilities"), "{log}");
    if log.contains("forwarded by the kernel") {
        assert!(log.contains("pinned=\"/sys/fs/bpf/rtt0/"), "{log}");
        machine.sh("ls /sys/fs/bpf/rtt0/clientnic_*/flows*")?;
    } else {
        println!("not shown: what is pinned outlives a restart: lacks BPF in the kernel");
    }
    if !log.contains("realtime=true") {
        println!(
            "not shown: real-time threads by LimitRTPRIO: this systemd can't raise limits (CAP_SYS_RESOURCE)"
        );
    }
    assert!(log.contains("way=Tun"), "{log}");
    // The first connection teaches, the second is answered early, as solo.
    for _ in 0..2 {
        network.connect()?.close()?;
    }
    let profiles = machine.sh("clientnic show profiles")?;
    assert!(profiles.contains("10.1.2.10:443"), "{profiles}");
    let stats = machine.sh("clientnic show stats")?;
    assert!(stats.contains("serving"), "{stats}");
    // Neither the sandbox nor what the daemon has given up is an illness.
    let report = machine.sh("clientnic doctor --interval 1; true")?;
    assert!(report.contains("healthy, as far as was seen"), "{report}");
    Ok(())
}

fn reloads(machine: &Machine) -> Result<(), Failed> {
    let process = main_process(machine)?;
    machine.sh("systemctl reload clientnic")?;
    machine.sh("cp /etc/rtt0/clientnic.toml /tmp; echo 'workerz = 2' >> /etc/rtt0/clientnic.toml")?;
    assert!(machine.sh("systemctl reload clientnic").is_err(), "a wrong configuration was reloaded");
    machine.sh("mv /tmp/clientnic.toml /etc/rtt0/ && systemctl reload clientnic")?;
    assert_eq!(main_process(machine)?, process);
    assert_eq!(machine.property("clientnic", "ActiveState")?, "active");
    let log = machine.log("clientnic")?;
    assert!(log.contains("unknown key 'workerz'"), "{log}");
    // Keys can be rotated, and are told to nobody.
    let key = machine.sh("cat /etc/rtt0/key")?;
    let secret = key.split_whitespace().nth(1).unwrap_or_default();
    machine.sh("printf '3 %032d\\n' 7 >> /etc/rtt0/key && systemctl reload clientnic")?;
    let log = machine.log("clientnic")?;
    let shown = machine.sh(&format!("cat /proc/{process}/cmdline /proc/{process}/environ"))?;
    assert!(log.contains("keys=\"0,3\""), "{log}");
    assert!(secret.len() == 32 && !log.contains(secret) && !shown.contains(secret), "a key is shown");
    Ok(())
}

fn restarts_by_itself(machine: &Machine, network: &Network) -> Result<(), Failed> {
    let mut open = network.connect()?;
    // Sooner than in earnest; and real-time threads by capability, where they can't be had by the limit.
    machine.sh("mkdir -p /run/systemd/system/clientnic.service.d
         printf '%s\\n' '[Service]' WatchdogSec=2s TimeoutAbortSec=1s RestartSec=100ms \
             AmbientCapabilities=CAP_SYS_NICE CapabilityBoundingSet=CAP_SYS_NICE \
             > /run/systemd/system/clientnic.service.d/soon.conf
         systemctl daemon-reload && systemctl restart clientnic")?;
    let log = machine.log("clientnic")?;
    assert!(log.contains("realtime=true"), "{log}");
    open.say(1000)?;
    for (signal, result) in [("KILL", "signal"), ("STOP", "watchdog")] {
        let process = main_process(machine)?;
        machine.sh(&format!("kill -{signal} {process}"))?;
        machine.wait_for(&format!(
            "test $(systemctl show --property MainPID --value clientnic) -ne {process} &&
             systemctl is-active clientnic"
        ))?;
        let log = machine.log("clientnic")?;
        assert!(log.contains(&format!("Failed with result '{result}'")), "{log}");
        open.say(100_000)?;
    }
    open.close()
}

fn stops(machine: &Machine) -> Result<(), Failed> {
    machine.sh("systemctl stop clientnic")?;
    assert_eq!(machine.property("clientnic", "Result")?, "success");
    let devices = machine.sh("ls /sys/class/net")?;
    assert!(!devices.contains("rtt0-"), "{devices}");
    machine.sh("test -e /run/rtt0/clientnic.state -a ! -e /run/rtt0/clientnic.sock")?;
    let report = machine.sh("clientnic doctor --interval 1; echo status $?")?;
    assert!(report.starts_with("1. the daemon does not run") && report.ends_with("status 1\n"), "{report}");
    Ok(())
}

/// Starts a machine with one of the shipped drop-ins in effect.
fn with_drop_in(name: &str) -> Result<Machine, Failed> {
    let drop_in = repository(&format!("deploy/systemd/drop-ins/{name}"));
    let place = format!("/etc/systemd/system/clientnic.service.d/{name}");
    Files::new()?.installed()?.add(&place, drop_in)?.start()
}

pub(crate) fn credential() -> Outcome {
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let machine = with_drop_in("credential.conf")?;
    let _network = machine.network()?;
    // The file is root's alone.
    machine.sh("clientnic keygen /etc/rtt0/key && test $(stat --format %U%a /etc/rtt0/key) = root600")?;
    machine.start("clientnic")?;
    machine.sh("systemctl reload clientnic")?;
    let key = machine.sh("cat /etc/rtt0/key")?;
    let process = main_process(&machine)?;
    let shown = machine.sh(&format!("cat /proc/{process}/cmdline /proc/{process}/environ"))?;
    assert!(shown.contains("/run/credentials/clientnic.service/key"), "{shown}");
    let secret = key.split_whitespace().nth(1).unwrap_or_default();
    assert!(secret.len() == 32 && !shown.contains(secret), "a key is shown");
    Ok(Completion::Completed)
}

pub(crate) fn two_capabilities() -> Outcome {
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let machine = with_drop_in("no-offload.conf")?;
    let network = machine.network()?;
    machine.sh("clientnic keygen /etc/rtt0/key && chown rtt0: /etc/rtt0/key")?;
    machine.sh("echo 'offload = \"off\"' >> /etc/rtt0/clientnic.toml")?;
    machine.start("clientnic")?;
    let process = main_process(&machine)?;
    let status = machine.sh(&format!("cat /proc/{process}/status"))?;
    for line in [GIVEN_NETWORK, KEPT_NETWORK] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    let log = machine.log("clientnic")?;
    assert!(log.contains("forwarded in user space") && log.contains("way=Tun"), "{log}");
    for _ in 0..2 {
        network.connect()?.close()?;
    }
    Ok(Completion::Completed)
}

//! The daemons themselves.

use anyhow::Context;
use rtt0_doctor::Layer;
use rustix::process::{Pid, Signal, kill_process};

use super::super::case::{BASE, Case, Patient, Place, Raised, WITH_NICS, expect};
use super::super::shell::nft;
use super::super::traffic::Kind;
use crate::compare::choice::IpVersion::V4;
use crate::nic;
use crate::process::Process;

const CLIENT_NIC: Patient = Patient::Nic(Place::ClientNic);
const SERVER_NIC: Patient = Patient::Nic(Place::ServerNic);

pub(super) const ALL: &[Case] = &[
    Case {
        name: "daemon-killed",
        about: "ServerNIC's daemon was killed; the kernel forwards",
        expected: expect(&["daemon-not-running"], Layer::Daemon),
        raised: WITH_NICS,
        patient: SERVER_NIC,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| {
            let nics = site.nics.as_mut().context("no daemons")?;
            nics.server().take().context("no ServerNIC")?.kill()?;
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "daemon-stopped",
        about: "ClientNIC's daemon is stopped (SIGSTOP): its guard drops, and nobody forwards",
        expected: expect(&["daemon-not-answering"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| {
            let nics = site.nics.as_mut().context("no daemons")?;
            let id = nics.client().as_ref().context("no ClientNIC")?.id();
            let stopped = Stopped(Pid::from_raw(id.cast_signed()).context("bad process id")?);
            kill_process(stopped.0, Signal::STOP)?;
            site.keep(stopped);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "second-instance",
        about: "a second ClientNIC runs on the same interfaces",
        expected: expect(&["second-instance"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        inject: |site| {
            let nics = site.nics.as_ref().context("no daemons")?;
            let mut command = site.host(Place::ClientNic).command(nic::executable()?);
            command.args(["clientnic", "run", "--config", "/dev/null", "--no-state"]);
            command.args(["--interface", "lan0", "--interface", "wan0", "--service", "10.1.2.0/24:8080"]);
            command.arg("--key-file").arg(nics.key_file()).args(["--control-socket", "", "--offload", "off"]);
            command.stderr(std::process::Stdio::null());
            let mut second = Process::spawn(command)?;
            std::thread::sleep(std::time::Duration::from_millis(500));
            anyhow::ensure!(second.try_wait()?.is_none(), "a second daemon does not run");
            site.keep(second);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "guard-mismatch",
        about: "the configuration has a service more than the daemon that runs: it was not read again",
        expected: expect(&["guard-mismatch"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        arguments: &["--service", "10.1.2.0/24:1-65535,10.1.3.0/24:443"],
        ..BASE
    },
    Case {
        name: "key-mismatch",
        about: "ServerNIC has another key than ClientNIC",
        expected: expect(&["key-mismatch"], Layer::Daemon),
        raised: WITH_NICS,
        patient: SERVER_NIC,
        traffic: &[Kind::Tcp(V4), Kind::Tcp(V4)],
        inject: |site| {
            let key = "0 000102030405060708090a0b0c0d0e0f";
            site.nics.as_mut().context("no daemons")?.rekey("servernic", &[key])
        },
        ..BASE
    },
    Case {
        name: "bound-reached",
        about: "ClientNIC may know one connection at a time, and gets more",
        expected: expect(&["bound-reached"], Layer::Daemon),
        raised: Raised { nic_arguments: &["--max-flows", "1"], ..WITH_NICS },
        patient: CLIENT_NIC,
        traffic: &[Kind::Tcp(V4), Kind::Tcp(V4), Kind::Tcp(V4), Kind::Tcp(V4)],
        ..BASE
    },
    Case {
        name: "kernel-path-race",
        about: "another's chain at the ingress sends the packets on by itself, before the guard",
        expected: expect(&["kernel-path-race"], Layer::NetdevIngress),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        inject: |site| {
            let rules = "table netdev site { chain c { type filter hook ingress device lan0 priority -400; \
                         tcp dport 8080 fwd to wan0; }\n }\n";
            nft(site.host(Place::ClientNic), rules)
        },
        ..BASE
    },
];

/// A process that goes on when this is dropped, so that it can end.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

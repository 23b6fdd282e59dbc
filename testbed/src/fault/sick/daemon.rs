//! The daemons themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use rtt0_doctor::Layer;
use rtt0_netio::links::Links;
use rustix::fs::XattrFlags;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::super::case::{BASE, Case, Patient, Place, Raised, WITH_NICS, expect};
use super::super::shell::{Untriable, nft, run};
use super::super::traffic::Kind;
use crate::compare::choice::IpVersion::V4;
use crate::nic;
use crate::process::Process;
use crate::program::installed;

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
        name: "capability-late",
        about: "ClientNIC's file was given CAP_BPF while the daemon, which lacks it, was running already",
        expected: expect(&["capability-late"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        inject: |site| {
            let (folder, file) = copy_of_this_executable()?;
            let nics = site.nics.as_mut().context("no daemons")?;
            nics.client().take().context("no ClientNIC")?.terminate()?;
            let host = &site.topology.client_nic;
            let setpriv =
                installed::find("setpriv").ok_or_else(|| Untriable("not installed: setpriv".to_owned()))?;
            let mut command = host.command(setpriv);
            command.arg("--bounding-set=-bpf,-perfmon,-sys_admin").arg(&file).args(nics.run_arguments(host));
            command.stderr(Stdio::null());
            let mut daemon = Process::spawn(command)?;
            thread::sleep(Duration::from_secs(1));
            ensure!(daemon.try_wait()?.is_none(), "the daemon does not run without CAP_BPF");
            give_capabilities(&file)?;
            site.keep((daemon, folder));
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "interface-recreated",
        about: "ClientNIC's interface to the client was removed and made anew under the same name, for which the daemon ends",
        expected: expect(&["daemon-not-running"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| {
            let topology = &site.topology;
            Links::open(topology.client_nic.namespace())?.remove("lan0")?;
            topology.rejoin_client()?;
            // Within a second the daemon notices, and ends rather than guard a device from which it gets nothing.
            thread::sleep(Duration::from_millis(1500));
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
            command.stderr(Stdio::null());
            let mut second = Process::spawn(command)?;
            thread::sleep(Duration::from_millis(500));
            ensure!(second.try_wait()?.is_none(), "a second daemon does not run");
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
        name: "guard-own-address",
        about: "ClientNIC was given an address within a service, of which the running daemon's guard does not know",
        expected: expect(&["guard-mismatch"], Layer::Daemon),
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        inject: |site| run(site.host(Place::ClientNic), "ip addr add 10.1.2.77/32 dev wan0"),
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

/// Makes a copy of this executable, of which the file system may keep capabilities.
fn copy_of_this_executable() -> anyhow::Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir().context("can't make a folder")?;
    let file = folder.path().join("clientnic");
    fs::copy("/proc/self/exe", &file).context("can't copy this executable")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok((folder, file))
}

/// Gives a file the daemon's capabilities, as setcap(8) does (capabilities(7), "File capabilities", revision 2).
fn give_capabilities(file: &Path) -> anyhow::Result<()> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    const NET_ADMIN_AND_RAW: u32 = 1 << 12 | 1 << 13;
    /// Of capabilities 32 to 63.
    const PERFMON_AND_BPF: u32 = 1 << (38 - 32) | 1 << (39 - 32);
    let words = [REVISION_2_EFFECTIVE, NET_ADMIN_AND_RAW, 0, PERFMON_AND_BPF, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    rustix::fs::setxattr(file, "security.capability", &value, XattrFlags::empty())
        .map_err(|error| Untriable::unless_permitted("capabilities of files", error.into()))
}

/// A process that goes on when this is dropped, so that it can end.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

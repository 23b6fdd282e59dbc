//! The daemon as a process: what it prints, how it ends.
//!
//! Without the environment variable [`AS_DAEMON`] this program is the test runner; with it, it
//! is a daemon whose engine forwards everything.
#![allow(clippy::unwrap_used, reason = "a test without the built-in harness is not seen as one")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::time::Instant;
use rtt0_daemon::{Context, NoOptions, Program};
use rtt0_netio::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use tempfile::TempDir;

const AS_DAEMON: &str = "RTT0_TEST_AS_DAEMON";
const KEY: &str = "0 000102030405060708090a0b0c0d0e0f\n";

type Test = fn() -> Result<(), Failed>;

struct Forwarder(Arc<Counters>);

impl Engine for Forwarder {
    fn handle(&mut self, _: Instant, _: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        Verdict::Forward
    }
    fn too_big(&mut self, _: Instant, _: &[u8], _: u16, _: &mut Outbox) {}
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}
    fn counters(&self) -> &Counters {
        &self.0
    }
}

fn main() -> ExitCode {
    if std::env::var_os(AS_DAEMON).is_some() {
        let program = Program { name: "testnic", about: "Forwards everything" };
        return rtt0_daemon::main(&program, std::env::args_os(), |context: Context, _: NoOptions| {
            Forwarder(context.counters)
        });
    }
    let tests: [(&str, Test); 6] = [
        ("usage_errors_end_with_2", usage_errors),
        ("configuration_errors_end_with_78", configuration_errors),
        ("a_missing_capability_ends_with_77", missing_capabilities),
        ("a_dry_run_needs_no_privilege", dry_run),
        ("keygen_writes_a_key_that_run_accepts", keygen),
        ("serves_until_sigterm", serves_until_sigterm),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn daemon(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(AS_DAEMON, "1").env_remove("RUST_LOG").args(arguments);
    command
}

fn key_file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    (directory, path)
}

fn run(interface: &str, service: &str, key: &Path) -> Command {
    daemon(&["run", "--interface", interface, "--service", service, "--key-file", key.to_str().unwrap()])
}

fn expect_code(output: &Output, code: i32) -> Result<String, Failed> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(found) if found == code => Ok(text),
        found => Err(format!("exit code {found:?} instead of {code}: {text}").into()),
    }
}

/// One line that begins with the program's name and holds every one of `words`.
fn expect_line(text: &str, words: &[&str]) -> Result<(), Failed> {
    let one_line = text.lines().count() == 1 && text.starts_with("testnic: ");
    match words.iter().find(|word| !text.contains(**word)) {
        None if one_line => Ok(()),
        missing => Err(format!("not one line with {missing:?}: {text}").into()),
    }
}

fn usage_errors() -> Result<(), Failed> {
    for arguments in [
        &[][..],
        &["walk"],
        &["run", "--service", "10.1.2.0/24:443", "--key-file", "k"],
        &["run", "--interface", "lo", "--key-file", "k"],
        &["run", "--interface", "lo", "--service", "10.1.2.0/24:443"],
        &[
            "run",
            "--interface",
            "lo",
            "--service",
            "10.1.2.0/24:443",
            "--key-file",
            "k",
            "--log-format",
            "xml",
        ],
        &["keygen"],
        &["keygen", "k", "--id", "4"],
    ] {
        expect_code(&daemon(arguments).output()?, 2)?;
    }
    expect_code(&daemon(&["run", "--help"]).output()?, 0)?;
    expect_code(&daemon(&["--version"]).output()?, 0)?;
    Ok(())
}

fn configuration_errors() -> Result<(), Failed> {
    let service = "10.1.2.0/24:443";
    let (_kept, good) = key_file(KEY, 0o600);
    let (_kept, exposed) = key_file(KEY, 0o644);
    let (_kept, short) = key_file("0 0001\n", 0o600);
    let missing = Path::new("/nonexistent/key");
    for (command, words) in [
        (run("nosuch0", service, &good), ["unknown interface 'nosuch0'", "lo"]),
        (run("lo", "10.1.2.0/33:443", &good), ["service '10.1.2.0/33:443'", "prefix length"]),
        (run("lo", "10.1.2.0/24", &good), ["service '10.1.2.0/24'", "no port"]),
        (run("lo", "10.1.2.0/24:443,x:1", &good), ["service 'x:1'", "not an IP address"]),
        (run("lo", service, missing), ["'/nonexistent/key' does not exist", "keygen"]),
        (run("lo", service, &exposed), ["mode 0644", "chmod 600"]),
        (run("lo", service, &short), ["line 1", "4 digits"]),
    ] {
        let mut command = command;
        expect_line(&expect_code(&command.output()?, 78)?, &words)?;
    }
    Ok(())
}

/// Starts `command` without a capability, which root would have otherwise.
fn without(capability: CapabilitySet, command: &mut Command) -> std::io::Result<Output> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread, and so of the process it starts.
            match remove_capability_from_bounding_set(capability) {
                // Without CAP_SETPCAP there is no other capability to lose either.
                Ok(()) | Err(rustix::io::Errno::PERM) => command.output(),
                Err(error) => Err(error.into()),
            }
        });
        thread.join().unwrap()
    })
}

fn missing_capabilities() -> Result<(), Failed> {
    let (_kept, key) = key_file(KEY, 0o600);
    for (capability, name) in
        [(CapabilitySet::NET_RAW, "CAP_NET_RAW"), (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")]
    {
        if !rustix::process::geteuid().is_root() && name == "CAP_NET_ADMIN" {
            println!("skipped: needs CAP_NET_RAW to see CAP_NET_ADMIN missed");
            continue;
        }
        let output = without(capability, &mut run("lo", "10.1.2.0/24:443", &key))?;
        expect_line(&expect_code(&output, 77)?, &[name])?;
    }
    Ok(())
}

fn dry_run() -> Result<(), Failed> {
    let mut command =
        daemon(&["run", "--interface", "lo", "--service", "10.1.2.0/24:443,[fd00::/64]:443", "--dry-run"]);
    let output = without(CapabilitySet::NET_ADMIN, &mut command)?;
    expect_code(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in [
        "table netdev rtt0_",
        "device \"lo\"",
        "ip daddr 10.1.2.0/24 tcp dport 443 goto tcp4_to_service",
        "ip6 daddr fd00::/64 tcp dport 443 goto tcp6_to_service",
        "notrack",
        "Offload changes: none",
    ] {
        if !text.contains(words) {
            return Err(format!("{words} is missing in {text}").into());
        }
    }
    Ok(())
}

fn keygen() -> Result<(), Failed> {
    let directory = TempDir::new()?;
    let path = directory.path().join("key");
    let path = path.to_str().unwrap();
    expect_code(&daemon(&["keygen", path, "--id", "2"]).output()?, 0)?;
    let arguments =
        ["run", "--interface", "lo", "--service", "10.1.2.0/24:443", "--key-file", path, "--dry-run"];
    expect_code(&daemon(&arguments).output()?, 0)?;
    let again = expect_code(&daemon(&["keygen", path]).output()?, 78)?;
    expect_line(&again, &[path, "never overwritten"])
}

fn serves_until_sigterm() -> Result<(), Failed> {
    let namespace = match Namespace::create() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return Ok(());
        }
        outcome => outcome?,
    };
    let (directory, key) = key_file(KEY, 0o600);
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = run("lo", "10.1.2.0/24:443", &key);
        command.args(["--log-format", "json"]).env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped());
        let mut child = namespace.enter(|| command.spawn())??;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains("\"ready\"")));
        let mut message = [0; 64];
        let length = manager.recv(&mut message)?;
        kill_process(Pid::from_child(&child), signal)?;
        let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
        let status = child.wait()?;
        manager.recv(&mut [0; 64])?;
        if ready.is_none() || !status.success() || !rest.iter().any(|line| line.contains("\"stopped\"")) {
            return Err(format!("{signal:?}: {ready:?} {status:?} {rest:?}").into());
        }
        if !message[..length].starts_with(b"READY=1") {
            return Err("no READY=1".into());
        }
    }
    Ok(())
}

//! `up`, `exec` and `down` as a user meets them, as root and without.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user that everything belongs to that belongs to nobody.
const NOBODY: u32 = 65_534;
/// Exit status for missing privilege.
const NO_PRIVILEGE: i32 = 77;

/// Runs the program with a run-time directory of its own.
struct User {
    program: PathBuf,
    runtime: TempDir,
    id: Option<u32>,
}

impl User {
    fn ourselves() -> Self {
        let runtime = tempfile::tempdir().unwrap();
        Self { program: env!("CARGO_BIN_EXE_testbed").into(), runtime, id: None }
    }

    /// A user without privileges, with a copy of the program that it may read.
    fn nobody() -> Self {
        let runtime = tempfile::tempdir().unwrap();
        let program = runtime.path().join("testbed");
        fs::copy(env!("CARGO_BIN_EXE_testbed"), &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        chown(runtime.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        Self { program, runtime, id: Some(NOBODY) }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("XDG_RUNTIME_DIR", self.runtime.path()).current_dir("/");
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        command.output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, arguments: &[&str], expected: &str) {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(expected), "{arguments:?}: {output:?}");
    }

    fn state(&self) -> PathBuf {
        self.runtime.path().join("rtt0-testbed/topology.json")
    }

    fn holder(&self) -> i32 {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(self.state()).unwrap()).unwrap();
        state["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Walks through the life of a topology; false if the machine does not let this user have one.
    fn explore(&self) -> bool {
        let raised = self.run(&["up", "--rtt", "10"]);
        if raised.status.code() == Some(NO_PRIVILEGE) {
            return false;
        }
        assert!(raised.status.success(), "{raised:?}");
        self.fail(&["up"], "a topology is up already");
        let forward = |host| self.succeed(&["exec", host, "--", "cat", "/proc/sys/net/ipv4/ip_forward"]);
        assert_eq!((forward("client").trim(), forward("clientnic").trim()), ("0", "1"));
        assert_eq!(self.run(&["exec", "server", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
        assert_eq!(self.run(&["exec", "server", "--", "/absent/program"]).status.code(), Some(127));
        self.fail(&["exec", "nowhere", "--", "true"], "client, clientnic, server, servernic");
        self.succeed(&["down"]);
        self.fail(&["down"], "no topology is up");
        self.fail(&["exec", "client", "--", "true"], "no topology is up");
        assert!(!self.state().parent().unwrap().exists());
        true
    }
}

#[test]
fn a_topology_is_raised_entered_and_removed() {
    if !User::ourselves().explore() {
        println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN or unprivileged user namespaces");
    }
}

#[test]
fn it_needs_no_root() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: the other test runs without root already");
    } else if !User::nobody().explore() {
        println!("skipped: needs unprivileged user namespaces");
    }
}

#[test]
fn a_killed_holder_leaves_nothing_that_matters() {
    let user = User::ourselves();
    if user.run(&["up", "--rtt", "10"]).status.code() == Some(NO_PRIVILEGE) {
        println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN or unprivileged user namespaces");
        return;
    }
    let holder = user.holder();
    Command::new("kill").args(["-9", &holder.to_string()]).status().unwrap();
    // The kernel takes a moment to end the holder's threads and with them its lock.
    let patience = Instant::now();
    loop {
        let output = user.run(&["exec", "client", "--", "true"]);
        if String::from_utf8_lossy(&output.stderr).contains("no topology is up") {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(5), "the holder does not die: {output:?}");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!user.state().exists());
    user.succeed(&["up", "--rtt", "10"]);
    user.succeed(&["down"]);
}

//! Whether the daemon runs and answers, once, and what is left of one that is gone.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::causes::{DAEMON_NOT_ANSWERING, DAEMON_NOT_RUNNING, SECOND_INSTANCE};
use crate::finding::{Finding, Layer, Rank};
use crate::look::daemon::DaemonCounters;
use crate::look::processes::Process;
use crate::patient::Daemon;
use crate::report::Report;

/// How long a daemon may take until it answers.
const STARTING: Duration = Duration::from_secs(3);

/// What is seen of a daemon.
#[derive(Debug)]
pub(super) struct Presence {
    /// Its processes, or why they can't be listed.
    pub(super) processes: Result<Vec<Process>, String>,
    /// Processes of other users are not shown.
    pub(super) are_hidden: bool,
    /// What it answers, or why it does not.
    pub(super) answer: Result<DaemonCounters, String>,
    /// Why its control socket can't be reached: nobody listens, or it may not be opened.
    pub(super) socket: Result<(), io::ErrorKind>,
}

impl Presence {
    /// Tells whether it runs, as far as that is known.
    pub(super) fn runs(&self) -> bool {
        self.answer.is_ok() || self.processes.as_ref().is_ok_and(|processes| !processes.is_empty())
    }

    /// Tells whether it serves for some time already: what it makes should be there.
    pub(super) fn has_settled(&self) -> bool {
        self.answer.is_ok()
            || self.processes.iter().flatten().any(|process| process.age.is_some_and(|age| age > STARTING))
    }
}

/// Looks whether anybody listens at a socket; what is said there is another matter.
pub(super) fn knock(path: Option<&Path>) -> Result<(), io::ErrorKind> {
    let path = path.ok_or(io::ErrorKind::Unsupported)?;
    UnixStream::connect(path).map(drop).map_err(|error| error.kind())
}

/// Judges whether the daemon runs and answers.
pub(super) fn judge(daemon: &Daemon, presence: &Presence, report: &mut Report) {
    let name = daemon.name;
    let processes = match &presence.processes {
        Ok(processes) => &processes[..],
        Err(why) => {
            report.cannot_see(format!("processes of {name}"), why);
            &[]
        }
    };
    for process in processes {
        report.note("process", described(process));
    }
    match (&presence.answer, processes) {
        (Ok(counters), _) => report.note("daemon", state(counters)),
        (Err(why), []) if presence.socket == Err(io::ErrorKind::PermissionDenied) || presence.are_hidden => {
            report.is_blind_to(
                format!("whether {name} runs"),
                format!(
                    "{why}; and processes of others are not shown; run as root, or in the daemon's group"
                ),
            )
        }
        (Err(why), []) if presence.processes.is_ok() => report.find(not_running(daemon, why)),
        (Err(why), []) => report.is_blind_to(format!("whether {name} runs"), why),
        (Err(why), _) => judge_silence(daemon, presence, processes, why, report),
    }
}

/// Judges a daemon that runs and gives no answer.
fn judge_silence(
    daemon: &Daemon,
    presence: &Presence,
    processes: &[Process],
    why: &str,
    report: &mut Report,
) {
    let name = daemon.name;
    let silent = |process: &Process, evidence: String| {
        Finding::new(&DAEMON_NOT_ANSWERING, Layer::Daemon, Rank::Fault)
            .of(format!("process {}", process.pid))
            .because(evidence)
            .seen_by(format!("{name} show stats; grep State /proc/{}/status", process.pid))
    };
    let stopped: Vec<_> = processes.iter().filter(|process| process.is_stopped()).collect();
    for process in &stopped {
        report.find(
            silent(
                process,
                format!(
                    "process {} is stopped (state {} in /proc/{}/stat): nothing that the guard keeps from the kernel goes on",
                    process.pid, process.state, process.pid
                ),
            )
            .mended_by(format!("kill -CONT {}; find out who has stopped it (SIGSTOP, a debugger)", process.pid)),
        );
    }
    if !stopped.is_empty() {
        return;
    }
    let is_elsewhere =
        processes.iter().any(|process| answers_elsewhere(process, daemon.control_socket.as_deref()));
    let is_young = processes.iter().all(|process| process.age.is_some_and(|age| age < STARTING));
    let process = processes.first();
    match (presence.socket, process) {
        (Err(io::ErrorKind::Unsupported), _) => {
            report.cannot_see(
                "the daemon's counters",
                "it has no control socket (--no-state, or --control-socket \"\")",
            );
        }
        (Err(io::ErrorKind::PermissionDenied), _) => report.cannot_see(
            "the daemon's counters",
            "its control socket may not be opened; run as root, or in the daemon's group",
        ),
        (Err(_), _) if is_elsewhere || is_young => report.cannot_see(
            "the daemon's counters",
            format!("{why}; it has another --control-socket, or has just been started"),
        ),
        (_, Some(process)) => {
            report.find(silent(process, format!("process {} runs, and {why}", process.pid)).mended_by(
                format!("name its --control-socket to the doctor; else restart {name} and look at its log"),
            ))
        }
        (_, None) => {}
    }
}

/// Tells whether a process was started with another control socket, or none, by its command line.
fn answers_elsewhere(process: &Process, asked: Option<&Path>) -> bool {
    let has = |option: &str| process.arguments.iter().any(|word| word.starts_with(option));
    let names = |path: &Path| process.arguments.iter().any(|word| word.ends_with(&*path.to_string_lossy()));
    let is_named = |path: &Path| names(path) || path.parent().is_some_and(names);
    (has("--control-socket") || has("--state-dir") || has("--no-state")) && !asked.is_some_and(is_named)
}

fn not_running(daemon: &Daemon, why: &str) -> Finding {
    let name = daemon.name;
    Finding::new(&DAEMON_NOT_RUNNING, Layer::Daemon, Rank::Fault)
        .because(format!("no process in this network namespace is '{name} run'"))
        .because(format!("asked at its control socket: {why}"))
        .seen_by(format!("pgrep -af '{name} run'; systemctl status {name}"))
        .mended_by(format!("systemctl start {name}; if it ends at once: journalctl -u {name}"))
}

fn described(process: &Process) -> String {
    let label = process.label.as_ref().map(|label| format!(", confined by '{label}'")).unwrap_or_default();
    let replaced = if process.is_replaced() { ", of a file that was replaced since" } else { "" };
    let filter = if process.threads.iter().any(|thread| thread.seccomp == 2) {
        ", under a seccomp filter (what that denies is in the audit log, which is not read)"
    } else {
        ""
    };
    format!("{} in state {}{replaced}{label}{filter}", process.pid, process.state)
}

fn state(counters: &DaemonCounters) -> String {
    let mut words = vec!["answers"];
    words.extend(counters.is_offloaded.then_some("the kernel forwards established flows"));
    words.extend(counters.is_draining.then_some("begins no handshakes (drained)"));
    words.extend((counters.bypass != "nothing").then_some("leaves SYNs to the kernel (a flood)"));
    words.join("; ")
}

/// Judges whether several processes have the same interface, by their command lines.
pub(super) fn judge_several(processes: &[Process], report: &mut Report) {
    for (index, one) in processes.iter().enumerate() {
        for other in &processes[index + 1..] {
            let (mine, yours) = (one.interfaces(), other.interfaces());
            let Some(shared) = mine.iter().find(|name| yours.contains(name)) else { continue };
            report.find(several(shared).because(format!(
                "processes {} and {} both have --interface {shared}: each sends on what the other does as well",
                one.pid, other.pid
            )));
        }
    }
}

/// Begins a finding of two daemons on an interface.
pub(super) fn several(interface: &str) -> Finding {
    Finding::new(&SECOND_INSTANCE, Layer::Daemon, Rank::Fault)
        .of(interface)
        .seen_by("pgrep -af 'nic run'; nft list tables netdev")
        .mended_by("stop one of them")
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;

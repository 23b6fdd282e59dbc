//! Capabilities of the running daemon, and of its file: those that a file was given later a process does not have.
//!
//! The daemon gives up what it no longer needs, thread by thread ([`rtt0_netio::privilege`]). Only its main thread keeps
//! CAP_NET_ADMIN, for the guard, so that is all that can be asked of it.

use std::time::SystemTime;

use crate::causes::{CAPABILITY_LATE, CAPABILITY_MISSING};
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::capabilities::{BPF, NET_ADMIN, NET_RAW, Set, ThreadCapabilities};
use crate::look::processes::Process;
use crate::report::Report;

const NAMES: [(u8, &str); 3] = [(NET_ADMIN, "CAP_NET_ADMIN"), (NET_RAW, "CAP_NET_RAW"), (BPF, "CAP_BPF")];

/// Judges a process of the daemon. `lacks_offload` says that the kernel was to forward established flows and does not.
pub(super) fn judge(process: &Process, lacks_offload: bool, report: &mut Report) {
    let Some(main) = process.threads.first() else {
        return report
            .cannot_see(format!("capabilities of process {}", process.pid), "its status can't be read");
    };
    report.note(
        format!("capabilities of process {}", process.pid),
        format!("{} (main thread)", spelled(main.effective)),
    );
    if let Err(why) = &process.file {
        report.cannot_see("capabilities of the daemon's file", why);
    }
    if !main.effective.has(NET_ADMIN) {
        report.find(lacking(process, main, NET_ADMIN, Rank::Fault));
    }
    // Without it user space forwards, as documented; but somebody has given it to the file, and expects otherwise.
    if lacks_offload && !main.effective.has(BPF) && is_late(process, BPF) {
        report.find(lacking(process, main, BPF, Rank::Suspicion));
    }
}

fn lacking(process: &Process, main: &ThreadCapabilities, capability: u8, rank: Rank) -> Finding {
    let (pid, name) = (process.pid, name(capability));
    let (cause, why): (&'static Cause, _) = match is_late(process, capability) {
        true => {
            (&CAPABILITY_LATE, "its file was given it after the process was started, which needs a restart")
        }
        false if !main.bounding.has(capability) => (
            &CAPABILITY_MISSING,
            "whoever started it has taken it out of the bounding set, so that no file can give it",
        ),
        false => (&CAPABILITY_MISSING, "neither its user nor its file gives it"),
    };
    Finding::new(cause, Layer::Daemon, rank)
        .of(format!("process {pid}"))
        .because(format!("process {pid} lacks {name} (CapEff {:#018x}): {why}", main.effective.0))
        .seen_by(format!("grep Cap /proc/{pid}/status; getcap /proc/{pid}/exe"))
        .mended_by(match cause == &CAPABILITY_LATE {
            true => "restart the daemon".to_owned(),
            false => {
                format!("give {name} (AmbientCapabilities= of its unit, or setcap), and restart the daemon")
            }
        })
}

/// Tells whether the file gives a capability, since a time at which the process already ran.
fn is_late(process: &Process, capability: u8) -> bool {
    let after = |changed: SystemTime, started: SystemTime| changed > started;
    process.file.as_ref().is_ok_and(|file| {
        file.permitted.has(capability)
            && file.changed.zip(process.started).is_some_and(|(changed, started)| after(changed, started))
    })
}

/// Judges, where no daemon runs, whether one could here: what this process may never have, nothing that it starts can.
pub(super) fn judge_environment(own: &ThreadCapabilities, report: &mut Report) {
    let missing: Vec<&str> =
        [NET_ADMIN, NET_RAW].into_iter().filter(|bit| !own.bounding.has(*bit)).map(name).collect();
    if missing.is_empty() {
        return;
    }
    report.find(
        Finding::new(&CAPABILITY_MISSING, Layer::Daemon, Rank::Fault)
            .because(format!(
                "{} can't be had here: the bounding set of this process is {:#018x}, and a daemon that lacks them does not start",
                missing.join(" and "),
                own.bounding.0
            ))
            .seen_by("grep CapBnd /proc/self/status")
            .mended_by("allow them in the container or unit (CapabilityBoundingSet=, --cap-add)"),
    );
}

fn name(capability: u8) -> &'static str {
    NAMES.iter().find(|(bit, _)| *bit == capability).map_or("a capability", |(_, name)| name)
}

fn spelled(set: Set) -> String {
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| set.has(*bit)).map(|(_, name)| *name).collect();
    if names.is_empty() { "none of those it needs".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::testing::causes;
    use super::*;
    use crate::look::capabilities::FileCapabilities;
    use std::time::Duration;

    const ALL: Set = Set(u64::MAX);

    fn set(bits: &[u8]) -> Set {
        Set(bits.iter().map(|bit| 1 << bit).sum())
    }

    fn judged(effective: Set, file: Set, is_later: bool, lacks_offload: bool) -> Vec<String> {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let changed =
            if is_later { started + Duration::from_secs(5) } else { started - Duration::from_secs(5) };
        let main = ThreadCapabilities { effective, bounding: ALL, ..ThreadCapabilities::default() };
        let process = Process {
            pid: 7,
            state: 'S',
            arguments: Vec::new(),
            executable: None,
            is_here: Some(true),
            started: Some(started),
            age: None,
            threads: vec![main, ThreadCapabilities::default()],
            file: Ok(FileCapabilities { permitted: file, is_effective: true, changed: Some(changed) }),
            label: None,
        };
        let mut report = Report::default();
        judge(&process, lacks_offload, &mut report);
        causes(&report)
    }

    #[test]
    fn a_confined_daemon_is_as_it_should_be() {
        assert!(judged(set(&[NET_ADMIN, BPF]), Set(0), true, false).is_empty());
        assert!(judged(set(&[NET_ADMIN]), set(&[NET_ADMIN, NET_RAW]), true, true).is_empty());
        assert!(judged(set(&[NET_ADMIN]), ALL, true, false).is_empty(), "offload is off");
    }

    #[test]
    fn what_its_file_was_given_later_it_has_not() {
        assert_eq!(judged(Set(0), set(&[NET_ADMIN, NET_RAW]), true, false), ["capability-late process 7"]);
        assert_eq!(
            judged(Set(0), set(&[NET_ADMIN, NET_RAW]), false, false),
            ["capability-missing process 7"]
        );
        assert_eq!(judged(set(&[NET_ADMIN]), ALL, true, true), ["capability-late process 7"]);
        assert!(judged(set(&[NET_ADMIN]), ALL, false, true).is_empty());
    }

    #[test]
    fn no_daemon_can_have_what_the_environment_forbids() {
        let judged = |bounding| {
            let mut report = Report::default();
            judge_environment(&ThreadCapabilities { bounding, ..ThreadCapabilities::default() }, &mut report);
            causes(&report)
        };
        assert!(judged(set(&[NET_ADMIN, NET_RAW])).is_empty());
        assert_eq!(judged(set(&[NET_RAW])), ["capability-missing"]);
    }
}

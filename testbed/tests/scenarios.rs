//! Every scenario as a test of its own: `cargo test -p testbed --test scenarios -- zero-rtt`.
//!
//! Scenarios measure, so only one runs at a time: threads of this process are limited to one, and
//! a lock file keeps other processes of the same checkout (nextest, a second shell) in line.

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::process::{Command, ExitCode};

/// How `testbed` says that privileges are missing and can't be had.
const NO_PRIVILEGE: i32 = 77;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = testbed::scenario::ALL.iter().map(|s| Trial::ignorable_test(s.name, || run(s.name)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(name: &str) -> Result<Completion, Failed> {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/scenarios.lock");
    let lock =
        rustix::fs::open(path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    let output = Command::new(env!("CARGO_BIN_EXE_testbed")).args(["run", name]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            print!("{}", String::from_utf8_lossy(&output.stdout));
            Ok(Completion::Completed)
        }
        Some(NO_PRIVILEGE) => Ok(Completion::ignored_with(format!("skipped: {}", said.trim()))),
        _ => Err(format!("{}\n{said}", output.status).into()),
    }
}

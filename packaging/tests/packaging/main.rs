//! Units and packages, under a real systemd where one can be started: `cargo test -p packaging --test packaging`.
//!
//! What needs a tool that is missing is ignored, and says which. Started under the name of a unit this program is what
//! that runs, or with [`probe::AS_PROBE`] what tries what its unit forbids.
#![allow(clippy::unwrap_used, reason = "a test without the built-in harness is not seen as one")]

mod deb;
mod machine;
mod mirrored;
mod probe;
mod sandbox;
mod units;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What a test comes to: an error, completed, or ignored for a reason.
type Outcome = Result<Completion, Failed>;
type Test = fn() -> Outcome;

const NICS: [&str; 2] = ["clientnic", "servernic"];
/// Whatever has a unit and a package.
const PROGRAMS: [&str; 3] = ["clientnic", "servernic", "mirror"];

fn main() -> ExitCode {
    let started_as = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let daemon: fn(std::env::ArgsOs) -> ExitCode = match started_as.file_name().and_then(|name| name.to_str())
    {
        _ if std::env::var_os(probe::AS_PROBE).is_some() => |_| probe::main(),
        Some("clientnic") => |arguments| clientnic::main_from(arguments),
        Some("servernic") => |arguments| servernic::main_from(arguments),
        Some("mirror") => |arguments| mirror::main_from(arguments),
        _ => |_| tests(),
    };
    daemon(std::env::args_os())
}

fn tests() -> ExitCode {
    let tests: [(&str, Test); 9] = [
        ("the_units_differ_in_names_only", units::differ_in_names_only),
        ("the_mirrors_unit_forbids_no_less", units::forbids_no_less),
        ("systemd_finds_nothing_wrong_with_the_units", units::verified),
        ("the_units_start_reload_restart_and_stop", units::live),
        ("the_mirrors_unit_starts_reloads_restarts_and_stops", mirrored::live),
        ("keys_may_be_a_credential", units::credential),
        ("two_capabilities_are_enough", units::two_capabilities),
        ("the_sandbox_refuses_what_it_should", sandbox::refuses),
        ("the_packages_install_run_and_go", deb::packages),
    ];
    let mut arguments = Arguments::from_args();
    // Watchdogs are among what is tested; they are not to bark because of other tests.
    arguments.test_threads = Some(1);
    let trials = tests.into_iter().map(|(name, test)| Trial::ignorable_test(name, test)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Says that a test was not run, and why.
fn skipped(reason: impl std::fmt::Display) -> Outcome {
    Ok(Completion::ignored_with(format!("skipped: {reason}")))
}

/// Returns a path of this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|it| it.status.success())
}

/// Returns what a program has said, if it has ended well.
fn success(output: Output) -> Result<String, Failed> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)).into()),
    }
}

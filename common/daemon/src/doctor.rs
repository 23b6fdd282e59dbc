//! `doctor`: what the doctor has to know of this daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rtt0_core::service::Services;
use rtt0_doctor::{Daemon, DoctorArgs, Patient, Role};
use rtt0_netio::interface;

use crate::cli::RunArgs;
use crate::control::{self, AskError, stats_of};
use crate::failure::Failure;
use crate::offload::Offloading;
use crate::setup;

/// Examines this host as one on which `program` runs, or should, with the configuration `run`.
///
/// # Errors
/// If the configuration is wrong. An interface that there is not is for the doctor to find.
pub(crate) fn examine(
    program: &'static str,
    role: Role,
    args: &DoctorArgs,
    run: &RunArgs,
) -> Result<ExitCode, Failure> {
    let services = Services::new(setup::rules(run)?, interface::local_addresses());
    let control_socket = control_socket(program, run);
    let asked = control_socket.clone();
    // Whoever does not answer is waited for once, and not each time.
    let is_silent = AtomicBool::new(false);
    let stats = move || match &asked {
        None => Err("it has no control socket".to_owned()),
        Some(_) if is_silent.load(Ordering::Relaxed) => Err("it has not answered before".to_owned()),
        Some(path) => stats_of(path).map_err(|error| {
            is_silent.store(matches!(error, AskError::Broken(_)), Ordering::Relaxed);
            error.to_string()
        }),
    };
    let daemon = Daemon {
        name: program,
        control_socket,
        bpf_dir: run.bpf_dir.clone(),
        is_offloading: run.offload == Offloading::Auto,
        stats: Box::new(stats),
    };
    let patient = Patient { role, interfaces: run.interfaces.clone(), services, daemon: Some(daemon) };
    Ok(rtt0_doctor::cli::run(args, &patient))
}

/// Returns where operators talk to the daemon, if anywhere.
pub(crate) fn control_socket(program: &str, args: &RunArgs) -> Option<PathBuf> {
    match &args.control_socket {
        Some(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
        None if args.no_state => None,
        None => Some(control::usual(Path::new(&args.state_dir), program)),
    }
}

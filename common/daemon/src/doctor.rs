//! `doctor`: what the doctor has to know of this daemon.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rtt0_core::service::Services;
use rtt0_doctor::{Daemon, DoctorArgs, Patient, Role};
use rtt0_netio::interface;

use crate::cli::RunArgs;
use crate::control::{AskError, stats_of};
use crate::failure::Failure;
use crate::offload::Offloading;
use crate::setup;

/// Examines this host as one on which `program` runs, or should, with the configuration `run`, and returns the exit status. An
/// interface that there is not is for the doctor to find; with a configuration that is wrong it can't look.
pub(crate) fn examine(program: &'static str, role: Role, args: &DoctorArgs, run: &RunArgs) -> ExitCode {
    match patient(program, role, run) {
        Ok(patient) => rtt0_doctor::cli::run(args, &patient),
        Err(failure) => {
            eprintln!("{program}: {}", failure.line());
            ExitCode::from(rtt0_doctor::cli::BLIND)
        }
    }
}

fn patient(program: &'static str, role: Role, run: &RunArgs) -> Result<Patient, Failure> {
    let services = Services::new(setup::rules(run)?, interface::local_addresses());
    let control_socket = setup::control_socket(program, run);
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
        is_offloading: run.offload != Offloading::Off,
        stats: Box::new(stats),
    };
    Ok(Patient { role, interfaces: run.interfaces.clone(), services, daemon: Some(daemon) })
}

//! Who forwards.

use std::fs;
use std::path::Path;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::course::Course;
use crate::load::MEASURED;
use crate::naive::{self, Naive};
use crate::rig::daemon::Daemon;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The kernel forwards plain packets of the same size.
    Kernel,
    /// A plain loop takes the tunnel off.
    Naive,
    /// `mirror run` with this backend.
    Mirror(&'static str),
}

/// It, running.
pub(crate) enum Running {
    Kernel,
    Naive(Naive),
    Mirror(Box<Daemon>),
}

impl Subject {
    /// Its word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Naive => "naive",
            Self::Mirror(backend) => backend,
        }
    }

    /// Its name in the table.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Kernel => "kernel forwarding, plain packets".to_owned(),
            Self::Naive => "plain loop (pnet, recvfrom, sendto)".to_owned(),
            Self::Mirror(backend) => format!("mirror run --backend {backend}"),
        }
    }

    /// Starts it on the measured processor; says why not if it ends instead.
    pub(crate) fn start(self, course: &Course, program: &Path) -> Result<Running, String> {
        match self {
            Self::Kernel => Ok(Running::Kernel),
            Self::Naive => Ok(Running::Naive(Naive::start(&course.site, &course.allowed))),
            Self::Mirror(backend) => {
                let before = receivers();
                let arguments = ["--backend", backend];
                let daemon = Daemon::try_start(
                    program,
                    &course.site.middle,
                    &course.files.configuration(),
                    &arguments,
                )
                .map_err(|log| log.last().cloned().unwrap_or_default())?;
                for task in tasks(daemon.id()) {
                    pin(task);
                }
                // A native XDP program has threads of the kernel receive, which are its own.
                receivers().into_iter().filter(|thread| !before.contains(thread)).for_each(pin);
                Ok(Running::Mirror(Box::new(daemon)))
            }
        }
    }
}

impl Running {
    /// Processor time in seconds that it has had in user space and for its own system calls; 0 for the kernel.
    pub(crate) fn processor_time(&self) -> f64 {
        let (process, name) = match self {
            Self::Kernel => return 0.0,
            Self::Naive(_) => (std::process::id(), Some(naive::THREAD)),
            Self::Mirror(daemon) => (daemon.id(), None),
        };
        let read = |task, file| {
            fs::read_to_string(format!("/proc/{process}/task/{task}/{file}")).unwrap_or_default()
        };
        let is_its = |task: &i32| name.is_none_or(|name| read(*task, "comm").trim() == name);
        let time =
            |task| read(task, "schedstat").split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
        tasks(process).into_iter().filter(is_its).filter_map(time).sum::<u64>() as f64 / 1e9
    }

    /// Resident memory in KiB, of a process of its own.
    pub(crate) fn resident(&self) -> Option<u64> {
        let Self::Mirror(daemon) = self else { return None };
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Tells whether it takes tunnelled packets.
    pub(crate) fn is_tunnelled(&self) -> bool {
        !matches!(self, Self::Kernel)
    }

    /// Ends it; a mirror's counters have to add up.
    pub(crate) fn end(self) {
        match self {
            Self::Kernel => {}
            Self::Naive(naive) => naive.end(),
            Self::Mirror(daemon) => {
                let counted = daemon.end();
                if counted.strayed > 0 || !counted.dropped.is_empty() {
                    eprintln!("  {counted:?}");
                }
            }
        }
    }
}

fn tasks(process: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The kernel's threads that receive for interfaces of this name.
fn receivers() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_receiver = |process: &i32| {
        fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.starts_with("napi/in0"))
    };
    processes.filter(is_receiver).collect()
}

fn pin(task: i32) {
    let mut set = CpuSet::new();
    set.set(MEASURED);
    // It may have ended.
    let _ = sched_setaffinity(Pid::from_raw(task), &set);
}

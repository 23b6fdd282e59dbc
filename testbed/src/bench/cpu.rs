//! Processor time, by whom it was used.
//!
//! Time comes from `/proc/PID/task/*/schedstat`, in ns, and for this process, whose threads come and
//! go, from its processor clock. The kernel charges the handling of packets
//! (softirq) to whichever thread it interrupts, and with veth pairs that is nearly always the one that
//! sent the packet: a daemon's time includes the next hop's work on what it emitted, and kernel
//! forwarding is charged to the sending endpoint. Therefore **all** parties together are compared:
//! both endpoints, what stands between them, and the kernel's softirq threads.

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

/// Processor time used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// By the processes or threads between the endpoints; zero for kernel forwarding.
    pub middle: Duration,
    /// By the endpoints and the kernel's softirq threads.
    pub rest: Duration,
}

impl Usage {
    /// Returns the sum.
    pub fn total(self) -> Duration {
        self.middle + self.rest
    }
}

impl Sub for Usage {
    type Output = Self;
    /// What was used since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            middle: self.middle.saturating_sub(earlier.middle),
            rest: self.rest.saturating_sub(earlier.rest),
        }
    }
}

/// Returns the processor time of all living threads of a process.
///
/// # Errors
/// If the process is gone, or the kernel keeps no such statistics (`CONFIG_SCHED_INFO`).
pub fn of_process(id: u32) -> anyhow::Result<Duration> {
    let folder = format!("/proc/{id}/task");
    let tasks = fs::read_dir(&folder).with_context(|| format!("can't read {folder}"))?;
    let mut sum = Duration::ZERO;
    for task in tasks.flatten() {
        // A thread may end between the two readings.
        sum += of_task(&task.path()).unwrap_or_default();
    }
    Ok(sum)
}

/// Returns the processor time of this process, threads that have ended included.
pub fn of_this_process() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Returns the processor time of the calling thread.
pub fn of_this_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Returns the processor time of one thread of this process.
pub fn of_thread(id: u32) -> Option<Duration> {
    of_task(Path::new(&format!("/proc/self/task/{id}")))
}

/// Returns the processor time of the threads `ksoftirqd/N`, where they can be seen.
pub fn of_softirq_threads(ids: &[u32]) -> Duration {
    ids.iter().filter_map(|id| of_process(*id).ok()).sum()
}

/// Returns the process ids of the kernel's softirq threads; none inside a PID namespace.
pub fn softirq_threads() -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    })
    .collect()
}

/// Returns the resident memory of a process in bytes.
///
/// # Errors
/// If the process is gone.
pub fn resident(id: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    resident_in(&text).with_context(|| format!("{path} has no VmRSS"))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn of_task(folder: &Path) -> Option<Duration> {
    let text = fs::read_to_string(folder.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_busy_process_uses_time() {
        let before = of_process(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(40) {
            std::hint::black_box(start);
        }
        let (own, thread) = (of_this_process(), of_this_thread());
        assert!(own >= thread && thread > Duration::ZERO, "{own:?} {thread:?}");
        // It may have had the processor for less than it wished, but not for nothing.
        assert!(of_process(std::process::id()).unwrap() > before);
        assert!(of_process(u32::MAX).is_err());
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t    1204 kB\nThreads: 1\n"), Some(1204 * 1024));
        assert_eq!(resident_in("Name:\tkthread\n"), None);
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }
}

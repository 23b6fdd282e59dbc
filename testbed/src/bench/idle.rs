//! Waits, for a bounded time, until the machine does nothing else.
//!
//! Nothing of ours runs between two measurements, so whatever is busy then is another's.

use serde::Serialize;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A machine less busy than this is idle.
const IDLE: f64 = 0.10;
/// How long the machine is watched before it is called busy or idle.
const WATCH: Duration = Duration::from_millis(120);

/// The gate, and what it has seen.
#[derive(Debug, Clone, Serialize)]
pub struct Gate {
    /// Longest wait before a measurement, s.
    pub bound_s: f64,
    /// Measurements made.
    pub measurements: u32,
    /// Those before which the machine never fell idle.
    pub busy: u32,
    /// Mean load by others before measurements, as share of all processors.
    pub mean_load: f64,
    /// Greatest such load.
    pub greatest_load: f64,
}

impl Gate {
    /// Makes a gate that waits no longer than `bound`.
    pub fn new(bound: Duration) -> Self {
        Self { bound_s: bound.as_secs_f64(), measurements: 0, busy: 0, mean_load: 0.0, greatest_load: 0.0 }
    }

    /// Waits until others use less than a tenth of the machine, or the bound is over; notes which.
    pub fn wait(&mut self) {
        let start = Instant::now();
        let mut load = watch();
        while load >= IDLE && start.elapsed().as_secs_f64() < self.bound_s {
            load = watch();
        }
        self.note(load);
    }

    fn note(&mut self, load: f64) {
        self.mean_load =
            (self.mean_load * f64::from(self.measurements) + load) / f64::from(self.measurements + 1);
        self.measurements += 1;
        self.busy += u32::from(load >= IDLE);
        self.greatest_load = self.greatest_load.max(load);
    }
}

/// Returns the share of the machine that is busy; 0 if that can't be read.
fn watch() -> f64 {
    let before = Ticks::read();
    sleep(WATCH);
    match (before, Ticks::read()) {
        (Some(before), Some(after)) => after.share_since(before),
        _ => 0.0,
    }
}

/// Processor time of the whole machine since it started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    idle: u64,
}

impl Ticks {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Reads the first line of proc(5)'s `/proc/stat`: user, nice, system, idle, iowait, irq, softirq,
    /// steal.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { busy: ticks.iter().sum::<u64>() - idle, idle })
    }

    fn share_since(self, before: Self) -> f64 {
        let (busy, idle) = (self.busy.saturating_sub(before.busy), self.idle.saturating_sub(before.idle));
        busy as f64 / (busy + idle).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_share_is_read_from_procs_table() {
        let before = Ticks::parse("cpu  10 0 5 100 5 0 2 3 0 0\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(before, Ticks { busy: 20, idle: 105 });
        let after = Ticks { busy: 50, idle: 115 };
        assert_eq!(after.share_since(before), 0.75);
        assert_eq!(before.share_since(before), 0.0);
        assert_eq!(Ticks::parse("intr 1"), None);
        assert!(Ticks::read().is_some());
    }

    #[test]
    fn what_the_gate_saw_is_kept() {
        let mut gate = Gate::new(Duration::ZERO);
        gate.note(0.05);
        gate.note(0.75);
        assert_eq!((gate.measurements, gate.busy, gate.greatest_load), (2, 1, 0.75));
        assert!((gate.mean_load - 0.4).abs() < 1e-9);
    }
}

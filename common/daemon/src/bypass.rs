//! Leaves a flood of SYNs to the kernel.
//!
//! A SYN that the engine does nothing for costs user space as much as any packet, and the kernel a
//! tenth of it. So when very many pass, the guard lets unsigned SYNs through, the captures leave
//! them out, and the kernel forwards them; soon after also the SYN-ACKs that answer them. New
//! connections are then made without the middlebox. All other segments are served as ever.
//!
//! ```text
//!              > 20,000 SYN/s                    0.3 s, no answer awaited
//!  Nothing ──────────────────────► Syns ──────────────────────────────► Handshakes
//!     ▲   the engine stands back     │                                       │
//!     └──────────────────────────────┴───────────────────────────────────────┘
//!                          < 10,000 SYN/s for two seconds
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rtt0_core::claim::Bypass;
use rtt0_core::reason::{Counters, PassReason};
use rtt0_netio::capture::{CaptureError, Filters};
use rtt0_netio::fast_path::Switch;
use rtt0_netio::guard::{Guard, GuardError};

use crate::workers::{Reason, Workers};

/// How often the SYNs are counted.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
/// SYNs in a period that pass without anything being done for them before the kernel gets them:
/// 20,000 a second, some 7 % of one processor.
const MANY: u64 = 2_000;
/// Periods with fewer than half as many before it no longer gets them.
const CALM: u32 = 20;
/// Periods in which handshakes under way may still be answered.
const GRACE: u32 = 3;

/// What the captures take.
pub(crate) enum Filter {
    /// Each has a filter of its own.
    Captures(Vec<Filters>),
    /// The kernel's program decides for all of them.
    Kernel(Switch),
}

impl Filter {
    fn leave_out(&self, bypass: Bypass) -> io::Result<()> {
        match self {
            Self::Captures(captures) => captures.iter().try_for_each(|capture| capture.leave_out(bypass)),
            Self::Kernel(switch) => switch.leave_out(bypass),
        }
    }
}

/// Watches the SYNs that pass, and decides who forwards them.
pub(crate) struct SynBypass {
    /// None if the services need too long a filter: then there is no bypass.
    captures: Option<Filter>,
    counters: Vec<Arc<Counters>>,
    pace: Pace,
    /// SYNs left to the kernel in earlier floods.
    earlier: u64,
}

impl SynBypass {
    /// Makes one that bypasses nothing yet.
    pub(crate) fn new(captures: Result<Filter, CaptureError>, counters: Vec<Arc<Counters>>) -> Self {
        let captures = captures
            .inspect_err(|error| tracing::warn!(%error, "a flood of SYNs can't be left to the kernel"));
        Self { captures: captures.ok(), counters, pace: Pace::default(), earlier: 0 }
    }

    /// To be called every [`PERIOD`].
    pub(crate) fn look(&mut self, guard: &mut Guard, workers: &Workers) {
        if let Err(error) = self.try_look(guard, workers) {
            tracing::error!(%error, "who forwards the SYNs can't be changed");
        }
    }

    fn try_look(&mut self, guard: &mut Guard, workers: &Workers) -> Result<(), Refusal> {
        let Some(captures) = &self.captures else { return Ok(()) };
        let total = if self.pace.bypass == Bypass::Nothing { self.passed() } else { guard.bypassed()? };
        let Some(next) = self.pace.count(total, workers.gauges().awaited == 0) else { return Ok(()) };
        workers.stand_back(Reason::Flood, next != Bypass::Nothing);
        if next == Bypass::Nothing {
            // Both serve for a moment: a few SYNs are forwarded twice, as if a client had repeated
            // them.
            captures.leave_out(next)?;
            guard.let_through(next)?;
            self.earlier += total;
            tracing::info!(bypassed = total, "the flood of SYNs is over");
        } else {
            guard.let_through(next)?;
            captures.leave_out(next)?;
        }
        if next == Bypass::Syns {
            tracing::warn!(
                "a flood of SYNs: the kernel forwards them, and new connections take no short cut"
            );
        }
        let total = if next == Bypass::Nothing { self.passed() } else { guard.bypassed()? };
        self.pace.switched(next, total);
        Ok(())
    }

    /// Returns what the kernel forwards by itself now.
    pub(crate) fn now(&self) -> Bypass {
        self.pace.bypass
    }

    /// Returns how many SYNs the kernel has forwarded by itself.
    pub(crate) fn packets(&self, guard: &mut Guard) -> u64 {
        let present = match self.pace.bypass {
            Bypass::Nothing => 0,
            Bypass::Syns | Bypass::Handshakes => guard.bypassed().unwrap_or(0),
        };
        self.earlier + present
    }

    fn passed(&self) -> u64 {
        let of_syn = PassReason::ALL.iter().filter(|reason| reason.is_of_syn());
        let passed =
            |reason: &PassReason| self.counters.iter().map(|counters| counters.passed(*reason)).sum::<u64>();
        of_syn.map(passed).sum()
    }
}

/// Tells a flood by how fast a count grows.
#[derive(Debug, Default)]
struct Pace {
    bypass: Bypass,
    last: u64,
    /// Periods since the last switch, and since the flood was last one.
    age: u32,
    calm: u32,
}

impl Pace {
    /// Takes the count at a period's end and whether the engine awaits no server's answer. Returns
    /// what to bypass from now on, if that is another.
    fn count(&mut self, total: u64, settled: bool) -> Option<Bypass> {
        let grown = total.saturating_sub(self.last);
        self.last = total;
        self.age += 1;
        self.calm = if grown < MANY / 2 { self.calm + 1 } else { 0 };
        match self.bypass {
            Bypass::Nothing => (grown >= MANY).then_some(Bypass::Syns),
            _ if self.calm >= CALM => Some(Bypass::Nothing),
            Bypass::Syns => (self.age >= GRACE && settled).then_some(Bypass::Handshakes),
            Bypass::Handshakes => None,
        }
    }

    /// Goes on with another count, which now stands at `total`.
    fn switched(&mut self, bypass: Bypass, total: u64) {
        *self = Self { bypass, last: total, ..Self::default() };
    }
}

/// Why nothing could be changed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("a capture's filter can't be changed: {0}")]
    Capture(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_left_to_the_kernel_step_by_step() {
        let mut pace = Pace::default();
        assert_eq!(pace.count(MANY - 1, true), None);
        assert_eq!(pace.count(2 * MANY - 2, true), None);
        assert_eq!(pace.count(3 * MANY - 2, true), Some(Bypass::Syns));
        pace.switched(Bypass::Syns, 0);
        for period in 1..=GRACE {
            assert_eq!(pace.count(u64::from(period) * MANY, false), None, "answers are awaited");
        }
        assert_eq!(pace.count(u64::from(GRACE) * MANY, true), Some(Bypass::Handshakes));
        pace.switched(Bypass::Handshakes, 0);
        assert_eq!(pace.count(0, true), None);
    }

    #[test]
    fn it_ends_after_two_calm_seconds() {
        for bypass in [Bypass::Syns, Bypass::Handshakes] {
            let (mut pace, mut total) = (Pace::default(), 0);
            pace.switched(bypass, 0);
            for _ in 0..2 {
                (1..CALM).for_each(|_| assert_eq!(pace.count(total, false), None));
                total += MANY / 2;
                assert_eq!(pace.count(total, false), None, "it goes on");
            }
            (1..CALM).for_each(|_| assert_eq!(pace.count(total, false), None));
            assert_eq!(pace.count(total, false), Some(Bypass::Nothing));
            pace.switched(Bypass::Nothing, 500_000);
            assert_eq!(pace.count(500_001, true), None, "counts from where it stands");
        }
    }
}

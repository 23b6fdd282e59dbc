//! Leaves a flood of SYNs to the kernel.
//!
//! A SYN that the engine does nothing for costs user space as much as any packet, and the kernel a
//! tenth of it. So when very many pass, the guard lets unsigned SYNs through, the captures leave
//! them out, and the kernel forwards them: new connections are made without the middlebox. What is
//! signed by the other NIC, and every other segment, is served as ever. When the flood is over, so
//! is this.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rtt0_core::reason::{Counters, PassReason};
use rtt0_netio::capture::{Bypass, CaptureError};
use rtt0_netio::guard::{Guard, GuardError};

/// How often the SYNs are counted.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
/// SYNs in a period that pass without anything being done for them before the kernel gets them:
/// 20,000 a second, some 7 % of one processor.
const MANY: u64 = 2_000;
/// Periods with fewer than half as many before it no longer gets them.
const CALM: u32 = 20;

/// Watches the SYNs that pass, and decides who forwards them.
pub(crate) struct SynBypass {
    /// Empty if the services need too long a filter: then there is no bypass.
    captures: Vec<Bypass>,
    counters: Arc<Counters>,
    pace: Pace,
    /// SYNs left to the kernel in earlier floods.
    earlier: u64,
}

impl SynBypass {
    /// Makes one that bypasses nothing yet.
    pub(crate) fn new(captures: Result<Vec<Bypass>, CaptureError>, counters: Arc<Counters>) -> Self {
        let captures = captures.unwrap_or_else(|error| {
            tracing::warn!(%error, "a flood of SYNs can't be left to the kernel");
            Vec::new()
        });
        Self { captures, counters, pace: Pace::default(), earlier: 0 }
    }

    /// To be called every [`PERIOD`].
    pub(crate) fn look(&mut self, guard: &mut Guard) {
        if self.captures.is_empty() {
            return;
        }
        let counted = match self.pace.bypassing {
            false => Ok(self.passed()),
            true => guard.bypassed(),
        };
        let outcome = counted.map_err(Refusal::from).and_then(|total| match self.pace.count(total) {
            None => Ok(()),
            Some(true) => self.begin(guard),
            Some(false) => self.end(guard, total),
        });
        if let Err(error) = outcome {
            tracing::error!(%error, "who forwards the SYNs can't be changed");
        }
    }

    /// The kernel begins to forward before user space ends: a few SYNs are forwarded twice then,
    /// which is as if a client had repeated them.
    fn begin(&mut self, guard: &mut Guard) -> Result<(), Refusal> {
        guard.bypass_unsigned_syns(true)?;
        self.pace.switched(true, 0);
        self.captures.iter().try_for_each(|capture| capture.set(true))?;
        tracing::warn!("a flood of SYNs: the kernel forwards them, and new connections take no short cut");
        Ok(())
    }

    fn end(&mut self, guard: &mut Guard, bypassed: u64) -> Result<(), Refusal> {
        self.captures.iter().try_for_each(|capture| capture.set(false))?;
        guard.bypass_unsigned_syns(false)?;
        self.earlier += bypassed;
        self.pace.switched(false, self.passed());
        tracing::info!(bypassed, "the flood of SYNs is over");
        Ok(())
    }

    /// Logs how many SYNs the kernel has forwarded, if any.
    pub(crate) fn report(&self, guard: &mut Guard) {
        let now = if self.pace.bypassing { guard.bypassed().unwrap_or(0) } else { 0 };
        if self.earlier + now > 0 {
            tracing::info!(packets = self.earlier + now, "SYNs left to the kernel");
        }
    }

    fn passed(&self) -> u64 {
        let of_syn = PassReason::ALL.iter().filter(|reason| reason.is_of_syn());
        of_syn.map(|reason| self.counters.passed(*reason)).sum()
    }
}

/// Tells a flood by how fast a count grows.
#[derive(Debug, Default)]
struct Pace {
    bypassing: bool,
    last: u64,
    calm: u32,
}

impl Pace {
    /// Takes the count of a period's end; returns whether to begin or end the bypass.
    fn count(&mut self, total: u64) -> Option<bool> {
        let grown = total.saturating_sub(self.last);
        self.last = total;
        if !self.bypassing {
            return (grown >= MANY).then_some(true);
        }
        self.calm = if grown < MANY / 2 { self.calm + 1 } else { 0 };
        (self.calm >= CALM).then_some(false)
    }

    /// Goes on with another count, which now stands at `total`.
    fn switched(&mut self, bypassing: bool, total: u64) {
        *self = Self { bypassing, last: total, calm: 0 };
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
    fn a_flood_begins_at_once_and_ends_after_two_calm_seconds() {
        let mut pace = Pace::default();
        assert_eq!(pace.count(MANY - 1), None);
        assert_eq!(pace.count(2 * MANY - 2), None);
        assert_eq!(pace.count(3 * MANY - 2), Some(true));
        pace.switched(true, 0);
        let mut total = 0;
        for calm in [CALM - 1, CALM - 1] {
            (0..calm).for_each(|_| assert_eq!(pace.count(total), None));
            total += MANY / 2;
            assert_eq!(pace.count(total), None, "it goes on");
        }
        (1..CALM).for_each(|_| assert_eq!(pace.count(total), None));
        assert_eq!(pace.count(total), Some(false));
        pace.switched(false, 500_000);
        assert_eq!(pace.count(500_001), None, "counts from where it stands");
    }
}

//! Signs of life for the service manager (sd_watchdog_enabled(3)).
//!
//! A sign is given only while every packet thread goes round its loop: one that stands still ends
//! the signs, and the manager starts the daemon anew.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::serve::notify;
use crate::workers::Workers;

/// Gives signs of life where they are wanted.
pub(crate) struct Watchdog {
    /// None where nobody wants any.
    period: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// Reads from the environment how often the service manager wants one.
    pub(crate) fn from_environment() -> Self {
        // Twice as often: one that comes late is no reason to be killed.
        Self { period: sd_notify::watchdog_enabled().map(|most| most / 2), last: Instant::now() }
    }

    /// To be called several times in each period.
    pub(crate) fn look(&mut self, workers: &Workers) {
        let Some(period) = self.period else { return };
        if self.last.elapsed() >= period && workers.are_alive() {
            notify(&[NotifyState::Watchdog]);
            self.last = Instant::now();
        }
    }
}

//! Whether the packet threads are alive, and signs of life for the service manager (sd_watchdog_enabled(3)).
//!
//! A sign is given only while every packet thread goes round its loop: one that stands still ends
//! the signs, and the manager starts the daemon anew.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::serve::notify;
use crate::workers::Workers;

/// How often the threads are looked at if nobody wants it otherwise.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks whether the packet threads are alive, and gives signs of it where they are wanted.
pub(crate) struct Watchdog {
    period: Duration,
    is_wanted: bool,
    last: Instant,
    is_alive: bool,
}

impl Watchdog {
    /// Reads from the environment how often the service manager wants one.
    pub(crate) fn from_environment() -> Self {
        let wanted = sd_notify::watchdog_enabled();
        // Twice as often: one that comes late is no reason to be killed.
        let period = wanted.map_or(PERIOD, |most| most / 2);
        Self { period, is_wanted: wanted.is_some(), last: Instant::now(), is_alive: true }
    }

    /// To be called several times in each period.
    pub(crate) fn look(&mut self, workers: &Workers) {
        if self.last.elapsed() < self.period {
            return;
        }
        self.is_alive = workers.are_alive();
        if self.is_alive {
            self.last = Instant::now();
            if self.is_wanted {
                notify(&[NotifyState::Watchdog]);
            }
        }
    }

    /// Tells whether they were, when they were last looked at.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_alive
    }
}

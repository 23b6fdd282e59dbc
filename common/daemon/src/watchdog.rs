//! Whether the packet threads are alive, and signs of life for the service manager (sd_watchdog_enabled(3)).
//!
//! A sign is given only while every packet thread goes round its loop: one that stands still ends
//! the signs, and the manager starts the daemon anew.

use std::time::{Duration, Instant};

use crate::manager;

/// How often the threads are looked at if nobody wants it otherwise.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks whether the packet threads are alive, and gives signs of it where they are wanted.
#[derive(Debug)]
pub struct Watchdog {
    period: Duration,
    is_wanted: bool,
    last: Instant,
    is_alive: bool,
}

impl Watchdog {
    /// Reads from the environment how often the service manager wants one.
    pub fn from_environment() -> Self {
        let wanted = sd_notify::watchdog_enabled();
        // Twice as often: one that comes late is no reason to be killed.
        let period = wanted.map_or(PERIOD, |most| most / 2);
        Self { period, is_wanted: wanted.is_some(), last: Instant::now(), is_alive: true }
    }

    /// Has `are_alive` look at the threads once in each period ([`are_alive`](crate::are_alive)). To be called
    /// several times in each.
    pub fn look(&mut self, are_alive: impl FnOnce() -> bool) {
        if self.last.elapsed() < self.period {
            return;
        }
        self.is_alive = are_alive();
        if self.is_alive {
            self.last = Instant::now();
            if self.is_wanted {
                manager::alive();
            }
        }
    }

    /// Tells whether they were, when they were last looked at.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_alive
    }
}

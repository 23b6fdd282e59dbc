//! All counters of the kernel's that checks compare, read at one time.

use crate::patient::Patient;

/// Counters at one time.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// What the daemon counts; `None` if there is none, or it does not answer.
    pub daemon: Option<super::daemon::DaemonCounters>,
    /// The neighbour tables; empty if the kernel does not tell.
    pub neighbours: Vec<super::neighbours::Neighbour>,
}

impl Counters {
    /// Reads them all. What can't be read is left out, and says so.
    pub fn read(patient: &Patient) -> Self {
        Self {
            daemon: super::daemon::read(patient).ok(),
            neighbours: super::neighbours::read().unwrap_or_default(),
        }
    }
}

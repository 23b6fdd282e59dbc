//! All counters of the kernel's that checks compare, read at one time.

use crate::patient::Patient;

/// Counters at one time.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// What the daemon counts; `None` if there is none, or it does not answer.
    pub daemon: Option<super::daemon::DaemonCounters>,
    /// The neighbour tables; empty if the kernel does not tell.
    pub neighbour_entries: Vec<super::neighbours::Neighbour>,
    /// IPv4 packets whose destination this host does not take; 0 if the kernel does not tell.
    pub address_errors: u64,
}

impl Counters {
    /// Reads them all. What can't be read is left out, and says so.
    pub fn read(patient: &Patient) -> Self {
        Self {
            daemon: super::daemon::read(patient).ok(),
            neighbour_entries: super::neighbours::read().unwrap_or_default(),
            address_errors: super::address_errors::read().unwrap_or_default(),
        }
    }
}

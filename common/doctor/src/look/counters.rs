//! All counters of the kernel's that checks compare, read at one time.

use crate::look::firewall::Firewall;
use crate::look::programs::Programs;
use crate::patient::Patient;

/// Counters at one time.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Netfilter's rules, with what they have counted.
    pub firewall: Firewall,
    /// Programs and filters, with what they have counted.
    pub programs: Programs,
}

impl Counters {
    /// Reads them all. What can't be read is left out, and says so.
    pub fn read(patient: &Patient) -> Self {
        Self { firewall: Firewall::read(), programs: Programs::read(&patient.interfaces) }
    }
}

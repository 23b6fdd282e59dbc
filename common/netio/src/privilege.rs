//! The capabilities a NIC daemon needs, checked before anything is touched.

use caps::{CapSet, Capability};

/// What each capability is for, in the order in which they are asked for.
const NEEDED: [(Capability, &str); 2] = [
    (Capability::CAP_NET_RAW, "to capture packets and to send them as they are"),
    (Capability::CAP_NET_ADMIN, "to install the kernel guard"),
];

/// A capability that the process lacks.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// It is not in the effective set.
    #[error(
        "missing {capability}, needed {purpose}; run as root, or: setcap cap_net_raw,cap_net_admin+ep PROGRAM"
    )]
    Missing {
        /// Its name, as in capabilities(7).
        capability: Capability,
        /// What for.
        purpose: &'static str,
    },
    /// `capget(2)` failed.
    #[error("cannot read the process's capabilities")]
    Unreadable(#[from] caps::errors::CapsError),
}

/// Checks that `CAP_NET_RAW` and `CAP_NET_ADMIN` are effective.
///
/// # Errors
///
/// [`PrivilegeError::Missing`] names the first one that is not.
pub fn check() -> Result<(), PrivilegeError> {
    let effective = caps::read(None, CapSet::Effective)?;
    match NEEDED.into_iter().find(|(capability, _)| !effective.contains(capability)) {
        Some((capability, purpose)) => Err(PrivilegeError::Missing { capability, purpose }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities belong to a thread, so this one may throw them away.
    fn without(capability: Capability) -> Result<(), PrivilegeError> {
        std::thread::spawn(move || {
            caps::drop(None, CapSet::Effective, capability).unwrap();
            check()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn names_the_missing_capability() {
        if check().is_err() {
            println!("skipped: needs CAP_NET_RAW and CAP_NET_ADMIN");
            return;
        }
        for capability in NEEDED.map(|(capability, _)| capability) {
            let message = without(capability).unwrap_err().to_string();
            assert!(message.contains(&capability.to_string()), "{message}");
        }
    }
}

//! The capabilities a NIC daemon needs: checked before anything is touched, and given up once all is in place.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

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
    /// `capget(2)` or `capset(2)` failed.
    #[error("cannot read or change the process's capabilities")]
    Unreadable(#[from] CapsError),
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

/// What a thread still does that needs a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Changes the kernel guard and the settings of devices, and has the kernel forward established flows:
    /// `CAP_NET_ADMIN`, `CAP_BPF`.
    Control,
    /// Hands flows to the kernel (before Linux 5.19 not allowed to everybody who has the map open): `CAP_BPF`.
    Packets,
    /// Nothing.
    Nothing,
}

impl Duty {
    fn capabilities(self) -> CapsHashSet {
        let kept: &[_] = match self {
            Self::Control => &[Capability::CAP_NET_ADMIN, Capability::CAP_BPF],
            Self::Packets => &[Capability::CAP_BPF],
            Self::Nothing => &[],
        };
        kept.iter().copied().collect()
    }
}

/// Gives up, for good, all capabilities of the calling thread but those that `duty` needs; also those that a program it
/// started would get. What is open stays open: sockets go on to capture and to send.
/// The kernel has no reason to refuse; if it does, the log says so and the thread goes on.
pub fn confine(duty: Duty) {
    if let Err(error) = try_confine(duty) {
        let thread = std::thread::current();
        tracing::warn!(%error, thread = thread.name().unwrap_or("-"), "a thread keeps its capabilities");
    }
}

fn try_confine(duty: Duty) -> Result<(), PrivilegeError> {
    let kept = duty.capabilities();
    let permitted: CapsHashSet = caps::read(None, CapSet::Permitted)?.intersection(&kept).copied().collect();
    // A program it started would get them by its file or its user.
    rustix::thread::set_no_new_privs(true).map_err(|error| CapsError::from(error.to_string()))?;
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &permitted)?;
    Ok(caps::set(None, CapSet::Permitted, &permitted)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_does_not_come_back() {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        let confined = || {
            try_confine(Duty::Control).unwrap();
            let held = caps::read(None, CapSet::Permitted).unwrap();
            assert!(held.is_subset(&Duty::Control.capabilities()) && held.is_subset(&before));
            try_confine(Duty::Nothing).unwrap();
            assert!(caps::read(None, CapSet::Permitted).unwrap().is_empty());
            assert!(check().is_err());
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_NET_RAW).is_err());
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before, "other threads have theirs");
    }

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

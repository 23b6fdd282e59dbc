//! Which connections are answered early: what an operator may change while the daemon runs.

use crate::engine::Mode;
use arc_swap::ArcSwap;
use rtt0_core::exclusions::Exclusions;
use rtt0_core::flow::FlowKey;
use rtt0_core::reason::PassReason;
use std::sync::Arc;

/// Which connections are answered early.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// By whom.
    pub mode: Mode,
    /// Which are not.
    pub exclusions: Exclusions,
}

impl Policy {
    /// Returns why a new connection passes untouched, if it does.
    pub(crate) fn leaves_alone(&self, key: &FlowKey) -> Option<PassReason> {
        if self.mode == Mode::Off {
            return Some(PassReason::ModeOff);
        }
        self.exclusions.include(key).then_some(PassReason::Excluded)
    }
}

/// The policy that all workers of a daemon share. A change holds for the next SYN; connections under way go
/// on as they began.
#[derive(Debug, Clone)]
pub struct SharedPolicy(Arc<ArcSwap<Policy>>);

impl SharedPolicy {
    /// Puts another in its place.
    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }

    /// Reads it as it now is. Never waits.
    pub(crate) fn now(&self) -> impl std::ops::Deref<Target = Arc<Policy>> {
        self.0.load()
    }
}

impl From<Policy> for SharedPolicy {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }
}

impl From<Mode> for SharedPolicy {
    /// Excludes nothing.
    fn from(mode: Mode) -> Self {
        Policy { mode, ..Policy::default() }.into()
    }
}

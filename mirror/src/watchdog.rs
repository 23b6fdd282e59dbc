//! Notices that packets come and none of them is of use.

use crate::snapshot::Snapshot;

/// After so many seconds of silence, or of packets that all end the same way, it is told.
const PATIENCE: u32 = 3;
/// While nothing changes it is told again after so many seconds.
const AGAIN: u32 = 60;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing at all has come to the tunnels' ports.
    Silence,
    /// Packets come, and none matches: the reason's label, of which there are the most, and how many packets.
    NoneMatches {
        /// The label.
        reason: &'static str,
        /// Packets that ended by it since the trouble began.
        packets: u64,
    },
}

/// Looks at what is counted, once a second.
#[derive(Debug, Default)]
pub struct Watchdog {
    last: Snapshot,
    /// The last at which something was of use.
    good: Snapshot,
    seconds: u32,
    told: Option<(Trouble, u32)>,
}

impl Watchdog {
    /// Takes what is counted now; returns what is to be told about it.
    pub fn look(&mut self, now: &Snapshot) -> Option<Trouble> {
        let useful = |snapshot: &Snapshot| snapshot.sent + snapshot.observed;
        let before = std::mem::replace(&mut self.last, now.clone());
        if useful(now) > useful(&before) {
            (self.seconds, self.told, self.good) = (0, None, now.clone());
            return None;
        }
        self.seconds += 1;
        if self.seconds < PATIENCE {
            return None;
        }
        let trouble = self.trouble(now)?;
        let is_new = self
            .told
            .as_ref()
            .is_none_or(|(told, when)| !told.is_like(&trouble) || self.seconds >= when.saturating_add(AGAIN));
        if !is_new {
            return None;
        }
        self.told = Some((trouble.clone(), self.seconds));
        Some(trouble)
    }

    fn trouble(&self, now: &Snapshot) -> Option<Trouble> {
        if now.captured == self.good.captured {
            return Some(Trouble::Silence);
        }
        let more = |label: &'static str, count: u64| {
            (label, count - self.good.dropped.get(label).copied().unwrap_or(0).min(count))
        };
        let (reason, packets) = now
            .dropped
            .iter()
            .map(|(label, count)| more(label, *count))
            .max_by_key(|(_, packets)| *packets)?;
        (packets > 0).then_some(Trouble::NoneMatches { reason, packets })
    }
}

impl Trouble {
    /// Tells whether both say the same but for the number.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Silence, Self::Silence) => true,
            (Self::NoneMatches { reason: a, .. }, Self::NoneMatches { reason: b, .. }) => a == b,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(captured: u64, sent: u64, dropped: &[(&'static str, u64)]) -> Snapshot {
        Snapshot { captured, sent, dropped: dropped.iter().copied().collect(), ..Snapshot::default() }
    }

    #[test]
    fn packets_that_match_nothing_are_told_with_the_most_frequent_reason() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.look(&snapshot(100, 100, &[])), None);
        let bad = |n| snapshot(100 + 10 * n, 100, &[("vni", 9 * n), ("not_allowed", n)]);
        assert_eq!((watchdog.look(&bad(1)), watchdog.look(&bad(2))), (None, None));
        assert_eq!(watchdog.look(&bad(3)), Some(Trouble::NoneMatches { reason: "vni", packets: 27 }));
        assert_eq!(watchdog.look(&bad(4)), None, "told once");
        let told = (5..200).filter(|n| watchdog.look(&bad(*n)).is_some()).count();
        assert_eq!(told, 3, "and again each minute");
        // One packet that is sent ends it.
        assert_eq!(watchdog.look(&snapshot(3000, 101, &[("vni", 1800)])), None);
        let other = |n| snapshot(3000 + n, 101, &[("vni", 1800), ("no_rule", n)]);
        assert_eq!((watchdog.look(&other(1)), watchdog.look(&other(2))), (None, None));
        assert_eq!(watchdog.look(&other(3)), Some(Trouble::NoneMatches { reason: "no_rule", packets: 3 }));
    }

    #[test]
    fn silence_is_told_too() {
        let mut watchdog = Watchdog::default();
        let nothing = Snapshot::default();
        assert_eq!((watchdog.look(&nothing), watchdog.look(&nothing)), (None, None));
        assert_eq!(watchdog.look(&nothing), Some(Trouble::Silence));
        assert_eq!(watchdog.look(&nothing), None);
    }
}

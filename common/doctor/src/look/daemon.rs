//! What the daemon says of itself: `show stats --json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::processes;
use crate::patient::Patient;

/// Its counters at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonCounters {
    /// Every packet thread goes round its loop.
    pub is_alive: bool,
    /// It begins no handshake, because an operator wants it so.
    pub is_draining: bool,
    /// What the kernel forwards by itself because of a flood: `nothing`, `syns`, `handshakes`.
    pub bypass: String,
    /// Established flows are forwarded by the kernel.
    pub is_offloaded: bool,
    /// Counters, by kind (`io`, `drop`, `pass`, `event`) and label, such as `io.received`.
    pub counts: BTreeMap<String, u64>,
}

impl DaemonCounters {
    /// Returns a counter; one that this daemon does not have is 0.
    pub fn count(&self, label: &str) -> u64 {
        self.counts.get(label).copied().unwrap_or_default()
    }
}

/// Asks the daemon that should run on a host. One that stands still is not asked: it would not answer.
///
/// # Errors
/// Why there is no answer.
pub fn read(patient: &Patient) -> Result<DaemonCounters, String> {
    let daemon = patient.daemon.as_ref().ok_or("no daemon is expected here")?;
    let processes = processes::daemons(daemon.name).unwrap_or_default();
    if processes.iter().any(processes::Process::is_stopped) {
        return Err("it is stopped".to_owned());
    }
    counters(&(daemon.stats)()?).ok_or_else(|| "its answer can't be read".to_owned())
}

/// Reads the counters; labels that are not known are kept, and those that are missing are 0.
fn counters(stats: &Value) -> Option<DaemonCounters> {
    let mut counts = BTreeMap::new();
    for (kind, list) in [("io", "io"), ("drop", "drops"), ("pass", "passes"), ("event", "events")] {
        for count in stats.get(list)?.as_array()? {
            let (label, number) = (count.get("label")?.as_str()?, count.get("count")?.as_u64()?);
            counts.insert(format!("{kind}.{label}"), number);
        }
    }
    let is = |name: &str| stats.get(name).and_then(Value::as_bool);
    Some(DaemonCounters {
        is_alive: is("is_alive")?,
        is_draining: is("is_draining").unwrap_or_default(),
        bypass: stats.get("bypass").and_then(Value::as_str).unwrap_or("nothing").to_owned(),
        is_offloaded: stats.get("offload").is_some_and(|offload| !offload.is_null()),
        counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_read_by_kind_and_label() {
        let stats = json!({
            "is_alive": true, "is_draining": false, "bypass": "syns", "offload": null,
            "io": [{"label": "received", "count": 7, "meaning": ""}],
            "drops": [], "passes": [{"label": "learning", "count": 2, "meaning": ""}], "events": [],
        });
        let counters = counters(&stats).unwrap();
        assert_eq!((counters.count("io.received"), counters.count("pass.learning")), (7, 2));
        assert_eq!(counters.count("drop.confirm"), 0);
        assert!(counters.is_alive && !counters.is_offloaded && counters.bypass == "syns");
    }

    #[test]
    fn what_is_no_account_is_none() {
        assert_eq!(counters(&json!({})), None);
        assert_eq!(counters(&json!({"is_alive": true, "io": [{"label": 1}]})), None);
    }
}

//! Captures a single exchange on both sides of every hop.

use crate::record::{Record, Recorder};
use crate::topology::Topology;
use std::time::Duration;

/// Long enough for any packet, super-packets included.
const SNAP_LENGTH: usize = 65_535;
/// How long after the exchange its last packets may still be under way to a recorder.
const TAIL: Duration = Duration::from_millis(5);

/// Runs `exchange` and returns its result with what was seen on all six devices meanwhile.
///
/// # Errors
/// If a device can't be recorded.
pub fn record<T>(topology: &Topology, exchange: impl FnOnce() -> T) -> anyhow::Result<(T, Vec<Record>)> {
    let recorders = topology
        .devices()
        .iter()
        .map(|(host, device)| Recorder::start(host, device, SNAP_LENGTH, None))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let result = exchange();
    std::thread::sleep(TAIL);
    let mut records = Vec::new();
    for recorder in recorders {
        records.extend(recorder.stop()?);
    }
    Ok((result, records))
}

//! Looking through an engine's flows, some at a time, while it serves.

use crate::flow::{FlowKey, FlowTable};
use crate::offload::Offloadable;
use crate::time::Instant;

/// Places in the table that are looked at in one call, taken or not: some 10 µs.
pub const LOOKS: u32 = 512;

/// A flow as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: FlowKey,
    /// What it is to the engine: a row of the table that the engine's documentation begins with, in lower
    /// case, words joined by `_`.
    pub state: &'static str,
    /// Whether the kernel forwards it.
    pub in_kernel: bool,
    /// When it is forgotten unless a packet comes before. For a flow in the kernel: when the kernel will
    /// be asked.
    pub deadline: Instant,
}

/// Some of an engine's flows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The flows.
    pub rows: Vec<Row>,
    /// Where to go on; `None` at the end. Flows that come or go meanwhile may be missed, none is told twice
    /// unless it came again.
    pub next: Option<u32>,
}

/// Looks at [`LOOKS`] places of a table from `from` on; `state` is a flow's.
pub fn page<F: Offloadable>(flows: &FlowTable<F>, from: u32, state: impl Fn(&F) -> &'static str) -> Page {
    let (found, next) = flows.survey(from, LOOKS);
    let rows = found.map(|(key, entry)| Row {
        key: *key,
        state: state(&entry.value),
        in_kernel: entry.value.is_handed(),
        deadline: entry.deadline(),
    });
    Page { rows: rows.collect(), next }
}

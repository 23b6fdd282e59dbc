//! Connection tracking: `/proc/net/stat/nf_conntrack`, and how many connections there are and may be.

use std::collections::BTreeMap;
use std::io;

use rtt0_netio::sysctl;

use super::per_cpu::columns;
use super::{Seen, proc_net};

/// What connection tracking has done in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections now (`net.netfilter.nf_conntrack_count`), of this namespace.
    pub count: u64,
    /// Connections at most (`net.netfilter.nf_conntrack_max`), the same in all namespaces.
    pub limit: u64,
    /// Its counters by name: `drop`, `early_drop`, `insert_failed`, `invalid` and others; none if this kernel does not tell.
    pub counters: Option<BTreeMap<String, u64>>,
}

impl Conntrack {
    /// Tells whether there is no room for another connection.
    pub fn is_full(&self) -> bool {
        self.limit > 0 && self.count >= self.limit
    }

    /// Returns a counter, or none if this kernel does not keep it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.counters.as_ref()?.get(name).copied()
    }
}

/// Reads it; none if this kernel, or this kernel now, does not track connections.
pub(in crate::look) fn read() -> Seen<Option<Conntrack>> {
    let Some(count) = parameter("net.netfilter.nf_conntrack_count")? else { return Ok(None) };
    let Some(limit) = parameter("net.netfilter.nf_conntrack_max")? else { return Ok(None) };
    let counters = proc_net("stat/nf_conntrack").ok().map(|text| columns(&text));
    Ok(Some(Conntrack { count, limit, counters }))
}

fn parameter(name: &str) -> Seen<Option<u64>> {
    match sysctl::read_here(name) {
        Ok(text) => text.parse().map(Some).map_err(|error| format!("{name} is '{text}': {error}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_or_absent() {
        if let Some(conntrack) = read().unwrap() {
            assert!(conntrack.limit > 0);
            assert!(conntrack.counters.is_none() || conntrack.number("insert_failed").is_some());
        }
    }
}

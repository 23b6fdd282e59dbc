//! Four hosts and a WAN in network namespaces: topology, scenarios, comparisons, reports.

pub mod address;
pub mod explore;
pub mod host;
pub mod privilege;
pub mod process;
pub mod record;
pub mod topology;
pub mod wan;

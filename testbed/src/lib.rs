//! Four hosts and a WAN in network namespaces: topology, scenarios, comparisons, reports.

pub mod address;
pub mod attack;
pub mod bench;
pub mod cli;
pub mod compare;
pub mod explore;
pub mod fault;
pub mod host;
pub mod mounts;
pub mod nic;
pub mod privilege;
pub mod process;
pub mod program;
pub mod record;
pub mod remote;
pub mod report;
pub mod scenario;
pub mod scratch;
pub mod sim;
pub mod topology;
pub mod wan;

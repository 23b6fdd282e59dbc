//! What the tests of checks begin with.

use std::path::PathBuf;

use rtt0_core::service::Services;

use crate::look::links::Link;
use crate::patient::{Daemon, Patient, Role};
use crate::report::Report;

/// A ClientNIC that serves 10.1.2.0/24:443 and [fd02::/64]:443, with a daemon that does not answer.
pub(super) fn nic(interfaces: &[&str]) -> Patient {
    let rules = ["10.1.2.0/24:443", "[fd02::/64]:443"].map(|rule| rule.parse().unwrap());
    let daemon = Daemon {
        name: "clientnic",
        control_socket: Some(PathBuf::from("/nowhere/clientnic.sock")),
        bpf_dir: PathBuf::from("/nowhere"),
        is_offloading: true,
        stats: Box::new(|| Err("nobody answers".to_owned())),
    };
    Patient {
        role: Role::ClientNic,
        services: Services::new(rules.to_vec(), Vec::new()),
        daemon: Some(daemon),
        ..host(interfaces)
    }
}

/// A host without daemons.
pub(super) fn host(interfaces: &[&str]) -> Patient {
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    Patient { role: Role::Host, interfaces, services: Services::default(), daemon: None }
}

/// An interface with nothing wrong.
pub(super) fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        is_up: true,
        has_carrier: true,
        is_ethernet: true,
        mtu: 1500,
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        ..Link::default()
    }
}

/// Each finding's cause and subject.
pub(super) fn causes(report: &Report) -> Vec<String> {
    let name =
        |finding: &crate::Finding| format!("{} {}", finding.cause.id, finding.subject).trim_end().to_owned();
    report.findings().iter().map(name).collect()
}

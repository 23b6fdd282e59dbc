//! What a daemon that is gone has left in the kernel.
//!
//! Pinned flows, with the program at the interfaces, are meant to stay: the kernel goes on with them until the next daemon
//! takes over. So they are noted. A device goes with the process that made it.

use std::fs;
use std::path::Path;

use rtt0_netio::emit::DEVICE_PREFIX;

use crate::causes::LEFTOVER;
use crate::finding::{Finding, Layer, Rank};
use crate::look::network::Network;
use crate::report::Report;

/// Judges devices of ours on a host where no daemon is seen.
pub(super) fn judge(network: &Network, report: &mut Report) {
    for link in network.links.iter().filter(|link| link.name.starts_with(DEVICE_PREFIX)) {
        let name = &link.name;
        report.find(
            Finding::new(&LEFTOVER, Layer::Daemon, Rank::Suspicion)
                .of(format!("device {name}"))
                .because(format!("the device {name} is a daemon's, and no daemon is seen"))
                .seen_by(format!("ip -details link show dev {name}"))
                .mended_by(format!("end the process that holds it; if none does: ip link del {name}")),
        );
    }
}

/// Notes what the daemon has pinned for this network namespace.
pub(super) fn note_pins(bpf_dir: &Path, program: &str, runs: bool, report: &mut Report) {
    let Ok(entries) = fs::read_dir(bpf_dir) else { return };
    let own = namespace().map(|number| format!("{program}_{number}"));
    for entry in entries.flatten().take(64) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Some(&name) == own.as_ref() && !runs {
            let path = entry.path();
            report.note(
                "pinned flows",
                format!(
                    "{} outlives the daemon: the kernel goes on with the flows it has, and the next daemon takes them over; to \
                     end them: rm -r {}",
                    path.display(),
                    path.display()
                ),
            );
        }
    }
}

/// Returns the number of this network namespace, by which pins are told apart.
fn namespace() -> Option<u64> {
    let link = fs::read_link("/proc/thread-self/ns/net").ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, link};
    use super::*;

    #[test]
    fn a_device_without_its_daemon_is_left_over() {
        let network = Network { links: vec![link(2, "eth0"), link(3, "rtt0-0")], ..Network::default() };
        let mut report = Report::default();
        judge(&network, &mut report);
        assert_eq!(causes(&report), ["leftover device rtt0-0"]);
    }

    #[test]
    fn pins_are_noted_and_no_finding() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!("clientnic_{}", namespace().unwrap());
        fs::create_dir(folder.path().join(own)).unwrap();
        let mut report = Report::default();
        note_pins(folder.path(), "clientnic", false, &mut report);
        assert!(report.findings().is_empty());
        assert!(report.text(false).contains("pinned flows"));
        note_pins(Path::new("/nowhere"), "clientnic", false, &mut report);
    }
}

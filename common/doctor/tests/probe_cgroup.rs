//! Programs of a control group that take the probes. One test, in a process of its own: a group has whole processes.

mod rig;

use std::fs::{self, File};
use std::path::PathBuf;

use rig::{Attach, FAR, PORT, Rig, assert_first, attach, number};
use rtt0_doctor::Layer;
use rtt0_doctor::look::programs::cgroup_folders;
use rtt0_doctor::probe::Protocol::{Tcp, Udp};

/// A control group with this process in it, for as long as it lives.
struct Group {
    folder: PathBuf,
    before: PathBuf,
}

impl Group {
    fn enter() -> Option<Self> {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let folders = cgroup_folders(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let (Some(own), Some(root)) = (folders.first(), folders.last()) else {
            println!("skipped: no cgroup v2 file system");
            return None;
        };
        let folder = PathBuf::from(root).join(format!("doctor-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&folder) {
            println!("skipped: {}: {error}", folder.display());
            return None;
        }
        let group = Self { folder, before: own.into() };
        if let Err(error) = fs::write(group.folder.join("cgroup.procs"), std::process::id().to_string()) {
            println!("skipped: {}: {error}", group.folder.display());
            return None;
        }
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.folder);
    }
}

#[test]
fn programs_of_control_groups_are_named() {
    let Some(rig) = Rig::new() else { return };
    let Some(group) = Group::enter() else { return };
    let folder = File::open(&group.folder).unwrap();
    for (kind, verdict, protocol) in [
        (Attach::CgroupEgress, 0, Udp),
        (Attach::CgroupEgress, 0, Tcp),
        (Attach::CgroupSend4, 0, Udp),
        (Attach::CgroupConnect4, 0, Tcp),
    ] {
        let link = match attach(kind, number(&folder), verdict) {
            Ok(link) => link,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let report = rig.probe(protocol, (FAR, PORT).into(), 20);
        drop(link);
        assert_first(&report, "cgroup-drop", Layer::Cgroup, "");
        assert!(report.text(false).contains("program injected"), "{}", report.text(false));
    }
    let report = rig.probe(Udp, (FAR, PORT).into(), 20);
    assert!(report.findings().is_empty(), "{}", report.text(false));
}

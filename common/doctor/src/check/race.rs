//! What forwards packets before the guard can drop them: then they go on twice, untranslated and translated.

use crate::causes::KERNEL_PATH_RACE;
use crate::finding::{Finding, Layer, Rank};
use crate::look::flowtables::Flowtable;
use crate::look::network::Network;
use crate::patient::Patient;
use crate::report::Report;

/// The guard's priority at the ingress hook.
const GUARD: i32 = -300;

/// Judges flowtables at the interfaces of a NIC. Those behind the guard see nothing of what it drops.
pub(super) fn judge(patient: &Patient, tables: &[Flowtable], report: &mut Report) {
    for table in tables.iter().filter(|table| table.is_hardware || table.priority <= GUARD) {
        let Some(name) = table.interfaces.iter().find(|name| patient.interfaces.contains(name)) else {
            continue;
        };
        let how = if table.is_hardware {
            "the device itself forwards".to_owned()
        } else {
            format!("its priority {} is before the guard's {GUARD}", table.priority)
        };
        report.find(
            Finding::new(&KERNEL_PATH_RACE, Layer::NetdevIngress, Rank::Suspicion)
                .of(name)
                .because(format!(
                    "the flowtable '{}' forwards known flows at {name} past the guard and the daemon: {how}",
                    table.name
                ))
                .seen_by("nft list flowtables")
                .mended_by("take the interface, or the services' packets, out of the flowtable"),
        );
    }
}

/// Notes XDP programs: whatever they redirect or drop neither the guard nor the daemon sees.
pub(super) fn note_xdp(patient: &Patient, network: &Network, report: &mut Report) {
    let links = patient.interfaces.iter().filter_map(|name| network.link(name));
    for link in links.filter(|link| link.has_xdp) {
        report.note(format!("XDP on {}", link.name), "a program sees its packets before the daemon does");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, nic};
    use super::*;

    #[test]
    fn a_flowtable_before_the_guard_is_suspicious() {
        let table = |priority, is_hardware, interface: &str| Flowtable {
            name: "filter ft".to_owned(),
            priority,
            is_hardware,
            interfaces: vec![interface.to_owned()],
        };
        let judged = |table| {
            let mut report = Report::default();
            judge(&nic(&["lan0"]), &[table], &mut report);
            causes(&report)
        };
        assert!(judged(table(0, false, "lan0")).is_empty());
        assert!(judged(table(-400, false, "eth9")).is_empty());
        assert_eq!(judged(table(-400, false, "lan0")), ["kernel-path-race lan0"]);
        assert_eq!(judged(table(0, true, "lan0")), ["kernel-path-race lan0"]);
    }
}

//! What forwards packets before the guard can drop them: then they go on twice, untranslated and translated.

use rtt0_netio::guard::PRIORITY as GUARD;

use crate::causes::KERNEL_PATH_RACE;
use crate::finding::{Finding, Layer, Rank};
use crate::look::ingress::Forwarder;
use crate::look::network::Network;
use crate::patient::Patient;
use crate::report::Report;

/// Judges what forwards at the interfaces of a NIC. What comes behind the guard sees nothing of what it drops.
pub(super) fn judge(patient: &Patient, forwarders: &[Forwarder], report: &mut Report) {
    for forwarder in forwarders.iter().filter(|one| one.is_hardware || one.priority <= GUARD) {
        let Some(name) = forwarder.interfaces.iter().find(|name| patient.interfaces.contains(name)) else {
            continue;
        };
        let how = if forwarder.is_hardware {
            "the device itself forwards".to_owned()
        } else {
            format!("its priority {} is before the guard's {GUARD}", forwarder.priority)
        };
        // A flowtable has flows from before the daemon's start at most; a chain forwards whatever its rules take.
        let rank = if forwarder.is_chain { Rank::Fault } else { Rank::Suspicion };
        report.find(
            Finding::new(&KERNEL_PATH_RACE, Layer::NetdevIngress, rank)
                .of(name)
                .because(format!("the {} forwards packets at {name} past the guard and the daemon: {how}", forwarder.name))
                .seen_by("nft list hooks; nft list flowtables; nft list tables netdev")
                .mended_by("take the interface, or the services' packets, out of it; or give it a priority above the guard's"),
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
    use super::super::testing::nic;
    use super::*;

    #[test]
    fn what_forwards_before_the_guard_is_told() {
        let forwarder = |is_chain, priority, is_hardware, interface: &str| Forwarder {
            name: "flowtable filter ft".to_owned(),
            is_chain,
            priority,
            is_hardware,
            interfaces: vec![interface.to_owned()],
        };
        let judged = |forwarder| {
            let mut report = Report::default();
            judge(&nic(&["lan0"]), &[forwarder], &mut report);
            report.findings().first().map(|finding| (finding.rank, finding.subject.clone()))
        };
        assert_eq!(judged(forwarder(false, 0, false, "lan0")), None);
        assert_eq!(judged(forwarder(true, -200, false, "lan0")), None);
        assert_eq!(judged(forwarder(false, -400, false, "eth9")), None);
        assert_eq!(judged(forwarder(false, -400, false, "lan0")), Some((Rank::Suspicion, "lan0".to_owned())));
        assert_eq!(judged(forwarder(false, 0, true, "lan0")), Some((Rank::Suspicion, "lan0".to_owned())));
        assert_eq!(judged(forwarder(true, -400, false, "lan0")), Some((Rank::Fault, "lan0".to_owned())));
    }
}

//! The kernel guard: there, for the daemon's interfaces and services, and only once.

use std::fmt::Display;
use std::net::IpAddr;

use rtt0_core::service::Service;
use rtt0_netio::guard::Standing;

use super::presence;
use crate::causes::{GUARD_MISMATCH, GUARD_MISSING, LEFTOVER};
use crate::finding::{Finding, Layer, Rank};
use crate::patient::Patient;
use crate::report::Report;

/// Judges the guards that stand while the daemon runs. `own` are this host's addresses.
pub(super) fn judge(patient: &Patient, guards: &[Standing], own: &[IpAddr], report: &mut Report) {
    judge_doubles(guards, report);
    for interface in &patient.interfaces {
        let mut here = guards.iter().filter(|guard| guard.interfaces.contains(interface));
        match (here.next(), guards.first()) {
            (None, None) => report.find(missing(interface).because(format!(
                "no table rtt0_… drops at the ingress of {interface}: the kernel forwards what the daemon sends on as well"
            ))),
            (None, Some(other)) => report.find(mismatch(&other.table).because(format!(
                "its guard '{}' is on {}, and not on {interface}, which is configured",
                other.table,
                other.interfaces.join(", ")
            ))),
            (Some(guard), _) => judge_one(patient, guard, own, report),
        }
    }
    for guard in guards {
        report.note("guard", format!("{} on {}", guard.table, guard.interfaces.join(", ")));
    }
}

/// Judges whether one guard drops what is served, all of it and no more.
fn judge_one(patient: &Patient, guard: &Standing, own: &[IpAddr], report: &mut Report) {
    let served = patient.services.rules();
    let absent: Vec<_> = served.iter().filter(|service| !guard.services.contains(service)).collect();
    if !absent.is_empty() {
        report.find(mismatch(&guard.table).because(format!(
            "the kernel forwards packets of {} besides the daemon: the guard does not drop them",
            list(&absent)
        )));
    }
    let odd: Vec<_> = guard.services.iter().filter(|service| !served.contains(service)).collect();
    if !odd.is_empty() {
        report.find(mismatch(&guard.table).because(format!(
            "the guard drops packets of {}, which the configuration does not serve",
            list(&odd)
        )));
    }
    let is_served = |address: &&IpAddr| served.iter().any(|service| service.prefix.contains(**address));
    for address in own.iter().filter(is_served).filter(|address| !guard.local.contains(address)) {
        report.find(mismatch(&guard.table).because(format!(
            "{address} is this host's own since the daemon was started, and the guard drops what is sent to it"
        )));
    }
}

/// Judges whether several guards drop the same packets: then there are several daemons, and each sends them on.
pub(super) fn judge_doubles(guards: &[Standing], report: &mut Report) {
    for (index, one) in guards.iter().enumerate() {
        for other in guards.iter().skip(index + 1) {
            let Some(interface) = one.interfaces.iter().find(|name| other.interfaces.contains(name)) else {
                continue;
            };
            if one.services.iter().any(|mine| other.services.iter().any(|yours| overlap(mine, yours))) {
                report.find(presence::several(interface).because(format!(
                    "the guards '{}' and '{}' both drop packets of the same service at {interface}",
                    one.table, other.table
                )));
            }
        }
    }
}

fn overlap(one: &Service, other: &Service) -> bool {
    let [a, b] = [one.prefix, other.prefix];
    (a.contains(b.address()) || b.contains(a.address()))
        && one.ports.start() <= other.ports.end()
        && other.ports.start() <= one.ports.end()
}

/// Judges guards of which nobody knows whose they are.
pub(super) fn judge_orphans(guards: &[Standing], report: &mut Report) {
    for Standing { table, owner, interfaces, .. } in guards {
        let owner = match owner {
            Some(port) => format!("netlink socket {port} holds it, of a process that is not seen from here"),
            None => "it has no owner with which it would go".to_owned(),
        };
        report.find(
            Finding::new(&LEFTOVER, Layer::Daemon, Rank::Fault)
                .of(format!("table {table}"))
                .because(format!(
                    "the guard '{table}' drops packets at {}, and no daemon is seen that sends them on; {owner}",
                    interfaces.join(", ")
                ))
                .seen_by(format!("nft list table netdev {table}; cat /proc/net/netlink"))
                .mended_by(format!("end the process that holds it; without an owner: nft delete table netdev {table}")),
        );
    }
}

fn missing(interface: &str) -> Finding {
    Finding::new(&GUARD_MISSING, Layer::Daemon, Rank::Fault)
        .of(interface)
        .seen_by("nft list tables netdev")
        .mended_by("restart the daemon, and keep others from deleting its table (nft flush ruleset by its own process)")
}

fn mismatch(table: &str) -> Finding {
    Finding::new(&GUARD_MISMATCH, Layer::Daemon, Rank::Fault)
        .of(table)
        .seen_by(format!("nft list table netdev {table}"))
        .mended_by(
            "restart the daemon, so that it serves what is configured; or give the doctor its configuration",
        )
}

fn list(services: &[impl Display]) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, nic};
    use super::*;

    fn guard(table: &str, interfaces: &[&str]) -> Standing {
        Standing {
            table: table.to_owned(),
            owner: Some(7),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            services: nic(&[]).services.rules().to_vec(),
            local: Vec::new(),
        }
    }

    fn judged(guards: &[Standing], own: &[&str]) -> Vec<String> {
        let own: Vec<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
        let mut report = Report::default();
        judge(&nic(&["lan0", "wan0"]), guards, &own, &mut report);
        causes(&report)
    }

    #[test]
    fn one_guard_for_all_interfaces_is_right() {
        // Most of the host's own addresses come and go without being served.
        assert!(
            judged(&[guard("rtt0_7", &["lan0", "wan0"])], &["10.1.0.1", "fe80::1", "192.0.0.8"]).is_empty()
        );
    }

    #[test]
    fn without_one_the_kernel_forwards_too() {
        assert_eq!(judged(&[], &[]), ["guard-missing lan0", "guard-missing wan0"]);
        assert_eq!(judged(&[guard("rtt0_7", &["lan0"])], &[]), ["guard-mismatch rtt0_7"]);
    }

    #[test]
    fn it_drops_what_is_served_and_no_more() {
        let mut other = guard("rtt0_7", &["lan0", "wan0"]);
        other.services[0] = "10.1.2.0/24:80".parse().unwrap();
        let mut report = Report::default();
        judge(&nic(&["lan0", "wan0"]), &[other], &[], &mut report);
        assert_eq!(causes(&report), ["guard-mismatch rtt0_7"]);
        let evidence = report.findings()[0].evidence.join("\n");
        assert!(evidence.contains("10.1.2.0/24:443") && evidence.contains("10.1.2.0/24:80"), "{evidence}");
        assert_eq!(judged(&[guard("rtt0_7", &["lan0", "wan0"])], &["10.1.2.9"]), ["guard-mismatch rtt0_7"]);
    }

    #[test]
    fn two_for_the_same_packets_are_of_two_daemons() {
        let (one, mut two) = (guard("rtt0_7", &["lan0", "wan0"]), guard("rtt0_8", &["wan0"]));
        assert_eq!(judged(&[one.clone(), two.clone()], &[]), ["second-instance wan0"]);
        two.services = vec!["10.9.0.0/16:443".parse().unwrap()];
        let mut report = Report::default();
        judge_doubles(&[one, two], &mut report);
        assert!(report.findings().is_empty());
    }

    #[test]
    fn one_without_a_daemon_is_left_over() {
        let mut report = Report::default();
        judge_orphans(&[guard("rtt0_7", &["lan0"])], &mut report);
        assert_eq!(causes(&report), ["leftover table rtt0_7"]);
    }
}

//! Whether the kernel forwards: per IP version, and for IPv4 per interface that packets arrive at.

use crate::causes::FORWARDING_OFF;
use crate::finding::{Finding, Layer, Rank};
use crate::look::network::Network;
use crate::look::parameters::Parameters;
use crate::patient::Patient;
use crate::report::Report;

/// Judges the parameters of a NIC; of other hosts they are noted.
pub(super) fn judge(patient: &Patient, parameters: &impl Parameters, report: &mut Report) {
    let versions = [
        ("IPv4", "net.ipv4.ip_forward", serves(patient, true)),
        ("IPv6", "net.ipv6.conf.all.forwarding", serves(patient, false)),
    ];
    for (version, parameter, is_served) in versions {
        let value = parameters.number(parameter);
        report.note(
            parameter,
            value.map_or_else(|| "(the kernel has no such parameter)".to_owned(), |value| value.to_string()),
        );
        if !patient.role.forwards() || !is_served {
            continue;
        }
        match (value, version) {
            (None, _) => report.is_blind_to(
                format!("{version} forwarding"),
                format!("{parameter} can't be read: is {version} switched off, or /proc/sys hidden?"),
            ),
            (Some(0), "IPv6") if are_forced(patient, parameters) => {}
            (Some(0), _) => report.find(off(version, parameter, version)),
            (Some(_), "IPv4") => judge_interfaces(patient, parameters, report),
            // Of IPv6 an interface's own parameter only says whether it hears router advertisements.
            _ => {}
        }
    }
}

fn serves(patient: &Patient, is_ipv4: bool) -> bool {
    patient.services.rules().iter().any(|rule| rule.prefix.address().is_ipv4() == is_ipv4)
}

/// From Linux 6.17 on single interfaces may forward IPv6.
fn are_forced(patient: &Patient, parameters: &impl Parameters) -> bool {
    patient.interfaces.iter().all(|name| parameters.of_interface("ipv6", name, "force_forwarding") == Some(1))
}

fn judge_interfaces(patient: &Patient, parameters: &impl Parameters, report: &mut Report) {
    for name in &patient.interfaces {
        if parameters.of_interface("ipv4", name, "forwarding") == Some(0) {
            report.find(off("IPv4", &format!("net.ipv4.conf.{}.forwarding", name.replace('.', "/")), name));
        }
    }
}

/// Packets for others that are no accident.
const SOME: u64 = 5;

/// Judges IPv4 packets that were not for this host, where it looks like a router and is none.
pub(super) fn judge_unforwarded(
    patient: &Patient,
    network: &Network,
    parameters: &impl Parameters,
    address_errors: u64,
    report: &mut Report,
) {
    let in_use = |name: &&String| {
        network.link(name).is_some_and(|link| {
            link.is_up && network.addresses_of(link.index).any(|own| own.address.is_ipv4())
        })
    };
    let parameter = "net.ipv4.ip_forward";
    if address_errors < SOME
        || parameters.number(parameter) != Some(0)
        || patient.interfaces.iter().filter(in_use).count() < 2
    {
        return;
    }
    report.find(Finding { rank: Rank::Loss, ..off("IPv4", parameter, "IPv4") }.losing(address_errors).because(format!(
        "{address_errors} packets arrived meanwhile that were not for this host (IpInAddrErrors), which has several interfaces"
    )));
}

fn off(version: &str, parameter: &str, subject: &str) -> Finding {
    Finding::new(&FORWARDING_OFF, Layer::Ip, Rank::Fault)
        .of(subject)
        .because(format!("{parameter} is 0: the kernel drops {version} packets that are for others"))
        .seen_by(format!("sysctl {parameter}"))
        .mended_by(format!("sysctl -w {parameter}=1, and write {parameter}=1 to a file in /etc/sysctl.d"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, host, link, nic};
    use super::*;
    use crate::look::links::Address;
    use std::collections::HashMap;

    fn judged(patient: &Patient, values: &[(&str, u32)]) -> (Vec<String>, u8) {
        let values: HashMap<String, u32> =
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let mut report = Report::default();
        judge(patient, &values, &mut report);
        (causes(&report), report.status())
    }

    const V4: &str = "net.ipv4.ip_forward";
    const V6: &str = "net.ipv6.conf.all.forwarding";

    #[test]
    fn a_nic_forwards_what_it_serves() {
        let nic = nic(&["lan0"]);
        assert_eq!(judged(&nic, &[(V4, 1), (V6, 1), ("net.ipv4.conf.lan0.forwarding", 1)]).1, 0);
        assert_eq!(judged(&nic, &[(V4, 0), (V6, 1)]).0, ["forwarding-off IPv4"]);
        assert_eq!(judged(&nic, &[(V4, 1), (V6, 0)]).0, ["forwarding-off IPv6"]);
        assert_eq!(judged(&nic, &[(V4, 1)]).1, 2, "unknown is not healthy");
    }

    #[test]
    fn an_interface_may_be_left_out() {
        let nic = nic(&["lan0", "wan0"]);
        let values =
            [(V4, 1), (V6, 0), ("net.ipv4.conf.lan0.forwarding", 1), ("net.ipv4.conf.wan0.forwarding", 0)];
        assert_eq!(judged(&nic, &values).0, ["forwarding-off wan0", "forwarding-off IPv6"]);
        let forced = [
            (V4, 1),
            (V6, 0),
            ("net.ipv6.conf.lan0.force_forwarding", 1),
            ("net.ipv6.conf.wan0.force_forwarding", 1),
        ];
        assert_eq!(judged(&nic, &forced).0, Vec::<String>::new());
    }

    #[test]
    fn a_host_that_gets_packets_for_others_was_to_forward_them() {
        let links = vec![link(2, "eth0"), link(3, "eth1")];
        let address =
            |interface| Address { interface, address: [10, 0, 0, 1].into(), prefix: 24, is_duplicate: false };
        let network = Network { links, addresses: vec![address(2), address(3)], ..Network::default() };
        let judged = |interfaces: &[&str], value, errors| {
            let mut report = Report::default();
            let values = HashMap::from([(V4.to_owned(), value)]);
            judge_unforwarded(&host(interfaces), &network, &values, errors, &mut report);
            causes(&report).len()
        };
        assert_eq!(judged(&["eth0", "eth1"], 0, 20), 1);
        assert_eq!(judged(&["eth0", "eth1"], 0, 2), 0);
        assert_eq!(judged(&["eth0", "eth1"], 1, 20), 0);
        assert_eq!(judged(&["eth0"], 0, 20), 0, "it is no router");
    }

    #[test]
    fn others_need_not_forward() {
        assert_eq!(judged(&host(&["eth0", "eth1"]), &[(V4, 0), (V6, 0)]).1, 0);
    }
}

//! Sizes: what the interfaces carry, and routes that say otherwise.

use crate::causes::MTU_BLACK_HOLE;
use crate::finding::{Finding, Layer, Rank};
use crate::look::network::Network;
use crate::patient::Patient;
use crate::report::Report;

/// What every link has to carry of IPv6, in bytes (RFC 8200 §5).
const SMALLEST_IPV6: u32 = 1280;

/// Judges the MTUs of the interfaces that matter, and of the routes.
pub(super) fn judge(patient: &Patient, network: &Network, report: &mut Report) {
    let links: Vec<_> = patient.interfaces.iter().filter_map(|name| network.link(name)).collect();
    let mtus = links.iter().map(|link| format!("{} {}", link.name, link.mtu)).collect::<Vec<_>>();
    report.note("MTU", mtus.join(", "));
    let serves_ipv6 = patient.services.rules().iter().any(|rule| rule.prefix.address().is_ipv6());
    for link in links.iter().filter(|link| link.mtu < SMALLEST_IPV6 && serves_ipv6) {
        report.find(
            Finding::new(&MTU_BLACK_HOLE, Layer::Device, Rank::Suspicion)
                .of(&link.name)
                .because(format!(
                    "{} has an MTU of {} bytes; IPv6, which is served here, needs {SMALLEST_IPV6}, and the kernel switches it off",
                    link.name, link.mtu
                ))
                .seen_by(format!("ip link show dev {}", link.name))
                .mended_by(format!("ip link set dev {} mtu {SMALLEST_IPV6}, or more", link.name)),
        );
    }
    for route in network.routes.iter().filter(|route| route.is_mtu_locked) {
        let (name, mtu) = (network.name(route.interface), route.mtu.unwrap_or_default());
        report.find(
            Finding::new(&MTU_BLACK_HOLE, Layer::Ip, Rank::Suspicion)
                .of(format!("route {}", route.to))
                .because(format!(
                    "the MTU of the route to {} by {name} is locked at {mtu} bytes: if the path takes less nobody finds out",
                    route.to
                ))
                .seen_by(format!("ip route show {}", route.to))
                .mended_by("make the route anew without 'lock'"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, host, link, nic};
    use super::*;
    use crate::look::links::Link;
    use crate::look::routes::Route;

    #[test]
    fn links_too_small_for_ipv6_are_told_where_it_is_served() {
        let network = Network { links: vec![Link { mtu: 1000, ..link(2, "eth0") }], ..Network::default() };
        let judged = |patient| {
            let mut report = Report::default();
            judge(&patient, &network, &mut report);
            causes(&report)
        };
        assert_eq!(judged(nic(&["eth0"])), ["mtu-black-hole eth0"]);
        assert!(judged(host(&["eth0"])).is_empty());
    }

    #[test]
    fn a_locked_mtu_is_suspicious() {
        let to = "10.1.0.0/16".parse().unwrap();
        let route = |is_mtu_locked| Route {
            to,
            table: 254,
            protocol: 3,
            interface: 2,
            via: None,
            refusal: None,
            mtu: Some(1400),
            is_mtu_locked,
        };
        let mut report = Report::default();
        let network = Network {
            links: vec![link(2, "eth0")],
            routes: vec![route(false), route(true)],
            ..Network::default()
        };
        judge(&host(&["eth0"]), &network, &mut report);
        assert_eq!(causes(&report), ["mtu-black-hole route 10.1.0.0/16"]);
    }
}

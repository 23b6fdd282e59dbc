//! The strict reverse-path filter (RFC 3704 §2.2): where it meets routes that lead back by another interface.

use std::net::IpAddr;

use crate::causes::REVERSE_PATH_FILTER;
use crate::finding::{Finding, Layer, Rank};
use crate::look::network::Network;
use crate::look::parameters::Parameters;
use crate::look::routes::Way;
use crate::patient::Patient;
use crate::report::Report;

/// `rp_filter` of a strict filter; 2 is a loose one.
const STRICT: u32 = 1;
/// The table `main`.
const MAIN: u32 = 254;
/// Most neighbours that are looked up.
const MOST: usize = 64;

/// A neighbour that packets come from, and the way back to it.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Index of the interface at which it is.
    pub(super) interface: u32,
    /// Who.
    pub(super) from: IpAddr,
    /// What the kernel says.
    pub(super) back: Way,
}

/// Returns the interfaces that filter strictly, by name, and notes what the others do.
pub(super) fn strict(patient: &Patient, parameters: &impl Parameters, report: &mut Report) -> Vec<String> {
    let all = parameters.number("net.ipv4.conf.all.rp_filter").unwrap_or_default();
    let value =
        |name: &String| all.max(parameters.of_interface("ipv4", name, "rp_filter").unwrap_or_default());
    let texts: Vec<_> = patient.interfaces.iter().map(|name| format!("{name} {}", value(name))).collect();
    report.note("rp_filter (1 is strict)", texts.join(", "));
    patient.interfaces.iter().filter(|name| value(name) == STRICT).cloned().collect()
}

/// Returns neighbours at the interfaces of these names, for which the way back is to be asked. Those reached by routes
/// with several next hops are left out, since any of these will do for the filter.
pub(super) fn neighbours(network: &Network, names: &[String]) -> Vec<(u32, IpAddr)> {
    let is_shared = |address: IpAddr| {
        let best = network.routes.iter().filter(|route| route.table == MAIN && route.to.contains(address));
        best.max_by_key(|route| route.to.length()).is_some_and(|route| route.interface == 0)
    };
    let found = network.neighbours.iter().filter(|neighbour| {
        let link = network.link_at(neighbour.interface);
        link.is_some_and(|link| names.contains(&link.name))
            && neighbour.address.is_ipv4()
            && !neighbour.address.is_multicast()
            && neighbour.mac.is_some()
            && !is_shared(neighbour.address)
    });
    found.map(|neighbour| (neighbour.interface, neighbour.address)).take(MOST).collect()
}

/// Judges the ways back to those.
pub(super) fn judge(
    patient: &Patient,
    network: &Network,
    strict: &[String],
    arrivals: &[Arrival],
    report: &mut Report,
) {
    for Arrival { interface, from, back } in arrivals {
        let Way::Out(other, _) = back else { continue };
        // A route may lead over the bridge or VLAN that the interface belongs to.
        if other == interface || network.passes(*other, &[network.name(*interface)]) {
            continue;
        }
        let (name, other) = (network.name(*interface), network.name(*other));
        report.find(finding(&name, Rank::Fault).because(format!(
            "{from} is at {name}, and the route back to it leads out of {other}: its packets are dropped (rp_filter 1)"
        )));
    }
    if patient.role.forwards() {
        judge_defaults(network, strict, report);
    }
}

/// Of two default routes one is used, and what arrives by the other's interface is dropped.
fn judge_defaults(network: &Network, strict: &[String], report: &mut Report) {
    let is_default = |length: u8, address: IpAddr| length == 0 && address.is_ipv4();
    let defaults = network.routes.iter().filter(|route| {
        route.table == MAIN && route.interface != 0 && is_default(route.to.length(), route.to.address())
    });
    let mut names: Vec<String> = defaults.map(|route| network.name(route.interface)).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 {
        for name in names.iter().filter(|name| strict.contains(name)) {
            report.find(finding(name, Rank::Suspicion).because(format!(
                "there are default routes by {}: what arrives at the one that is not used is dropped (rp_filter 1)",
                names.join(" and ")
            )));
        }
    }
}

fn finding(name: &str, rank: Rank) -> Finding {
    let parameter = format!("net.ipv4.conf.{}.rp_filter", name.replace('.', "/"));
    Finding::new(&REVERSE_PATH_FILTER, Layer::Routing, rank)
        .of(name)
        .seen_by(format!(
            "sysctl net.ipv4.conf.all.rp_filter {parameter}; nstat -az TcpExtIPReversePathFilter"
        ))
        .mended_by(format!("sysctl -w {parameter}=2 (loose), or lead the route back by {name}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, link, nic};
    use super::*;
    use crate::look::neighbours::{Neighbour, State};
    use crate::look::routes::Route;
    use std::collections::HashMap;

    fn route(to: &str, interface: u32) -> Route {
        Route {
            to: to.parse().unwrap(),
            table: MAIN,
            protocol: 3,
            interface,
            via: None,
            refusal: None,
            mtu: None,
            is_mtu_locked: false,
        }
    }

    fn network() -> Network {
        let neighbour = |address: &str| Neighbour {
            interface: 2,
            address: address.parse().unwrap(),
            state: State::Known,
            mac: Some([2; 6]),
            age: None,
        };
        Network {
            links: vec![link(2, "lan0"), link(3, "wan0")],
            routes: vec![route("10.1.0.0/24", 2), route("10.2.0.0/24", 0)],
            neighbours: ["10.1.0.7", "10.2.0.7", "fd00::7"].map(neighbour).to_vec(),
            ..Network::default()
        }
    }

    #[test]
    fn the_larger_of_both_values_counts() {
        let values = [
            ("net.ipv4.conf.all.rp_filter", 1),
            ("net.ipv4.conf.lan0.rp_filter", 0),
            ("net.ipv4.conf.wan0.rp_filter", 2),
        ];
        let values: HashMap<String, u32> = values.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(strict(&nic(&["lan0", "wan0"]), &values, &mut Report::default()), ["lan0"]);
    }

    #[test]
    fn only_neighbours_with_one_way_back_are_asked_for() {
        assert_eq!(neighbours(&network(), &["lan0".to_owned()]), [(2, [10, 1, 0, 7].into())]);
        assert!(neighbours(&network(), &["wan0".to_owned()]).is_empty());
    }

    #[test]
    fn a_way_back_by_another_interface_is_a_fault() {
        let judged = |back| {
            let arrival = Arrival { interface: 2, from: [10, 1, 0, 7].into(), back };
            let mut report = Report::default();
            judge(&nic(&["lan0"]), &network(), &["lan0".to_owned()], &[arrival], &mut report);
            causes(&report)
        };
        assert!(judged(Way::Out(2, None)).is_empty());
        assert!(judged(Way::Nowhere).is_empty());
        assert_eq!(judged(Way::Out(3, None)), ["reverse-path-filter lan0"]);
    }

    #[test]
    fn two_default_routes_are_suspicious_where_they_are_filtered() {
        let routes = vec![route("0.0.0.0/0", 2), route("0.0.0.0/0", 3)];
        let network = Network { routes, ..network() };
        let judged = |strict: &[String]| {
            let mut report = Report::default();
            judge(&nic(&["lan0", "wan0"]), &network, strict, &[], &mut report);
            causes(&report)
        };
        assert!(judged(&[]).is_empty());
        assert_eq!(judged(&["wan0".to_owned()]), ["reverse-path-filter wan0"]);
    }
}

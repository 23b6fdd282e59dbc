//! Interfaces: there, up, with a carrier, with addresses that nobody else has, and without what spoils forwarding.

use rtt0_netio::emit::DEVICE_PREFIX;
use rtt0_netio::offload::Offloads;

use crate::causes::{
    DUPLICATE_ADDRESS, INTERFACE_DOWN, INTERFACE_MISSING, LARGE_RECEIVE_OFFLOAD, NO_CARRIER,
};
use crate::finding::{Finding, Layer, Rank};
use crate::look::links::Link;
use crate::look::network::Network;
use crate::patient::{Patient, Role};
use crate::report::Report;

/// Kinds whose carrier says something: a bridge or tunnel without one is merely unused.
const WIRED: [&str; 6] = ["", "veth", "vlan", "bond", "macvlan", "ipvlan"];

/// Judges the interfaces that matter.
pub(super) fn judge(patient: &Patient, network: &Network, report: &mut Report) {
    for name in patient.interfaces.iter().filter(|name| !name.starts_with(DEVICE_PREFIX)) {
        match network.link(name) {
            None => report.find(missing(name, network)),
            Some(link) => judge_link(patient.role, link, network, report),
        }
    }
    for address in network.addresses.iter().filter(|address| address.is_duplicate) {
        let name = network.name(address.interface);
        report.find(
            Finding::new(&DUPLICATE_ADDRESS, Layer::Neighbour, Rank::Fault)
                .of(&name)
                .because(format!(
                    "another host on {name} answers for {}: this host does not use it",
                    address.address
                ))
                .seen_by(format!("ip -6 address show dev {name} dadfailed"))
                .mended_by("give one of both hosts another address"),
        );
    }
}

fn missing(name: &str, network: &Network) -> Finding {
    let others: Vec<&str> = network.links.iter().map(|link| link.name.as_str()).collect();
    Finding::new(&INTERFACE_MISSING, Layer::Device, Rank::Fault)
        .of(name)
        .because(format!("there is no interface '{name}' here; there are: {}", others.join(", ")))
        .seen_by("ip -brief link")
        .mended_by(format!("name the right one in the configuration, or make '{name}'"))
}

fn judge_link(role: Role, link: &Link, network: &Network, report: &mut Report) {
    let name = &link.name;
    if !link.is_up {
        if matters(role, link, network) {
            report.find(
                Finding::new(&INTERFACE_DOWN, Layer::Device, Rank::Fault)
                    .of(name)
                    .because(format!("{name} is administratively down: it neither sends nor receives"))
                    .seen_by(format!("ip link show dev {name}"))
                    .mended_by(format!("ip link set dev {name} up")),
            );
        }
    } else if !link.has_carrier && WIRED.contains(&link.kind.as_str()) && matters(role, link, network) {
        report.find(
            Finding::new(&NO_CARRIER, Layer::Device, Rank::Fault)
                .of(name)
                .because(format!(
                    "{name} is up and has no carrier (NO-CARRIER): its other end is down or unplugged"
                ))
                .seen_by(format!("ip link show dev {name}"))
                .mended_by("look at the cable, the switch's port, or whatever the other end is"),
        );
    }
}

/// Tells whether anybody counts on an interface. Every interface of a NIC does; on another host, those that have an
/// address, or the only ones that could have.
fn matters(role: Role, link: &Link, network: &Network) -> bool {
    let is_wire = |link: &&Link| link.is_ethernet && WIRED.contains(&link.kind.as_str());
    let is_only = || is_wire(&link) && !network.links.iter().filter(is_wire).any(|other| other.is_up);
    role.forwards() || network.addresses_of(link.index).next().is_some() || is_only()
}

/// Judges the offloads of one interface: those that merge or cut packets are noted, since what they make is seen in
/// captures; only what can't be forwarded is wrong.
pub(super) fn judge_offloads(role: Role, name: &str, offloads: Offloads, report: &mut Report) {
    let named = [
        ("tso", offloads.tso),
        ("gso", offloads.gso),
        ("gro", offloads.gro),
        ("lro", offloads.lro),
        ("tx-checksum", offloads.tx_checksum),
        ("rx-checksum", offloads.rx_checksum),
    ];
    let on: Vec<&str> = named.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let on = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
    report.note(format!("offloads of {name}"), on);
    if offloads.lro && role.forwards() {
        report.find(
            Finding::new(&LARGE_RECEIVE_OFFLOAD, Layer::Device, Rank::Suspicion)
                .of(name)
                .because(format!(
                    "{name} merges received segments (LRO), which can't be forwarded as they were"
                ))
                .seen_by(format!("ethtool -k {name} | grep large-receive-offload"))
                .mended_by(format!("ethtool -K {name} lro off")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, host, link, nic};
    use super::*;
    use crate::look::links::Address;

    fn judged(patient: &Patient, network: &Network) -> Vec<String> {
        let mut report = Report::default();
        judge(patient, network, &mut report);
        causes(&report)
    }

    fn with_address(mut network: Network, interface: u32, is_duplicate: bool) -> Network {
        let address = "10.0.0.1".parse().unwrap();
        network.addresses.push(Address { interface, address, prefix: 24, is_duplicate });
        network
    }

    #[test]
    fn every_interface_of_a_nic_is_needed() {
        let nic = nic(&["lan0", "wan0", "lan9", "gone0"]);
        let down = Link { is_up: false, ..link(3, "wan0") };
        let unplugged = Link { has_carrier: false, ..link(4, "lan9") };
        let network = Network { links: vec![link(2, "lan0"), down, unplugged], ..Network::default() };
        assert_eq!(
            judged(&nic, &network),
            ["interface-down wan0", "no-carrier lan9", "interface-missing gone0"]
        );
    }

    #[test]
    fn a_host_may_have_interfaces_that_nobody_uses() {
        let host = host(&["eth0", "tunl0", "docker0", "rtt0-0"]);
        let tunnel = Link { is_up: false, is_ethernet: false, kind: "ipip".to_owned(), ..link(3, "tunl0") };
        let bridge = Link { has_carrier: false, kind: "bridge".to_owned(), ..link(4, "docker0") };
        let links = vec![link(2, "eth0"), tunnel, bridge];
        let network = with_address(Network { links, ..Network::default() }, 4, false);
        assert_eq!(judged(&host, &network), Vec::<String>::new());
    }

    #[test]
    fn a_host_needs_what_has_an_address_or_is_its_only_one() {
        let host = host(&["eth0"]);
        let links = vec![Link { is_up: false, ..link(2, "eth0") }];
        let network = Network { links, ..Network::default() };
        assert_eq!(judged(&host, &network), ["interface-down eth0"]);
        let links = vec![Link { has_carrier: false, ..link(2, "eth0") }];
        let network = with_address(Network { links, ..Network::default() }, 2, false);
        assert_eq!(judged(&host, &network), ["no-carrier eth0"]);
    }

    #[test]
    fn a_duplicate_address_is_a_fault() {
        let network = Network { links: vec![link(2, "eth0")], ..Network::default() };
        assert_eq!(judged(&host(&["eth0"]), &with_address(network, 2, true)), ["duplicate-address eth0"]);
    }

    #[test]
    fn only_merged_segments_are_wrong_and_only_where_they_are_forwarded() {
        let all =
            Offloads { tso: true, gso: true, gro: true, lro: true, tx_checksum: true, rx_checksum: true };
        for (role, offloads, findings) in [
            (Role::ClientNic, all, 1),
            (Role::ClientNic, Offloads { lro: false, ..all }, 0),
            (Role::Host, all, 0),
            (Role::ServerNic, Offloads::NONE, 0),
        ] {
            let mut report = Report::default();
            judge_offloads(role, "eth0", offloads, &mut report);
            assert_eq!(report.findings().len(), findings);
        }
    }
}

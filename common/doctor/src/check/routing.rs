//! Routes: to every service, by one of the daemon's interfaces, and none that refuses.

use std::net::IpAddr;

use rtt0_core::service::{Prefix, Service};

use crate::causes::{NO_ROUTE, ROUTE_ELSEWHERE, ROUTE_REFUSES};
use crate::finding::{Finding, Layer, Rank};
use crate::look::network::Network;
use crate::look::routes::{Refusal, RefusingRule, Route, Way};
use crate::patient::Patient;
use crate::report::Report;

/// Most addresses that are asked for, of each service.
const MOST: usize = 16;
/// The table `main`.
const MAIN: u32 = 254;
/// When `main` is asked.
const MAIN_PRIORITY: u32 = 32766;
/// RTPROT_BOOT and RTPROT_STATIC: made by an operator. Routing daemons refuse with reason.
const BY_HAND: [u8; 2] = [3, 4];

/// Where packets of a service go.
#[derive(Debug, Clone)]
pub(super) struct Led {
    /// The service, as it is configured.
    pub(super) service: String,
    /// One of its addresses.
    pub(super) to: IpAddr,
    /// What the kernel says.
    pub(super) way: Way,
}

/// Returns addresses of a service that tell where it is: one in each route that leads into it, or its first.
pub(super) fn samples(service: &Service, network: &Network) -> Vec<IpAddr> {
    let inside = |route: &&Route| {
        route.to.length() >= service.prefix.length() && service.prefix.contains(route.to.address())
    };
    let mut addresses: Vec<IpAddr> = network
        .routes
        .iter()
        .filter(inside)
        .filter(|route| route.refusal.is_none() || !is_aggregate(route, network))
        .filter_map(|route| host(&route.to, network))
        .collect();
    // With all of the Internet served nobody can say which of its addresses there should be a way to.
    let is_vast = service.prefix.length() < if service.prefix.address().is_ipv4() { 8 } else { 16 };
    if addresses.is_empty() && !is_vast {
        addresses.extend(host(&service.prefix, network));
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MOST);
    addresses
}

/// Returns a host's address of a network, which is not this host's own.
fn host(network: &Prefix, here: &Network) -> Option<IpAddr> {
    let most = if network.address().is_ipv4() { 32 } else { 128 };
    let first = u8::from(network.length() + 1 < most);
    (first..first + 8)
        .map(|number| match network.address() {
            IpAddr::V4(address) => IpAddr::from((u32::from(address) | u32::from(number)).to_be_bytes()),
            IpAddr::V6(address) => IpAddr::from((u128::from(address) | u128::from(number)).to_be_bytes()),
        })
        .find(|address| network.contains(*address) && !here.is_own(*address))
}

/// Tells whether a refusing route only catches what more specific routes leave over.
fn is_aggregate(route: &Route, network: &Network) -> bool {
    network.routes.iter().any(|other| {
        other.refusal.is_none()
            && other.table == route.table
            && other.to.length() > route.to.length()
            && route.to.contains(other.to.address())
    })
}

/// Judges where a NIC's services are reached.
pub(super) fn judge_services(patient: &Patient, network: &Network, led: &[Led], report: &mut Report) {
    for Led { service, to, way } in led {
        match way {
            Way::Out(index, via) => {
                let name = network.name(*index);
                let router = via.map(|via| format!(" by the router {via}")).unwrap_or_default();
                report.note(format!("way to {service}"), format!("{to}: out of {name}{router}"));
                if !network.passes(*index, &patient.interfaces) {
                    report.find(elsewhere(service, *to, &name, patient));
                }
            }
            Way::Here => report.note(
                format!("way to {service}"),
                format!("{to} is an address of this host: what is sent there is not the daemon's"),
            ),
            Way::Refused(refusal) => report.find(refused(service, *to, *refusal, network)),
            Way::Nowhere => report.find(nowhere(service, *to)),
            Way::Unknown(why) => report.is_blind_to(format!("the route to {to}, of service {service}"), why),
        }
    }
}

fn elsewhere(service: &str, to: IpAddr, name: &str, patient: &Patient) -> Finding {
    let interfaces = patient.interfaces.join(", ");
    Finding::new(&ROUTE_ELSEWHERE, Layer::Routing, Rank::Fault)
        .of(service)
        .because(format!(
            "packets to {to} leave by {name}, and the daemon has only {interfaces}: it does not see the answers"
        ))
        .seen_by(format!("ip route get {to}"))
        .mended_by(format!("give the daemon {name} as well (--interface), or lead the route through {interfaces}"))
}

fn nowhere(service: &str, to: IpAddr) -> Finding {
    Finding::new(&NO_ROUTE, Layer::Routing, Rank::Fault)
        .of(service)
        .because(format!("no route leads to {to}: the kernel answers that the network is unreachable"))
        .seen_by(format!("ip route get {to}"))
        .mended_by(format!("ip route add {to} via ROUTER, or a default route"))
}

fn refused(service: &str, to: IpAddr, refusal: Refusal, network: &Network) -> Finding {
    let kind = refusal.name();
    let route = network.routes.iter().filter(|route| route.refusal.is_some() && route.to.contains(to));
    let what = match route.max_by_key(|route| route.to.length()) {
        Some(route) => format!("the route '{kind} {}' of table {}", route.to, table(route.table)),
        None => format!("a policy rule or route of type {kind}"),
    };
    Finding::new(&ROUTE_REFUSES, Layer::Routing, Rank::Fault)
        .of(service)
        .because(format!("{what} takes packets to {to}, and drops or refuses them"))
        .seen_by(format!("ip route get {to}; ip rule; ip route show table all type {kind}"))
        .mended_by("delete it (ip route del …, ip rule del …), or add a more specific route")
}

fn table(number: u32) -> String {
    match number {
        MAIN => "main".to_owned(),
        253 => "default".to_owned(),
        number => number.to_string(),
    }
}

/// Returns the routes of a host without services that refuse by an operator's hand, and an address that each takes.
pub(super) fn refusing(network: &Network) -> Vec<(&Route, IpAddr)> {
    let by_hand = |route: &&Route| {
        route.refusal.is_some()
            && route.table == MAIN
            && BY_HAND.contains(&route.protocol)
            && !is_reserved(&route.to)
    };
    let routes = network.routes.iter().filter(by_hand);
    routes
        .filter(|route| route.to.length() == 0 || !is_aggregate(route, network))
        .filter_map(|route| Some((route, taken(route, network)?)))
        .take(MOST)
        .collect()
}

/// Returns an address that a refusing route takes: of a default route one for documentation, which no other has.
fn taken(route: &Route, network: &Network) -> Option<IpAddr> {
    if route.to.length() > 0 {
        return host(&route.to, network);
    }
    Some(if route.to.address().is_ipv4() {
        [198, 51, 100, 1].into()
    } else {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()
    })
}

/// IPv6 networks that distributions refuse because of what is embedded in them (RFC 4291 §2.5.5, RFC 3056, RFC 3701).
fn is_reserved(prefix: &Prefix) -> bool {
    let reserved = ["::/96", "::ffff:0:0/96", "2002::/16", "3ffe::/16"];
    prefix.length() >= 16
        && reserved
            .iter()
            .filter_map(|text| text.parse::<Prefix>().ok())
            .any(|net| net.contains(prefix.address()))
}

/// Judges those: `ways` says which of them the kernel goes by.
pub(super) fn judge_refusing(network: &Network, ways: &[(&Route, IpAddr, Way)], report: &mut Report) {
    for (route, to, way) in ways {
        let Way::Refused(refusal) = way else { continue };
        report.find(refused(&route.to.to_string(), *to, *refusal, network));
    }
}

/// Judges policy rules that refuse before any route is looked for.
pub(super) fn judge_rules(patient: &Patient, network: &Network, report: &mut Report) {
    for rule in network.rules.iter().filter(|rule| rule.priority < MAIN_PRIORITY) {
        let text = text(rule);
        // One that asks for more is an operator's own affair.
        if rule.is_narrow {
            report.note("policy rule", text);
            continue;
        }
        let rank = if takes_service(rule, patient) { Rank::Fault } else { Rank::Suspicion };
        report.find(
            Finding::new(&ROUTE_REFUSES, Layer::Routing, rank)
                .of(format!("rule {}", rule.priority))
                .because(format!(
                    "the policy rule '{text}' drops or refuses packets, whatever the routes say"
                ))
                .seen_by("ip rule; ip -6 rule")
                .mended_by(format!(
                    "ip {} rule del priority {}",
                    if rule.is_ipv4 { "-4" } else { "-6" },
                    rule.priority
                )),
        );
    }
}

/// Tells whether a rule takes all packets, or those of a service.
fn takes_service(rule: &RefusingRule, patient: &Patient) -> bool {
    let overlaps =
        |one: &Prefix, other: &Prefix| one.contains(other.address()) || other.contains(one.address());
    let serves = |prefix: &Option<Prefix>| {
        prefix
            .is_some_and(|prefix| patient.services.rules().iter().any(|rule| overlaps(&rule.prefix, &prefix)))
    };
    let is_for_all = rule.to.is_none() && rule.from.is_none();
    is_for_all || serves(&rule.to) || serves(&rule.from)
}

fn text(rule: &RefusingRule) -> String {
    let prefix = |word: &str, prefix: Option<Prefix>| {
        prefix.map(|prefix| format!(" {word} {prefix}")).unwrap_or_default()
    };
    let from = rule.from.map_or_else(|| " from all".to_owned(), |prefix| format!(" from {prefix}"));
    let more = if rule.is_narrow { " (and more)" } else { "" };
    format!("{}:{from}{}{more} {}", rule.priority, prefix("to", rule.to), rule.refusal.name())
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;

//! Packets that IP itself drops: no route, wrong addresses, broken headers, fragments.

use std::net::IpAddr;

use super::{Growth, STRAYS, is_share};
use crate::causes::{
    ADDRESS_ERRORS, HEADER_ERRORS, HOP_LIMIT, NO_ROUTE_FOR_RECEIVED, OUT_DISCARDS, REASSEMBLY_FAILED,
    REVERSE_PATH_FILTER,
};
use crate::finding::{Layer, Rank};
use crate::patient::Patient;
use crate::report::Report;

const NO_ROUTE_IN: [&str; 2] = ["IpExtInNoRoutes", "Ip6InNoRoutes"];
const HEADERS: [&str; 4] = ["IpInHdrErrors", "Ip6InHdrErrors", "IpExtInTruncatedPkts", "Ip6InTruncatedPkts"];
const EXPIRED: [&str; 2] = ["IcmpOutTimeExcds", "Icmp6OutTimeExcds"];
/// A connection that does not come about sends its SYN about that often while the doctor looks.
const SYNS: u64 = 2;

pub(super) fn judge(patient: &Patient, growth: &Growth<'_>, report: &mut Report) {
    routes(patient, growth, report);
    let addresses = ["IpInAddrErrors", "Ip6InAddrErrors"];
    let wrong = growth.sum(&addresses);
    if wrong >= SYNS {
        report.find(growth.found(&ADDRESS_ERRORS, (Layer::Ip, Rank::Loss), wrong, &addresses).mended_by(
            "packets that are not for this host arrive and it does not forward, or their addresses are \
             impossible: turn on forwarding (net.ipv4.ip_forward=1, net.ipv6.conf.all.forwarding=1), or \
             see who sends them here (net.ipv4.conf.all.log_martians=1, dmesg)",
        ));
    }
    headers(growth, report);
    let discards = ["IpOutDiscards", "Ip6OutDiscards"];
    let (count, sent) = (growth.sum(&discards), growth.sum(&["IpOutRequests", "Ip6OutRequests"]));
    if count >= STRAYS && is_share(count, sent, 10) {
        report.find(
            growth
                .found(&OUT_DISCARDS, (Layer::Ip, Rank::Symptom), count, &discards)
                .because(
                    "below IP something refused them: a firewall, a program, a queue, or a next hop that \
                     does not answer",
                )
                .mended_by("see what the others say: nft list ruleset, tc -s qdisc, ip neigh, dmesg"),
        );
    }
    fragments(growth, report);
    let discards = ["IpInDiscards", "Ip6InDiscards", "IpInUnknownProtos", "Ip6InUnknownProtos"];
    growth.note("packets discarded where they arrived", &discards, report);
}

fn routes(patient: &Patient, growth: &Growth<'_>, report: &mut Report) {
    let filter = ["TcpExtIPReversePathFilter"];
    let filtered = growth.sum(&filter);
    if filtered >= SYNS {
        report.find(
            growth.found(&REVERSE_PATH_FILTER, (Layer::Routing, Rank::Loss), filtered, &filter).mended_by(
                "packets come in by an interface to which no route leads back to their source: mend the \
                 route, or set net.ipv4.conf.{all,INTERFACE}.rp_filter to 2 (loose) or 0; the larger of \
                 the two counts",
            ),
        );
    }
    // A host without IPv6, or without IPv4, asks for routes that it does not have whenever it looks up a name.
    let has = |is_such: fn(&IpAddr) -> bool| patient.services.local().iter().any(is_such);
    let has_ipv4 =
        has(|address| matches!(address, IpAddr::V4(four) if !four.is_loopback() && !four.is_link_local()));
    let has_ipv6 = has(
        |address| matches!(address, IpAddr::V6(six) if !six.is_loopback() && !six.is_unicast_link_local()),
    );
    let mut names = NO_ROUTE_IN.to_vec();
    for (is_there, name) in [(has_ipv4, "IpOutNoRoutes"), (has_ipv6, "Ip6OutNoRoutes")] {
        // A program that looks for others now and then may well find no route.
        if is_there && growth.count(name) >= STRAYS {
            names.push(name);
        }
    }
    let lost = growth.sum(&names);
    if lost >= SYNS {
        report.find(
            growth.found(&NO_ROUTE_FOR_RECEIVED, (Layer::Routing, Rank::Loss), lost, &names).mended_by(
                "see where they go (tcpdump, ip monitor) and what the tables say (ip route get ADDRESS, \
                 ip -6 route get ADDRESS, ip rule); add the missing route",
            ),
        );
    }
}

fn headers(growth: &Growth<'_>, report: &mut Report) {
    let expired = growth.sum(&EXPIRED);
    // Wrong checksums are counted there too, and are told by themselves.
    let broken = growth.sum(&HEADERS).saturating_sub(growth.count("IpExtInCsumErrors"));
    if broken < STRAYS {
        return;
    }
    // Not each packet is answered: answers are limited in their rate.
    if expired > 0 {
        report.find(
            growth
                .found(&HOP_LIMIT, (Layer::Ip, Rank::Loss), broken, &[&HEADERS[..], &EXPIRED].concat())
                .mended_by(
                    "look for a routing loop (traceroute -n ADDRESS shows the same hosts in turns), or a \
                     sender with too small a TTL",
                ),
        );
    } else {
        report.find(growth.found(&HEADER_ERRORS, (Layer::Ip, Rank::Loss), broken, &HEADERS).mended_by(
            "capture them where they arrive (tcpdump -vv) and look for what cuts or changes packets on \
             the way",
        ));
    }
}

fn fragments(growth: &Growth<'_>, report: &mut Report) {
    let failures = ["IpReasmFails", "Ip6ReasmFails"];
    let timeouts = ["IpReasmTimeout", "Ip6ReasmTimeout"];
    let arrived = ["IpReasmReqds", "Ip6ReasmReqds"];
    let whole = ["IpReasmOKs", "Ip6ReasmOKs"];
    let (failed, timed_out) = (growth.sum(&failures), growth.sum(&timeouts));
    let (fragments, done) = (growth.sum(&arrived), growth.sum(&whole));
    let names = [failures, timeouts, arrived, whole].concat();
    // Those that never become a packet time out after half a minute, which is too late to be seen.
    let is_hopeless = fragments >= 2 * STRAYS && done == 0;
    let rank = match () {
        () if failed >= STRAYS && failed > timed_out && is_share(failed, fragments, 50) => Rank::Loss,
        () if failed >= STRAYS && is_share(failed, fragments, 50) || is_hopeless => Rank::Symptom,
        () => return,
    };
    let waiting = growth.after().memory.as_ref().ok().map(|memory| {
        ["FRAG.inuse", "FRAG6.inuse"].iter().filter_map(|name| memory.number(name)).sum::<u64>()
    });
    let mut finding = growth.found(&REASSEMBLY_FAILED, (Layer::Ip, rank), failed.max(1), &names);
    if let Some(waiting) = waiting {
        finding = finding.because(format!("{waiting} packets wait for the rest of their fragments"));
    }
    report.find(finding.mended_by(
        "some fragments do not arrive: look for a firewall that drops those without ports, and for \
         losses; best let the senders send packets that fit (MTU). If memory is short, raise \
         net.ipv4.ipfrag_high_thresh",
    ));
}

#[cfg(test)]
mod tests {
    use super::super::tests::interval;
    use super::*;
    use crate::look::interval::Interval;
    use crate::patient::Role;
    use rtt0_core::service::Services;

    fn found(interval: &Interval) -> Vec<(&'static str, Rank, u64)> {
        found_at(interval, "10.1.1.1")
    }

    fn found_at(interval: &Interval, address: &str) -> Vec<(&'static str, Rank, u64)> {
        let services = Services::new(Vec::new(), vec![address.parse().unwrap()]);
        let patient = Patient { role: Role::Host, interfaces: Vec::new(), services, daemon: None };
        super::super::tests::found(interval, |growth, report| judge(&patient, growth, report))
    }

    #[test]
    fn routes_filters_and_addresses_are_told() {
        let growth = [("TcpExtIPReversePathFilter", 3), ("IpExtInNoRoutes", 2), ("IpInAddrErrors", 4)];
        assert_eq!(
            found(&interval(growth)),
            [
                ("reverse-path-filter", Rank::Loss, 3),
                ("no-route-for-received", Rank::Loss, 2),
                ("address-errors", Rank::Loss, 4)
            ]
        );
        assert_eq!(found(&interval([("TcpExtIPReversePathFilter", 1), ("IpOutNoRoutes", 4)])), []);
        assert_eq!(found(&interval([("IpOutNoRoutes", 5)])), [("no-route-for-received", Rank::Loss, 5)]);
    }

    #[test]
    fn a_host_without_ipv6_looks_for_its_routes_in_vain_and_one_without_ipv4_likewise() {
        assert_eq!(found_at(&interval([("IpOutNoRoutes", 20)]), "fd00::1"), []);
        let growth = || interval([("Ip6OutNoRoutes", 20), ("Ip6InReceives", 0)]);
        assert_eq!(found_at(&growth(), "fe80::1"), []);
        assert_eq!(found_at(&growth(), "fd00::1"), [("no-route-for-received", Rank::Loss, 20)]);
    }

    #[test]
    fn hop_limits_are_told_from_broken_headers_and_checksums() {
        let growth = [("IpInHdrErrors", 40), ("IcmpOutTimeExcds", 2)];
        assert_eq!(found(&interval(growth)), [("hop-limit", Rank::Loss, 40)]);
        assert_eq!(found(&interval([("IpInHdrErrors", 5)])), [("header-errors", Rank::Loss, 5)]);
        assert_eq!(found(&interval([("IpInHdrErrors", 9), ("IpExtInCsumErrors", 9)])), []);
        // traceroute(8) asks three times.
        assert_eq!(found(&interval([("IpInHdrErrors", 3), ("IcmpOutTimeExcds", 3)])), []);
    }

    #[test]
    fn discards_are_symptoms() {
        let growth = [("IpOutDiscards", 9), ("IpOutRequests", 100)];
        assert_eq!(found(&interval(growth)), [("out-discards", Rank::Symptom, 9)]);
    }

    #[test]
    fn fragments_that_never_make_a_packet_are_seen_before_they_time_out() {
        let growth = [("IpReasmReqds", 20), ("IpReasmOKs", 0)];
        assert_eq!(found(&interval(growth)), [("reassembly-failed", Rank::Symptom, 1)]);
        assert_eq!(found(&interval([("IpReasmReqds", 20), ("IpReasmOKs", 9)])), []);
        let growth = [("IpReasmFails", 20), ("IpReasmReqds", 40), ("IpReasmOKs", 10)];
        assert_eq!(found(&interval(growth)), [("reassembly-failed", Rank::Loss, 20)]);
        let growth = [("IpReasmFails", 20), ("IpReasmTimeout", 20)];
        assert_eq!(found(&interval(growth)), [("reassembly-failed", Rank::Symptom, 20)]);
        // A path that loses one in a hundred.
        let growth = [("IpReasmFails", 9), ("IpReasmTimeout", 9), ("IpReasmReqds", 900), ("IpReasmOKs", 440)];
        assert_eq!(found(&interval(growth)), []);
    }
}

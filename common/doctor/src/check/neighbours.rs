//! Neighbours: next hops that do not answer, and entries made by hand that lead nowhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rtt0_core::service::Services;

use crate::causes::{NEIGHBOUR_FAILED, WRONG_MAC};
use crate::finding::{Finding, Layer, Rank};
use crate::look::neighbours::{Neighbour, State};
use crate::look::network::Network;
use crate::look::routes::Way;
use crate::report::Report;

use super::routing::Led;

/// Interface and address.
type Hop = (u32, IpAddr);

/// Returns the routers that routes lead by, and the servers that are reached without one.
pub(super) fn next_hops(network: &Network, led: &[Led]) -> BTreeSet<Hop> {
    let routers = network.routes.iter().filter_map(|route| Some((route.interface, route.via?)));
    let served = led.iter().filter_map(|led| match &led.way {
        Way::Out(interface, via) => Some((*interface, via.unwrap_or(led.to))),
        _ => None,
    });
    routers.chain(served).collect()
}

/// Judges entries that were made by hand: nobody asks whether they are right.
pub(super) fn judge_permanent(network: &Network, report: &mut Report) {
    for neighbour in network.neighbours.iter().filter(|neighbour| neighbour.state == State::Permanent) {
        let Some(link) = network.link_at(neighbour.interface).filter(|link| link.is_ethernet) else {
            continue;
        };
        let (Some(mac), address) = (neighbour.mac, neighbour.address) else { continue };
        // The kernel makes entries for its multicast groups in the same state.
        if address.is_multicast() || network.is_own(address) {
            continue;
        }
        let own = network.links.iter().find(|link| link.is_ethernet && link.mac == Some(mac));
        let why = match () {
            () if mac == [0; 6] => "no Ethernet address at all".to_owned(),
            () if mac[0] & 1 != 0 => "a multicast address, which no host has".to_owned(),
            () => match own {
                Some(own) => format!("this host's own, of {}", own.name),
                None => continue,
            },
        };
        let name = &link.name;
        report.find(
            Finding::new(&WRONG_MAC, Layer::Neighbour, Rank::Fault)
                .of(format!("{address} on {name}"))
                .because(format!(
                    "a permanent entry says that {address} is at {}, which is {why}",
                    spelled(mac)
                ))
                .seen_by(format!("ip neigh show {address} dev {name}"))
                .mended_by(format!(
                    "ip neigh del {address} dev {name}: then the kernel asks for the right one"
                )),
        );
    }
}

/// Judges which neighbours did not answer in an interval of `elapsed`, at whose ends the tables were as given. `hops` are
/// those that routes lead by; servers
/// of `services` count as such.
pub(super) fn judge_unanswered(
    services: &Services,
    network: &Network,
    hops: &BTreeSet<Hop>,
    (before, after): (&[Neighbour], &[Neighbour]),
    elapsed: Duration,
    report: &mut Report,
) {
    let is_silent = |neighbour: &Neighbour| matches!(neighbour.state, State::Failed | State::Incomplete);
    let was_silent = |now: &Neighbour| {
        let same = |then: &&Neighbour| (then.interface, then.address) == (now.interface, now.address);
        before.iter().find(same).is_some_and(is_silent)
    };
    for neighbour in after.iter().filter(|neighbour| is_silent(neighbour)) {
        let is_served = || services.rules().iter().any(|service| service.prefix.contains(neighbour.address));
        let is_hop = hops.contains(&(neighbour.interface, neighbour.address)) || is_served();
        // A state that has changed lately: somebody is sending there now.
        let is_wanted = neighbour.age.is_some_and(|age| age <= elapsed + Duration::from_secs(1));
        let rank = match (neighbour.state, was_silent(neighbour)) {
            // Asked for a moment ago; the answer may be under way.
            (State::Incomplete, false) => continue,
            _ if is_hop && is_wanted => Rank::Loss,
            (State::Incomplete, true) if is_hop => Rank::Loss,
            _ if is_hop => Rank::Fault,
            // Anybody may try an address that nobody has; it is worth telling while it goes on.
            (State::Incomplete, true) => Rank::Symptom,
            (State::Failed, _) if is_wanted => Rank::Symptom,
            _ => continue,
        };
        report.find(finding(network, neighbour, is_hop, rank));
    }
}

fn finding(network: &Network, neighbour: &Neighbour, is_hop: bool, rank: Rank) -> Finding {
    let (address, name) = (neighbour.address, network.name(neighbour.interface));
    let how = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    let state = if neighbour.state == State::Failed { "FAILED" } else { "INCOMPLETE" };
    let role =
        if is_hop { "a server or next hop of this host's routes" } else { "which packets are sent to" };
    let age = neighbour.age.map(|age| format!(", since {:.1} s", age.as_secs_f64())).unwrap_or_default();
    Finding::new(&NEIGHBOUR_FAILED, Layer::Neighbour, rank)
        .of(format!("{address} on {name}"))
        .because(format!("{address}, {role}, does not answer {how}: its entry is {state}{age}"))
        .seen_by(format!("ip neigh show {address} dev {name}"))
        .mended_by(format!(
            "find out whether {address} is up and on the same link as {name} (VLAN, cable, security group), and whether the \
             address is right"
        ))
}

fn spelled(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{causes, link};
    use super::*;
    use std::slice;

    const HOP: &str = "10.0.0.9";

    fn neighbour(address: &str, state: State, age_ms: u64) -> Neighbour {
        Neighbour {
            interface: 2,
            address: address.parse().unwrap(),
            state,
            mac: None,
            age: Some(Duration::from_millis(age_ms)),
        }
    }

    fn network() -> Network {
        Network { links: vec![link(2, "eth0")], ..Network::default() }
    }

    fn judged(before: &[Neighbour], after: &[Neighbour]) -> Vec<(Rank, String)> {
        let mut report = Report::default();
        let hops = BTreeSet::from([(2, HOP.parse().unwrap())]);
        let services = Services::new(vec!["10.0.0.64/28:443".parse().unwrap()], Vec::new());
        judge_unanswered(&services, &network(), &hops, (before, after), Duration::from_secs(2), &mut report);
        report.findings().iter().map(|finding| (finding.rank, finding.subject.clone())).collect()
    }

    #[test]
    fn a_next_hop_that_does_not_answer_loses_packets() {
        let failed = neighbour(HOP, State::Failed, 500);
        assert_eq!(judged(&[], &[failed]), [(Rank::Loss, "10.0.0.9 on eth0".to_owned())]);
        let incomplete = neighbour(HOP, State::Incomplete, 700);
        assert_eq!(judged(slice::from_ref(&incomplete), slice::from_ref(&incomplete))[0].0, Rank::Loss);
        assert!(judged(&[], &[incomplete]).is_empty(), "it may be about to answer");
        let long_ago = neighbour(HOP, State::Failed, 60_000);
        assert_eq!(judged(slice::from_ref(&long_ago), slice::from_ref(&long_ago))[0].0, Rank::Fault);
        assert!(judged(&[], &[neighbour(HOP, State::Known, 0)]).is_empty());
    }

    #[test]
    fn other_neighbours_matter_while_somebody_sends_to_them() {
        let server = neighbour("10.0.0.77", State::Failed, 500);
        assert_eq!(judged(&[], &[server])[0].0, Rank::Loss);
        let other = "10.0.0.7";
        let long_ago = neighbour(other, State::Failed, 60_000);
        assert!(judged(slice::from_ref(&long_ago), slice::from_ref(&long_ago)).is_empty());
        let (before, after) =
            (neighbour(other, State::Incomplete, 900), neighbour(other, State::Failed, 800));
        assert_eq!(judged(&[before], &[after])[0].0, Rank::Symptom);
    }

    #[test]
    fn an_entry_by_hand_must_not_be_ours_nor_nobodys() {
        let permanent = |last: u8, mac| Neighbour {
            mac: Some(mac),
            ..neighbour(&format!("10.0.0.{last}"), State::Permanent, 0)
        };
        let multicast =
            Neighbour { address: "224.0.0.1".parse().unwrap(), ..permanent(1, [1, 0, 0x5e, 0, 0, 1]) };
        let neighbours = vec![
            permanent(1, [2, 0, 0, 0, 0, 2]),
            permanent(2, [0x33, 0x33, 0, 0, 0, 1]),
            permanent(3, [0; 6]),
            permanent(4, [2, 0, 0, 0, 0, 99]),
            multicast,
        ];
        let mut report = Report::default();
        judge_permanent(&Network { neighbours, ..network() }, &mut report);
        let subjects =
            ["wrong-mac 10.0.0.1 on eth0", "wrong-mac 10.0.0.2 on eth0", "wrong-mac 10.0.0.3 on eth0"];
        assert_eq!(causes(&report), subjects);
    }
}

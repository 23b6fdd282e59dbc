//! Judgements over counts that are made up.

use std::net::IpAddr;

use super::*;
use crate::probe::send::errno;
use crate::probe::sighting;

fn counted(counts: &[Option<u64>]) -> Vec<Sighting> {
    let places = counts.iter().enumerate();
    places.map(|(index, count)| sighting(index.to_string(), Layer::Output, *count)).collect()
}

fn found(counts: &[Option<u64>]) -> Option<(String, String, u64, u64)> {
    let sightings = counted(counts);
    gap(&sightings).map(|gap| (gap.from.place.clone(), gap.to.place.clone(), gap.seen, gap.left))
}

#[test]
fn the_first_place_that_has_seen_fewer_is_found() {
    let gap = |from: &str, to: &str, seen, left| Some((from.to_owned(), to.to_owned(), seen, left));
    assert_eq!(found(&[Some(20), Some(20), Some(20)]), None);
    assert_eq!(found(&[Some(20), Some(20), Some(0)]), gap("1", "2", 20, 0));
    assert_eq!(found(&[Some(20), Some(15), Some(0)]), gap("0", "1", 20, 15));
    assert_eq!(found(&[Some(20), None, Some(3)]), gap("0", "2", 20, 3));
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[None, Some(0)]), None);
}

#[test]
fn what_is_seen_later_has_passed_before() {
    assert_eq!(found(&[Some(20), Some(0), Some(20)]), None);
    assert_eq!(found(&[Some(0), Some(20), Some(20)]), None);
}

#[test]
fn layers_have_their_names() {
    for layer in [Layer::Daemon, Layer::NetdevIngress, Layer::TcEgress, Layer::Path] {
        assert_eq!(layer_named(layer.name()), layer);
    }
    assert_eq!(layer_named("something new"), Layer::Path);
}

/// Facts of 20 probes that were counted so: at the eight places on the way out.
fn judged(
    protocol: Protocol,
    counts: [Option<u64>; 8],
    change: impl FnOnce(&mut Sent, &mut Vec<Dropped>, &mut Option<(Vec<Sighting>, bool)>),
) -> Vec<(&'static str, Layer, u64)> {
    use Layer::{Ip, Neighbour, NetdevEgress, Output, Postrouting, Qdisc, Routing, Socket};
    let layers = [Socket, Routing, Output, Ip, Postrouting, Neighbour, NetdevEgress, Qdisc];
    let names = ["sent", "netfilter a", "netfilter b", "netfilter c", "netfilter d", "netfilter egress 1"];
    let names = names.into_iter().chain(["netfilter egress 2", "tap"]);
    let sightings =
        names.zip(layers).zip(counts).map(|((name, layer), count)| sighting(name, layer, count)).collect();
    let target = Target { protocol, address: "192.0.2.1:9".parse().unwrap(), count: 20, agent: None };
    let mut sent = Sent { tried: 20, ..Sent::default() };
    let (mut drops, mut far) = (Vec::new(), None);
    change(&mut sent, &mut drops, &mut far);
    let nothing = (Firewall::default(), Programs::default());
    let way =
        Ok(Way { device: 2, gateway: None, source: Some(IpAddr::from([192, 0, 2, 2])), is_local: false });
    let facts = Facts {
        target: &target,
        interface: "eth0",
        way: &way,
        sent: &sent,
        left: &Left { sightings, neighbour: None, transmit_drops: 0 },
        before: &nothing,
        after: &nothing,
        drops,
        far,
        answers: vec![sighting("tap", Layer::Path, Some(0)), sighting("program", Layer::Transport, None)],
    };
    let mut report = Report::default();
    facts.note(&mut report);
    facts.judge(&mut report);
    for finding in report.findings() {
        assert!(!finding.evidence.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    report.findings().iter().map(|finding| (finding.cause.id, finding.layer, finding.lost)).collect()
}

const ALL: [Option<u64>; 8] = [Some(20); 8];
const BLIND: [Option<u64>; 8] = [Some(20), None, None, None, None, None, None, None];

#[test]
fn what_nobody_can_be_blamed_for_is_lost_between_layers() {
    let mut counts = ALL;
    counts[3..].fill(Some(0));
    assert_eq!(judged(Protocol::Udp, counts, |_, _, _| {}), [("lost-between-layers", Layer::Ip, 20)]);
}

#[test]
fn the_kernels_reason_decides_where_counts_leave_it_open() {
    let mut counts = ALL;
    counts[7] = Some(2);
    for (reason, cause, layer) in
        [("TC_EGRESS", "tc-drop", Layer::TcEgress), ("QDISC_DROP", "qdisc-drop", Layer::Qdisc)]
    {
        let found = judged(Protocol::Udp, counts, |_, drops, _| {
            drops.push(Dropped { reason: reason.to_owned(), packets: 18, ..Dropped::default() });
        });
        assert_eq!(found, [(cause, layer, 18)]);
    }
}

#[test]
fn silence_is_told_as_silence_and_answers_as_health() {
    assert_eq!(judged(Protocol::Tcp, ALL, |_, _, _| {}), [("no-answer", Layer::Path, 20)]);
    assert!(judged(Protocol::Tcp, ALL, |sent, _, _| sent.accepted = 20).is_empty());
    assert!(judged(Protocol::Udp, ALL, |sent, _, _| sent.refused = 20).is_empty());
    assert!(judged(Protocol::Udp, ALL, |sent, _, _| sent.accepted = 7).is_empty(), "need not answer all");
}

#[test]
fn who_can_count_nowhere_still_has_the_calls_errors() {
    let fail = |number| move |sent: &mut Sent, _: &mut _, _: &mut _| sent.errors = [(number, 20)].into();
    assert_eq!(judged(Protocol::Udp, BLIND, fail(errno::ENETUNREACH)), [("no-route", Layer::Routing, 20)]);
    assert_eq!(judged(Protocol::Udp, BLIND, fail(errno::EPERM)), [("socket-refused", Layer::Socket, 20)]);
}

#[test]
fn the_far_host_tells_the_path_from_itself() {
    let far = |counts: [u64; 3], suspects: &[&str]| {
        let suspects: Vec<String> = suspects.iter().map(|suspect| (*suspect).to_owned()).collect();
        let places = vec![
            sighting("tap", Layer::Path, Some(counts[0])),
            sighting("tap, addressed to this host", Layer::Device, Some(counts[1])),
            sighting("input, last", Layer::Input, Some(counts[2])).suspecting(suspects),
        ];
        judged(Protocol::Udp, ALL, move |_, _, far| *far = Some((places, true)))
    };
    assert_eq!(far([0, 0, 0], &[]), [("lost-on-path", Layer::Path, 20)]);
    assert_eq!(far([20, 0, 0], &[]), [("wrong-mac", Layer::Device, 20)]);
    assert_eq!(far([20, 20, 0], &["inet t c handle 2: drop"]), [("firewall-drop", Layer::Input, 20)]);
    assert!(far([20, 20, 20], &[]).is_empty(), "datagrams that arrive need no answer");
    assert!(far([19, 19, 19], &[]).is_empty(), "a lost packet is a path's usual business");
}

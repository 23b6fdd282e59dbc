//! What the observations mean: findings, and which modes the path permits.

use std::mem::discriminant;
use std::net::IpAddr;
use std::time::Duration;

use rtt0_core::wire::options::kind;

use super::arrival::Change;
use super::course::Way;
use super::order::{HOP_LIMIT, Shape};
use super::script::{Flown, Observed, Train, What, moves_sequence};
use super::station::PORTS;
use crate::causes;
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::report::Report;

/// Losses of a train that are the path's trouble: one in so many, and no fewer than that.
const LOSSY: (usize, usize) = (10, 12);
/// Congestion experienced (RFC 3168 §5).
const CE: u8 = 3;
/// ECN-capable transport, ECT(0).
const ECT_0: u8 = 2;

/// Whose path it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// This host, as it knows itself.
    pub(super) local: IpAddr,
    /// This host, as the peer sees it.
    pub(super) seen: IpAddr,
    /// The peer.
    pub(super) peer: IpAddr,
    /// How long an answer takes.
    pub(super) round_trip: Duration,
}

impl Ends {
    /// Returns a way in words, such as `10.1.1.1 → 10.1.1.2`.
    fn name(&self, way: Way) -> String {
        match way {
            Way::Out => format!("{} → {}", self.local, self.peer),
            Way::In => format!("{} → {}", self.peer, self.local),
        }
    }

    fn finding(&self, cause: &'static Cause, rank: Rank) -> Finding {
        let ports = format!("{}-{}", PORTS.start(), PORTS.end());
        Finding::new(cause, Layer::Path, rank).of(self.peer.to_string()).seen_by(format!(
            "tcpdump -ni any -v tcp portrange {ports} (at both ends, during --peer {})",
            self.peer
        ))
    }
}

/// Judges all that was observed.
pub(super) fn judge(seen: &Observed, ends: &Ends, report: &mut Report) {
    addresses(seen, ends, report);
    vanished(seen, ends, report);
    option(seen, ends, report);
    sequence(seen, ends, report);
    mss(seen, ends, report);
    ecn(seen, ends, report);
    checksum(seen, ends, report);
    for mtu in seen.mtus.iter().filter(|mtu| mtu.is_black_hole()) {
        black_hole(mtu, ends, report);
    }
    for train in &seen.trains {
        losses(train, ends, report);
    }
    facts(seen, ends, report);
    others(seen, ends, report);
    modes(seen, ends, report);
}

/// Returns the first change of each kind that is looked for, and in how many segments there is one.
fn changes(seen: &Observed, way: Way, is_it: impl Fn(&Change) -> bool) -> Vec<(&Flown, Change, usize)> {
    let mut found: Vec<(&Flown, Change, usize)> = Vec::new();
    for flown in seen.flown.iter().filter(|flown| flown.way == way) {
        for change in flown.flight.changes.iter().filter(|change| is_it(change)) {
            let same = found.iter_mut().find(|(_, other, _)| same_kind(other, change));
            match same {
                Some((_, _, count)) => *count += 1,
                None => found.push((flown, *change, 1)),
            }
        }
    }
    found
}

fn same_kind(a: &Change, b: &Change) -> bool {
    match (a, b) {
        (Change::OptionMissing(a), Change::OptionMissing(b))
        | (Change::OptionValue(a), Change::OptionValue(b))
        | (Change::OptionAdded(a), Change::OptionAdded(b)) => a == b,
        _ => discriminant(a) == discriminant(b),
    }
}

/// Adds evidence of the changes that are looked for, of both ways. None if there are none.
fn evidence(
    mut finding: Finding,
    seen: &Observed,
    ends: &Ends,
    is_it: impl Fn(&Change) -> bool,
) -> Option<Finding> {
    for way in [Way::Out, Way::In] {
        let come =
            seen.flown.iter().filter(|flown| flown.way == way && flown.flight.arrival.is_some()).count();
        for (flown, change, count) in changes(seen, way, &is_it) {
            let what = words(flown.what);
            finding = finding.because(format!(
                "{}: {} ({what}; so in {count} of {come} segments)",
                ends.name(way),
                told(&change),
            ));
        }
    }
    (!finding.evidence.is_empty()).then_some(finding)
}

fn addresses(seen: &Observed, ends: &Ends, report: &mut Report) {
    let mut finding = ends.finding(&causes::ADDRESS_REWRITTEN, Rank::Fault).mended_by(
        "take the NAT from between the NICs, or exempt what goes between clients and services from it; until then `mode = \"solo\"` at \
         ClientNIC, since the offers' signatures cover addresses and ports",
    );
    if ends.local != ends.seen {
        finding = finding.because(format!(
            "this host talks to {} from {}, which sees {}",
            ends.peer, ends.local, ends.seen
        ));
    }
    let is_address = |change: &Change| matches!(change, Change::Source(..) | Change::Destination(..));
    let plain = finding.clone();
    match evidence(finding, seen, ends, is_address) {
        Some(finding) => report.find(finding),
        None if !plain.evidence.is_empty() => report.find(plain),
        None => {}
    }
}

/// Judges what did not come at all though it was sent several times.
fn vanished(seen: &Observed, ends: &Ends, report: &mut Report) {
    for flown in seen.flown.iter().filter(|flown| flown.flight.arrival.is_none()) {
        if flown.flight.is_refused {
            report.find(refused(flown, ends));
            continue;
        }
        let is_special = matches!(flown.what, What::Capable | What::Congested | What::Dscp);
        if is_special && !seen.has_come(What::Data, flown.way) {
            // It is not for what is special about them.
            continue;
        }
        let (cause, fix) = match flown.what {
            What::Offer(_) | What::ServiceOffer(_) => (
                &causes::OPTION_DROPPED,
                "let the firewall on the path pass TCP option 253 (RFC 6994, experiment 0x5A52); until then `mode = \"solo\"` at ClientNIC",
            ),
            What::Ecn(_) | What::Capable | What::Congested => (
                &causes::ECN_CLEARED,
                "let the path pass ECN (RFC 3168), or turn it off at the endpoints: `sysctl net.ipv4.tcp_ecn=0`",
            ),
            What::Early => (
                &causes::EARLY_DATA_DROPPED,
                "have the firewall on the path pass data of connections whose SYN-ACK it has not seen (no dropping of what connection \
                 tracking calls invalid between the NICs); until then `mode = \"solo\"` at ClientNIC",
            ),
            // Worth a note, and nobody's trouble.
            What::Urgent | What::Service(_) => continue,
            What::Plain(_) | What::Data | What::Dscp => (
                &causes::LOST_ON_PATH,
                "look at firewalls and routes between the two, in this direction: the control connection gets through, and these do not",
            ),
        };
        let (way, what, tries) = (ends.name(flown.way), words(flown.what), flown.flight.tries);
        report.find(
            ends.finding(cause, Rank::Loss)
                .losing(tries.into())
                .because(format!("{way}: {what} did not arrive, in {tries} tries"))
                .because(survivors(seen, flown.way, ends))
                .mended_by(fix),
        );
    }
}

/// What the sender's own kernel does not let out has not come as far as the path.
fn refused(flown: &Flown, ends: &Ends) -> Finding {
    let (sender, what) = (if flown.way == Way::Out { ends.local } else { ends.peer }, words(flown.what));
    let (cause, layer) = match flown.way {
        Way::Out => (&causes::FIREWALL_DROP, Layer::Output),
        Way::In => (&causes::LOST_ON_PATH, Layer::Path),
    };
    Finding::new(cause, layer, Rank::Loss)
        .of(format!("at {sender}"))
        .losing(1)
        .because(format!("{}: the kernel of {sender} refuses to send {what} (EPERM)", ends.name(flown.way)))
        .seen_by(format!("nft list ruleset; bpftool cgroup tree (at {sender})"))
        .mended_by("have the host's firewall, or the program of its control group, let out what goes to the other NIC")
}

/// Says what did come the same way.
fn survivors(seen: &Observed, way: Way, ends: &Ends) -> String {
    let come = seen.flown.iter().filter(|flown| flown.way == way && flown.flight.arrival.is_some());
    let names: Vec<_> = come.map(|flown| words(flown.what)).collect();
    match names.is_empty() {
        true => format!("{}: nothing else arrived either, but the control connection", ends.name(way)),
        false => format!("{}: these did: {}", ends.name(way), names.join(", ")),
    }
}

/// Tells whether the signalling option does not arrive as it left.
fn is_offer(change: &Change) -> bool {
    matches!(change, Change::OptionMissing(kind::EXPERIMENT) | Change::OptionValue(kind::EXPERIMENT))
}

fn option(seen: &Observed, ends: &Ends, report: &mut Report) {
    let fix = "let the device on the path pass TCP options as they are, 253 above all; until then `mode = \"solo\"` at ClientNIC";
    let stripped = ends.finding(&causes::OPTION_STRIPPED, Rank::Fault).mended_by(fix);
    if let Some(finding) = evidence(stripped, seen, ends, is_offer) {
        report.find(finding);
    }
    let is_other =
        |change: &Change| matches!(change, Change::OptionMissing(other) if *other != kind::EXPERIMENT);
    let stripped = ends.finding(&causes::OPTION_STRIPPED, Rank::Suspicion).mended_by(
        "let the device on the path pass TCP options as they are: without them connections are slower, or recover later from losses",
    );
    if let Some(finding) = evidence(stripped, seen, ends, is_other) {
        report.find(finding);
    }
}

fn sequence(seen: &Observed, ends: &Ends, report: &mut Report) {
    let finding = ends.finding(&causes::SEQUENCE_REWRITTEN, Rank::Fault).mended_by(
        "turn sequence-number randomisation (or the proxy) off for what goes between clients and services; until then `mode = \"solo\"` \
         at ClientNIC, since the offers' signatures cover the client's ISN",
    );
    if let Some(finding) = evidence(finding, seen, ends, moves_sequence) {
        report.find(finding);
    }
}

fn mss(seen: &Observed, ends: &Ends, report: &mut Report) {
    let finding = ends.finding(&causes::MSS_REWRITTEN, Rank::Suspicion).mended_by(
        "nothing, if the link behind needs it (compare with the MTU below): the NICs keep to what arrives; otherwise remove the clamp",
    );
    if let Some(finding) = evidence(finding, seen, ends, |change| matches!(change, Change::Mss(..))) {
        report.find(finding);
    }
}

fn ecn(seen: &Observed, ends: &Ends, report: &mut Report) {
    let is_cleared = |change: &Change| match change {
        Change::EcnFlags(sent, come) => sent & !come != 0,
        Change::Ecn(ECT_0, come) => *come != CE,
        Change::Ecn(sent, _) => *sent == CE,
        _ => false,
    };
    let finding = ends.finding(&causes::ECN_CLEARED, Rank::Suspicion).mended_by(
        "let the path keep the ECN bits; all modes work without, but marks that get lost make senders push on into congestion",
    );
    if let Some(finding) = evidence(finding, seen, ends, is_cleared) {
        report.find(finding);
    }
}

fn checksum(seen: &Observed, ends: &Ends, report: &mut Report) {
    let finding = ends
        .finding(&causes::CHECKSUM_ERRORS, Rank::Loss)
        .mended_by("find the device on the path that changes segments without mending their checksums: receivers drop them");
    if let Some(finding) = evidence(finding, seen, ends, |change| *change == Change::Checksum) {
        report.find(finding);
    }
}

fn black_hole(mtu: &super::mtu::Mtu, ends: &Ends, report: &mut Report) {
    let (Some(largest), Some(vanishing)) = (mtu.largest, mtu.vanishing) else { return };
    let said = match mtu.told {
        None => "no router said so".to_owned(),
        Some(told) => format!("a router spoke of {told} bytes, which do not pass either"),
    };
    let (source, target) = match mtu.way {
        Way::Out => (ends.local, ends.peer),
        Way::In => (ends.peer, ends.local),
    };
    let headers = if target.is_ipv4() { 28 } else { 48 };
    report.find(
        ends.finding(&causes::MTU_BLACK_HOLE, Rank::Loss)
            .losing(3)
            .because(format!(
                "{}: packets of {largest} bytes arrive, from {vanishing} on they vanish, and {said}; the sender's interface takes {}",
                ends.name(mtu.way),
                mtu.interface
            ))
            .seen_by(format!("ping -M do -s {} {target} (at {source})", vanishing.saturating_sub(headers)))
            .mended_by(format!(
                "let ICMP errors pass ({}), or set the MTU of the interfaces towards it to {largest}, or clamp the MSS there: \
                 `nft add rule inet filter forward tcp flags syn tcp option maxseg size set rt mtu`",
                if target.is_ipv4() { "type 3 code 4" } else { "ICMPv6 type 2" }
            )),
    );
}

fn losses(train: &Train, ends: &Ends, report: &mut Report) {
    let lost = train.sent - train.come;
    if lost * LOSSY.0 < train.sent || lost < LOSSY.1 {
        return;
    }
    report.find(
        ends.finding(&causes::LOST_ON_PATH, Rank::Symptom)
            .losing(lost as u64)
            .because(format!(
                "{}: {lost} of {} segments, sent two milliseconds apart, did not arrive",
                ends.name(train.way),
                train.sent
            ))
            .mended_by("look for a full queue, a rate limit or a bad link between the two"),
    );
}

/// Notes how far it is, each way.
fn facts(seen: &Observed, ends: &Ends, report: &mut Report) {
    report.note(
        format!("round trip to {}", ends.peer),
        format!("{:.1} ms", ends.round_trip.as_secs_f64() * 1e3),
    );
    for way in [Way::Out, Way::In] {
        let arrivals =
            seen.flown.iter().filter(|flown| flown.way == way).filter_map(|f| f.flight.arrival.as_ref());
        let mut parts: Vec<String> = Vec::new();
        if let Some(least) = arrivals.map(|arrival| arrival.hop_limit).min() {
            parts.push(match HOP_LIMIT.checked_sub(least) {
                Some(hops) => format!("hops {hops}"),
                None => format!("TTL {HOP_LIMIT} rewritten to {least}"),
            });
        }
        if let Some(mtu) = seen.mtus.iter().find(|mtu| mtu.way == way) {
            let told = mtu.told.map_or(String::new(), |told| format!(" (a router told of {told})"));
            parts.extend(mtu.largest.map(|largest| format!("MTU {largest}{told}")));
        }
        if let Some(train) = seen.trains.iter().find(|train| train.way == way) {
            parts.push(format!("lost {} of {}", train.sent - train.come, train.sent));
        }
        if !parts.is_empty() {
            report.note(format!("path {}", ends.name(way)), parts.join(", "));
        }
    }
}

/// Notes changes that harm nobody.
fn others(seen: &Observed, ends: &Ends, report: &mut Report) {
    let is_harmless = |change: &Change| match change {
        Change::Flags(..) | Change::Window | Change::OptionAdded(_) | Change::Dscp(..) | Change::Data => true,
        Change::OptionValue(other) => *other != kind::EXPERIMENT,
        Change::EcnFlags(sent, come) => sent & !come == 0,
        Change::Ecn(sent, come) => *sent == 0 || (*sent, *come) == (ECT_0, CE),
        _ => false,
    };
    for way in [Way::Out, Way::In] {
        for (flown, change, _) in changes(seen, way, is_harmless) {
            report.note(
                format!("changed on the path {}", ends.name(way)),
                format!("{} ({})", told(&change), words(flown.what)),
            );
        }
        if seen.flight(What::Urgent, way).is_some_and(|flight| flight.arrival.is_none()) {
            report.note(format!("changed on the path {}", ends.name(way)), "segments with URG vanish");
        }
    }
}

fn modes(seen: &Observed, ends: &Ends, report: &mut Report) {
    let name = "modes that this path permits";
    let (way, back) = (seen.opener, seen.opener.back());
    let passes = [
        (What::Plain(Shape::Syn), way),
        (What::Plain(Shape::SynAck), back),
        (What::Data, way),
        (What::Data, back),
    ];
    if passes.iter().any(|(what, way)| !seen.has_come(*what, *way)) {
        report.note(name, "none: not even plain connections get through");
        return;
    }
    let in_the_way = against_paired(seen, ends);
    if in_the_way.is_empty() {
        report.note(name, "all of them: learn, paired, solo (`mode = \"auto\"`)");
    } else {
        report.note(
            name,
            format!(
                "learn and solo; not paired: {}; set `mode = \"solo\"` at ClientNIC until that is mended",
                in_the_way.join(", ")
            ),
        );
    }
}

/// Returns why offers and confirms can't do their work here: the option must get through both ways as it is, and so must
/// what its signature covers.
fn against_paired(seen: &Observed, ends: &Ends) -> Vec<&'static str> {
    let (way, back) = (seen.opener, seen.opener.back());
    let is_whole = |what, way| {
        seen.flight(what, way).map(|flight| {
            flight.arrival.is_some()
                && !flight.changes.iter().any(|change| is_offer(change) || *change == Change::Checksum)
        })
    };
    let gets_through = |shape, way| {
        is_whole(What::Offer(shape), way) == Some(true)
            && is_whole(What::ServiceOffer(shape), way) != Some(false)
    };
    let has =
        |is_it: fn(&Change) -> bool| seen.flown.iter().any(|flown| flown.flight.changes.iter().any(is_it));
    [
        (!gets_through(Shape::Syn, way), "offers do not get through"),
        (!gets_through(Shape::SynAck, back), "confirms do not get through"),
        (!seen.has_come(What::Early, way), "early data does not get through"),
        (has(moves_sequence), "sequence numbers change"),
        (
            ends.local != ends.seen
                || has(|change| matches!(change, Change::Source(..) | Change::Destination(..))),
            "addresses or ports change",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, why)| is_so.then_some(why))
    .collect()
}

fn words(what: What) -> &'static str {
    match what {
        What::Plain(Shape::Syn) => "a SYN",
        What::Plain(_) => "a SYN-ACK",
        What::Offer(Shape::Syn) => "a SYN with the signalling option",
        What::Offer(_) => "a SYN-ACK with the signalling option",
        What::Service(Shape::Syn) => "a SYN to a service's port",
        What::Service(_) => "a SYN-ACK from a service's port",
        What::ServiceOffer(Shape::Syn) => "a SYN with the signalling option to a service's port",
        What::ServiceOffer(_) => "a SYN-ACK with the signalling option from a service's port",
        What::Ecn(Shape::Syn) => "a SYN with ECE and CWR",
        What::Ecn(_) => "a SYN-ACK with ECE",
        What::Early => "data right behind a SYN",
        What::Data => "data",
        What::Capable => "data with ECT(0)",
        What::Congested => "data with CE",
        What::Dscp => "data of a DiffServ class",
        What::Urgent => "urgent data",
    }
}

fn told(change: &Change) -> String {
    match change {
        Change::Source(from, to) => format!("sent from {from}, arrived from {to}"),
        Change::Destination(from, to) => format!("sent to {from}, arrived at {to}"),
        Change::Sequence(from, to) => format!("SEG.SEQ {from} arrived as {to}"),
        Change::Acknowledgement(from, to) => format!("SEG.ACK {from} arrived as {to}"),
        Change::EcnFlags(from, to) => format!("ECN flags {from:#05x} arrived as {to:#05x}"),
        Change::Flags(from, to) => format!("control bits {from:#05x} arrived as {to:#05x}"),
        Change::Window => "the window was changed".to_owned(),
        Change::Mss(from, to) => format!("MSS {from} arrived as {to}"),
        Change::OptionMissing(kind) => format!("TCP option {} was taken out", named(*kind)),
        Change::OptionValue(kind) => format!("the value of TCP option {} was changed", named(*kind)),
        Change::OptionAdded(kind) => format!("TCP option {} was put in", named(*kind)),
        Change::Dscp(from, to) => format!("DSCP {from} arrived as {to}"),
        Change::Ecn(from, to) => format!("ECN field {from:02b} arrived as {to:02b}"),
        Change::Data => "the data was changed".to_owned(),
        Change::Checksum => "the TCP checksum was wrong".to_owned(),
    }
}

fn named(option: u8) -> String {
    let name = match option {
        kind::MSS => "MSS",
        kind::WINDOW_SCALE => "window scale",
        kind::SACK_PERMITTED => "SACK-permitted",
        kind::TIMESTAMPS => "timestamps",
        kind::EXPERIMENT => "the NICs' signalling",
        _ => return option.to_string(),
    };
    format!("{option} ({name})")
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

//! What the kernel says it dropped, and why.
//!
//! Most of what passes the tracepoint is no loss at all: segments that come twice, connections that are closed, multicast
//! that nobody wants. `reasons` says which reasons mean something, and what; `place` tells the layer from
//! the functions that had been called. What no table knows is told as it is.

mod place;
mod reasons;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rtt0_netio::emit::DEVICE_PREFIX;

use crate::finding::{Finding, Layer};
use crate::look::drops::{Dropped, UNCOUNTED};
use crate::look::interval::Interval;
use crate::patient::Patient;
use crate::report::Report;
use reasons::Blame;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Destination unreachable; destination unreachable and packet too big.
const ICMP_ERRORS: [(u8, u16); 3] = [(ICMP, 3), (ICMP6, 1), (ICMP6, 2)];
/// Most lines of evidence for one finding.
const MOST_LINES: usize = 6;
/// The command that shows the same, for whatever was dropped.
const BY_HAND: &str = "dropwatch -l kas  (or: perf record -a -e skb:kfree_skb sleep 2; perf script)";

/// Judges the packets that the kernel dropped while the doctor looked.
pub(super) fn judge(patient: &Patient, interval: &Interval, report: &mut Report) {
    match &interval.drops {
        Ok(drops) => judge_all(patient, drops, report),
        Err(why) => report.cannot_see("the kernel's drop reasons", why),
    }
}

/// Returns the drops of a flow's packets, in either direction: `ports` as they are sent, 0 for any.
pub fn of_flow(drops: &[Dropped], protocol: u8, ports: (u16, u16)) -> impl Iterator<Item = &Dropped> {
    let fits = |wanted: u16, port: u16| wanted == 0 || wanted == port;
    let is_of = move |(source, destination)| fits(ports.0, source) && fits(ports.1, destination);
    drops.iter().filter(move |dropped| {
        let (source, destination) = dropped.ports;
        dropped.protocol == protocol && (is_of((source, destination)) || is_of((destination, source)))
    })
}

fn judge_all(patient: &Patient, drops: &[Dropped], report: &mut Report) {
    let mut blamed = BTreeMap::<_, (Blame, Vec<&Dropped>)>::new();
    let (mut harmless, mut guarded) = (0u64, 0u64);
    for dropped in drops {
        if dropped.reason == UNCOUNTED {
            let why = format!("{} packets were of more kinds than the table holds", dropped.packets);
            report.cannot_see("some of the kernel's drops", why);
        } else if is_daemons(patient, dropped) {
            guarded += dropped.packets;
        } else if let Some(blame) = reasons::blame(dropped) {
            let subject = if is_devices(blame.layer) {
                dropped.device.clone().unwrap_or_default()
            } else {
                String::new()
            };
            let key = (blame.cause.id, blame.layer, subject);
            blamed.entry(key).or_insert_with(|| (blame, Vec::new())).1.push(dropped);
        } else {
            harmless += dropped.packets;
        }
    }
    for ((_, _, subject), (blame, dropped)) in blamed {
        let packets: u64 = dropped.iter().map(|dropped| dropped.packets).sum();
        let is_known = report.findings().iter().any(|finding| finding.cause.id == blame.cause.id);
        if packets < blame.least && !is_known {
            harmless += packets;
            continue;
        }
        let finding = Finding::new(blame.cause, blame.layer, blame.rank).of(subject).losing(packets);
        let command = if blame.command.is_empty() { BY_HAND } else { blame.command };
        let finding = finding.seen_by(command).mended_by(blame.fix);
        report.find(evidence(&dropped).into_iter().fold(finding, Finding::because));
    }
    if harmless > 0 {
        let what = "duplicates, segments of closed connections, unwanted multicast, strays";
        report.note("dropped as is usual", format!("{harmless} packets ({what})"));
    }
    if guarded > 0 {
        report.note("dropped by the kernel guard", format!("{guarded} packets, which the daemon forwards"));
    }
}

/// Tells whether it happens to a device, so that each has its own finding.
fn is_devices(layer: Layer) -> bool {
    matches!(layer, Layer::Device | Layer::Qdisc | Layer::Xdp | Layer::TcIngress | Layer::TcEgress)
}

/// Tells whether a daemon that runs here has had the packet dropped: it forwards a copy. The guard drops segments of services and
/// the ICMP errors about them where they arrive; what else is dropped there is somebody else's doing.
fn is_daemons(patient: &Patient, dropped: &Dropped) -> bool {
    if patient.daemon.is_none() {
        return false;
    }
    let device = dropped.device.as_deref().unwrap_or_default();
    // What is copied to the daemon's own device ends there; what the daemon sends comes in by one, and may well be lost.
    if device.starts_with(DEVICE_PREFIX) && (place::is_leaving(dropped) || dropped.reason == "OTHERHOST") {
        return true;
    }
    if dropped.reason != "NETFILTER_DROP" || !patient.interfaces.iter().any(|name| name == device) {
        return false;
    }
    // Without the functions' names the place is unknown, and the rest has to tell.
    let is_there = place::netfilter(dropped).is_none_or(|layer| layer == Layer::NetdevIngress);
    let is_served = |port: u16| patient.services.rules().iter().any(|rule| rule.ports.contains(&port));
    let (source, destination) = dropped.ports;
    let is_claimed = match dropped.protocol {
        TCP => (source, destination) == (0, 0) || is_served(source) || is_served(destination),
        protocol => ICMP_ERRORS.contains(&(protocol, source)),
    };
    is_there && is_claimed
}

/// Sums up by reason, function, protocol, destination port and device; those of most packets first.
fn evidence(dropped: &[&Dropped]) -> Vec<String> {
    let mut sums = BTreeMap::<String, u64>::new();
    for one in dropped {
        *sums.entry(describe(one)).or_default() += one.packets;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    let rest: u64 = sums.iter().skip(MOST_LINES).map(|(_, packets)| packets).sum();
    sums.truncate(MOST_LINES);
    let mut lines: Vec<_> = sums.iter().map(|(what, packets)| format!("{packets} packets: {what}")).collect();
    if rest > 0 {
        lines.push(format!("{rest} packets more, of the same kind"));
    }
    lines
}

/// Describes it as in `NETFILTER_DROP in nft_do_chain (called by ip_forward), UDP to port 9, on eth0`. Source ports are left out:
/// a client takes another one each time.
fn describe(dropped: &Dropped) -> String {
    let mut text = dropped.reason.clone();
    if let Some(location) = &dropped.location {
        text += &format!(" in {location}");
        let way: Vec<_> =
            dropped.callers.iter().map(String::as_str).filter(|name| place::tells(name)).collect();
        if let Some(caller) = way.first() {
            text += &format!(" (called by {caller})");
        }
    }
    let (source, destination) = dropped.ports;
    text += &match dropped.protocol {
        TCP | UDP => {
            let name = if dropped.protocol == TCP { "TCP" } else { "UDP" };
            match (source, destination) {
                (0, 0) => format!(", {name}"),
                // An answer, by its service.
                (service, client) if service < client && client >= 1024 => {
                    format!(", {name} from port {service}")
                }
                (_, port) => format!(", {name} to port {port}"),
            }
        }
        ICMP => format!(", ICMP type {source} code {destination}"),
        ICMP6 => format!(", ICMPv6 type {source} code {destination}"),
        0 if dropped.ethertype != 0 => format!(", EtherType 0x{:04x}", dropped.ethertype),
        0 => String::new(),
        other => format!(", IP protocol {other}"),
    };
    if let Some(device) = &dropped.device {
        text += &format!(", on {device}");
    }
    text
}

//! Packets of the handshake get lost on the long leg: the exchange still completes.

use super::figure::{fetch_at_once, ms, rtts};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::counters::Snapshot;
use crate::nic::NicMode;
use crate::program::client::{Ask, Request};
use crate::program::stream;
use crate::wan::{Path, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Direction;
use rtt0_core::wire::segment::Segment;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lost-handshake",
    about: "any packet of the handshake lost on the long leg, and 3 % of all: every exchange completes",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// Bytes of the answer: more than one segment.
const ANSWER: u64 = 20_000;
/// Connections under random loss: so many at once, so many times.
const LOSSY: (usize, usize) = (20, 10);

/// What a packet is, for the choice of one to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Syn,
    SynAck,
    BareAck,
    Data,
}

/// What is lost: so many packets of the kind, in that direction.
type Loss = (Direction, Part, u32);

/// A ServerNIC's confirm is the only SYN-ACK on the long leg.
const LOSSES: &[(&str, &[Loss])] = &[
    ("the offer", &[(Direction::ToServer, Part::Syn, 1)]),
    ("the offer, twice", &[(Direction::ToServer, Part::Syn, 2)]),
    ("the client's first ACK", &[(Direction::ToServer, Part::BareAck, 1)]),
    ("the request", &[(Direction::ToServer, Part::Data, 1)]),
    (
        "the offer and the request",
        &[(Direction::ToServer, Part::Syn, 1), (Direction::ToServer, Part::Data, 1)],
    ),
    (
        "the client's first ACK and the request",
        &[(Direction::ToServer, Part::BareAck, 1), (Direction::ToServer, Part::Data, 1)],
    ),
    ("the confirm", &[(Direction::ToClient, Part::SynAck, 1)]),
    ("the confirm, twice", &[(Direction::ToClient, Part::SynAck, 2)]),
    ("the first answer", &[(Direction::ToClient, Part::Data, 1)]),
    (
        "the confirm and the first answer",
        &[(Direction::ToClient, Part::SynAck, 1), (Direction::ToClient, Part::Data, 1)],
    ),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Paired)) })?;
        let mut seen = Vec::new();
        for (what, losses) in LOSSES {
            let time = lose(&lab, losses).with_context(|| format!("{case}: {what} lost"))?;
            seen.push(format!("{what} {:.1}", rtts(time, RTT)));
        }
        report.note(format!("{case}: first byte in RTT after losing {}", seen.join(", ")));
        lab.take_nics().context("no daemons")?.stop()?;
    }
    for case in Case::ALL {
        random_loss(case, report)?;
    }
    Ok(())
}

/// Makes an exchange that loses packets; returns its time to first byte.
fn lose(lab: &Lab, losses: &[Loss]) -> anyhow::Result<Duration> {
    let wan = lab.topology().wan();
    let before = Snapshot::take(lab.topology())?;
    let lost_before = sabotaged(lab);
    for way in [Direction::ToServer, Direction::ToClient] {
        let mine = losses.iter().filter(|(direction, ..)| *direction == way);
        wan.sabotage(way, Some(saboteur(mine.map(|(_, part, count)| (*part, *count)).collect())));
    }
    let exchange = lab.fetch(&lab.request().ask(Ask::Download(ANSWER)))?;
    let lost = sabotaged(lab) - lost_before;
    let wanted: u64 = losses.iter().map(|(_, _, count)| u64::from(*count)).sum();
    ensure!(exchange.sha256 == stream::digest(stream::SEED, ANSWER), "other bytes came than were sent");
    // Repeats of what is lost may come after the exchange; only then is there nothing to lose.
    ensure!(lost > 0 && lost <= wanted, "{lost} packets were lost, not {wanted}");
    for way in [Direction::ToServer, Direction::ToClient] {
        wan.sabotage(way, None);
    }
    let next = lab.fetch(&lab.request())?.first_byte;
    ensure!(next < RTT * 3 / 2, "the connection after it took {next:?}");
    let resets = before.until(&Snapshot::take(lab.topology())?).resets;
    ensure!(resets == 0, "{resets} resets");
    Ok(exchange.first_byte)
}

fn sabotaged(lab: &Lab) -> u64 {
    lab.topology().wan().directions().iter().map(|way| way.counters.sabotaged).sum()
}

fn saboteur(mut left: Vec<(Part, u32)>) -> Saboteur {
    Box::new(move |packet| {
        let part = part_of(packet);
        let Some((_, count)) = left.iter_mut().find(|(wanted, count)| Some(*wanted) == part && *count > 0)
        else {
            return false;
        };
        *count -= 1;
        true
    })
}

fn part_of(packet: &[u8]) -> Option<Part> {
    let mut copy = packet.to_vec();
    let mut packet = Packet { bytes: &mut copy, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).ok()?;
    let tcp = segment.tcp();
    Some(match tcp.flags() {
        flags if flags.is_syn_ack() => Part::SynAck,
        flags if flags.is_syn() => Part::Syn,
        _ if segment.payload_length() > 0 => Part::Data,
        _ => Part::BareAck,
    })
}

fn random_loss(case: Case, report: &mut Report) -> anyhow::Result<()> {
    const SHORT: Duration = Duration::from_millis(20);
    let lab = Lab::raise(Setting { rtt: SHORT, ..Setting::new(case, Some(NicMode::Paired)) })?;
    let path = Path { loss: 0.03, seed: 7, ..Path::with_rtt(SHORT) };
    lab.topology().set_path(path);
    let request = Request { timeout: Duration::from_secs(60), ..lab.request() };
    let (at_once, rounds) = LOSSY;
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    for round in 1..=rounds {
        for outcome in fetch_at_once(&lab, &request, at_once)? {
            let exchange = outcome.with_context(|| format!("{case}: a connection of round {round}"))?;
            slowest = slowest.max(exchange.total);
        }
    }
    let lost: u64 = lab.topology().wan().directions().iter().map(|way| way.counters.lost).sum();
    report.note(format!(
        "{case}: {} connections under 3 % loss ({lost} packets) in {:.1} s, the slowest in {:.0} ms",
        at_once * rounds,
        began.elapsed().as_secs_f64(),
        ms(slowest)
    ));
    Ok(())
}

//! One packet gets lost on one leg: every part of a connection in turn, on every leg in turn.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::figure::rtts;
use super::oracle::{Change, Check, Early, FIRST_PORT, Trial};
use super::part::{Part, part_of};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::topology::{Leg, Wiring};
use crate::wan::{Fate, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::service::Direction::{self, ToClient, ToServer};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lost-packet",
    about: "SYN, SYN-ACK, first ACK, first data, FIN lost in turn on each leg: as with kernel forwarding",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// A server repeats its first answer after 1 to 3 s if it has no RTT sample yet (docs/PROTOCOL.md);
/// a client its SYN after 1 s.
const LATEST: Duration = Duration::from_secs(4);

/// What is lost, the first of its kind in that direction; dialogue by dialogue.
const LOSSES: [(Direction, Part); 8] = [
    (ToServer, Part::Syn),
    (ToClient, Part::SynAck),
    (ToServer, Part::BareAck),
    (ToServer, Part::Data),
    (ToClient, Part::Data),
    (ToClient, Part::BareAck),
    (ToServer, Part::Fin),
    (ToClient, Part::Fin),
];

const fn exchange(name: &'static str) -> Dialogue {
    Dialogue {
        name,
        client: &[Send(1000), Read(20_000), Finish, ReadToEnd],
        server: &[Read(1000), Send(20_000), ReadToEnd],
    }
}

const DIALOGUES: &[Dialogue; LOSSES.len()] = &[
    exchange("SYN lost"),
    exchange("SYN-ACK lost"),
    exchange("client's first ACK lost"),
    exchange("request lost"),
    exchange("first of the answer lost"),
    exchange("server's first ACK lost"),
    exchange("client's FIN lost"),
    exchange("server's FIN lost"),
];

/// What is lost on which leg.
const LEGS: [(Leg, Change, Check); 3] = [
    (Leg::Client, |lab| sabotage(lab, Leg::Client), |lab| all_lost(lab, Leg::Client)),
    (Leg::Long, |lab| sabotage(lab, Leg::Long), |lab| all_lost(lab, Leg::Long)),
    (Leg::Server, |lab| sabotage(lab, Leg::Server), |lab| all_lost(lab, Leg::Server)),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        report.at_once(&LEGS, |(leg, change, check), report| {
            let setting = Setting { rtt: RTT, wiring: Wiring::Lines, ..Setting::new(case, None) };
            let trial = Trial::new(case, DIALOGUES).setting(setting).upset(*change).check(*check);
            // A client that misses its SYN-ACK sends its SYN again, and may be answered early again.
            let verified = trial.early(Early::Any).verify(report).with_context(|| leg.to_string())?;
            let early = verified.client.of("event.spoofed_paired");
            ensure!(early >= DIALOGUES.len() as u64, "{case}, {leg}: only {early} dialogues were 0-RTT");
            let mut seen = Vec::new();
            for (dialogue, [kernel, nics]) in DIALOGUES.iter().zip(verified.times) {
                let name = dialogue.name;
                ensure!(nics < kernel + LATEST, "{case}, {leg}: {name}: {nics:.1?}, not {kernel:.1?}");
                seen.push(format!("{name} {:.1}/{:.1}", rtts(kernel, RTT), rtts(nics, RTT)));
            }
            report.note(format!("{case}, {leg}, RTTs kernel/NICs: {}", seen.join(", ")));
            Ok(())
        })?;
    }
    Ok(())
}

fn sabotage(lab: &Lab, leg: Leg) -> anyhow::Result<()> {
    for way in [ToServer, ToClient] {
        lab.topology().line(leg)?.sabotage(way, Some(saboteur(way)));
    }
    Ok(())
}

/// Loses of each dialogue what it is to lose in this direction.
fn saboteur(way: Direction) -> Saboteur {
    let mut done = [false; LOSSES.len()];
    Box::new(move |packet| {
        let Some(((source, destination), part)) = part_of(packet) else { return Fate::Keep };
        let port = if way == ToServer { destination } else { source };
        let index = usize::from(port.wrapping_sub(FIRST_PORT));
        match LOSSES.get(index) {
            Some(loss) if *loss == (way, part) && !done[index] => {
                done[index] = true;
                Fate::Lose
            }
            _ => Fate::Keep,
        }
    })
}

fn all_lost(lab: &Lab, leg: Leg) -> anyhow::Result<()> {
    let lost: u64 = lab.topology().line(leg)?.directions().iter().map(|way| way.counters.sabotaged).sum();
    ensure!(lost == LOSSES.len() as u64, "{lost} packets were lost, not {}", LOSSES.len());
    Ok(())
}

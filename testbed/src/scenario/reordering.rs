//! Packets overtake each other or arrive twice, on every leg; data overtake their SYN.

use super::conversation::Dialogue;
use super::conversation::Step::{Abort, Finish, Pause, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial};
use super::part::{Part, part_of};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::topology::{Leg, Wiring};
use crate::wan::{Fate, Path, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::service::Direction::{self, ToClient, ToServer};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "reordering",
    about: "every packet twice, one in five overtaken, on each leg; data before their SYN: as with kernel forwarding",
    run,
};

const RTT: Duration = Duration::from_millis(30);
/// How long a SYN or SYN-ACK is late: the data behind it come first.
const LATE: Duration = Duration::from_millis(20);
/// Several flights.
const MUCH: u64 = 200_000;

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000), Send(1000), Read(1000), ReadToEnd],
        server: &[Read(1000), Send(1000), Read(1000), Send(1000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(MUCH), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(MUCH), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
    Dialogue {
        name: "server speaks first",
        client: &[Read(2000), Send(1000), ReadToEnd],
        server: &[Send(2000), Read(1000)],
    },
    Dialogue {
        name: "client aborts",
        client: &[Send(1000), Read(1000), Pause(Duration::from_millis(100)), Abort],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
];

/// What is done, and ServerNIC's counter that proves it mattered.
type Upset = (&'static str, Change, Option<&'static str>);

const UPSETS: [Upset; 8] = [
    ("client's leg repeats", |lab| impair(lab, Leg::Client, TWICE), None),
    ("long leg repeats", |lab| impair(lab, Leg::Long, TWICE), None),
    ("server's leg repeats", |lab| impair(lab, Leg::Server, TWICE), None),
    ("client's leg reorders", |lab| impair(lab, Leg::Client, MIXED), None),
    ("long leg reorders", |lab| impair(lab, Leg::Long, MIXED), None),
    ("server's leg reorders", |lab| impair(lab, Leg::Server, MIXED), None),
    ("SYN late", |lab| late(lab, ToServer, Part::Syn), Some("event.held_for_offer")),
    ("SYN-ACK late", |lab| late(lab, ToClient, Part::SynAck), None),
];

/// What a path does to (duplicated, reordered) packets, as shares.
type Shares = (f64, f64);
const TWICE: Shares = (1.0, 0.0);
const MIXED: Shares = (0.0, 0.2);

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        report.at_once(&UPSETS, |(what, change, counter), report| {
            let setting = Setting { rtt: RTT, wiring: Wiring::Lines, ..Setting::new(case, None) };
            let trial = Trial::new(case, DIALOGUES).setting(setting).upset(*change).disorderly();
            // A SYN that comes twice may be answered early twice.
            let verified = trial.early(Early::Any).verify(report).with_context(|| *what)?;
            let (early, wanted) = (verified.client.of("event.spoofed_paired"), DIALOGUES.len() as u64);
            ensure!(early >= wanted, "{case}, {what}: {early} of {wanted} dialogues were 0-RTT");
            if let Some(counter) = counter {
                let count = verified.server.of(counter);
                ensure!(count >= wanted, "{case}, {what}: {counter} is {count}, not {wanted}");
            }
            let longer =
                verified.times.iter().map(|[kernel, nics]| nics.as_secs_f64() / kernel.as_secs_f64());
            let slowest = longer.fold(0.0, f64::max);
            report.note(format!("{}, {what}: {slowest:.2} of kernel's time at most", case.ip));
            Ok(())
        })?;
    }
    Ok(())
}

fn impair(lab: &Lab, leg: Leg, (duplicate, reorder): Shares) -> anyhow::Result<()> {
    let rtt = if leg == Leg::Long { RTT } else { Duration::ZERO };
    lab.topology().line(leg)?.set_path(Path { duplicate, reorder, seed: 5, ..Path::with_rtt(rtt) })
}

/// Makes every packet of a kind late on the long leg.
fn late(lab: &Lab, way: Direction, late: Part) -> anyhow::Result<()> {
    let saboteur: Saboteur = Box::new(move |packet| match part_of(packet) {
        Some((_, part)) if part == late => Fate::Late(LATE),
        _ => Fate::Keep,
    });
    lab.topology().wan().sabotage(way, Some(saboteur));
    Ok(())
}

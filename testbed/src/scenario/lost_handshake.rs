//! Packets of the handshake get lost on the long leg: the exchange still completes.

use super::figure::{fetch_at_once, ms, rtts};
use super::part::{Part, part_of};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::counters::Snapshot;
use crate::nic::NicMode;
use crate::program::client::{Ask, Request};
use crate::program::stream;
use crate::wan::{Fate, Path, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::service::Direction::{self, ToClient, ToServer};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lost-handshake",
    about: "any packet of the handshake lost on the long leg, and 3 % of all: every exchange completes",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// Bytes of the answer: several segments, so that the loss of one is noticed at once.
const ANSWER: u64 = 20_000;
/// Bytes of an answer in one segment, whose loss only a timer notices, or the FIN behind it.
const SHORT_ANSWER: u64 = 100;
/// How long a repeat is waited for after an exchange.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections under random loss.
const CONNECTIONS: usize = 200;
/// How many of them at a time.
const AT_ONCE: usize = 50;

/// What is lost: so many packets of the kind, in that direction.
type Loss = (Direction, Part, u32);

/// What is lost of an exchange with an answer of so many bytes.
///
/// A ServerNIC's confirm is the only SYN-ACK on the long leg. It is asked for again only as long as
/// nothing else of the server's arrives.
const LOSSES: &[(&str, u64, &[Loss])] = &[
    ("the offer", ANSWER, &[(ToServer, Part::Syn, 1)]),
    ("the offer, twice", ANSWER, &[(ToServer, Part::Syn, 2)]),
    ("the client's first ACK", ANSWER, &[(ToServer, Part::BareAck, 1)]),
    ("the request", ANSWER, &[(ToServer, Part::Data, 1)]),
    ("the offer and the request", ANSWER, &[(ToServer, Part::Syn, 1), (ToServer, Part::Data, 1)]),
    ("the first ACK and the request", ANSWER, &[(ToServer, Part::BareAck, 1), (ToServer, Part::Data, 1)]),
    ("the confirm", ANSWER, &[(ToClient, Part::SynAck, 1)]),
    (
        "the confirm, the server's first ACK, and a short answer",
        SHORT_ANSWER,
        &[
            (ToClient, Part::SynAck, 1),
            (ToClient, Part::BareAck, 1),
            (ToClient, Part::Data, 1),
            (ToClient, Part::Fin, 1),
        ],
    ),
    ("the first of the answer", ANSWER, &[(ToClient, Part::Data, 1)]),
    ("confirm and first of the answer", ANSWER, &[(ToClient, Part::SynAck, 1), (ToClient, Part::Data, 1)]),
    ("a short answer", SHORT_ANSWER, &[(ToClient, Part::Data, 1)]),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Paired)) })?;
        let mut seen = Vec::new();
        for (what, answer, losses) in LOSSES {
            let time = lose(&lab, *answer, losses).with_context(|| format!("{case}: {what} lost"))?;
            seen.push(format!("{what} {:.1}", rtts(time, RTT)));
        }
        report.note(format!("{case}: first byte in RTT after losing\n{}", seen.join("\n")));
        lab.take_nics().context("no daemons")?.stop()?;
    }
    report.at_once(&Case::EACH, |case, report| {
        let (plain, paired) = thread::scope(|scope| {
            let plain = scope.spawn(|| random_loss(*case, None));
            let paired = random_loss(*case, Some(NicMode::Paired));
            (plain.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), paired)
        });
        report.same();
        report.note(format!(
            "{case}: {CONNECTIONS} connections, {} under kernel forwarding, {} paired",
            plain?, paired?
        ));
        Ok(())
    })?;
    Ok(())
}

/// Makes an exchange that loses packets; returns its time to first byte.
fn lose(lab: &Lab, answer: u64, losses: &[Loss]) -> anyhow::Result<Duration> {
    let wan = lab.topology().wan();
    let before = Snapshot::take(lab.topology())?;
    let lost_before = sabotaged(lab);
    for way in [ToServer, ToClient] {
        let mine = losses.iter().filter(|(direction, ..)| *direction == way);
        wan.sabotage(way, Some(saboteur(mine.map(|(_, part, count)| (*part, *count)).collect())));
    }
    let exchange = lab.fetch(&lab.request().ask(Ask::Download(answer)))?;
    ensure!(exchange.sha256 == stream::digest(stream::SEED, answer), "other bytes came than were sent");
    let wanted: u64 = losses.iter().map(|(_, _, count)| u64::from(*count)).sum();
    // What is repeated may come after the exchange.
    let deadline = Instant::now() + PATIENCE;
    while sabotaged(lab) - lost_before < wanted && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let lost = sabotaged(lab) - lost_before;
    ensure!(lost == wanted, "{lost} packets were lost, not {wanted}");
    for way in [ToServer, ToClient] {
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
        let part = part_of(packet).map(|(_, part)| part);
        let Some((_, count)) = left.iter_mut().find(|(wanted, count)| Some(*wanted) == part && *count > 0)
        else {
            return Fate::Keep;
        };
        *count -= 1;
        Fate::Lose
    })
}

/// Makes short connections over a path that loses 3 % of all packets; returns what to note.
fn random_loss(case: Case, nics: Option<NicMode>) -> anyhow::Result<String> {
    const SHORT: Duration = Duration::from_millis(20);
    let lab = Lab::raise(Setting { rtt: SHORT, ..Setting::new(case, nics) })?;
    let path = Path { loss: 0.03, seed: 7, ..Path::with_rtt(SHORT) };
    lab.topology().set_path(path);
    let request = Request { timeout: Duration::from_secs(60), ..lab.request() };
    let mut times = Vec::with_capacity(CONNECTIONS);
    for round in 1..=CONNECTIONS / AT_ONCE {
        for outcome in fetch_at_once(&lab, &request, AT_ONCE)? {
            let exchange = outcome.with_context(|| format!("{case}: a connection of round {round}"))?;
            times.push(exchange.total);
        }
    }
    times.sort_unstable();
    let [median, slow, slowest] =
        [CONNECTIONS / 2, CONNECTIONS * 9 / 10, CONNECTIONS - 1].map(|n| ms(times[n]));
    let lost: u64 = lab.topology().wan().directions().iter().map(|way| way.counters.lost).sum();
    Ok(format!("{lost} packets lost: median {median:.0} ms, p90 {slow:.0} ms, slowest {slowest:.0} ms"))
}

//! ServerNIC is absent, dies, comes late: mode auto always finds its way.

use super::figure::{Answer, median, rtts};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::counters::Snapshot;
use crate::nic::NicMode;
use anyhow::{Context, ensure};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fall-back",
    about: "mode auto: solo without a ServerNIC, paired once there is one, solo again when it dies",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// Connections to measure in each phase.
const CONNECTIONS: usize = 5;

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::EACH {
        let lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, None) })?;
        let (_, answer) = exchange(&lab)?;
        // The kernel compared with itself does not count.
        let itself = &mut Report::default();
        let plain = Plain { first_byte: first_byte(&lab, &answer, itself)?, answer };
        drop(lab);
        one(case, &plain, report).with_context(|| case.to_string())?;
    }
    Ok(())
}

/// What is seen without daemons.
struct Plain {
    first_byte: Duration,
    answer: Answer,
}

fn one(case: Case, plain: &Plain, report: &mut Report) -> anyhow::Result<()> {
    let Plain { first_byte: plain, answer } = plain;
    let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Auto)) })?;
    let (nics, topology) = lab.nics_and_topology()?;
    // Both anew: a ClientNIC that has never heard of a ServerNIC.
    nics.server().take().context("no ServerNIC")?.terminate()?;
    nics.client().take().context("no ClientNIC")?.terminate()?;
    nics.start_client(&topology.client_nic)?;

    let (learned, _) = exchange(&lab)?;
    let solo = first_byte(&lab, answer, report)?;
    for (what, time) in [("the first connection", learned), ("solo", solo)] {
        ensure!(time < *plain + RTT / 2, "{what}: first byte after {time:?}, kernel forwarding {plain:?}");
    }

    let (nics, topology) = lab.nics_and_topology()?;
    nics.start_server(&topology.server_nic)?;
    // This one carries the probe that finds it.
    exchange(&lab).context("the connection that finds ServerNIC")?;
    let paired = first_byte(&lab, answer, report)?;
    ensure!(paired < RTT * 3 / 2, "paired: first byte after {paired:?}");

    lab.nics()?.server().take().context("no ServerNIC")?.kill()?;
    let before = Snapshot::take(lab.topology())?;
    let (fallen, seen) = exchange(&lab).context("the connection that finds ServerNIC dead")?;
    report.equal(format!("{case}: falling back"), answer, &seen)?;
    // An RTO, of 200 ms at least, would make it six round trips.
    ensure!(fallen < RTT * 3, "falling back: first byte after {fallen:?}");
    let counted = before.until(&Snapshot::take(lab.topology())?);
    let again = first_byte(&lab, answer, report)?;
    ensure!(again < *plain + RTT / 2, "solo again: first byte after {again:?}");

    let (client, _) = lab.take_nics().context("no daemons")?.stop()?;
    let seen = ["spoofed_solo", "spoofed_paired", "fell_back_to_solo"]
        .map(|event| client.of(&format!("event.{event}")));
    let expected = [2 * CONNECTIONS as u64 + 1, CONNECTIONS as u64 + 1, 1];
    ensure!(seen == expected, "spoofed solo, spoofed paired, fell back: {seen:?}, not {expected:?}");
    report.note(format!(
        "{case}: solo {:.2} RTT (kernel {:.2}), paired {:.2}, falling back {:.2} ({} resets, {} \
         retransmissions)",
        rtts(solo, RTT),
        rtts(*plain, RTT),
        rtts(paired, RTT),
        rtts(fallen, RTT),
        counted.resets,
        counted.retransmits
    ));
    Ok(())
}

/// Returns the median time to first byte of some connections, all of which get that answer.
fn first_byte(lab: &Lab, expected: &Answer, report: &mut Report) -> anyhow::Result<Duration> {
    let mut times = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let (time, answer) = exchange(lab)?;
        report.equal("an answer", expected, &answer)?;
        times.push(time);
    }
    median(&times)
}

/// Makes an exchange that ends well at both ends; returns its time to first byte and the answer.
fn exchange(lab: &Lab) -> anyhow::Result<(Duration, Answer)> {
    let exchange = lab.fetch(&lab.request())?;
    let requests = lab.served()?.requests;
    ensure!((exchange.status, requests) == (200, 1), "status {}, {requests} requests", exchange.status);
    Ok((exchange.first_byte, Answer::from(&exchange)))
}

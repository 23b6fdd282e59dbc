//! A closed port: refused as ever where it is known to be closed; one reset where it is not.

use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::program::client::{FetchError, Request, Stage};
use anyhow::{Context, bail, ensure};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "closed-port",
    about: "no profile: ECONNREFUSED; a stale one: one reset, then ECONNREFUSED; 0-RTT again afterwards",
    run,
};

/// A port on which nothing ever listens.
const NEVER_OPEN: u16 = 9999;
/// For so long after a refusal SYNs pass without being learned from
/// (`rtt0_core::profile::ProfileLimits::refusal`), and a little.
const REFUSAL: Duration = Duration::from_millis(1050);

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        let kernel = refusal(&Lab::raise(Setting::new(case, None))?).context("under kernel forwarding")?;
        let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Paired)))?;
        let unknown = refusal(&lab)?;
        report.equal(format!("{case}, without a profile"), &kernel, &unknown)?;
        outage(&mut lab).with_context(|| case.to_string())?;
        report.note(format!("{case}: refused as by the kernel; stale profile: one reset, then refused"));
    }
    Ok(())
}

/// Connects to the port that was never open, twice.
fn refusal(lab: &Lab) -> anyhow::Result<[(Stage, Option<i32>); 2]> {
    let target = SocketAddr::new(lab.server_address(), NEVER_OPEN);
    let request = Request { server: target, ..lab.request() };
    let outcome = |error: FetchError| (error.stage, error.errno());
    let outcomes = [outcome(failure(lab, &request)?), outcome(failure(lab, &request)?)];
    ensure!(outcomes[0].1 == Some(libc::ECONNREFUSED), "a closed port answered with {:?}", outcomes[0]);
    Ok(outcomes)
}

/// Stops the server behind a fresh profile, and starts it again.
fn outage(lab: &mut Lab) -> anyhow::Result<()> {
    let request = lab.request();
    ensure!(is_instant(lab, &request)?, "the profile is not in use: connect() took a round trip");
    lab.stop_server();
    let lied_to = failure(lab, &request).context("the server is gone")?;
    ensure!(
        lied_to.stage != Stage::Connect && lied_to.errno() == Some(libc::ECONNRESET),
        "the stale profile should end in one reset after connect(), not: {lied_to}: {}",
        lied_to.source
    );
    for _ in 0..3 {
        let told = failure(lab, &request).context("the server is gone")?;
        ensure!(
            told.stage == Stage::Connect && told.errno() == Some(libc::ECONNREFUSED),
            "after the reset connect() should be refused, not: {told}: {}",
            told.source
        );
    }
    let server = lab.serve(super::lab::PORT, None)?;
    ensure!(!is_instant(lab, &request)?, "a SYN was answered early just after a refusal");
    std::thread::sleep(REFUSAL);
    ensure!(!is_instant(lab, &request)?, "a SYN was answered early that should have been learned from");
    for _ in 0..3 {
        ensure!(
            is_instant(lab, &request)?,
            "the server is back and learned, and connect() took a round trip"
        );
    }
    drop(server);
    let Some(nics) = lab.take_nics() else { return Ok(()) };
    let (client, _) = nics.stop()?;
    let (spoofed, refused) = (client.of("event.spoofed_paired"), client.of("event.refused"));
    ensure!(
        (spoofed, refused) == (5, 1),
        "of 5 spoofed connections, 1 refused, ClientNIC counted {spoofed}, {refused}"
    );
    Ok(())
}

/// Makes a connection that must succeed; tells whether `connect(2)` returned before the path's RTT.
fn is_instant(lab: &Lab, request: &Request) -> anyhow::Result<bool> {
    Ok(lab.fetch(request)?.connect < Duration::from_millis(25))
}

/// Makes a connection that must fail.
fn failure(lab: &Lab, request: &Request) -> anyhow::Result<FetchError> {
    match lab.try_fetch(request)? {
        Ok(exchange) => bail!("a connection to a closed port was answered with status {}", exchange.status),
        Err(error) => Ok(error),
    }
}

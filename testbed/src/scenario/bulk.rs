//! Large transfers: every byte arrives, and large uploads end spoofing where it would hurt.

use super::figure::{mbit_per_s, rtts};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::program::client::{Ask, Exchange, Request};
use crate::program::stream;
use anyhow::ensure;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bulk",
    about: "100 MB each way arrive whole; after large uploads a service is no longer spoofed",
    run,
};

const SIZE: u64 = 100_000_000;
const RTT: Duration = Duration::from_millis(10);
/// Where the service with large uploads listens.
const UPLOAD_PORT: u16 = 8081;

fn run(report: &mut Report) -> anyhow::Result<()> {
    let digest = stream::digest(stream::SEED, SIZE);
    for case in Case::ALL {
        let plain = transfer(case, None, &digest)?;
        let paired = transfer(case, Some(NicMode::Paired), &digest)?;
        // Both arrived whole, with the same digest, in both worlds.
        (0..2).for_each(|_| report.same());
        report.note(format!(
            "{case}: down {:.0} Mbit/s (kernel {:.0}), up {:.0} Mbit/s (kernel {:.0})",
            paired.0, plain.0, paired.1, plain.1
        ));
    }
    for case in Case::IPS {
        gate(case, report)?;
    }
    Ok(())
}

/// Downloads and uploads; returns Mbit/s of each.
fn transfer(case: Case, nics: Option<NicMode>, digest: &[u8; 32]) -> anyhow::Result<(f64, f64)> {
    let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, nics) })?;
    let request = Request { timeout: Duration::from_secs(60), ..lab.request() };
    let down = lab.fetch(&request.clone().ask(Ask::Download(SIZE)))?;
    ensure!(down.bytes == SIZE, "{case}: {} of {SIZE} bytes came down", down.bytes);
    ensure!(down.sha256 == *digest, "{case}: other bytes came down than the server sent");
    let up = lab.fetch(&request.ask(Ask::Upload(SIZE)))?;
    check_upload(case, &up, digest)?;
    if let Some(nics) = lab.take_nics() {
        let (client, server) = nics.stop()?;
        let (spoofed, established) = (client.of("event.spoofed_paired"), server.of("event.established"));
        ensure!(
            (spoofed, established) == (2, 2),
            "{case}: of two transfers {spoofed} were spoofed and {established} translated"
        );
    }
    Ok((mbit_per_s(SIZE, down.total), mbit_per_s(SIZE, up.total)))
}

fn check_upload(case: Case, up: &Exchange, digest: &[u8; 32]) -> anyhow::Result<()> {
    let (seen, sent) = (String::from_utf8_lossy(&up.small_body), stream::hex(digest));
    ensure!(seen == sent, "{case}: the server received bytes of digest '{seen}' instead of {sent}");
    Ok(())
}

/// A service whose first upload is large: not spoofed until small ones outnumber it.
fn gate(case: Case, report: &mut Report) -> anyhow::Result<()> {
    const LARGE: u64 = 1_000_000;
    let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Paired)))?;
    let rtt = Duration::from_millis(50);
    let _service = lab.serve(UPLOAD_PORT, None)?;
    let small = Request { server: (lab.server_address(), UPLOAD_PORT).into(), ..lab.request() };
    let up = lab.fetch(&small.clone().ask(Ask::Upload(LARGE)))?;
    check_upload(case, &up, &stream::digest(stream::SEED, LARGE))?;
    // One large upload is a quarter of the last ones or more, until four small ones have followed.
    for number in 1..=4 {
        let exchange = lab.fetch(&small)?;
        let seen = rtts(exchange.first_byte, rtt);
        ensure!(seen > 1.5, "{case}: small request {number} took {seen:.2} RTT: it was spoofed");
    }
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        fastest = fastest.min(lab.fetch(&small)?.first_byte);
    }
    let seen = rtts(fastest, rtt);
    ensure!(seen < 1.5, "{case}: small requests did not bring 0-RTT back, first byte after {seen:.2} RTT");
    let Some((client, _)) = lab.take_nics().map(|nics| nics.stop()).transpose()? else { return Ok(()) };
    let (passed, spoofed) = (client.of("pass.large_uploads"), client.of("event.spoofed_paired"));
    ensure!(
        (passed, spoofed) == (4, 3),
        "{case}: {passed} SYNs passed for large uploads and {spoofed} were spoofed, not 4 and 3"
    );
    report.note(format!("{case}: large upload closes the gate, the fifth small request finds it open"));
    Ok(())
}

//! The promise itself: connect() returns at once, the first byte comes after one round trip.

use super::figure::Answer;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use anyhow::ensure;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "zero-rtt",
    about: "connect() returns before the path's RTT, the first byte comes after one, not two",
    run,
};

/// Connections per case.
const CONNECTIONS: usize = 20;

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        let plain = Lab::raise(Setting::new(case, None))?;
        let plain = Answer::from(&plain.fetch(&plain.request())?);
        let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Paired)))?;
        let mut times = Vec::new();
        for _ in 0..CONNECTIONS {
            let exchange = lab.fetch(&lab.request())?;
            report.equal(case, &plain, &Answer::from(&exchange))?;
            times.push((exchange.first_byte, exchange.connect));
        }
        times.sort_unstable();
        let (first_byte, _) = times[CONNECTIONS / 2];
        let rtt = Duration::from_millis(50);
        // Between one round trip and two lies a whole one: half of it is room for any noise.
        ensure!(first_byte >= rtt, "{case}: first byte after {first_byte:?}, before the path's {rtt:?}");
        ensure!(first_byte < rtt * 3 / 2, "{case}: first byte after {first_byte:?}, not one RTT");
        let mut connects: Vec<_> = times.iter().map(|(_, connect)| *connect).collect();
        connects.sort_unstable();
        let connect = connects[CONNECTIONS / 2];
        ensure!(connect < rtt / 2, "{case}: connect() took {connect:?}");
        let nics = lab.take_nics().map(|nics| nics.stop()).transpose()?;
        let Some((client, server)) = nics else { continue };
        let spoofed = client.of("event.spoofed_paired");
        ensure!(spoofed == CONNECTIONS as u64, "{case}: {spoofed} of {CONNECTIONS} spoofed");
        let established = server.of("event.established");
        ensure!(established == spoofed, "{case}: {established} of {spoofed} established");
        report.note(format!(
            "{case}: first byte {:.1} ms, connect() {:.2} ms",
            first_byte.as_secs_f64() * 1e3,
            connect.as_secs_f64() * 1e3
        ));
    }
    Ok(())
}

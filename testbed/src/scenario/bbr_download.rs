//! A server that runs BBR must not be misled about the path's round-trip time.

use super::figure::{Answer, median, ms};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::program::client::Ask;
use anyhow::ensure;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bbr-download",
    about: "a download from a BBR server takes at most 1.15 times as long as under kernel forwarding",
    run,
};

const SIZE: u64 = 4_000_000;
const DOWNLOADS: usize = 5;
const RTT: Duration = Duration::from_millis(50);

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::EACH {
        compare(case, report)?;
    }
    Ok(())
}

fn compare(case: Case, report: &mut Report) -> anyhow::Result<()> {
    let raise = |nics| Lab::raise(Setting { congestion: "bbr", rtt: RTT, ..Setting::new(case, nics) });
    let (plain_lab, paired_lab) = (raise(None)?, raise(Some(NicMode::Paired))?);
    let (mut plain, mut paired, mut least_rtt) = (Vec::new(), Vec::new(), Duration::MAX);
    // In turns, so that a busy moment hits both. The first of each is the warm-up.
    for number in 0..=DOWNLOADS {
        let (plain_time, _, kernel) = download(&plain_lab)?;
        let (paired_time, min_rtt, nics) = download(&paired_lab)?;
        report.equal(case, &kernel, &nics)?;
        if number > 0 {
            plain.push(plain_time);
            paired.push(paired_time);
            least_rtt = least_rtt.min(min_rtt);
        }
    }
    let (plain, paired) = (median(&plain)?, median(&paired)?);
    let ratio = paired.as_secs_f64() / plain.as_secs_f64();
    report.note(format!(
        "{case}: {:.0} ms, under kernel forwarding {:.0} ms: {ratio:.2}; server's min_rtt {:.1} ms",
        ms(paired),
        ms(plain),
        ms(least_rtt)
    ));
    ensure!(ratio <= 1.15, "{case}: {ratio:.2} times kernel forwarding's {:.0} ms", ms(plain));
    ensure!(least_rtt >= RTT.mul_f64(0.9), "{case}: the server believes in a path of {least_rtt:?}");
    Ok(())
}

/// Returns how long it took, the server's least RTT, and what came.
fn download(lab: &Lab) -> anyhow::Result<(Duration, Duration, Answer)> {
    let exchange = lab.fetch(&lab.request().ask(Ask::Download(SIZE)))?;
    ensure!(exchange.bytes == SIZE, "{} of {SIZE} bytes came", exchange.bytes);
    Ok((exchange.total, lab.served()?.tcp.min_rtt, Answer::from(&exchange)))
}

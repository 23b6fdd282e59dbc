//! Runs the measurements of a comparison, one after the other.

use super::choice::{ClientKind, ServerKind};
use super::counters::Snapshot;
use super::endpoint::{ClientUnderTest, ServerUnderTest};
use super::environment::Environment;
use super::measurement::Measurement;
use super::middle::Middle;
use super::plan::{Installed, Options, Plan, Step, WARM_UP};
use super::trace;
use crate::record::{Recording, record_all};
use crate::report::ladder::Ladder;
use crate::report::progress::Progress;
use crate::report::{self, Report};
use crate::scratch::Scratch;
use crate::topology::{Topology, TopologyConfig};
use crate::wan;
use anyhow::{Context, bail};
use std::time::Duration;

/// MTU of all legs, bytes.
const MTU: u16 = 1500;
/// The round-trip time whose ladders are drawn, if it is measured: ms.
const LADDER_RTT: f64 = 50.0;

/// Measures, prints the tables and writes the reports. Returns whether every connection succeeded.
///
/// # Errors
/// If nothing can be measured, the path is not as it should be, a program does not start, or a
/// report can't be written.
pub fn compare(options: &Options) -> anyhow::Result<bool> {
    let _scratch = Scratch::open()?;
    let installed = Installed::look();
    let plan = Plan::new(options, &installed);
    for skipped in &plan.skipped {
        eprintln!("{}: skipped, {}", skipped.what, skipped.reason);
    }
    let Some(first) = plan.steps.first() else {
        bail!("nothing to compare: everything asked for is skipped")
    };
    let topology = Topology::raise(&TopologyConfig {
        path: path(first),
        offloads: options.offloads,
        mtu: MTU,
        wan_mtu: MTU,
        ..TopologyConfig::default()
    })?;
    let environment =
        Environment::describe(&options.congestion, options.offloads, &installed, topology.wan().backend());
    let progress = Progress::start(plan.time(options.connections));
    let bench = Bench { topology: &topology, options, installed: &installed, progress: &progress };
    let (mut results, mut ladders) = (Vec::new(), Vec::new());
    for step in &plan.steps {
        let (measurement, ladder) =
            bench.measure(step).with_context(|| format!("{} at {} ms RTT", step.mode.name(), step.rtt_ms))?;
        results.push(measurement);
        ladders.extend(ladder);
    }
    progress.finish();
    let all_succeeded = results.iter().all(|result| result.failed == 0);
    let report = Report { results, skipped: plan.skipped, environment, ladders };
    report::publish(&report, &options.json, &options.html)?;
    Ok(all_succeeded)
}

fn path(step: &Step) -> wan::Path {
    wan::Path::with_rtt(rtt(step))
}

fn rtt(step: &Step) -> Duration {
    Duration::from_secs_f64(step.rtt_ms / 1e3)
}

/// Everything a measurement needs that does not change from one to the next.
struct Bench<'a> {
    topology: &'a Topology,
    options: &'a Options,
    installed: &'a Installed,
    progress: &'a Progress,
}

impl Bench<'_> {
    fn measure(&self, step: &Step) -> anyhow::Result<(Measurement, Option<Ladder>)> {
        let (topology, congestion) = (self.topology, self.options.congestion.as_str());
        self.progress.begin(step);
        topology.set_path(path(step));
        let measured_rtt = topology.verify_rtt_to(step.ip.server().ip(), rtt(step))?;
        let server = ServerUnderTest::start(&topology.server, self.installed, step, congestion)?;
        let middle = Middle::start(topology, self.installed, step)?;
        let client =
            ClientUnderTest::new(&topology.client, self.installed, step, middle.target(step), congestion);
        let recording = self.record(step)?;
        let one_done = || self.progress.advance(step.connection_time());

        // What fails in the warm-up fails again and is counted then.
        client.connect(WARM_UP, &one_done)?;
        self.settle(step);
        let before = Snapshot::take(topology)?;
        let mut collected = client.connect(self.options.connections, &one_done)?;
        self.settle(step);
        let counted = before.until(&Snapshot::take(topology)?);
        collected.server_tcp = server.last_connection();
        if let Some(recording) = recording {
            recording.stop()?;
        }

        let ladder = if self.wants_ladder(step) { self.ladder(step, &client)? } else { None };
        let measurement = Measurement::new(*step, measured_rtt, collected, counted);
        self.progress.end(&measurement);
        Ok((measurement, ladder))
    }

    /// Waits until the closing segments of the last connection have crossed the path.
    fn settle(&self, step: &Step) {
        std::thread::sleep(rtt(step) * 3 / 2 + Duration::from_millis(20));
    }

    fn record(&self, step: &Step) -> anyhow::Result<Option<Recording>> {
        let Some(folder) = &self.options.pcap else { return Ok(None) };
        record_all(self.topology, &folder.join(folder_name(step))).map(Some)
    }

    /// One connection per mode is drawn, at one RTT, with the built-in programs.
    fn wants_ladder(&self, step: &Step) -> bool {
        let rtts = &self.options.rtts;
        let drawn = if rtts.contains(&LADDER_RTT) { Some(&LADDER_RTT) } else { rtts.first() };
        Some(&step.rtt_ms) == drawn
            && self.options.ips.first() == Some(&step.ip)
            && (step.client, step.server) == (ClientKind::Builtin, ServerKind::Builtin)
    }

    /// Captures one more connection: recording costs time that no measured one should pay.
    fn ladder(&self, step: &Step, client: &ClientUnderTest<'_>) -> anyhow::Result<Option<Ladder>> {
        let (exchange, records) = trace::record(self.topology, || client.connect(1, &|| ()))?;
        let sample = exchange?.samples.first().copied();
        self.settle(step);
        Ok(sample.and_then(|sample| Ladder::draw(step.mode, step.rtt_ms, sample, &records)))
    }
}

fn folder_name(step: &Step) -> String {
    let Step { mode, client, server, ip, rtt_ms } = step;
    format!("{}-{}-{}-ip{}-{rtt_ms}ms", mode.name(), client.name(), server.name(), ip.number())
}

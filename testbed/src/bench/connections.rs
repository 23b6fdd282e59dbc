//! Connections a second: as many as a given number at a time gives, and at a given rate.
//!
//! Every connection is fresh, carries a request of 64 bytes and an answer of 128, and is closed by the
//! server first. One thread makes them all, another process takes them; both share the processors with
//! what is measured.

use super::figure::{Better, Metric, Sample};
use super::load::crowd::{Crowd, Outcome, Pace};
use super::load::crowd_server::CrowdServer;
use super::load::reply::Then;
use super::plan::{Extent, Measure};
use super::site::{Place, Site, client_addresses};
use super::variant::Variant;
use crate::compare::statistics::{quantile, sorted};
use crate::wan;
use anyhow::ensure;
use std::time::Duration;

/// Name of the measurement.
pub const NAME: &str = "connections";
/// A connection that takes longer has failed: a lost SYN and a lost segment are repeated in time.
const TIMEOUT: Duration = Duration::from_secs(8);
/// RTT of the path over which connections are made at a rate.
const RTT: Duration = Duration::from_millis(100);
/// Connections that proxies were given descriptors for: they need two for each.
pub const PROXIES_AT_MOST: u32 = 8_900;

/// One crowd.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// How connections follow one another.
    pub pace: Pace,
    /// Over a path of 100 ms; else over cables.
    pub far: bool,
    /// Connections at most.
    pub total: u32,
    /// None begins later.
    pub duration: Duration,
}

const RATE: Metric = Metric::ratio("rate", "conn/s", Better::More);
const FAILURES: Metric = Metric::alone("failures", "%", Better::Less);
const LAG: Metric = Metric::alone("generator behind by", "ms", Better::Less);
const COMPLETED: Metric = Metric::alone("completed", "connections", Better::More);
const SPOOFED: Metric = Metric::alone("of these in 0-RTT", "connections", Better::More);
const BUSY: Metric = Metric::alone("generator busy", "%", Better::Less);
const P50: Metric = Metric::ratio("TTFB p50", "ms", Better::Less);
const P99: Metric = Metric::ratio("TTFB p99", "ms", Better::Less);
const P999: Metric = Metric::ratio("TTFB p99.9", "ms", Better::Less);
const CPU: Metric = Metric::ratio("CPU, all parties", "µs/conn", Better::Less);
/// Beyond this the generator did not keep to its schedule.
const LATE: Duration = Duration::from_millis(10);

impl Connections {
    /// Lists what is measured.
    pub fn all(extent: &Extent) -> Vec<Self> {
        let (levels, duration): (&[u32], _) = if extent.quick {
            (&[1, 100], Duration::from_millis(400))
        } else {
            (&[1, 10, 100, 1_000, 10_000], Duration::from_secs(2))
        };
        let mut all: Vec<Self> = levels
            .iter()
            .map(|level| Self { pace: Pace::Closed(*level), far: false, total: 60_000, duration })
            .collect();
        let open = |rate: u32, far, total: u32| {
            let duration = Duration::from_secs(u64::from(total.div_ceil(rate)) + 1);
            Self { pace: Pace::Open(rate.into()), far, total, duration }
        };
        all.push(open(2_000, true, extent.connections));
        if !extent.quick {
            all.push(open(10_000, false, extent.fast_connections));
        }
        all
    }
}

impl Measure for Connections {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        match self.pace {
            Pace::Closed(level) => format!("{level} at a time"),
            Pace::Open(rate) if self.far => format!("{rate}/s over 100 ms, {}", self.total),
            Pace::Open(rate) => format!("{rate}/s, {}", self.total),
        }
    }

    fn place(&self) -> Place {
        if self.far { Place::Line(wan::Path::with_rtt(RTT)) } else { Place::Cable { offloads: false } }
    }

    fn time(&self) -> Duration {
        self.duration + Duration::from_millis(200)
    }

    fn absence(&self, variant: Variant) -> Option<&'static str> {
        match self.pace {
            Pace::Closed(level) if variant.is_proxy() && level > PROXIES_AT_MOST => {
                Some("it has descriptors for 8,900 connections: two for each")
            }
            _ if variant == Variant::Pnet && self.far => {
                Some("a plain capture can't carry partial checksums, which the delay line's devices have")
            }
            _ => None,
        }
    }

    fn spoofed(&self, count: u64) -> Option<Sample> {
        Some(SPOOFED.sample(count as f64))
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let server = CrowdServer::start(&site.topology.server, site.server())?;
        let crowd = Crowd {
            target: site.target(),
            sources: client_addresses().collect(),
            pace: self.pace,
            total: self.total,
            duration: self.duration,
            timeout: TIMEOUT,
            then: Then::Close,
        };
        warm_up(site, &crowd)?;
        let before = site.usage(&[server.id()])?;
        let outcome = site.topology.client.enter(|| crowd.run())??;
        let used = site.usage(&[server.id()])? - before;
        self.samples(&outcome, used.total())
    }
}

/// Makes a few connections, so that the NICs know the destination.
///
/// # Errors
/// One failed.
pub fn warm_up(site: &Site<'_>, crowd: &Crowd) -> anyhow::Result<()> {
    let crowd = Crowd { pace: Pace::Closed(1), total: 5, then: Then::Close, ..crowd.clone() };
    let outcome = site.topology.client.enter(|| crowd.run())??;
    ensure!(outcome.failed.is_empty(), "the first connections failed: {:?}", outcome.failed);
    Ok(())
}

impl Connections {
    fn samples(&self, outcome: &Outcome, used: Duration) -> anyhow::Result<Vec<Sample>> {
        ensure!(outcome.completed > 0, "no connection succeeded: {:?}", outcome.failed);
        let first_bytes = sorted(&outcome.first_bytes);
        let limited =
            |metric: Metric| if self.far { metric.limited(RTT.as_secs_f64() * 1e3) } else { metric };
        let mut samples = Vec::new();
        // Over a long path the wait for the last answers would count as time of all.
        if !self.far {
            samples.push(RATE.sample(outcome.rate()));
        }
        for (metric, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999)] {
            let value = quantile(&first_bytes, share).map(|micros| limited(metric).sample(micros / 1e3));
            samples.extend(value);
        }
        samples.push(COMPLETED.sample(f64::from(outcome.completed)));
        samples.push(CPU.sample(used.as_secs_f64() * 1e6 / f64::from(outcome.completed)));
        samples.push(FAILURES.sample(f64::from(outcome.failures()) * 100.0 / f64::from(outcome.begun)));
        samples.push(BUSY.sample(outcome.busy * 100.0));
        if outcome.lag > LATE {
            samples.push(LAG.sample(outcome.lag.as_secs_f64() * 1e3));
        }
        Ok(samples)
    }
}

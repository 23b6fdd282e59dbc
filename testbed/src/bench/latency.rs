//! What forwarding adds to connections where the path takes no time.
//!
//! Connections are made one after the other from one thread, by the same client and to the same
//! server as in `compare`. On an established connection single bytes go back and forth; half of what
//! a variant's round trip takes longer than kernel forwarding's is what it adds one way.

use super::figure::{Better, Metric, Sample};
use super::load::stream::{self, StreamServer, Wish};
use super::plan::Measure;
use super::site::{Place, Site};
use super::variant::Variant;
use crate::compare::statistics::{quantile, sorted};
use crate::program::client::{self, Request};
use crate::program::realtime;
use crate::program::server::{Server, ServerConfig};
use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Name of the measurement.
pub const NAME: &str = "latency";
/// Bound of one connection.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections before those that count.
const WARM_UP: u32 = 10;

/// So many connections, then so many bytes on one.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Connections, one after the other.
    pub connections: u32,
    /// Bytes to and fro.
    pub echoes: u32,
}

impl Measure for Latency {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        "no delay".into()
    }

    fn place(&self) -> Place {
        Place::Cable { offloads: false }
    }

    fn time(&self) -> Duration {
        Duration::from_micros(500) * self.connections + Duration::from_micros(200) * self.echoes
    }

    fn absence(&self, _variant: Variant) -> Option<&'static str> {
        None
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let mut samples = connect(site, self.connections)?;
        samples.extend(echo(site, self.echoes)?);
        Ok(samples)
    }
}

const CONNECT: [Metric; 3] = [
    Metric::ratio("connect p50", "µs", Better::Less),
    Metric::ratio("connect p99", "µs", Better::Less),
    Metric::ratio("connect p99.9", "µs", Better::Less),
];
const TTFB: [Metric; 3] = [
    Metric::ratio("TTFB p50", "µs", Better::Less),
    Metric::ratio("TTFB p99", "µs", Better::Less),
    Metric::ratio("TTFB p99.9", "µs", Better::Less),
];
/// Round trip of a byte on an established connection: the report derives from it what is added.
pub const ECHO: Metric = Metric::ratio("echo RTT p50", "µs", Better::Less);
const ECHO_TAIL: Metric = Metric::ratio("echo RTT p99", "µs", Better::Less);
const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

fn connect(site: &Site<'_>, count: u32) -> anyhow::Result<Vec<Sample>> {
    let config = ServerConfig { realtime: true, ..ServerConfig::new(site.server()) };
    let _server = site.topology.server.enter(|| Server::start(config))??;
    let request = Request { timeout: TIMEOUT, ..Request::new(site.target()) };
    let exchanges = site.topology.client.enter(|| -> anyhow::Result<_> {
        realtime::run_first();
        let mut times = Vec::new();
        for number in 0..count + WARM_UP {
            let exchange = client::fetch(&request)?;
            ensure!(exchange.status == 200, "the server answered {}", exchange.status);
            if number >= WARM_UP {
                times.push((micros(exchange.connect), micros(exchange.first_byte)));
            }
        }
        Ok(times)
    })??;
    let (connects, first_bytes): (Vec<f64>, Vec<f64>) = exchanges.into_iter().unzip();
    let mut samples = Vec::new();
    for (metrics, times) in [(CONNECT, sorted(&connects)), (TTFB, sorted(&first_bytes))] {
        for (metric, share) in metrics.into_iter().zip(SHARES) {
            samples.push(metric.sample(quantile(&times, share).context("no connection")?));
        }
    }
    Ok(samples)
}

fn echo(site: &Site<'_>, count: u32) -> anyhow::Result<Vec<Sample>> {
    let _server = site.topology.server.enter(|| StreamServer::start(site.server(), None))??;
    let times = site.topology.client.enter(|| -> anyhow::Result<_> {
        stream::warm_up(site.target())?;
        realtime::run_first();
        let mut stream = stream::connect(site.target(), None, Wish::Echo)?;
        for _ in 0..WARM_UP {
            round_trip(&mut stream)?;
        }
        (0..count).map(|_| round_trip(&mut stream)).collect::<Result<Vec<f64>, _>>().context("an echo failed")
    })??;
    let times = sorted(&times);
    let at = |share| quantile(&times, share).context("no echo");
    Ok(vec![ECHO.sample(at(0.5)?), ECHO_TAIL.sample(at(0.99)?)])
}

fn round_trip(stream: &mut TcpStream) -> std::io::Result<f64> {
    let start = Instant::now();
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(micros(start.elapsed()))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

//! Goodput of large transfers where the path takes no time: only processors bound it.
//!
//! Connections run for a fixed time; what the receivers' programs read in its second part counts.
//! Endpoints, NICs and everything between share the processors, so the figure is that of the whole
//! machine, and only its ratio to kernel forwarding says something about forwarding.

use super::figure::{Better, Metric, Sample};
use super::load::stream::{self, StreamServer, Wish};
use super::plan::Measure;
use super::site::{Place, Site};
use super::variant::Variant;
use anyhow::{Context, ensure};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Name of the measurement.
pub const NAME: &str = "bulk";
/// Part of a transfer that does not count: windows open, first large buffers are made.
const START: Duration = Duration::from_millis(300);
/// CUBIC does not pace; nothing should but forwarding.
const CONGESTION: &str = "cubic";

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The server.
    Down,
    /// The client.
    Up,
}

/// Some streams one way.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Connections at once.
    pub streams: usize,
    /// Which end sends.
    pub way: Way,
    /// Super-packets and checksum offload.
    pub offloads: bool,
    /// How long it counts.
    pub duration: Duration,
}

const GOODPUT: Metric = Metric::ratio("goodput", "Gbit/s", Better::More);
const CPU: Metric = Metric::ratio("CPU, all parties", "s/GB", Better::Less);
const MIDDLE: Metric = Metric::alone("CPU, between the ends", "s/GB", Better::Less);

impl Measure for Bulk {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        let way = if self.way == Way::Down { "down" } else { "up" };
        let plural = if self.streams == 1 { "" } else { "s" };
        let offloads = if self.offloads { "on" } else { "off" };
        format!("{} stream{plural} {way}, offloads {offloads}", self.streams)
    }

    fn place(&self) -> Place {
        Place::Cable { offloads: self.offloads }
    }

    fn time(&self) -> Duration {
        START + self.duration
    }

    fn absence(&self, variant: Variant) -> Option<&'static str> {
        (variant == Variant::Pnet && self.offloads)
            .then_some("a plain capture can't carry super-packets and partial checksums")
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let server =
            site.topology.server.enter(|| StreamServer::start(site.server(), Some(CONGESTION)))??;
        site.topology.client.enter(|| self.transfer(site, &server))?
    }
}

impl Bulk {
    fn transfer(&self, site: &Site<'_>, server: &StreamServer) -> anyhow::Result<Vec<Sample>> {
        stream::warm_up(site.target())?;
        let wish = if self.way == Way::Down { Wish::Down(u64::MAX) } else { Wish::Up };
        // All are connected before a byte flows: a large upload that ends would close the NICs'
        // upload gate for those that begin after it.
        let streams = (0..self.streams)
            .map(|_| stream::connect(site.target(), Some(CONGESTION), wish))
            .collect::<Result<Vec<TcpStream>, _>>()
            .context("can't connect all streams")?;
        let (read, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let received =
            || if self.way == Way::Down { read.load(Ordering::Relaxed) } else { server.received() };
        thread::scope(|scope| {
            for stream in &streams {
                let (read, stop) = (&read, &stop);
                scope.spawn(move || match self.way {
                    // Both end when the stream is shut down below.
                    Way::Down => drop(stream::drain(stream, read)),
                    Way::Up => {
                        while !stop.load(Ordering::Relaxed) && stream::send(stream, 1 << 20).is_ok() {}
                    }
                });
            }
            let measured = self.watch(site, &received);
            stop.store(true, Ordering::Relaxed);
            for stream in &streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
            measured
        })
    }

    fn watch(&self, site: &Site<'_>, received: &dyn Fn() -> u64) -> anyhow::Result<Vec<Sample>> {
        thread::sleep(START);
        let (bytes, usage, start) = (received(), site.usage(&[])?, Instant::now());
        thread::sleep(self.duration);
        let (bytes, used, time) = (received() - bytes, site.usage(&[])? - usage, start.elapsed());
        ensure!(bytes > 0, "not a byte came through in {time:.1?}");
        let gigabytes = bytes as f64 / 1e9;
        let mut samples = vec![
            GOODPUT.sample(gigabytes * 8.0 / time.as_secs_f64()),
            CPU.sample(used.total().as_secs_f64() / gigabytes),
        ];
        if !used.middle.is_zero() {
            samples.push(MIDDLE.sample(used.middle.as_secs_f64() / gigabytes));
        }
        Ok(samples)
    }
}

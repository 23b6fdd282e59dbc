//! Downloads over many paths: round-trip time, loss, congestion control, size.
//!
//! The long leg is a bottleneck of [`RATE`] with a buffer of 100 ms. In a round all variants meet the
//! same dice. The physical limit is a round trip, for request and first byte, and the time that the
//! download's segments take on the wire.

use super::figure::{Better, Metric, Sample};
use super::load::stream::{self, PIECE, StreamServer, Wish};
use super::plan::{Extent, Measure};
use super::site::{Place, Site};
use super::variant::Variant;
use crate::wan;
use anyhow::{Context, bail};
use std::io::Read;
use std::time::{Duration, Instant};

/// Name of the measurement.
pub const NAME: &str = "matrix";
/// Rate of the bottleneck in bit/s of Ethernet frames.
pub const RATE: u64 = 200_000_000;
/// Bytes of a full frame, and of the payload in it: 1,500 of IP, 40 of headers, 12 of timestamps.
const FRAME: f64 = 1514.0;
const PAYLOAD: f64 = 1448.0;

/// One download over one path.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// Round-trip time, ms.
    pub rtt_ms: u32,
    /// Probability of loss, ‰, each way.
    pub loss_permille: u32,
    /// Congestion control of the server.
    pub congestion: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Longest it may take.
    pub patience: Duration,
    available: bool,
}

/// What the heat tables show.
pub const GOODPUT: Metric = Metric::ratio("goodput", "Mbit/s", Better::More);
const TIME: Metric = Metric::ratio("time", "ms", Better::Less);

impl Matrix {
    /// Lists what is measured.
    pub fn all(extent: &Extent) -> Vec<Self> {
        let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        let known = known.unwrap_or_default();
        let (rtts, losses, controls): (&[u32], &[u32], &[&str]) = if extent.quick {
            (&[25], &[0, 10], &["cubic"])
        } else {
            (&[1, 25, 50, 150, 300], &[0, 1, 10], &["cubic", "bbr"])
        };
        let mut all = Vec::new();
        for megabytes in &extent.megabytes {
            for congestion in controls {
                for loss_permille in losses {
                    for rtt_ms in rtts {
                        all.push(Self {
                            rtt_ms: *rtt_ms,
                            loss_permille: *loss_permille,
                            congestion,
                            bytes: megabytes * 1_000_000,
                            patience: extent.patience,
                            available: known.split_whitespace().any(|name| name == *congestion),
                        });
                    }
                }
            }
        }
        all
    }

    /// Returns the path, without loss if the dice are 0.
    fn path(&self, dice: u64) -> wan::Path {
        let loss = if dice == 0 { 0.0 } else { f64::from(self.loss_permille) / 1e3 };
        wan::Path { loss, rate_bits: Some(RATE), seed: dice, ..wan::Path::with_rtt(self.rtt()) }
    }

    fn rtt(&self) -> Duration {
        Duration::from_millis(self.rtt_ms.into())
    }

    /// Returns the least time that a download can take.
    fn limit(&self) -> Duration {
        self.rtt() + Duration::from_secs_f64(self.bytes as f64 * 8.0 * FRAME / PAYLOAD / RATE as f64)
    }
}

impl Measure for Matrix {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        let loss = f64::from(self.loss_permille) / 10.0;
        format!("{} MB {}, {} ms, {loss} % loss", self.bytes / 1_000_000, self.congestion, self.rtt_ms)
    }

    fn place(&self) -> Place {
        // Not lossy until the warm-up is over: a lost segment there would cost a second.
        Place::Line(self.path(0))
    }

    fn time(&self) -> Duration {
        let mathis = self.rtt().as_secs_f64()
            * (f64::from(self.loss_permille) / 1e3).sqrt()
            * (self.bytes as f64 / PAYLOAD / 1.22);
        let lossy = if self.congestion == "bbr" { 0.0 } else { mathis };
        let slow_start = self.rtt() * 12;
        (self.limit() + slow_start + Duration::from_secs_f64(lossy)).min(self.patience)
    }

    fn absence(&self, variant: Variant) -> Option<&'static str> {
        if !self.available {
            return Some("the kernel lacks this congestion control");
        }
        (variant == Variant::Pnet)
            .then_some("a plain capture can't carry partial checksums, which the delay line's devices have")
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let _server =
            site.topology.server.enter(|| StreamServer::start(site.server(), Some(self.congestion)))??;
        site.topology.client.enter(|| self.download(site))?
    }
}

impl Matrix {
    fn download(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        stream::warm_up(site.target()).context("the first connections failed")?;
        site.topology.set_path(self.path(site.dice.max(1)));
        let start = Instant::now();
        let mut stream = stream::connect(site.target(), Some(self.congestion), Wish::Down(self.bytes))?;
        let (mut piece, mut bytes) = (vec![0; PIECE], 0_u64);
        while bytes < self.bytes && start.elapsed() < self.patience {
            stream.set_read_timeout(Some(
                self.patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1)),
            ))?;
            match stream.read(&mut piece) {
                Ok(0) => bail!("the connection ended after {bytes} of {} bytes", self.bytes),
                Ok(count) => bytes += count as u64,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the download failed"),
            }
        }
        let time = start.elapsed().as_secs_f64();
        let limit = self.limit().as_secs_f64();
        let megabits = |bytes: u64, time: f64| bytes as f64 * 8e-6 / time;
        let mut samples = vec![GOODPUT.limited(megabits(self.bytes, limit)).sample(megabits(bytes, time))];
        if bytes == self.bytes {
            samples.push(TIME.limited(limit * 1e3).sample(time * 1e3));
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_round_trip_and_the_wire() {
        let cell = Matrix {
            rtt_ms: 100,
            loss_permille: 10,
            congestion: "cubic",
            bytes: 4_000_000,
            patience: Duration::from_secs(20),
            available: true,
        };
        // 4 MB at 200 Mbit/s are 160 ms, and 4.6 % more for headers.
        assert!(cell.limit().abs_diff(Duration::from_micros(267_293)) < Duration::from_micros(10));
        assert_eq!(cell.name(), "4 MB cubic, 100 ms, 1 % loss");
        assert_eq!((cell.path(0).loss, cell.path(7).loss, cell.path(7).seed), (0.0, 0.01, 7));
        assert_eq!(cell.path(7).one_way_delay, Duration::from_millis(50));
        assert!(cell.absence(Variant::Nics).is_none() && cell.absence(Variant::Pnet).is_some());
    }
}

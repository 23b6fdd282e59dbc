//! Packets a second of established flows, how many get lost, and what a packet costs.
//!
//! Some connections are made as ever, so that every variant holds their state. Of each, one genuine
//! data segment is recorded as the client's kernel sends it; then the client forgets the connection
//! silently and the server's socket becomes deaf, so that nobody answers and nobody sends again.
//! From there on copies of the recorded segments are sent at a given rate, through a raw socket, and
//! counted where they arrive: at the server's device. Real senders would do for neither end: TCP
//! joins small writes when it falls behind, and slows down when the middle loses a segment.
//!
//! The highest rate that passes with at most one in [`LOSS`] lost is searched (after RFC 2544 §26.1, whose
//! zero a shared machine can't promise). With kernel forwarding all work, the receiving host's as
//! well, is done by the sending thread: there the bound found is that of generator, forwarding and
//! reception together on one processor.

use super::cpu::Usage;
use super::figure::{Better, Metric, Sample};
use super::load::segments::{Generator, Mould};
use super::plan::Measure;
use super::site::{Place, Site};
use super::variant::Variant;
use anyhow::{Context, ensure};
use std::time::Duration;

/// Name of the measurement.
pub const NAME: &str = "packets";
/// Connections whose segments are sent in turn.
const FLOWS: u16 = 32;
/// One packet of so many may be lost.
pub const LOSS: u64 = 1_000;
/// Rate at which all variants' costs are compared, packets a second.
const COMMON: f64 = 20_000.0;
/// Where the search begins, packets a second.
const LEAST: f64 = 10_000.0;
/// Where it ends: no generator here gets there.
const GREATEST: f64 = 4_000_000.0;
/// How often the bound is halved at its end.
const STEPS: u32 = 4;

/// Segments of one size.
#[derive(Debug, Clone, Copy)]
pub struct Packets {
    /// Payload bytes.
    pub payload: usize,
    /// How long a rate is tried.
    pub trial: Duration,
}

const THROUGHPUT: Metric = Metric::ratio("highest rate", "packets/s", Better::More);
const LOST: Metric = Metric::alone("lost at 20,000/s", "%", Better::Less);
const CPU: Metric = Metric::ratio("CPU, all parties", "µs/packet", Better::Less);
const MIDDLE: Metric = Metric::alone("CPU, between the ends", "µs/packet", Better::Less);
const MIDDLE_AT_MOST: Metric = Metric::alone("the same, at the highest rate", "µs/packet", Better::Less);

impl Packets {
    /// Lists what is measured.
    pub fn all(quick: bool) -> impl Iterator<Item = Self> {
        let trial = Duration::from_millis(if quick { 100 } else { 400 });
        let sizes: &[usize] = if quick { &[64] } else { &[64, 1_400] };
        sizes.iter().map(move |payload| Self { payload: *payload, trial })
    }
}

impl Measure for Packets {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        format!("{} bytes", self.payload)
    }

    fn place(&self) -> Place {
        Place::Cable { offloads: false }
    }

    fn time(&self) -> Duration {
        Duration::from_millis(600) + self.trial * 14
    }

    fn absence(&self, variant: Variant) -> Option<&'static str> {
        variant.is_proxy().then_some("it ends connections and forwards no packets")
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let mould = Mould::cast(site, FLOWS, self.payload)?;
        let mut generator = Generator::new(site, &mould)?;
        // Caches, neighbours, threads.
        self.try_rate(site, &mut generator, LEAST)?;
        let common = self.try_rate(site, &mut generator, COMMON)?;
        ensure!(common.passed > 0, "of {} packets none arrived", common.sent);
        let best = self.search(site, &mut generator)?;
        let mut samples = vec![THROUGHPUT.sample(best.map_or(0.0, |best| best.rate))];
        samples.push(LOST.sample(common.loss() * 100.0));
        samples.push(CPU.sample(common.per_packet(common.used.total())));
        if !common.used.middle.is_zero() {
            samples.push(MIDDLE.sample(common.per_packet(common.used.middle)));
            samples.extend(best.map(|best| MIDDLE_AT_MOST.sample(best.per_packet(best.used.middle))));
        }
        Ok(samples)
    }
}

impl Packets {
    /// Doubles the rate until too much gets lost or the generator can't follow, then halves the
    /// interval. Returns the trial of the highest rate that passed, if at least one did.
    fn search(&self, site: &Site<'_>, generator: &mut Generator<'_>) -> anyhow::Result<Option<Trial>> {
        let (mut best, mut rate, mut ceiling) = (None, LEAST, None);
        while ceiling.is_none() && rate <= GREATEST {
            let trial = self.attempt(site, generator, rate)?;
            if !trial.is_clean() {
                ceiling = Some(rate);
            } else {
                best = faster(best, trial);
                if !trial.follows(rate) {
                    return Ok(best);
                }
                rate *= 2.0;
            }
        }
        let (mut low, mut high) = (rate / 2.0, ceiling.unwrap_or(rate));
        for _ in 0..STEPS {
            let middle = (low + high) / 2.0;
            let trial = self.attempt(site, generator, middle)?;
            if trial.is_clean() {
                best = faster(best, trial);
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(best)
    }

    /// Tries a rate, and if it does not pass once more: a moment in which another program had the
    /// processor would end the search.
    fn attempt(&self, site: &Site<'_>, generator: &mut Generator<'_>, rate: f64) -> anyhow::Result<Trial> {
        let first = self.try_rate(site, generator, rate)?;
        if first.is_clean() && first.follows(rate) {
            return Ok(first);
        }
        let second = self.try_rate(site, generator, rate)?;
        let is_better = second.is_clean() && (!first.is_clean() || second.rate > first.rate);
        Ok(if is_better { second } else { first })
    }

    fn try_rate(&self, site: &Site<'_>, generator: &mut Generator<'_>, rate: f64) -> anyhow::Result<Trial> {
        let usage = site.usage(&[])?;
        let sent = generator.send(rate, self.trial).context("the generator failed")?;
        let used = site.usage(&[])? - usage;
        let passed = sent.arrived.min(sent.sent);
        Ok(Trial { sent: sent.sent, passed, used, rate: sent.sent as f64 / sent.elapsed.as_secs_f64() })
    }
}

/// What became of a rate.
#[derive(Debug, Clone, Copy)]
struct Trial {
    sent: u64,
    passed: u64,
    used: Usage,
    /// The rate that the generator reached.
    rate: f64,
}

/// Returns the trial with the higher rate.
fn faster(best: Option<Trial>, trial: Trial) -> Option<Trial> {
    Some(best.filter(|best| best.rate >= trial.rate).unwrap_or(trial))
}

impl Trial {
    /// Returns the µs of `time` for each packet that arrived.
    fn per_packet(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.passed.max(1) as f64
    }

    fn loss(&self) -> f64 {
        1.0 - self.passed as f64 / self.sent.max(1) as f64
    }

    /// Tells whether the generator reached the rate that was asked of it, or nearly.
    fn follows(&self, rate: f64) -> bool {
        self.rate >= 0.9 * rate
    }

    fn is_clean(&self) -> bool {
        (self.sent - self.passed) * LOSS <= self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_clean_up_to_one_in_a_thousand() {
        let trial = |passed| Trial { sent: 10_000, passed, used: Usage::default(), rate: 1.0 };
        assert!(trial(9_990).is_clean());
        assert!(!trial(9_989).is_clean());
        assert_eq!(trial(5_000).loss(), 0.5);
    }
}

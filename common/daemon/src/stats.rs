//! What a daemon knows of itself at a moment: what is reported at its end, shown on the command line and
//! exported as metrics.

use std::borrow::Cow;

use rtt0_core::histogram::{BOUNDS, Distribution};
use rtt0_core::reason::{Counters, DropReason, Event, PassReason};
use rtt0_netio::counters::IoCounters;
use serde::{Deserialize, Serialize};

/// Text that is known at compile time on one side of the socket, and read on the other.
pub(crate) type Text = Cow<'static, str>;

/// What a daemon knows of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// The program's name.
    pub(crate) program: Text,
    pub(crate) version: Text,
    /// When it began to serve, in seconds since 1970.
    pub(crate) started: f64,
    /// When this was taken, in seconds on a clock that never jumps.
    pub(crate) taken: f64,
    /// Packet threads.
    pub(crate) workers: usize,
    /// Whether every packet thread goes round its loop.
    pub(crate) is_alive: bool,
    /// Whether it begins no handshake because an operator wants it so.
    pub(crate) is_draining: bool,
    /// What the kernel forwards by itself because of a flood: `nothing`, `syns`, `handshakes`.
    pub(crate) bypass: Text,
    /// SYNs that the kernel has forwarded by itself.
    pub(crate) bypassed: u64,
    /// Packets that the guard has kept from the kernel's forwarding; `None` if it can't be read.
    pub(crate) guarded: Option<u64>,
    /// What the kernel has done for established flows; `None` if they are forwarded in user space.
    pub(crate) offload: Option<Offloaded>,
    /// How full the tables are.
    pub(crate) levels: Vec<Level>,
    /// Packets between the kernel and the engines.
    pub(crate) io: Vec<Count>,
    /// Packets that were not sent on, by reason.
    pub(crate) drops: Vec<Count>,
    /// Packets that nothing was done for, by reason.
    pub(crate) passes: Vec<Count>,
    /// What was done.
    pub(crate) events: Vec<Count>,
    /// How much earlier clients were answered.
    pub(crate) saved: Saved,
    /// How the last reload went.
    pub(crate) reload: Reloads,
}

/// A counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) label: Text,
    pub(crate) count: u64,
    /// What it counts, in a sentence or a few.
    pub(crate) meaning: Text,
}

/// How full a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Level {
    pub(crate) label: Text,
    pub(crate) now: u64,
    /// Its bound.
    pub(crate) most: u64,
    pub(crate) meaning: Text,
}

/// What the kernel has done for established flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offloaded {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Packets of such flows that were left to the engine.
    pub(crate) left: u64,
    /// Flows that were forgotten because something else has begun.
    pub(crate) forgotten: u64,
}

/// How much earlier clients were answered than their servers would have been heard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Connections measured.
    pub(crate) count: u64,
    /// The sum of their times, in seconds.
    pub(crate) seconds: f64,
    /// Upper bound in seconds, and how many connections are at or below it.
    pub(crate) buckets: Vec<(f64, u64)>,
}

/// How reloads went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reloads {
    /// Whether the last one did; true before the first.
    pub(crate) has_succeeded: bool,
    /// When the configuration in use was read, in seconds since 1970.
    pub(crate) read: f64,
}

impl Stats {
    /// Takes over the counters of all engines.
    pub(crate) fn count_engines<'a>(&mut self, engines: impl Iterator<Item = &'a Counters> + Clone) {
        let sum = |of: &dyn Fn(&Counters) -> u64| engines.clone().map(of).sum();
        self.drops = DropReason::ALL
            .iter()
            .map(|reason| Count::new(reason.label(), sum(&|all| all.dropped(*reason)), reason.meaning()))
            .collect();
        self.passes = PassReason::ALL
            .iter()
            .map(|reason| Count::new(reason.label(), sum(&|all| all.passed(*reason)), reason.meaning()))
            .collect();
        self.events = Event::ALL
            .iter()
            .map(|event| Count::new(event.label(), sum(&|all| all.happened(*event)), event.meaning()))
            .collect();
        let mut saved = Distribution::default();
        engines.for_each(|counters| saved += counters.saved().read());
        self.saved = Saved::new(&saved);
    }

    /// Takes over the counters of all workers.
    pub(crate) fn count_io<'a>(&mut self, workers: impl Iterator<Item = &'a IoCounters>) {
        self.io = Vec::new();
        for worker in workers {
            for (index, (label, count)) in worker.iter().enumerate() {
                match self.io.get_mut(index) {
                    Some(sum) => sum.count += count,
                    None => self.io.push(Count::new(label, count, IoCounters::meaning(label))),
                }
            }
        }
    }

    /// Returns all counters that are not zero, in one line.
    pub(crate) fn line(&self) -> String {
        let offload = self.offload.iter().flat_map(|kernel| {
            [
                ("offload.packets", kernel.packets),
                ("offload.bytes", kernel.bytes),
                ("offload.left", kernel.left),
                ("offload.forgotten", kernel.forgotten),
            ]
        });
        let io = self.io.iter().map(|count| (count.label.to_string(), count.count));
        let engines = [("drop", &self.drops), ("pass", &self.passes), ("event", &self.events)];
        let engines = engines.into_iter().flat_map(|(kind, counts)| {
            counts.iter().map(move |count| (format!("{kind}.{}", count.label), count.count))
        });
        let offload = offload.map(|(label, count)| (label.to_owned(), count));
        let all = io.chain(offload).chain(engines).filter(|(_, count)| *count != 0);
        all.map(|(label, count)| format!("{label}={count}")).collect::<Vec<_>>().join(" ")
    }
}

impl Count {
    fn new(label: &'static str, count: u64, meaning: &'static str) -> Self {
        Self { label: label.into(), count, meaning: meaning.into() }
    }
}

impl Saved {
    /// Returns what came after `before`, an earlier state of the same.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let bucket =
            |((bound, now), (_, before)): (&(f64, u64), &(f64, u64))| (*bound, now.saturating_sub(*before));
        Self {
            count: self.count.saturating_sub(before.count),
            seconds: self.seconds - before.seconds,
            buckets: self.buckets.iter().zip(&before.buckets).map(bucket).collect(),
        }
    }

    fn new(of: &Distribution) -> Self {
        let mut below = 0;
        let bucket = |(micros, count): (&u64, &u64)| {
            below += count;
            (*micros as f64 / 1e6, below)
        };
        Self {
            count: of.count(),
            seconds: of.micros as f64 / 1e6,
            buckets: BOUNDS.iter().zip(&of.buckets).map(bucket).collect(),
        }
    }
}

/// Returns the present time in seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    // A clock before 1970 is not worth more.
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sums_are_of_all_engines_and_workers() {
        let (engines, workers) =
            ([Counters::default(), Counters::default()], [(); 2].map(|()| IoCounters::default()));
        for engine in &engines {
            engine.discard(DropReason::Confirm);
            engine.saved().add(Duration::from_millis(30));
        }
        engines[1].saved().add(Duration::from_secs(9));
        workers[0].sent.add(2);
        workers[1].sent.add(3);
        let mut stats = Stats::default();
        stats.count_engines(engines.iter());
        stats.count_io(workers.iter());
        assert_eq!(stats.line(), "sent=5 drop.confirm=2");
        assert_eq!((stats.saved.count, stats.saved.seconds), (3, 9.06));
        let below = |bound| stats.saved.buckets.iter().find(|(le, _)| *le == bound).map(|(_, count)| *count);
        assert_eq!([below(0.02), below(0.035), below(1.0)], [Some(0), Some(2), Some(2)]);
        assert!(stats.drops.iter().chain(&stats.io).all(|count| !count.meaning.is_empty()));
    }
}

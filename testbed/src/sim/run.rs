//! Many worlds on all cores, in an order that does not depend on how many those are.

use super::matrix::Matrix;
use super::network::Damage;
use super::plan::Plan;
use super::world::{self, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Worlds that one thread takes at a time. Results are counted batch by batch in order.
const BATCH: u64 = 64;
/// Batches that may wait for one before them: with more, the other threads leave it to that one's.
const MOST_WAITING: usize = 1024;

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct SimOptions {
    /// Ends after the batch in which so many packets have been handed to engines.
    pub packets: u64,
    /// Everything follows from it.
    pub seed: u64,
    /// Threads.
    pub jobs: usize,
}

/// What a simulation showed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Worlds run.
    pub worlds: u64,
    /// Packets handed to the engines.
    pub packets: u64,
    /// Packets handed to the hosts.
    pub delivered: u64,
    /// Connections begun.
    pub connections: u64,
    /// Connections all of whose bytes arrived both ways.
    pub completed: u64,
    /// Early data that reached a server untranslated and was refused by it.
    pub leaked: u64,
    /// Segments of early data that a server took a second time, with a copy of their offer.
    pub replayed: u64,
    /// Handshakes that a kernel has begun by itself.
    pub at_once: u64,
    /// Those of them with servers.
    pub opened: u64,
    /// Those of them of which the engine could not take charge.
    pub disowned: u64,
    /// What the network did.
    pub damage: Damage,
    /// Failed worlds with what they broke.
    pub failures: Vec<(u64, String)>,
    /// Seconds it took.
    pub seconds: f64,
    #[serde(skip)]
    /// Coverage.
    pub matrix: Matrix,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.packets += other.packets;
        self.delivered += other.delivered;
        self.connections += other.connections;
        self.completed += other.completed;
        self.leaked += other.leaked;
        self.replayed += other.replayed;
        self.at_once += other.at_once;
        self.opened += other.opened;
        self.disowned += other.disowned;
        self.damage.add(&other.damage);
        self.failures.extend(other.failures.iter().cloned());
        self.matrix.add(&other.matrix);
    }
}

/// Runs one world, and prints its plan and every packet if asked to. Returns what it broke.
pub fn trace(seed: u64, index: u64, prints: bool) -> Option<String> {
    let mut matrix = Matrix::default();
    let (_, failure) = world::run(&Plan::draw(seed, index), prints, &mut matrix);
    failure.map(|failure| failure.what)
}

/// Runs worlds 0, 1, 2 … of a seed until enough packets have passed. The outcome does not depend
/// on the number of threads.
pub fn run(options: &SimOptions) -> Outcome {
    let begun = Instant::now();
    let state = Mutex::new(Gathered::default());
    let next = AtomicU64::new(0);
    let bar = progress(options.packets);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    let worlds = batch * BATCH..(batch + 1) * BATCH;
                    let outcome = run_batch(options.seed, worlds);
                    let Ok(mut gathered) = state.lock() else { return };
                    gathered.take(batch, outcome, options.packets);
                    bar.set_position(gathered.total.packets.min(options.packets));
                    if gathered.done || gathered.waiting.len() > MOST_WAITING {
                        return;
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcome = state.into_inner().map(|gathered| gathered.total).unwrap_or_default();
    outcome.seed = options.seed;
    outcome.seconds = begun.elapsed().as_secs_f64();
    outcome
}

/// Batches that came back, added up in order: those behind the one that fills the measure do not
/// count.
#[derive(Default)]
struct Gathered {
    total: Outcome,
    waiting: std::collections::BTreeMap<u64, Outcome>,
    counted: u64,
    done: bool,
}

impl Gathered {
    fn take(&mut self, batch: u64, outcome: Outcome, packets: u64) {
        self.waiting.insert(batch, outcome);
        while !self.done
            && let Some(outcome) = self.waiting.remove(&self.counted)
        {
            self.total.add(&outcome);
            self.counted += 1;
            self.done = self.total.packets >= packets || self.total.failures.len() > 20;
        }
    }
}

fn run_batch(seed: u64, worlds: std::ops::Range<u64>) -> Outcome {
    let mut outcome = Outcome::default();
    for index in worlds {
        let plan = Plan::draw(seed, index);
        // A panic is a bug of the engines, like any other failure: it must name its world.
        let result = catch_unwind(AssertUnwindSafe(|| world::run(&plan, false, &mut outcome.matrix)));
        let (done, failure) = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            (Default::default(), Some(Failure { what: format!("panic: {}", text.unwrap_or_default()) }))
        });
        outcome.worlds += 1;
        outcome.packets += done.packets;
        outcome.delivered += done.delivered;
        outcome.connections += done.connections;
        outcome.completed += done.completed;
        outcome.leaked += done.leaked;
        outcome.replayed += done.replayed;
        outcome.at_once += done.at_once;
        outcome.opened += done.opened;
        outcome.disowned += done.disowned;
        outcome.damage.add(&done.damage);
        outcome.failures.extend(failure.map(|failure| (index, failure.what)));
    }
    outcome
}

fn progress(packets: u64) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(packets);
    if let Ok(style) = ProgressStyle::with_template(
        "{spinner:.cyan} {wide_bar:.cyan/dim} {percent:>3} %  {eta:>4} left  {per_sec}",
    ) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

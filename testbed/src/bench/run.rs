//! Goes through the rounds.

use super::cpu;
use super::figure::{Gap, Observation, rows};
use super::idle::Gate;
use super::middle::Middle;
use super::plan::{self, Extent, Measure};
use super::report::{Bench, Report};
use super::site::{Places, Site};
use super::variant::{Abilities, Variant};
use crate::compare::environment::Environment;
use crate::report::progress::Progress;
use crate::scratch::Scratch;
use crate::wan::Backend;
use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use rtt0_netio::awake::Awake;
use std::time::Duration;

/// What starting and stopping a variant takes, roughly.
const SET_UP: Duration = Duration::from_millis(500);

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much is measured.
    pub extent: Extent,
    /// What is measured besides kernel forwarding; empty means all.
    pub variants: Vec<Variant>,
    /// Rounds.
    pub rounds: u32,
    /// Orders follow from it.
    pub seed: u64,
    /// Longest wait for an idle machine before each measurement.
    pub idle_wait: Duration,
    /// Packet workers of the daemons, where they can be chosen.
    pub workers: Option<u32>,
    /// No processor sleeps meanwhile.
    pub awake: bool,
}

/// Measures everything. `keep` gets the report after every round, so that a run that is interrupted
/// has not been for nothing.
///
/// # Errors
/// If nothing can be measured, a topology can't be raised, or `keep` fails. What fails for one variant is a gap in
/// the report, not an error.
pub fn run(options: &Options, mut keep: impl FnMut(&Report) -> anyhow::Result<()>) -> anyhow::Result<Report> {
    let _awake = options.awake.then(Awake::keep).transpose()?;
    let _scratch = Scratch::open()?;
    let abilities = Abilities::look()?;
    let (variants, mut gaps) = choose(options, &abilities);
    for Gap { variant, reason, .. } in &gaps {
        eprintln!("{}: absent, {reason}", variant.name());
    }
    let measures = plan::measures(&options.extent);
    if measures.is_empty() {
        bail!("nothing to measure");
    }
    let environment = Environment::describe(
        "cubic unless said otherwise",
        true,
        &abilities.installed,
        if Backend::Tap.is_available() { Backend::Tap } else { Backend::Packet },
    );
    let mut bench = Runner {
        options,
        abilities: &abilities,
        places: Places::default(),
        gate: Gate::new(options.idle_wait),
        softirq: cpu::softirq_threads(),
        observations: Vec::new(),
        progress: Progress::start(total(&measures, &variants, options)),
    };
    for measure in &measures {
        for variant in &variants {
            let Some(reason) = measure.absence(*variant) else { continue };
            let (measurement, setting) = (Some(measure.measurement()), Some(measure.name()));
            let reason = reason.to_owned();
            gaps.push(Gap { measurement, setting, variant: *variant, failed: false, reason });
        }
    }
    let mut rng = Rng::with_seed(options.seed);
    for round in 0..options.rounds {
        for measure in &measures {
            for variant in plan::order(&variants, &mut rng) {
                bench.measure(measure.as_ref(), variant, round)?;
            }
        }
        keep(&bench.report(&variants, &environment, &gaps, round + 1))?;
    }
    bench.progress.finish();
    Ok(bench.report(&variants, &environment, &gaps, options.rounds))
}

/// Returns what is measured, kernel forwarding first and always, and what is not and why.
fn choose(options: &Options, abilities: &Abilities) -> (Vec<Variant>, Vec<Gap>) {
    let (mut chosen, mut gaps) = (Vec::new(), Vec::new());
    for variant in Variant::ALL {
        let wanted = options.variants.is_empty() || options.variants.contains(&variant);
        if !wanted && variant != Variant::Kernel {
            continue;
        }
        match abilities.absence(variant) {
            None => chosen.push(variant),
            Some(reason) => {
                let reason = reason.to_owned();
                gaps.push(Gap { measurement: None, setting: None, variant, failed: false, reason });
            }
        }
    }
    (chosen, gaps)
}

fn time(measure: &dyn Measure) -> Duration {
    measure.time() + SET_UP
}

fn total(measures: &[Box<dyn Measure>], variants: &[Variant], options: &Options) -> Duration {
    let once: Duration = measures
        .iter()
        .map(|measure| {
            let present = variants.iter().filter(|variant| measure.absence(**variant).is_none()).count();
            time(measure.as_ref()) * u32::try_from(present).unwrap_or(u32::MAX)
        })
        .sum();
    once * options.rounds
}

struct Runner<'a> {
    options: &'a Options,
    abilities: &'a Abilities,
    places: Places,
    gate: Gate,
    softirq: Vec<u32>,
    observations: Vec<Observation>,
    progress: Progress,
}

impl Runner<'_> {
    /// Reports what was found in the rounds that are over.
    fn report(&self, variants: &[Variant], environment: &Environment, gaps: &[Gap], rounds: u32) -> Report {
        let (rows, failures) = rows(&self.observations, rounds);
        let bench = Bench {
            rounds,
            quick: self.options.extent.quick,
            seed: self.options.seed,
            awake: self.options.awake,
            variants: variants.to_vec(),
            idle: self.gate.clone(),
        };
        Report::new(bench, environment.clone(), rows, [gaps, &failures].concat())
    }

    fn measure(&mut self, measure: &dyn Measure, variant: Variant, round: u32) -> anyhow::Result<()> {
        if measure.absence(variant).is_some() {
            return Ok(());
        }
        let what = format!("{} {} {}", measure.measurement(), measure.name(), variant.name());
        self.progress.say(&format!("{}/{} {what}", round + 1, self.options.rounds));
        let topology = self.places.find(measure.place()).with_context(|| what.clone())?;
        self.gate.wait();
        let outcome = (|| {
            let middle = Middle::start(topology, variant, self.abilities, self.options.workers)?;
            let dice = self.options.seed.wrapping_add(round.into());
            let site = Site { topology, middle: &middle, variant, softirq: &self.softirq, dice };
            let mut samples = measure.run(&site)?;
            if let Some((client, _)) = middle.stop()? {
                // Daemons that only forward would be measured for something they are not for.
                let spoofed = client.of("event.spoofed_paired") + client.of("event.spoofed_solo");
                ensure!(spoofed > 0, "not one connection was made in 0-RTT");
                samples.extend(measure.spoofed(spoofed));
            }
            Ok(samples)
        })();
        let outcome = outcome.map_err(|error: anyhow::Error| format!("{error:#}"));
        if let Err(reason) = &outcome {
            self.progress.note(&format!("{what}: {reason}"));
        }
        self.progress.advance(time(measure));
        let (measurement, setting) = (measure.measurement(), measure.name());
        self.observations.push(Observation { measurement, setting, variant, round, outcome });
        Ok(())
    }
}

//! From samples to figures: each sample beside kernel forwarding's of the same round.

use super::variant::Variant;
use crate::compare::statistics::{quantile, sorted};
use serde::Serialize;

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less is better.
    Less,
    /// More is better.
    More,
}

/// What a figure is compared to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compared {
    /// As a ratio to kernel forwarding of the same round.
    Ratio,
    /// To nothing: it stands for itself, since kernel forwarding has no such thing.
    Alone,
}

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Metric {
    /// Its name, unique within a setting.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// What it is compared to.
    pub compared: Compared,
    /// What physics allows, in the same unit, where there is such a limit.
    pub limit: Option<f64>,
}

impl Metric {
    /// A metric that is compared as a ratio.
    pub const fn ratio(name: &'static str, unit: &'static str, better: Better) -> Self {
        Self { name, unit, better, compared: Compared::Ratio, limit: None }
    }

    /// A metric that stands for itself.
    pub const fn alone(name: &'static str, unit: &'static str, better: Better) -> Self {
        Self { name, unit, better, compared: Compared::Alone, limit: None }
    }

    /// Sets the physical limit.
    #[must_use]
    pub const fn limited(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Makes a sample.
    pub const fn sample(self, value: f64) -> Sample {
        Sample { metric: self, value }
    }
}

/// A number that was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What it means.
    pub metric: Metric,
    /// The number, in the metric's unit.
    pub value: f64,
}

/// The samples of one setting and variant in one round, or why there are none.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Name of the measurement.
    pub measurement: &'static str,
    /// Name of the setting within it.
    pub setting: String,
    /// What was measured.
    pub variant: Variant,
    /// The round, from 0.
    pub round: u32,
    /// What was found.
    pub outcome: Result<Vec<Sample>, String>,
}

/// The median and how far the rounds lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value; of an even number the lower one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// A quarter of the rounds is at most this.
    pub q1: f64,
    /// Three quarters of the rounds are.
    pub q3: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Summarises the finite ones of `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let sorted = sorted(&finite);
        let at = |share| quantile(&sorted, share);
        Some(Self { median: at(0.5)?, min: at(0.0)?, q1: at(0.25)?, q3: at(0.75)?, max: at(1.0)? })
    }
}

/// One variant's part of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub variant: Variant,
    /// One value a round, `null` where it failed.
    pub rounds: Vec<Option<f64>>,
    /// The values' spread; none if no round succeeded.
    pub value: Option<Spread>,
    /// The ratios' spread, each to kernel forwarding of the same round; none for what has no such
    /// counterpart.
    pub ratio: Option<Spread>,
}

/// One metric of one setting, for all variants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the measurement.
    pub measurement: &'static str,
    /// Name of the setting.
    pub setting: String,
    /// What the numbers mean.
    #[serde(flatten)]
    pub metric: Metric,
    /// The variants that have numbers.
    pub figures: Vec<Figure>,
}

impl Row {
    /// Returns the figure of a variant.
    pub fn of(&self, variant: Variant) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.variant == variant)
    }
}

/// What went wrong, or can't be: a variant without a number somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Name of the measurement; none if the variant is absent from all.
    pub measurement: Option<&'static str>,
    /// Name of the setting; none if it is all of the measurement.
    pub setting: Option<String>,
    /// Which variant.
    pub variant: Variant,
    /// It was tried and failed; else it can't be.
    pub failed: bool,
    /// Why.
    pub reason: String,
}

/// Makes rows of observations, in the order in which setting and metric appeared first, and lists
/// what failed.
pub fn rows(observations: &[Observation], rounds: u32) -> (Vec<Row>, Vec<Gap>) {
    let (mut rows, mut gaps): (Vec<Row>, Vec<Gap>) = (Vec::new(), Vec::new());
    for observation in observations {
        let Observation { measurement, setting, variant, round, outcome } = observation;
        let samples = match outcome {
            Ok(samples) => samples,
            Err(reason) => {
                let gap = Gap {
                    measurement: Some(*measurement),
                    setting: Some(setting.clone()),
                    variant: *variant,
                    failed: true,
                    reason: reason.clone(),
                };
                if !gaps.contains(&gap) {
                    gaps.push(gap);
                }
                continue;
            }
        };
        for sample in samples {
            let row = row_of(&mut rows, measurement, setting, sample.metric);
            let index = match row.figures.iter().position(|figure| figure.variant == *variant) {
                Some(index) => index,
                None => {
                    let rounds = vec![None; rounds as usize];
                    row.figures.push(Figure { variant: *variant, rounds, value: None, ratio: None });
                    row.figures.len() - 1
                }
            };
            if let Some(slot) = row.figures[index].rounds.get_mut(*round as usize) {
                *slot = Some(sample.value);
            }
        }
    }
    rows.iter_mut().for_each(finish);
    (rows, gaps)
}

fn row_of<'a>(
    rows: &'a mut Vec<Row>,
    measurement: &'static str,
    setting: &str,
    metric: Metric,
) -> &'a mut Row {
    let found = rows.iter().position(|row| {
        (row.measurement, row.setting.as_str(), row.metric.name) == (measurement, setting, metric.name)
    });
    let index = found.unwrap_or_else(|| {
        rows.push(Row { measurement, setting: setting.to_owned(), metric, figures: Vec::new() });
        rows.len() - 1
    });
    &mut rows[index]
}

fn finish(row: &mut Row) {
    row.figures.sort_by_key(|figure| figure.variant);
    let kernel = row.of(Variant::Kernel).map(|figure| figure.rounds.clone());
    for figure in &mut row.figures {
        let present: Vec<f64> = figure.rounds.iter().copied().flatten().collect();
        figure.value = Spread::of(&present);
        let Some(kernel) = kernel.as_ref().filter(|_| row.metric.compared == Compared::Ratio) else {
            continue;
        };
        let ratios: Vec<f64> =
            figure.rounds.iter().zip(kernel).filter_map(|(own, kernel)| Some((*own)? / (*kernel)?)).collect();
        figure.ratio = Spread::of(&ratios);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Metric = Metric::ratio("time", "ms", Better::Less);

    fn seen(variant: Variant, round: u32, value: f64) -> Observation {
        let outcome = Ok(vec![TIME.sample(value)]);
        Observation { measurement: "latency", setting: "cable".into(), variant, round, outcome }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_then_their_median() {
        // The machine is twice as slow in round 1: the ratio stays.
        let observations = [
            seen(Variant::Nics, 0, 3.0),
            seen(Variant::Kernel, 0, 2.0),
            seen(Variant::Kernel, 1, 4.0),
            seen(Variant::Nics, 1, 6.0),
            seen(Variant::Nics, 2, 4.0),
            seen(Variant::Kernel, 2, 2.0),
        ];
        let (rows, gaps) = rows(&observations, 3);
        assert!(gaps.is_empty());
        assert_eq!(rows.len(), 1);
        let nics = rows[0].of(Variant::Nics).unwrap();
        let ratio = nics.ratio.unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (1.5, 1.5, 2.0));
        assert_eq!(nics.value.unwrap().median, 4.0);
        assert_eq!(rows[0].of(Variant::Kernel).unwrap().ratio.unwrap().median, 1.0);
        assert_eq!(rows[0].figures[0].variant, Variant::Kernel, "kernel forwarding comes first");
    }

    #[test]
    fn a_round_without_its_counterpart_gives_no_ratio() {
        let observations = [seen(Variant::Nics, 0, 3.0), seen(Variant::Kernel, 1, 1.0)];
        let (rows, _) = rows(&observations, 2);
        let nics = rows[0].of(Variant::Nics).unwrap();
        assert_eq!((nics.ratio, nics.rounds.as_slice()), (None, &[Some(3.0), None][..]));
    }

    #[test]
    fn nothing_divided_by_nothing_is_no_ratio() {
        let observations = [seen(Variant::Nics, 0, 0.0), seen(Variant::Kernel, 0, 0.0)];
        assert_eq!(rows(&observations, 1).0[0].of(Variant::Nics).unwrap().ratio, None);
    }

    #[test]
    fn what_fails_in_every_round_alike_is_one_gap() {
        let failed =
            |round| Observation { outcome: Err("refused".into()), ..seen(Variant::Pnet, round, 0.0) };
        let (rows, gaps) = rows(&[failed(0), failed(1)], 2);
        assert!(rows.is_empty());
        assert_eq!((gaps.len(), gaps[0].reason.as_str()), (1, "refused"));
    }

    #[test]
    fn metrics_that_stand_alone_have_no_ratio() {
        let alone = Metric::alone("RSS", "MB", Better::Less);
        let of = |variant| Observation { outcome: Ok(vec![alone.sample(1.0)]), ..seen(variant, 0, 0.0) };
        let (rows, _) = rows(&[of(Variant::Kernel), of(Variant::Nics)], 1);
        assert_eq!(rows[0].of(Variant::Nics).unwrap().ratio, None);
    }
}

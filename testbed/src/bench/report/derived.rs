//! What follows from the rows: the latency that a variant adds one way.

use crate::bench::figure::{Better, Figure, Metric, Row, Spread};
use crate::bench::latency;
use crate::bench::variant::Variant;

/// Half of what a round trip takes longer than with kernel forwarding in the same round.
pub const ADDED: Metric = Metric::alone("added one way p50", "µs", Better::Less);

/// Adds the derived rows behind those that they follow from.
pub fn add(rows: &mut Vec<Row>) {
    let is_echo = |row: &Row| (row.measurement, row.metric.name) == (latency::NAME, latency::ECHO.name);
    let found = rows.iter().position(is_echo);
    if let Some((index, added)) = found.and_then(|index| Some((index, added(&rows[index])?))) {
        rows.insert(index + 1, added);
    }
}

fn added(echo: &Row) -> Option<Row> {
    let kernel = echo.of(Variant::Kernel)?.rounds.clone();
    let others = echo.figures.iter().filter(|figure| figure.variant != Variant::Kernel);
    let figures: Vec<Figure> = others
        .map(|figure| {
            let pairs = figure.rounds.iter().zip(&kernel);
            let rounds: Vec<Option<f64>> =
                pairs.map(|(own, kernel)| Some(((*own)? - (*kernel)?) / 2.0)).collect();
            let present: Vec<f64> = rounds.iter().copied().flatten().collect();
            Figure { variant: figure.variant, rounds, value: Spread::of(&present), ratio: None }
        })
        .collect();
    (!figures.is_empty()).then(|| Row { metric: ADDED, figures, ..echo.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Observation, rows};

    #[test]
    fn half_of_the_difference_within_a_round_is_what_is_added() {
        let seen = |variant, round, value| Observation {
            measurement: latency::NAME,
            setting: "cable".into(),
            variant,
            round,
            outcome: Ok(vec![latency::ECHO.sample(value)]),
        };
        let (mut rows, _) = rows(
            &[
                seen(Variant::Kernel, 0, 20.0),
                seen(Variant::Nics, 0, 50.0),
                seen(Variant::Kernel, 1, 40.0),
                seen(Variant::Nics, 1, 70.0),
            ],
            2,
        );
        add(&mut rows);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].metric, ADDED);
        assert_eq!(rows[1].of(Variant::Nics).unwrap().rounds, [Some(15.0), Some(15.0)]);
        assert!(rows[1].of(Variant::Kernel).is_none());
    }
}

//! The curves of times to the first byte: what share of connections has had it after so long.

use super::text::ms;
use std::fmt::Write;

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 44.0;
/// Lines across, about; the steps are round numbers.
const LINES: f64 = 8.0;

/// What a curve is of: its name and its colour, those of the testbed's report for the same things.
pub(super) const CURVES: [(&str, &str); 3] =
    [("now", "#8a93a0"), ("expected with 0-RTT", "#1f7ae0"), ("at best with 0-RTT", "#12a078")];

/// Draws curves of corners, ms and shares each, in the order of [`CURVES`]. Empty if there are no corners.
pub(super) fn render(curves: &[Vec<(f64, f64)>]) -> String {
    let Some(longest) = curves.iter().flatten().map(|(x, _)| *x).reduce(f64::max) else {
        return String::new();
    };
    // The slowest hundredth would leave little room for the rest.
    let to = curves.iter().filter_map(|curve| reach(curve)).fold(0.0, f64::max).min(longest).max(0.1) * 1.03;
    let (across, down) = ((WIDTH - LEFT - RIGHT) / to, HEIGHT - TOP - BOTTOM);
    let place = |(x, y): (f64, f64)| (LEFT + x.min(to) * across, TOP + (1.0 - y) * down);
    let mut svg = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        r#"<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Share of connections by time to first byte">"#
    );
    for quarter in 0..=4 {
        let (_, y) = place((0.0, f64::from(quarter) / 4.0));
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/><text class="axis" x="{:.1}" y="{:.1}" text-anchor="end">{} %</text>"#,
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            quarter * 25
        );
    }
    let step = round_step(to / LINES);
    let mut at = 0.0;
    while at <= to {
        let (x, y) = place((at, 0.0));
        let _ = write!(
            svg,
            r#"<text class="axis" x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            y + 18.0,
            at
        );
        at += step;
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let _ = write!(
        svg,
        r#"<text class="axis" x="{middle:.1}" y="{:.1}" text-anchor="middle">time to first byte, ms</text>"#,
        HEIGHT - 6.0
    );
    for (curve, (name, colour)) in curves.iter().zip(CURVES) {
        let mut points = String::new();
        for corner in std::iter::once((0.0, 0.0)).chain(curve.iter().copied()).filter(|corner| corner.0 <= to)
        {
            let (x, y) = place(corner);
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        let half = curve.iter().find(|(_, share)| *share >= 0.5).map_or(0.0, |(x, _)| *x);
        let _ = write!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round" points="{}"><title>{name}: half within {} ms</title></polyline>"#,
            points.trim_end(),
            ms(half)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Returns how far a curve goes before its last hundredth.
fn reach(curve: &[(f64, f64)]) -> Option<f64> {
    curve.iter().find(|(_, share)| *share >= 0.99).map(|(x, _)| *x)
}

/// Returns the least of 1, 2, 5 times a power of ten that is not below `least`; 1 at least.
fn round_step(least: f64) -> f64 {
    let mut power = 1.0;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if factor * power >= least || !least.is_finite() {
                return factor * power;
            }
        }
        power *= 10.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_is_a_line_and_no_curve_no_chart() {
        assert_eq!(render(&[vec![], vec![]]), "");
        let svg = render(&[vec![(40.0, 0.0), (50.0, 1.0)], vec![(90.0, 0.0), (100.0, 1.0)]]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains(">0 %<") && svg.contains(">100 %<") && svg.contains(">20<"), "{svg}");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.1, 1.0, 3.0, 6.0, 60.0].map(round_step), [1.0, 1.0, 5.0, 10.0, 100.0]);
    }
}

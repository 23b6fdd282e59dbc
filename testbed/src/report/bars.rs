//! Grouped bars: the median time to first byte in round trips, a group for each RTT.

use super::palette::colour;
use crate::compare::choice::Mode;
use crate::compare::measurement::Measurement;
use std::fmt::Write;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 26.0;
const PLOT: f64 = 250.0;
const HEIGHT: f64 = TOP + PLOT + 34.0;
/// Share of a group's width that its bars take.
const FILLED: f64 = 0.86;
/// Widest bar: a comparison of two modes should not look like a flag.
const WIDEST: f64 = 56.0;

/// Draws the bars of `results`, which should be of one client, server and IP version.
pub fn render(results: &[&Measurement]) -> String {
    let mut rtts: Vec<f64> = results.iter().map(|result| result.step.rtt_ms).collect();
    rtts.sort_by(f64::total_cmp);
    rtts.dedup();
    let mut modes: Vec<Mode> = results.iter().map(|result| result.step.mode).collect();
    modes.sort();
    modes.dedup();
    let highest = results.iter().filter_map(|result| result.ttfb_rtts).fold(2.0, f64::max);
    let scale = PLOT / (highest * 1.04);
    let mut svg = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        r#"<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Median time to first byte in round trips">"#
    );
    grid(&mut svg, highest, scale);
    let group = (WIDTH - LEFT) / rtts.len().max(1) as f64;
    let bar = (group * FILLED / modes.len().max(1) as f64).min(WIDEST);
    for (index, rtt) in rtts.iter().enumerate() {
        let middle = LEFT + group * (index as f64 + 0.5);
        let start = middle - bar * modes.len() as f64 / 2.0;
        for (place, mode) in modes.iter().enumerate() {
            let found = results.iter().find(|r| r.step.mode == *mode && r.step.rtt_ms == *rtt);
            let Some(rtts) = found.and_then(|result| result.ttfb_rtts) else { continue };
            draw(&mut svg, *mode, start + bar * place as f64, bar, rtts, scale);
        }
        let _ = write!(
            svg,
            r#"<text class="axis" x="{middle:.1}" y="{:.0}" text-anchor="middle">{rtt} ms RTT</text>"#,
            TOP + PLOT + 22.0
        );
    }
    svg.push_str("</svg>");
    svg
}

fn grid(svg: &mut String, highest: f64, scale: f64) {
    for step in 0..=(highest * 2.0).floor() as u32 {
        let value = f64::from(step) / 2.0;
        let y = TOP + PLOT - value * scale;
        let class = if step % 2 == 0 { "grid strong" } else { "grid" };
        let _ = write!(svg, r#"<line class="{class}" x1="{LEFT}" y1="{y:.1}" x2="{WIDTH}" y2="{y:.1}"/>"#);
        if step % 2 == 0 {
            let _ = write!(
                svg,
                r#"<text class="axis" x="{}" y="{:.1}" text-anchor="end">{value} RTT</text>"#,
                LEFT - 6.0,
                y + 4.0
            );
        }
    }
}

fn draw(svg: &mut String, mode: Mode, x: f64, width: f64, rtts: f64, scale: f64) {
    let (height, inner) = (rtts * scale, width - 3.0);
    let y = TOP + PLOT - height;
    let round = 3.0_f64.min(height);
    // Only the upper corners are round: a bar stands on its axis.
    let _ = write!(
        svg,
        r#"<path fill="{}" d="M{x:.1} {:.1}v{:.1}q0-{round} {round}-{round}h{:.1}q{round} 0 {round} {round}v{:.1}z"><title>{}: {rtts:.3} RTT</title></path>"#,
        colour(mode),
        TOP + PLOT,
        -(height - round),
        inner - 2.0 * round,
        height - round,
        mode.title()
    );
    let weight = if mode == Mode::Paired { " own" } else { "" };
    let _ = write!(
        svg,
        r#"<text class="value{weight}" x="{:.1}" y="{:.1}" text-anchor="middle">{rtts:.2}</text>"#,
        x + inner / 2.0,
        y - 5.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn every_measurement_is_a_bar_with_its_value() {
        let report = sample();
        let results: Vec<&Measurement> = report.results.iter().collect();
        let svg = render(&results);
        assert_eq!(svg.matches("<path").count(), 8);
        assert_eq!(svg.matches(">1.02<").count(), 4);
        assert_eq!(svg.matches("ms RTT<").count(), 2);
    }
}

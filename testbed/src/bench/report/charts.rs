//! Pictures: bars of ratios with their spread, and curves over concurrency.

use super::table::{number, variants};
use crate::bench::figure::{Better, Row};
use crate::bench::variant::Variant;
use anyhow::anyhow;
use plotters::prelude::*;
use std::fmt::Write;

const WIDTH: f64 = 520.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 46.0;
const LANE: f64 = 20.0;
const BAR: f64 = 11.0;
const STEP: f64 = 14.0;
const GAP: f64 = 12.0;
const AXIS: f64 = 24.0;
/// Ratios beyond this are drawn as if they were this: one that is lost would flatten all others.
const FURTHEST: f64 = 200.0;
/// Ticks of the axis that are labelled.
const TICKS: [f64; 13] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0];
/// Colours that the page's style sheet replaces by those of its theme.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);

/// Draws the ratios of these rows, one below the other, as bars from 1 on a logarithmic axis; a line
/// across a bar's end spans all rounds. None if there is no ratio.
pub fn ratios(rows: &[&Row]) -> Option<String> {
    let shown: Vec<Variant> = variants(rows).into_iter().filter(|v| *v != Variant::Kernel).collect();
    let of = |row: &Row| shown.iter().filter_map(|v| Some((*v, row.of(*v)?.ratio?))).collect::<Vec<_>>();
    let lanes: Vec<(&Row, Vec<_>)> =
        rows.iter().map(|row| (*row, of(row))).filter(|(_, r)| !r.is_empty()).collect();
    let all = || lanes.iter().flat_map(|(_, ratios)| ratios.iter());
    let clamp = |value: f64| value.clamp(1.0 / FURTHEST, FURTHEST);
    let low = all().map(|(_, ratio)| clamp(ratio.min)).fold(0.8, f64::min);
    let high = all().map(|(_, ratio)| clamp(ratio.max)).fold(1.25, f64::max);
    if lanes.is_empty() {
        return None;
    }
    let scale = (WIDTH - RIGHT - 40.0) / (high / low).ln();
    let x = |value: f64| 40.0 + (clamp(value) / low).ln() * scale;
    let height = lanes.iter().map(|(_, ratios)| LANE + ratios.len() as f64 * STEP + GAP).sum::<f64>() + AXIS;
    let mut svg = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        r#"<svg class="ratios" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="Ratios to kernel forwarding">"#
    );
    let mut last_label = f64::MIN;
    for tick in TICKS.into_iter().filter(|tick| (low * 0.999..=high * 1.001).contains(tick)) {
        let (at, class) = (x(tick), if tick == 1.0 { "one" } else { "grid" });
        let _ = write!(
            svg,
            r#"<line class="{class}" x1="{at:.1}" y1="0" x2="{at:.1}" y2="{:.0}"/>"#,
            height - AXIS
        );
        if at - last_label > 30.0 {
            let _ = write!(
                svg,
                r#"<text class="soft" x="{at:.1}" y="{:.0}" text-anchor="middle">×{tick}</text>"#,
                height - 8.0
            );
            last_label = at;
        }
    }
    let settings_differ = lanes.iter().any(|(row, _)| row.setting != lanes[0].0.setting);
    let metrics_differ = lanes.iter().any(|(row, _)| row.metric.name != lanes[0].0.metric.name);
    let mut y = 0.0;
    for (row, ratios) in &lanes {
        let name = match (settings_differ, metrics_differ) {
            (true, true) => format!("{}: {}", row.setting, row.metric.name),
            (true, false) => row.setting.clone(),
            _ => row.metric.name.to_owned(),
        };
        let _ = write!(svg, r#"<text class="lane value" x="2" y="{:.1}">{name}</text>"#, y + 14.0);
        y += LANE;
        for (variant, ratio) in ratios {
            let (from, to) = (x(1.0).min(x(ratio.median)), x(1.0).max(x(ratio.median)));
            let colour = variant.colour();
            let _ = write!(
                svg,
                r#"<rect x="{from:.1}" y="{y:.1}" width="{:.1}" height="{BAR}" rx="2" fill="{colour}"><title>{}: ×{}</title></rect>"#,
                (to - from).max(1.5),
                variant.name(),
                number(ratio.median)
            );
            let (middle, start, end) = (y + BAR / 2.0, x(ratio.min), x(ratio.max));
            if end - start > 1.0 {
                let _ = write!(
                    svg,
                    r#"<line class="whisker" x1="{start:.1}" y1="{middle:.1}" x2="{end:.1}" y2="{middle:.1}"/>"#
                );
            }
            let after = to.max(end) + 5.0;
            let _ = write!(
                svg,
                r#"<text class="value" x="{after:.1}" y="{:.1}">×{}</text>"#,
                y + 9.5,
                number(ratio.median)
            );
            y += STEP;
        }
        y += GAP;
    }
    svg.push_str("</svg>");
    Some(svg)
}

/// Draws a metric over the number of connections at a time, both axes logarithmic: a curve for each
/// variant. None if it was measured at fewer than two numbers.
///
/// # Errors
/// If plotters can't draw, which for SVG means a defect.
pub fn over_concurrency(rows: &[&Row], metric: &str) -> anyhow::Result<Option<String>> {
    let levels: Vec<(f64, &Row)> = rows
        .iter()
        .filter(|row| row.metric.name == metric)
        .filter_map(|row| Some((row.setting.strip_suffix(" at a time")?.parse().ok()?, *row)))
        .collect();
    if levels.len() < 2 {
        return Ok(None);
    }
    let mut svg = String::new();
    draw(&mut svg, &levels).map_err(|error| anyhow!("chart of {metric}: {error}"))?;
    Ok(Some(svg.replacen("<svg ", "<svg class=\"cdf\" role=\"img\" ", 1)))
}

fn draw(svg: &mut String, levels: &[(f64, &Row)]) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<&Row> = levels.iter().map(|(_, row)| *row).collect();
    let values = || rows.iter().flat_map(|row| &row.figures).filter_map(|figure| figure.value);
    let low = values().map(|value| value.min).fold(f64::INFINITY, f64::min).max(1e-3);
    let high = values().map(|value| value.max).fold(low, f64::max);
    // Whole decades: only those are labelled.
    let (low, high) =
        (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil().max(low.log10() + 1.0)));
    let most = levels.iter().map(|(level, _)| *level).fold(1.0, f64::max) * 1.3;
    let least = levels.iter().map(|(level, _)| *level).fold(most, f64::min) * 0.8;
    let unit = rows[0].metric.unit;
    let root = SVGBackend::with_string(svg, (520, 300)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d((least..most).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_max_light_lines(0)
        .y_max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc("connections at a time")
        .y_desc(unit)
        .x_label_formatter(&|level| number_plain(*level))
        .y_label_formatter(&|value| number_plain(*value))
        .draw()?;
    for variant in variants(&rows) {
        let (r, g, b) = rgb(variant);
        let style = RGBColor(r, g, b);
        let points: Vec<(f64, f64, f64, f64)> = levels
            .iter()
            .filter_map(|(level, row)| row.of(variant)?.value.map(|v| (*level, v.median, v.min, v.max)))
            .collect();
        chart.draw_series(LineSeries::new(points.iter().map(|p| (p.0, p.1)), style.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|p| Circle::new((p.0, p.1), 3, style.filled())))?;
        chart.draw_series(
            points.iter().map(|p| PathElement::new([(p.0, p.2.max(low)), (p.0, p.3)], style.stroke_width(1))),
        )?;
    }
    root.present()?;
    Ok(())
}

/// Writes an axis's label: 0.01, 1, 10,000.
fn number_plain(value: f64) -> String {
    if value >= 10.0 { number(value.round()).trim_end_matches(".0").to_owned() } else { format!("{value}") }
}

fn rgb(variant: Variant) -> (u8, u8, u8) {
    let colour = variant.colour();
    let channel = |at: usize| colour.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    (channel(1).unwrap_or(0), channel(3).unwrap_or(0), channel(5).unwrap_or(0))
}

/// Says which way is better.
pub fn direction(better: Better) -> &'static str {
    match better {
        Better::Less => "Ratio to kernel forwarding; less is better",
        Better::More => "Ratio to kernel forwarding; more is better",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;

    #[test]
    fn every_variant_but_the_kernel_has_a_bar_in_every_row() {
        let rows = rows();
        let svg = ratios(&rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(svg.matches("<rect").count(), rows.len());
        assert!(svg.contains("×1.50") && svg.contains("class=\"whisker\""), "{svg}");
        assert_eq!(ratios(&[]), None);
    }

    #[test]
    fn a_curve_needs_two_points() {
        let rows = rows();
        let all: Vec<&Row> = rows.iter().collect();
        assert!(over_concurrency(&all, "rate").unwrap().unwrap().contains("connections at a time"));
        assert!(over_concurrency(&all[..1], "rate").unwrap().is_none());
    }
}

//! The distribution of the time to first byte: for each RTT a chart with one step curve per mode.

use super::palette::rgb;
use crate::compare::measurement::Measurement;
use crate::compare::statistics::sorted;
use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SIZE: (u32, u32) = (520, 300);
/// The charts show this span, in RTT: nothing can come before the first.
const FROM: f64 = 0.86;
const AT_LEAST_TO: f64 = 2.2;
const AT_MOST_TO: f64 = 3.2;
/// Colours that the page's style sheet replaces by those of its theme.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);

/// Draws the curves of `results`, which should be of one RTT.
///
/// # Errors
/// If plotters can't draw, which for SVG means a defect.
pub fn render(rtt_ms: f64, results: &[&Measurement]) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, rtt_ms, results).map_err(|error| anyhow!("chart of {rtt_ms} ms: {error}"))?;
    Ok(svg.replacen("<svg ", "<svg class=\"cdf\" role=\"img\" ", 1))
}

fn draw(svg: &mut String, rtt_ms: f64, results: &[&Measurement]) -> Result<(), Box<dyn std::error::Error>> {
    let longest = results.iter().filter_map(|result| result.ttfb_ms).map(|ttfb| ttfb.max).fold(0.0, f64::max);
    let (from, to) = (FROM * rtt_ms, (longest * 1.03).clamp(AT_LEAST_TO * rtt_ms, AT_MOST_TO * rtt_ms));
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(from..to, 0.0..1.02_f64)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .y_labels(6)
        .y_max_light_lines(0)
        .x_labels(8)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc("time to first byte, ms")
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .x_label_formatter(&|ms| format!("{ms:.0}"))
        .draw()?;
    for round_trips in [1.0, 2.0] {
        let x = round_trips * rtt_ms;
        chart.draw_series(DashedLineSeries::new([(x, 0.0), (x, 1.02)], 3, 3, GRID.stroke_width(1)))?;
        // Left of its line, where no curve is: nothing arrives before a round trip is over.
        let left = Pos::new(HPos::Right, VPos::Center);
        let style = TextStyle::from(("sans-serif", 11).into_font()).color(&INK).pos(left);
        chart.draw_series([Text::new(format!("{round_trips} RTT"), (x - (to - from) * 0.01, 0.9), style)])?;
    }
    for result in results {
        let (r, g, b) = rgb(result.step.mode);
        chart.draw_series(LineSeries::new(curve(result, to), RGBColor(r, g, b).stroke_width(2)))?;
    }
    root.present()?;
    Ok(())
}

/// Returns the corners of the step curve of all connections tried, up to the one that took longest.
/// Those that failed never arrive, so that the curve of a failing mode ends below 100 %.
fn curve(result: &Measurement, to: f64) -> Vec<(f64, f64)> {
    let tried = result.connections.max(1) as f64;
    let arrived = sorted(&result.samples_ttfb_ms).into_iter().enumerate().take_while(|(_, ms)| *ms <= to);
    arrived
        .flat_map(|(before, ms)| [(ms, before as f64 / tried), (ms, (before + 1) as f64 / tried)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::choice::Mode;
    use crate::compare::measurement::tests::measurement;

    #[test]
    fn curves_rise_from_nothing_to_the_share_that_arrived() {
        let mut result = measurement(Mode::Paired, 50.0, 1.02);
        let corners = curve(&result, 110.0);
        assert_eq!((corners[0].1, corners.last().map(|corner| corner.1)), (0.0, Some(1.0)));
        assert!(corners.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        result.connections = 80;
        assert_eq!(curve(&result, 110.0).last().map(|corner| corner.1), Some(0.5));
        assert!(curve(&result, 50.0).is_empty());
    }

    #[test]
    fn a_chart_is_an_svg_of_its_own() {
        let svg = render(50.0, &[&measurement(Mode::Kernel, 50.0, 2.01)]).unwrap();
        assert!(svg.starts_with("<svg class=\"cdf\"") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("2 RTT"));
    }
}

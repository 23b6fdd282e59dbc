//! The tables on the terminal: a row for each metric, a column for each variant.

use super::Report;
use crate::bench::figure::{Better, Figure, Gap, Row};
use crate::bench::variant::Variant;
use crate::report::table::{framed, right};
use comfy_table::{Attribute, Cell, Color, Table};
use std::io::{IsTerminal, stdout};

/// A ratio within this of 1 is as good as kernel forwarding's.
const EQUAL: f64 = 0.05;

/// Renders a table for each measurement and says what is missing, in colour only if standard output
/// is a terminal.
pub fn render(report: &Report) -> String {
    let coloured = stdout().is_terminal();
    let mut parts: Vec<String> = measurements(report)
        .into_iter()
        .map(|measurement| {
            let mut table = table(report, measurement);
            if !coloured {
                table.force_no_tty();
            }
            format!("{measurement}\n{table}")
        })
        .collect();
    parts.push(legend(report));
    parts.join("\n\n")
}

/// Lists the measurements that have rows, in order.
pub fn measurements(report: &Report) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for row in &report.rows {
        if !names.contains(&row.measurement) {
            names.push(row.measurement);
        }
    }
    names
}

/// Lists the variants that have a figure in one of these rows.
pub fn variants(rows: &[&Row]) -> Vec<Variant> {
    Variant::ALL.into_iter().filter(|variant| rows.iter().any(|row| row.of(*variant).is_some())).collect()
}

fn table(report: &Report, measurement: &str) -> Table {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.measurement == measurement).collect();
    let variants = variants(&rows);
    let has_limit = rows.iter().any(|row| row.metric.limit.is_some());
    let mut table = framed();
    let mut header = vec![Cell::new("setting"), Cell::new("metric"), Cell::new("unit")];
    header.extend(has_limit.then(|| right("limit")));
    header.extend(variants.iter().map(|variant| right(variant.name())));
    table.set_header(header);
    let mut previous = "";
    for row in rows {
        let setting = if previous == row.setting { "" } else { row.setting.as_str() };
        previous = &row.setting;
        let mut cells = vec![
            Cell::new(setting).add_attribute(Attribute::Bold),
            Cell::new(row.metric.name),
            Cell::new(row.metric.unit),
        ];
        cells.extend(has_limit.then(|| right(row.metric.limit.map_or_else(String::new, number))));
        cells.extend(variants.iter().map(|variant| cell(row, *variant)));
        table.add_row(cells);
    }
    table
}

fn cell(row: &Row, variant: Variant) -> Cell {
    let Some(figure) = row.of(variant) else { return right("") };
    let text = right(text(figure, variant));
    match verdict(row, figure) {
        Some(true) => text.fg(Color::Green),
        Some(false) => text.fg(Color::Yellow),
        None => text,
    }
}

/// Writes a figure: kernel forwarding's value itself, of all others the ratio and its spread if they
/// have one.
pub fn text(figure: &Figure, variant: Variant) -> String {
    let Some(value) = figure.value else { return "–".to_owned() };
    match figure.ratio {
        Some(ratio) if variant != Variant::Kernel => {
            let spread = if figure.rounds.len() > 1 {
                format!(" ({}–{})", number(ratio.min), number(ratio.max))
            } else {
                String::new()
            };
            format!("{}  ×{}{spread}", number(value.median), number(ratio.median))
        }
        _ => number(value.median),
    }
}

/// Tells whether a figure is clearly better (`true`) or clearly worse than kernel forwarding's: in
/// every round, and in the median by more than a little.
pub fn verdict(row: &Row, figure: &Figure) -> Option<bool> {
    let spread = figure.ratio.filter(|_| figure.variant != Variant::Kernel)?;
    if spread.min < 1.0 && spread.max > 1.0 {
        return None;
    }
    let ratio = spread.median;
    let gain = if row.metric.better == Better::More { ratio } else { 1.0 / ratio };
    ((gain - 1.0).abs() > EQUAL).then_some(gain > 1.0)
}

/// Writes a number with three significant digits or as a whole.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".to_owned(),
        _ if size >= 99.95 => grouped(value.round()),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.0995 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Writes a whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// Says why variants have no figures: absent or failed, and a line for each variant, measurement and
/// reason, whatever the number of settings.
pub fn gaps(gaps: &[Gap]) -> Vec<(&'static str, String)> {
    let mut lines: Vec<(&Gap, usize)> = Vec::new();
    for gap in gaps {
        let key = |gap: &Gap| (gap.variant, gap.measurement, gap.failed, gap.reason.clone());
        match lines.iter_mut().find(|(other, _)| key(other) == key(gap)) {
            Some((_, count)) => *count += 1,
            None => lines.push((gap, 1)),
        }
    }
    let line = |(gap, count): (&Gap, usize)| {
        let setting = match (&gap.setting, count) {
            (Some(setting), 1) => format!(" {setting}"),
            (_, 1) => String::new(),
            _ => format!(" ({count} settings)"),
        };
        let place = gap.measurement.map_or_else(String::new, |name| format!(", {name}{setting}"));
        let kind = if gap.failed { "failed" } else { "absent" };
        (kind, format!("{}{place}: {}", gap.variant.name(), gap.reason))
    };
    lines.into_iter().map(line).collect()
}

fn legend(report: &Report) -> String {
    let idle = &report.bench.idle;
    let mut lines = vec![format!(
        "Medians of {} rounds; × is the ratio to kernel forwarding of the same round (least–greatest).",
        report.bench.rounds
    )];
    if idle.busy > 0 {
        lines.push(format!(
            "The machine was busy with something else before {} of {} measurements: {:.0} % of it on average.",
            idle.busy,
            idle.measurements,
            idle.mean_load * 100.0
        ));
    }
    lines.extend(gaps(&report.gaps).into_iter().map(|(kind, line)| format!("{kind}: {line}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0.00"),
            (0.0123, "0.012"),
            (1.2345, "1.23"),
            (12.345, "12.3"),
            (99.96, "100"),
            (123_456.7, "123,457"),
            (-1_234.0, "-1,234"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn only_what_all_rounds_agree_on_is_better_or_worse() {
        let mut row = crate::bench::report::tests::rows().remove(0);
        let judge = |row: &Row| verdict(row, row.of(Variant::Nics).unwrap());
        assert_eq!(judge(&row), Some(true));
        row.metric.better = Better::Less;
        assert_eq!(judge(&row), Some(false));
        let figure = row.figures.iter_mut().find(|figure| figure.variant == Variant::Nics).unwrap();
        figure.ratio.as_mut().unwrap().min = 0.9;
        assert_eq!(judge(&row), None);
    }

    #[test]
    fn the_same_reason_is_said_once() {
        let gap = |setting: &str, reason: &str| Gap {
            measurement: Some("bulk"),
            setting: Some(setting.into()),
            variant: Variant::Pnet,
            failed: false,
            reason: reason.into(),
        };
        let lines = gaps(&[gap("a", "no"), gap("b", "no"), gap("c", "never")]);
        let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, ["pnet, bulk (2 settings): no", "pnet, bulk c: never"]);
    }
}

//! The report for people.

use super::Report;
use super::charts::{direction, over_concurrency, ratios};
use super::heat::{self, Heat};
use super::table::{gaps, measurements, number, variants, verdict};
use crate::bench::figure::{Better, Compared, Row};
use crate::bench::variant::Variant;
use crate::bench::{bulk, connections, latency, matrix, memory, packets};
use anyhow::Context;
use askama::Template;

#[derive(Template)]
#[template(path = "bench.html")]
struct Page<'a> {
    rounds: u32,
    cpus: usize,
    busy: Option<String>,
    variants: Vec<VariantView>,
    sections: Vec<Section>,
    gaps: Vec<(&'static str, String)>,
    facts: Vec<(&'static str, String)>,
    date: &'a str,
}

struct VariantView {
    name: &'static str,
    colour: &'static str,
    explanation: &'static str,
}

struct Section {
    title: &'static str,
    explanation: &'static str,
    charts: Vec<Chart>,
    heats: Vec<Heat>,
    has_limit: bool,
    variants: Vec<&'static str>,
    rows: Vec<RowView>,
}

struct Chart {
    title: String,
    note: String,
    svg: String,
}

struct RowView {
    /// Empty below the first row of a setting.
    setting: String,
    metric: &'static str,
    unit: &'static str,
    limit: String,
    cells: Vec<CellView>,
}

#[derive(Default)]
struct CellView {
    value: String,
    ratio: String,
    spread: String,
    verdict: &'static str,
}

/// Renders the page.
///
/// # Errors
/// If a chart can't be drawn.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let idle = &report.bench.idle;
    let busy = (idle.busy > 0).then(|| {
        format!(
            "The machine was busy with something else before {} of {} measurements, {:.0} % of it on average: \
             mistrust the spread, and the tails above all.",
            idle.busy,
            idle.measurements,
            idle.mean_load * 100.0
        )
    });
    let view = |variant: &Variant| VariantView {
        name: variant.name(),
        colour: variant.colour(),
        explanation: variant.explanation(),
    };
    let sections = measurements(report).into_iter().map(|name| section(report, name));
    let page = Page {
        rounds: report.bench.rounds,
        cpus: report.environment.cpus,
        busy,
        variants: report.bench.variants.iter().map(view).collect(),
        sections: sections.collect::<anyhow::Result<_>>()?,
        gaps: gaps(&report.gaps),
        facts: facts(report),
        date: &report.environment.date,
    };
    page.render().context("can't render the report")
}

fn section(report: &Report, measurement: &'static str) -> anyhow::Result<Section> {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.measurement == measurement).collect();
    let (title, explanation) = words(measurement);
    let shown = variants(&rows);
    let mut previous = "";
    let views = rows.iter().map(|row| {
        let setting = if previous == row.setting { String::new() } else { row.setting.clone() };
        previous = &row.setting;
        RowView {
            setting,
            metric: row.metric.name,
            unit: row.metric.unit,
            limit: row.metric.limit.map_or_else(String::new, number),
            cells: shown.iter().map(|variant| cell(row, *variant)).collect(),
        }
    });
    Ok(Section {
        title,
        explanation,
        rows: views.collect(),
        charts: charts(measurement, &rows)?,
        heats: if measurement == matrix::NAME { heat::tables(&report.rows) } else { Vec::new() },
        has_limit: rows.iter().any(|row| row.metric.limit.is_some()),
        variants: shown.iter().map(|variant| variant.name()).collect(),
    })
}

fn cell(row: &Row, variant: Variant) -> CellView {
    let Some(figure) = row.of(variant) else { return CellView::default() };
    let value = figure.value.map_or_else(|| "–".to_owned(), |value| number(value.median));
    let Some(ratio) = figure.ratio.filter(|_| variant != Variant::Kernel) else {
        return CellView { value, ..CellView::default() };
    };
    let spread = if figure.rounds.len() > 1 {
        format!("{}–{}", number(ratio.min), number(ratio.max))
    } else {
        String::new()
    };
    let verdict = match verdict(row, figure) {
        Some(true) => "good",
        Some(false) => "bad",
        None => "",
    };
    CellView { value, ratio: number(ratio.median), spread, verdict }
}

/// Most rows of one setting in a chart: two stand side by side.
const LANES: usize = 4;

fn charts(measurement: &str, rows: &[&Row]) -> anyhow::Result<Vec<Chart>> {
    let mut charts = Vec::new();
    if measurement == matrix::NAME {
        return Ok(charts);
    }
    if measurement == connections::NAME {
        for metric in ["rate", "TTFB p50"] {
            if let Some(svg) = over_concurrency(rows, metric)? {
                let note = "Median of all rounds, and all rounds' spread; both axes logarithmic".to_owned();
                charts.push(Chart { title: format!("{metric} over concurrency"), note, svg });
            }
        }
    }
    for better in [Better::More, Better::Less] {
        let compared = |row: &&&Row| row.metric.better == better && row.metric.compared == Compared::Ratio;
        let all: Vec<&Row> = rows.iter().filter(compared).copied().collect();
        // Of each metric a chart of its own, where it was measured in several settings.
        let mut names: Vec<&'static str> = Vec::new();
        for row in &all {
            if !names.contains(&row.metric.name) {
                names.push(row.metric.name);
            }
        }
        let one_setting = all.iter().all(|row| row.setting == all[0].setting);
        let groups: Vec<(String, Vec<&Row>)> = if one_setting {
            all.chunks(LANES).map(|rows| (rows[0].setting.clone(), rows.to_vec())).collect()
        } else {
            let of = |name: &str| all.iter().filter(|row| row.metric.name == name).copied().collect();
            names.into_iter().map(|name| (name.to_owned(), of(name))).collect()
        };
        for (title, group) in groups {
            if let Some(svg) = ratios(&group) {
                charts.push(Chart { title, note: direction(better).to_owned(), svg });
            }
        }
    }
    Ok(charts)
}

fn words(measurement: &str) -> (&'static str, &'static str) {
    match measurement {
        latency::NAME => (
            "Latency",
            "Connections one after the other over cables that take no time: nothing but overhead shows. \
             A proxy's connect() ends at the first proxy.",
        ),
        bulk::NAME => (
            "Large transfers",
            "Goodput that the receivers' programs saw, over cables. All parties share the processors.",
        ),
        packets::NAME => (
            "Packets",
            "Segments of established connections from a generator, counted at the server's device: the highest \
             rate with at most 0.1 % lost, and the processor time at 20,000 packets a second.",
        ),
        connections::NAME => (
            "Connections",
            "Fresh connections with a small request and answer: so many at a time, and at a given rate.",
        ),
        memory::NAME => ("Memory", "Resident memory of the processes between the endpoints."),
        matrix::NAME => (
            "Transfers over long paths",
            "One download at a time through a bottleneck of 200 Mbit/s with a buffer of 100 ms. The limit is one \
             round trip and the time on the wire.",
        ),
        _ => ("", ""),
    }
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (environment, bench) = (&report.environment, &report.bench);
    let idle = &bench.idle;
    let mut facts = vec![
        ("Kernel", format!("{} {}", environment.kernel, environment.architecture)),
        ("Processors", format!("{}{}", environment.cpus, if bench.awake { ", kept awake" } else { "" })),
        ("Rounds", format!("{}{}", bench.rounds, if bench.quick { ", short form" } else { "" })),
        ("Seed", bench.seed.to_string()),
        (
            "Other load",
            format!(
                "{:.0} % on average, {:.0} % at most; waited up to {} s for less than 10 %, in vain {} of {} times",
                idle.mean_load * 100.0,
                idle.greatest_load * 100.0,
                idle.bound_s,
                idle.busy,
                idle.measurements
            ),
        ),
        ("Long leg", format!("a cable; over long paths a {}", environment.wan)),
    ];
    facts.extend(environment.versions.iter().map(|(program, version)| (*program, version.clone())));
    facts
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_page_shows_every_section_and_what_is_missing() {
        let page = render(&report()).unwrap();
        assert!(page.starts_with("<!doctype html>"));
        assert!(
            page.contains("Connections") && page.contains("×1.50") && page.contains("rate over concurrency")
        );
        assert!(page.contains("pnet: no capture"));
        assert!(page.contains("busy with something else"));
    }
}

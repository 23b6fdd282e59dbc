//! The report for people: one HTML file that needs nothing besides itself.

use super::ladder::{self, Ladder};
use super::palette::colour;
use super::{Report, bars, cdf, ladder_svg};
use crate::compare::choice::{ClientKind, IpVersion, Mode, ServerKind};
use crate::compare::measurement::{Measurement, Negotiated};
use anyhow::Context;
use askama::Template;

/// The RTT of the headline, ms, if it was measured.
const HEADLINE_RTT: f64 = 50.0;
/// Below this many RTT the handshake's round trip is gone.
const FAST: f64 = 1.1;

/// Renders the page.
///
/// # Errors
/// If a chart can't be drawn.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let main: Vec<&Measurement> = report.results.iter().filter(|result| is_main(report, result)).collect();
    let mut modes: Vec<Mode> = report.results.iter().map(|result| result.step.mode).collect();
    modes.sort();
    modes.dedup();
    let page = Page {
        headline: headline(&main),
        modes: modes.into_iter().map(ModeView::new).collect(),
        bars: bars::render(&main),
        charts: charts(&main)?,
        ladders: ladders(&report.ladders),
        ladder_rtt: report.ladders.first().map_or(0.0, |ladder| ladder.rtt_ms),
        groups: groups(report),
        negotiated: negotiated(&main),
        facts: facts(report),
        skipped: report.skipped.iter().map(|skipped| skipped.reason.clone()).collect(),
        date: report.environment.date.clone(),
        arrow_kinds: ladder::Kind::ALL.map(ladder_svg::class).to_vec(),
    };
    page.render().context("the HTML report")
}

/// Figures are drawn for one client, server and IP version: those of the first measurement.
fn is_main(report: &Report, result: &Measurement) -> bool {
    let ends = |result: &Measurement| (result.step.client, result.step.server, result.step.ip);
    report.results.first().is_some_and(|first| ends(first) == ends(result))
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    headline: Option<Headline>,
    modes: Vec<ModeView>,
    bars: String,
    charts: Vec<Chart>,
    ladders: Vec<LadderView>,
    ladder_rtt: f64,
    groups: Vec<Group>,
    negotiated: Vec<NegotiatedRow>,
    facts: Vec<(&'static str, String)>,
    skipped: Vec<String>,
    date: String,
    arrow_kinds: Vec<&'static str>,
}

/// The one comparison that stands above all others.
struct Headline {
    rtt: f64,
    slow_rtts: String,
    fast_rtts: String,
    bars: [HeadlineBar; 2],
    saved: String,
    connect: String,
}

struct HeadlineBar {
    title: &'static str,
    colour: &'static str,
    ms: String,
    rtts: String,
    width: String,
}

fn headline(results: &[&Measurement]) -> Option<Headline> {
    let of = |mode: Mode| {
        let all = results.iter().filter(move |result| result.step.mode == mode && result.ttfb_ms.is_some());
        all.min_by(|a, b| {
            let distance = |m: &Measurement| (m.step.rtt_ms - HEADLINE_RTT).abs();
            distance(a).total_cmp(&distance(b))
        })
    };
    let slow = of(Mode::Kernel)?;
    let fast = of(Mode::Paired).or_else(|| of(Mode::Solo))?;
    let (slow_ms, fast_ms) = (slow.ttfb_ms?.p50, fast.ttfb_ms?.p50);
    let longest = slow_ms.max(fast_ms);
    let rtts = |result: &Measurement| result.ttfb_rtts.map_or_else(String::new, |rtts| format!("{rtts:.2}"));
    let bar = |result: &Measurement, ms: f64| HeadlineBar {
        title: result.step.mode.title(),
        colour: colour(result.step.mode),
        ms: format!("{ms:.1}"),
        rtts: rtts(result),
        width: format!("{:.1}", ms / longest * 100.0),
    };
    Some(Headline {
        rtt: fast.step.rtt_ms,
        slow_rtts: rtts(slow),
        fast_rtts: rtts(fast),
        bars: [bar(slow, slow_ms), bar(fast, fast_ms)],
        saved: format!("{:.1}", slow_ms - fast_ms),
        connect: format!("{:.2}", fast.connect_ms?.p50),
    })
}

struct ModeView {
    name: &'static str,
    title: &'static str,
    explanation: &'static str,
    colour: &'static str,
}

impl ModeView {
    fn new(mode: Mode) -> Self {
        Self { name: mode.name(), title: mode.title(), explanation: mode.explanation(), colour: colour(mode) }
    }
}

struct Chart {
    title: String,
    svg: String,
}

fn charts(results: &[&Measurement]) -> anyhow::Result<Vec<Chart>> {
    let mut rtts: Vec<f64> = results.iter().map(|result| result.step.rtt_ms).collect();
    rtts.dedup();
    rtts.into_iter()
        .map(|rtt| {
            let of_rtt: Vec<&Measurement> =
                results.iter().copied().filter(|result| result.step.rtt_ms == rtt).collect();
            Ok(Chart { title: format!("{rtt} ms RTT"), svg: cdf::render(rtt, &of_rtt)? })
        })
        .collect()
}

struct LadderView {
    title: &'static str,
    colour: &'static str,
    connect: String,
    first_byte: String,
    rtts: String,
    svg: String,
}

impl LadderView {
    fn new(ladder: &Ladder) -> Self {
        Self {
            title: ladder.mode.title(),
            colour: colour(ladder.mode),
            connect: format!("{:.2}", ladder.connect_ms),
            first_byte: format!("{:.1}", ladder.first_byte_ms),
            rtts: format!("{:.2}", ladder.first_byte_ms / ladder.rtt_ms),
            svg: ladder_svg::render(ladder),
        }
    }
}

/// Ordinary TCP and the middlebox side by side, then the others, the long ones first: two stand in
/// a row, and rows look better even.
fn ladders(ladders: &[Ladder]) -> Vec<LadderView> {
    let mut ordered: Vec<&Ladder> = ladders.iter().collect();
    let is_short = |ladder: &Ladder| ladder.first_byte_ms < 1.5 * ladder.rtt_ms;
    ordered.sort_by_key(|ladder| {
        let others = !matches!(ladder.mode, Mode::Kernel | Mode::Paired);
        (others, others && is_short(ladder), ladder.mode)
    });
    ordered.into_iter().map(LadderView::new).collect()
}

/// The rows of one client, server and IP version.
struct Group {
    title: String,
    rows: Vec<Row>,
}

struct Row {
    /// Set on the first row of an RTT.
    rtt: Option<String>,
    mode: &'static str,
    colour: &'static str,
    own: bool,
    ttfb: [String; 4],
    connect: String,
    rtts: String,
    fast: bool,
    counts: [(u64, bool); 3],
    connections: usize,
}

fn groups(report: &Report) -> Vec<Group> {
    let mut ends: Vec<(IpVersion, ClientKind, ServerKind)> = report
        .results
        .iter()
        .map(|result| (result.step.ip, result.step.client, result.step.server))
        .collect();
    ends.sort();
    ends.dedup();
    ends.into_iter()
        .map(|(ip, client, server)| {
            let of_group = |result: &&Measurement| {
                (result.step.ip, result.step.client, result.step.server) == (ip, client, server)
            };
            let mut previous = None;
            let rows = report.results.iter().filter(of_group).map(|result| {
                let new = previous.replace(result.step.rtt_ms) != Some(result.step.rtt_ms);
                row(result, new)
            });
            let name = |name: &str| if name == "builtin" { "built-in".to_owned() } else { name.to_owned() };
            Group {
                title: format!("{} client, {} server, {ip}", name(client.name()), name(server.name())),
                rows: rows.collect(),
            }
        })
        .collect()
}

fn row(result: &Measurement, begins_rtt: bool) -> Row {
    let dash = || "–".to_owned();
    let time = |value: Option<f64>| value.map_or_else(dash, |ms| format!("{ms:.1}"));
    let ttfb = result.ttfb_ms;
    let count = |count: u64| (count, count > 0);
    Row {
        rtt: begins_rtt.then(|| format!("{} ms", result.step.rtt_ms)),
        mode: result.step.mode.title(),
        colour: colour(result.step.mode),
        own: result.step.mode == Mode::Paired,
        ttfb: [
            time(ttfb.map(|t| t.p50)),
            time(ttfb.map(|t| t.p90)),
            time(ttfb.map(|t| t.p99)),
            time(ttfb.map(|t| t.max)),
        ],
        connect: result.connect_ms.map_or_else(dash, |connect| format!("{:.2}", connect.p50)),
        rtts: result.ttfb_rtts.map_or_else(dash, |rtts| format!("{rtts:.2}")),
        fast: result.ttfb_rtts.is_some_and(|rtts| rtts <= FAST),
        counts: [
            count(result.counted.retransmits),
            count(result.counted.resets),
            count(result.failed as u64),
        ],
        connections: result.connections,
    }
}

struct NegotiatedRow {
    mode: &'static str,
    colour: &'static str,
    ends: [String; 2],
    min_rtts: [String; 2],
}

/// What both endpoints take their connection to be, at the RTT of the headline.
fn negotiated(results: &[&Measurement]) -> Vec<NegotiatedRow> {
    let shown = if results.iter().any(|result| result.step.rtt_ms == HEADLINE_RTT) {
        Some(HEADLINE_RTT)
    } else {
        results.first().map(|result| result.step.rtt_ms)
    };
    let at_rtt = results.iter().filter(|result| Some(result.step.rtt_ms) == shown);
    at_rtt
        .filter_map(|result| {
            let ends = [result.client_tcp?, result.server_tcp?];
            Some(NegotiatedRow {
                mode: result.step.mode.title(),
                colour: colour(result.step.mode),
                ends: ends.map(|end| options(&end)),
                min_rtts: ends.map(|end| format!("{:.1}", end.min_rtt_ms)),
            })
        })
        .collect()
}

fn options(end: &Negotiated) -> String {
    let on = |on: bool, name: &str| if on { format!(" · {name}") } else { format!(" · no {name}") };
    format!(
        "MSS {} · scale {}/{}{}{}",
        end.snd_mss,
        end.snd_wscale,
        end.rcv_wscale,
        on(end.sack, "SACK"),
        on(end.timestamps, "TS")
    )
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let environment = &report.environment;
    let versions: Vec<String> = environment
        .versions
        .iter()
        .filter(|(name, _)| **name != "testbed")
        .map(|(_, text)| text.clone())
        .collect();
    let mut facts = vec![
        ("Kernel", format!("Linux {}, {}", environment.kernel, environment.architecture)),
        ("Processors", environment.cpus.to_string()),
        (
            "Congestion control",
            format!("{}; other programs: {}", environment.congestion, environment.default_congestion),
        ),
        ("Offloads of the links", if environment.offloads { "on" } else { "off" }.to_owned()),
        (
            "Built-in client and server",
            if environment.realtime_endpoints {
                "scheduled before ordinary threads"
            } else {
                "ordinary threads"
            }
            .to_owned(),
        ),
        ("Long leg", environment.wan.clone()),
    ];
    if let Some(version) = environment.versions.get("testbed") {
        facts.push(("Testbed", version.clone()));
    }
    if !versions.is_empty() {
        facts.push(("Programs", versions.join(", ")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn page_stands_alone() {
        let page = render(&sample()).unwrap();
        for outside in ["src=", "href=\"http", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("class=\"cdf\"").count(), 2);
        assert_eq!(page.matches("class=\"bars\"").count(), 1);
        assert!(page.contains("curl is not installed"));
    }

    #[test]
    fn headline_compares_paired_with_kernel_at_fifty_milliseconds() {
        let report = sample();
        let results: Vec<&Measurement> = report.results.iter().collect();
        let headline = headline(&results).unwrap();
        assert_eq!(headline.rtt, 50.0);
        assert_eq!((headline.slow_rtts.as_str(), headline.fast_rtts.as_str()), ("2.02", "1.02"));
        let kernel_only = [results[0]];
        assert!(super::headline(&kernel_only).is_none());
    }
}

//! The report as a page that needs nothing besides itself.

use super::chart::{self, CURVES};
use super::distribution::Quantiles;
use super::report::{Report, ServiceReport};
use super::text::{COUNTS, GAINS, count, counts, gains, ms, share, spreads};
use askama::Template;

#[derive(Template)]
#[template(path = "observe.html")]
struct Page {
    observed: String,
    begun: String,
    zero_rtt: String,
    share: String,
    bars: Vec<Bar>,
    rtt: String,
    warnings: Vec<(String, &'static str)>,
    chart: String,
    curves: [(&'static str, &'static str); 3],
    counts: Vec<&'static str>,
    gains: Vec<&'static str>,
    services: Vec<Service>,
    spreads: Vec<Spread>,
    reasons: Vec<Outcome>,
    syns: Vec<(String, String, String)>,
    notes: Vec<String>,
    assumptions: Vec<&'static str>,
}

struct Bar {
    name: &'static str,
    colour: &'static str,
    ms: String,
    width: String,
}

struct Service {
    name: String,
    is_all: bool,
    counts: Vec<String>,
    gains: Vec<String>,
}

struct Spread {
    name: &'static str,
    figures: [String; 3],
    of: String,
}

struct Outcome {
    label: &'static str,
    count: String,
    share: String,
    meaning: &'static str,
    width: String,
}

impl Report {
    /// Returns the report as an HTML page.
    ///
    /// # Errors
    /// If the page can't be rendered, which means a defect.
    pub fn html(&self) -> anyhow::Result<String> {
        let (all, begun) = (&self.all, self.all.connections.begun);
        let outcome = |(label, number, meaning): (_, u64, _)| Outcome {
            label,
            count: count(number),
            share: share(number, begun),
            meaning,
            width: format!("{:.1}", number as f64 / begun.max(1) as f64 * 100.0),
        };
        let service = |of: &ServiceReport, is_all| Service {
            name: of.service.clone(),
            is_all,
            counts: counts(of).to_vec(),
            gains: gains(of).to_vec(),
        };
        let services = self.services.iter().map(|of| service(of, false)).chain([service(all, true)]);
        let spread = |(name, figures, of)| Spread { name, figures, of: count(of) };
        let warned = self.services.iter().filter_map(|of| Some((of.service.clone(), of.sight.warning()?)));
        let page = Page {
            observed: format!("{:.1}", self.observed_s),
            begun: count(begun),
            zero_rtt: count(all.zero_rtt),
            share: share(all.zero_rtt, begun),
            bars: bars(all),
            rtt: all.round_trips.path.map_or_else(String::new, |path| ms(path.p50)),
            warnings: warned.collect(),
            chart: chart::render(&self.curves),
            curves: CURVES,
            counts: COUNTS.to_vec(),
            gains: GAINS.to_vec(),
            services: services.collect(),
            spreads: spreads(all).into_iter().map(spread).collect(),
            reasons: self.reasons().into_iter().map(outcome).collect(),
            syns: self
                .syn_rows()
                .into_iter()
                .map(|(name, number)| (name, count(number), share(number, self.syns.seen)))
                .collect(),
            notes: self.notes(),
            assumptions: self.assumptions.clone(),
        };
        Ok(page.render()?)
    }
}

/// The medians now, as expected and at best; none if nothing was timed.
fn bars(all: &ServiceReport) -> Vec<Bar> {
    let first = &all.first_byte;
    let medians = [first.now, first.expected, first.best].map(|of| of.map(|of: Quantiles| of.p50));
    let longest = medians.iter().flatten().fold(0.001, |longest: f64, median| longest.max(*median));
    let bar = |(median, (name, colour)): (Option<f64>, (&'static str, &'static str))| {
        let median = median?;
        Some(Bar { name, colour, ms: ms(median), width: format!("{:.1}", median / longest * 100.0) })
    };
    medians.into_iter().zip(CURVES).filter_map(bar).collect()
}

//! Progress on standard error: a bar on a terminal, a line per measurement elsewhere.

use crate::compare::measurement::Measurement;
use crate::compare::plan::Step;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::Duration;

/// How far a comparison has come, measured in expected time.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the clock; `total` is how long everything should take.
    pub fn start(total: Duration) -> Self {
        if !stderr().is_terminal() {
            eprintln!("measuring; this takes about {}", spoken(total));
            return Self { bar: None };
        }
        let bar = ProgressBar::new(ticks(total));
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner:.cyan} {wide_bar:.cyan/dim} {percent:>3} %  {eta:>4} left  {msg}",
        ) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    /// Says what is measured next.
    pub fn begin(&self, step: &Step) {
        if let Some(bar) = &self.bar {
            bar.set_message(describe(step));
        }
    }

    /// Says in one's own words what is done next: on a terminal only.
    pub fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// Writes a line of its own.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// Adds what another connection, or measurement, was expected to take.
    pub fn advance(&self, expected: Duration) {
        if let Some(bar) = &self.bar {
            bar.inc(ticks(expected));
        }
    }

    /// Says what was found.
    pub fn end(&self, found: &Measurement) {
        let expected = u32::try_from(found.connections).unwrap_or(u32::MAX);
        if let Some(bar) = &self.bar {
            // What a measurement takes beyond its connections.
            let counted = found.step.connection_time() * (expected + crate::compare::plan::WARM_UP);
            bar.inc(ticks(found.step.time(expected).saturating_sub(counted)));
        } else {
            let time = match (found.ttfb_ms, found.ttfb_rtts) {
                (Some(ttfb), Some(rtts)) => format!("TTFB {:.1} ms = {rtts:.2} RTT", ttfb.p50),
                _ => "no connection succeeded".to_owned(),
            };
            eprintln!("{}: {time}, {} of {} failed", describe(&found.step), found.failed, found.connections);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn describe(step: &Step) -> String {
    let Step { mode, client, server, ip, rtt_ms } = step;
    format!("{} ms {} {}→{} {ip}", rtt_ms, mode.name(), client.name(), server.name())
}

fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

//! A live view of a running daemon.
//!
//! On a terminal it is drawn anew at every look, until `q`; elsewhere one look is written as text.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Bar, BarChart, BarGroup, Block, Gauge, Paragraph, Row, Sparkline, Table};
use rtt0_netio::counters::IoCounters;
use serde::Serialize;

use super::client::AskError;
use super::tables;
use crate::stats::{Saved, Stats, Text};

/// Looks that the curve shows.
const HISTORY: usize = 300;
/// Width of a look that is written as text.
const WIDTH: u16 = 100;
/// Lines of the summary and of the connections' curve, with their frames.
const TOP: (u16, u16) = (5, 8);

/// Why the view has ended early.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The daemon does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The terminal can't be used.
    #[error("the terminal can't be used")]
    Terminal(#[from] std::io::Error),
}

/// What has happened between two looks.
#[derive(Debug, Serialize)]
pub(super) struct View {
    /// What the daemon is and how it does, in lines.
    summary: String,
    /// Seconds between the looks.
    seconds: f64,
    /// Connections answered early, or made for a client that was, per second.
    early: f64,
    /// New connections that nothing was done for, per second.
    untouched: f64,
    /// RTT saved meanwhile.
    saved: Saved,
    /// How full the tables are: name, now, most.
    levels: Vec<(Text, u64, u64)>,
    /// Kind, reason, packets per second, packets in all; those of which there were most first.
    reasons: Vec<(&'static str, Text, f64, u64)>,
    /// Connections per second at each look, the newest last.
    #[serde(skip)]
    history: VecDeque<u64>,
}

/// Events of which each is a connection that was answered early, or made for a client that was.
const EARLY: [&str; 3] = ["spoofed_paired", "spoofed_solo", "offer_accepted"];

impl View {
    /// Compares two looks at the same daemon.
    pub(super) fn new(before: &Stats, now: &Stats) -> Self {
        // One that has begun anew counts from zero.
        let is_same = before.started == now.started;
        let seconds = (now.taken - before.taken).max(0.001);
        let old = |counts: &[crate::stats::Count], label: &str| {
            counts.iter().find(|count| count.label == label && is_same).map_or(0, |count| count.count)
        };
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let early = now.events.iter().filter(|count| EARLY.contains(&&*count.label));
        let of_syn: Vec<&str> = rtt0_core::reason::PassReason::ALL
            .iter()
            .filter(|reason| reason.is_of_syn())
            .map(|reason| reason.label())
            .collect();
        let untouched = now.passes.iter().filter(|count| of_syn.contains(&&*count.label));
        let mut reasons = Vec::new();
        for (kind, before, now) in [
            ("dropped", &before.drops, &now.drops),
            ("failed", &before.io, &now.io),
            ("passed", &before.passes, &now.passes),
        ] {
            let counted = now.iter().filter(|count| count.count > 0);
            let counted = counted.filter(|count| kind != "failed" || IoCounters::is_failure(&count.label));
            reasons.extend(counted.map(|count| {
                (kind, count.label.clone(), rate(old(before, &count.label), count.count), count.count)
            }));
        }
        reasons.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.3.cmp(&a.3)));
        Self {
            summary: tables::summary(now),
            seconds,
            early: early.map(|count| rate(old(&before.events, &count.label), count.count)).sum(),
            untouched: untouched.map(|count| rate(old(&before.passes, &count.label), count.count)).sum(),
            saved: if is_same { now.saved.since(&before.saved) } else { now.saved.clone() },
            levels: now.levels.iter().map(|level| (level.label.clone(), level.now, level.most)).collect(),
            reasons,
            history: VecDeque::new(),
        }
    }

    /// Draws it without colours.
    pub(super) fn text(&self) -> String {
        // Its frame and its header take three lines of the last table.
        let height = TOP.0 + TOP.1 + self.middle() + self.reasons.len() as u16 + 3;
        let Ok(mut terminal) = ratatui::Terminal::new(TestBackend::new(WIDTH, height));
        let Ok(drawn) = terminal.draw(|frame| self.draw(frame));
        let row = |y| (0..WIDTH).map(|x| drawn.buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
    }

    /// Lines of the tables' levels and of the RTT saved, with their frames.
    fn middle(&self) -> u16 {
        (self.levels.len() as u16 + 2).max(9)
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [top, curve, middle, bottom] = Layout::vertical([
            Constraint::Length(TOP.0),
            Constraint::Length(TOP.1),
            Constraint::Length(self.middle()),
            Constraint::Min(4),
        ])
        .areas(frame.area());
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(middle);
        frame.render_widget(Paragraph::new(self.summary.as_str()).block(Block::bordered()), top);
        self.draw_connections(frame, curve);
        self.draw_levels(frame, left);
        self.draw_saved(frame, right);
        self.draw_reasons(frame, bottom);
    }

    fn draw_connections(&self, frame: &mut Frame<'_>, area: Rect) {
        let all = self.early + self.untouched;
        let share = if all > 0.0 {
            format!("{:.0} % of them 0-RTT", self.early / all * 100.0)
        } else {
            "none new".to_owned()
        };
        let block = Block::bordered().title(format!(" connections/s: {all:.1}, {share} "));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let newest = self.history.iter().rev().take(inner.width.into()).rev().copied();
        let curve: Vec<u64> = newest.chain(self.history.is_empty().then_some(all.round() as u64)).collect();
        frame.render_widget(Sparkline::default().data(curve).style(Style::new().fg(Color::Green)), inner);
    }

    fn draw_levels(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title(" tables ");
        let rows = Layout::vertical(vec![Constraint::Length(1); self.levels.len()]).split(block.inner(area));
        frame.render_widget(block, area);
        for ((label, now, most), row) in self.levels.iter().zip(rows.iter()) {
            let ratio = (*now as f64 / (*most).max(1) as f64).clamp(0.0, 1.0);
            let colour = if ratio < 0.8 { Color::Blue } else { Color::Red };
            let [name, gauge] = Layout::horizontal([Constraint::Length(14), Constraint::Min(1)]).areas(*row);
            frame.render_widget(Line::from(label.as_ref()), name);
            let gauge_label = format!("{now} / {most}");
            frame.render_widget(Gauge::default().ratio(ratio).label(gauge_label).gauge_style(colour), gauge);
        }
    }

    fn draw_saved(&self, frame: &mut Frame<'_>, area: Rect) {
        let mean = match self.saved.count {
            0 => "none measured".to_owned(),
            count => format!("mean {:.1} ms of {count}", self.saved.seconds / count as f64 * 1e3),
        };
        let mut below = 0;
        let bars: Vec<Bar<'_>> = self
            .saved
            .buckets
            .iter()
            .map(|(bound, count)| {
                let here = count.saturating_sub(below);
                below = *count;
                Bar::default().value(here).label(Line::from(format!("{}", bound * 1e3)))
            })
            .collect();
        let chart = BarChart::default()
            .block(Block::bordered().title(format!(" RTT saved, up to … ms: {mean} ")))
            .bar_width(4)
            .bar_gap(0)
            .bar_style(Color::Cyan)
            .data(BarGroup::default().bars(&bars));
        frame.render_widget(chart, area);
    }

    fn draw_reasons(&self, frame: &mut Frame<'_>, area: Rect) {
        let row = |(kind, reason, rate, all): &(&'static str, Text, f64, u64)| {
            Row::new([(*kind).to_owned(), reason.to_string(), format!("{rate:.1}"), all.to_string()])
        };
        let widths =
            [Constraint::Length(8), Constraint::Length(24), Constraint::Length(10), Constraint::Min(10)];
        let table = Table::new(self.reasons.iter().map(row), widths)
            .header(Row::new(["", "reason", "packets/s", "in all"]).bold())
            .block(Block::bordered().title(" dropped, failed, passed untouched "));
        frame.render_widget(table, area);
    }
}

/// Draws what `look` sees every `interval`, until the user has seen enough.
///
/// # Errors
/// [`TopError`]; the terminal is as it was.
pub(super) fn watch(
    look: &mut impl FnMut() -> Result<Stats, AskError>,
    interval: Duration,
) -> Result<(), TopError> {
    let mut terminal = ratatui::try_init()?;
    let watched = draw_until_quit(&mut terminal, look, interval);
    ratatui::restore();
    watched
}

fn draw_until_quit(
    terminal: &mut ratatui::DefaultTerminal,
    look: &mut impl FnMut() -> Result<Stats, AskError>,
    interval: Duration,
) -> Result<(), TopError> {
    let mut before = look()?;
    let mut history = VecDeque::new();
    let mut due = Instant::now() + interval;
    loop {
        if event::poll(due.saturating_duration_since(Instant::now()))? {
            if is_quit(&event::read()?) {
                return Ok(());
            }
            continue;
        }
        due = Instant::now() + interval;
        let now = look()?;
        let mut view = View::new(&before, &now);
        history.push_back((view.early + view.untouched).round() as u64);
        if history.len() > HISTORY {
            history.pop_front();
        }
        view.history = history;
        terminal.draw(|frame| view.draw(frame))?;
        (history, before) = (view.history, now);
    }
}

fn is_quit(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Count, unix_seconds};

    fn stats(taken: f64, spoofed: u64, learned: u64) -> Stats {
        let count = |label: &'static str, count| Count { label: label.into(), count, meaning: "".into() };
        Stats {
            taken,
            started: unix_seconds(),
            is_alive: true,
            bypass: "nothing".into(),
            events: vec![count("spoofed_paired", spoofed)],
            passes: vec![count("learning", learned), count("no_flow", 7)],
            saved: Saved {
                count: spoofed,
                seconds: spoofed as f64 * 0.03,
                buckets: vec![(0.02, 0), (0.05, spoofed)],
            },
            ..Stats::default()
        }
    }

    #[test]
    fn rates_and_shares_are_of_what_happened_between_two_looks() {
        let started = unix_seconds();
        let (before, now) = (stats(10.0, 100, 50), stats(12.0, 160, 70));
        let view = View::new(&Stats { started, ..before }, &Stats { started, ..now });
        assert_eq!((view.early, view.untouched, view.saved.count), (30.0, 10.0, 60));
        assert_eq!(view.reasons[0], ("passed", "learning".into(), 10.0, 70));
        let text = view.text();
        for part in ["connections/s: 40.0, 75 % of them 0-RTT", "mean 30.0 ms of 60", "learning"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn a_daemon_that_began_anew_counts_from_zero() {
        let (before, now) =
            (Stats { started: 1.0, ..stats(10.0, 100, 0) }, Stats { started: 9.0, ..stats(12.0, 4, 0) });
        let view = View::new(&before, &now);
        assert_eq!((view.early, view.saved.count), (2.0, 4));
    }
}

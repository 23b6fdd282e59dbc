//! Answers for people to read.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use rtt0_netio::counters::IoCounters;
use serde::Serialize;

use super::protocol::{Flows, Profiles};
use crate::stats::{Count, Stats};

/// How wide a column of sentences gets at least; a terminal that is narrower wraps lines itself.
const SENTENCE: u16 = 40;

/// Packets that did not go on, or that nothing was done for.
#[derive(Debug, Serialize)]
pub(super) struct Lost<'a> {
    /// By an engine.
    drops: Vec<&'a Count>,
    /// Between the kernel and an engine.
    io: Vec<&'a Count>,
    /// Sent on untouched.
    passes: Vec<&'a Count>,
}

impl<'a> Lost<'a> {
    pub(super) fn new(stats: &'a Stats) -> Self {
        let seen = |counts: &'a [Count]| counts.iter().filter(|count| count.count > 0).collect();
        let io =
            stats.io.iter().filter(|count| count.count > 0 && IoCounters::is_failure(&count.label)).collect();
        Self { drops: seen(&stats.drops), io, passes: seen(&stats.passes) }
    }
}

pub(super) fn drops(lost: &Lost<'_>) -> String {
    let mut table = table(["", "reason", "packets", "meaning"]);
    for (kind, counts) in [("dropped", &lost.drops), ("failed", &lost.io), ("passed", &lost.passes)] {
        for count in counts {
            table.add_row([
                Cell::new(kind),
                Cell::new(&count.label),
                number(count.count),
                Cell::new(&count.meaning),
            ]);
        }
    }
    if table.is_empty() {
        "nothing was dropped, and nothing passed untouched\n".to_owned()
    } else {
        finish(table)
    }
}

pub(super) fn flows(flows: &Flows) -> String {
    let mut table = table(["client", "server", "state", "forwarded by", "expires in"]);
    for flow in &flows.flows {
        let by = if flow.in_kernel { "kernel".to_owned() } else { format!("worker {}", flow.worker) };
        table.add_row([
            Cell::new(&flow.client),
            Cell::new(&flow.server),
            Cell::new(&flow.state),
            Cell::new(by),
            Cell::new(time(flow.expires_in)).set_alignment(CellAlignment::Right),
        ]);
    }
    finish(table) + &of(flows.flows.len(), flows.total, "flows")
}

pub(super) fn profiles(profiles: &Profiles) -> String {
    let mut table = table(["destination", "standing", "ServerNIC", "MSS", "options", "RTT", "expires in"]);
    for profile in &profiles.profiles {
        table.add_row([
            Cell::new(&profile.destination),
            Cell::new(&profile.standing),
            Cell::new(if profile.paired { "yes" } else { "no" }),
            number(profile.mss.into()),
            Cell::new(profile.options.join(" ")),
            Cell::new(profile.rtt.map_or("-".to_owned(), |rtt| format!("{:.1} ms", rtt * 1e3)))
                .set_alignment(CellAlignment::Right),
            Cell::new(time(profile.expires_in)).set_alignment(CellAlignment::Right),
        ]);
    }
    finish(table) + &of(profiles.profiles.len(), profiles.total, "destinations")
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut levels = table(["table", "now", "most", "meaning"]);
    for level in &stats.levels {
        let cells =
            [Cell::new(&level.label), number(level.now), number(level.most), Cell::new(&level.meaning)];
        levels.add_row(cells);
    }
    let mut counts = table(["counter", "", "count"]);
    for (kind, all) in
        [("io", &stats.io), ("event", &stats.events), ("dropped", &stats.drops), ("passed", &stats.passes)]
    {
        for count in all.iter().filter(|count| count.count > 0) {
            counts.add_row([Cell::new(kind), Cell::new(&count.label), number(count.count)]);
        }
    }
    format!("{}\n{}\n{}", summary(stats), finish(levels), finish(counts))
}

/// What a daemon is and how it does, in a few lines.
pub(super) fn summary(stats: &Stats) -> String {
    let up = crate::stats::unix_seconds() - stats.started;
    let state = match (stats.is_alive, stats.is_draining, &*stats.bypass) {
        (false, ..) => "NOT ALIVE: a packet thread stands still",
        (true, true, _) => "draining: no connection is begun",
        (true, false, "nothing") => "serving",
        (true, false, _) => "a flood of SYNs: the kernel forwards new connections",
    };
    let kernel = stats.offload.map_or("in user space".to_owned(), |kernel| {
        format!("by the kernel ({} packets, {} bytes)", kernel.packets, kernel.bytes)
    });
    let mean = match stats.saved.count {
        0 => "none measured (ClientNIC measures it)".to_owned(),
        count => format!("{:.1} ms a connection (mean of {count})", stats.saved.seconds / count as f64 * 1e3),
    };
    let reload = if stats.reload.has_succeeded { "" } else { "; the last reload FAILED, see the log" };
    format!(
        "{} {}, {} packet thread(s), up {}: {state}\nestablished flows are forwarded {kernel}\nRTT saved: {mean}{reload}\n",
        stats.program,
        stats.version,
        stats.workers,
        time(up),
    )
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(column) =
        header.iter().position(|name| *name == "meaning").and_then(|at| table.column_mut(at))
    {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(SENTENCE)));
    }
    table
}

fn finish(table: Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn number(number: u64) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}

fn of(shown: usize, total: usize, what: &str) -> String {
    if shown < total {
        format!("{what}: {shown} of {total}; --limit shows more\n")
    } else {
        format!("{what}: {total}\n")
    }
}

/// Writes seconds for people: two units at most.
pub(super) fn time(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let coarse = match time.as_secs() {
        0..10 => Duration::from_millis(time.as_millis() as u64),
        10..3600 => Duration::from_secs(time.as_secs()),
        3600..86_400 => Duration::from_secs(time.as_secs() / 60 * 60),
        _ => Duration::from_secs(time.as_secs() / 3600 * 3600),
    };
    humantime::format_duration(coarse).to_string()
}

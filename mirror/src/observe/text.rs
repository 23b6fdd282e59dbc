//! The report as tables for a terminal.

use super::distribution::Quantiles;
use super::report::{Report, ServiceReport};
use comfy_table::{Cell, CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use std::fmt::Write;

/// What stands where there is no figure.
pub(super) const NONE: &str = "–";

/// The frame of all the project's tables: lines around the table and below its header, none between rows.
const FRAME: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('╭', '─', '┬', '╮'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('╰', '─', '┴', '╯'));

/// Writes a number with commas between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// Writes ms: to a tenth, small values to a hundredth and large ones whole.
pub(super) fn ms(value: f64) -> String {
    match value {
        value if value >= 999.5 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Writes a size.
pub(super) fn bytes(value: f64) -> String {
    match value {
        value if value >= 1024.0 * 1024.0 => format!("{:.1} MiB", value / (1024.0 * 1024.0)),
        value if value >= 10.0 * 1024.0 => format!("{:.1} KiB", value / 1024.0),
        value => format!("{value:.0} B"),
    }
}

/// Writes a share of all as a percentage.
pub(super) fn share(part: u64, all: u64) -> String {
    if all == 0 { NONE.to_owned() } else { format!("{:.1} %", part as f64 / all as f64 * 100.0) }
}

/// Writes the three quantiles.
pub(super) fn three(of: Option<Quantiles>, write: fn(f64) -> String) -> [String; 3] {
    let read = |pick: fn(Quantiles) -> f64| of.map_or_else(|| NONE.to_owned(), |of| write(pick(of)));
    [read(|of| of.p50), read(|of| of.p90), read(|of| of.p99)]
}

/// The rows of times and sizes of a service: name, figures, of how many.
pub(super) fn spreads(of: &ServiceReport) -> Vec<(&'static str, [String; 3], u64)> {
    let (trips, first, uploads) = (&of.round_trips, &of.first_byte, &of.uploads);
    let rows = [
        ("round trip, mirror to server", trips.to_server, ms as fn(f64) -> String),
        ("round trip, mirror to client", trips.to_client, ms),
        ("round trip, whole path", trips.path, ms),
        ("first byte, seen at the mirror", first.at_mirror, ms),
        ("first byte, at the client now", first.now, ms),
        ("first byte, expected with 0-RTT", first.expected, ms),
        ("first byte, at best with 0-RTT", first.best, ms),
        ("sent before the first byte", uploads.until_first_byte, bytes),
        ("sent in all", uploads.total, bytes),
    ];
    let row =
        |(name, of, write): (_, Option<Quantiles>, _)| (name, three(of, write), of.map_or(0, |of| of.count));
    rows.into_iter().map(row).collect()
}

fn framed<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(FRAME);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.force_no_tty();
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// The headings of [`counts`].
pub(super) const COUNTS: [&str; 8] =
    ["begun", "answered", "refused", "unanswered", "pending", "per second", "busiest s", "SYNs again"];

/// The counts of a service's connections.
pub(super) fn counts(of: &ServiceReport) -> [String; 8] {
    let of = &of.connections;
    [
        count(of.begun),
        count(of.answered),
        count(of.refused),
        count(of.unanswered),
        count(of.pending),
        format!("{:.1}", of.per_second),
        count(of.busiest_second.into()),
        count(of.syn_repeats),
    ]
}

/// The headings of [`gains`].
pub(super) const GAINS: [&str; 8] =
    ["0-RTT", "share", "path RTT", "now", "expected", "at best", "server first", "false connects"];

/// What a service would gain: medians in ms.
pub(super) fn gains(of: &ServiceReport) -> [String; 8] {
    let median = |of: Option<Quantiles>| of.map_or_else(|| NONE.to_owned(), |of| ms(of.p50));
    let first = &of.first_byte;
    [
        count(of.zero_rtt),
        share(of.zero_rtt, of.connections.begun),
        median(of.round_trips.path),
        median(first.now),
        median(first.expected),
        median(first.best),
        count(first.server_first),
        count(of.falsely_connected),
    ]
}

/// The table whose rows are services and whose cells are `cells`.
fn by_service<const N: usize>(
    report: &Report,
    headings: [&str; N],
    cells: fn(&ServiceReport) -> [String; N],
) -> Table {
    let mut table = framed::<0>([]);
    table.set_header(std::iter::once("service").chain(headings));
    for of in report.services.iter().chain([&report.all]) {
        table.add_row(std::iter::once(Cell::new(&of.service)).chain(cells(of).into_iter().map(right)));
    }
    table
}

impl Report {
    /// Returns the report as tables for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(text, "Observed for {:.1} s.\n", self.observed_s);
        for of in self.services.iter().filter(|of| of.sight.warning().is_some()) {
            let _ = writeln!(text, "{}: {}.", of.service, of.sight.warning().unwrap_or_default());
        }
        let _ = writeln!(text, "Connections\n{}\n", by_service(self, COUNTS, counts));
        let title = "What 0-RTT would change (medians, ms; the server's first byte as the client has it)";
        let _ = writeln!(text, "{title}\n{}\n", by_service(self, GAINS, gains));
        let _ = writeln!(text, "All services: times in ms, sizes\n{}\n", self.spread_table());
        let _ = writeln!(text, "What ClientNIC would do with each SYN\n{}\n", self.reason_table());
        let _ = writeln!(text, "SYNs\n{}\n", self.syn_table());
        for line in self.notes() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\nAssumed");
        for line in &self.assumptions {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    fn spread_table(&self) -> Table {
        let mut table = framed(["", "p50", "p90", "p99", "of"]);
        for (name, figures, of) in spreads(&self.all) {
            let cells = figures.into_iter().chain([count(of)]).map(right);
            table.add_row(std::iter::once(Cell::new(name)).chain(cells));
        }
        table
    }

    fn reason_table(&self) -> Table {
        let mut table = framed(["outcome", "connections", "share", "meaning"]);
        for (label, number, meaning) in self.reasons() {
            let part = share(number, self.all.connections.begun);
            table.add_row([Cell::new(label), right(count(number)), right(part), Cell::new(meaning)]);
        }
        table
    }

    fn syn_table(&self) -> Table {
        let mut table = framed(["SYNs with", "number", "share"]);
        for (name, number) in self.syn_rows() {
            table.add_row([Cell::new(name), right(count(number)), right(share(number, self.syns.seen))]);
        }
        table
    }

    /// Returns each outcome of a SYN: label, connections, meaning.
    pub(super) fn reasons(&self) -> Vec<(&'static str, u64, &'static str)> {
        let mut rows = vec![("0-RTT", self.all.zero_rtt, "The SYN would be answered at once.")];
        rows.extend(self.all.passed.iter().map(|reason| (reason.label, reason.count, reason.meaning)));
        if self.all.not_judged > 0 {
            rows.push(("not_judged", self.all.not_judged, "The SYN was not seen."));
        }
        rows
    }

    /// Returns what SYNs carry, and how many.
    pub(super) fn syn_rows(&self) -> Vec<(String, u64)> {
        let syns = &self.syns;
        let option = |of: &super::OneOption| match of.known {
            true => (of.name.to_owned(), of.count),
            false => (format!("{} (option {}: passes)", of.name, of.kind), of.count),
        };
        let mut rows: Vec<_> = syns.options.iter().map(option).collect();
        rows.extend(syns.mss.iter().map(|(mss, number)| (format!("MSS {mss}"), *number)));
        rows.extend(
            syns.window_scale.iter().map(|(shift, number)| (format!("window scale {shift}"), *number)),
        );
        let more = [("classic ECN", syns.ecn), ("data", syns.payload), ("malformed options", syns.malformed)];
        rows.extend(
            more.into_iter().filter(|(_, number)| *number > 0).map(|(name, number)| (name.into(), number)),
        );
        rows
    }

    /// Returns what else a reader has to know, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let (unused, first) = (&self.unused, &self.all.first_byte);
        let mut notes = vec![format!(
            "{} connections would have been faster, by {} ms together ({} ms at best). The client spoke first in {}, \
             the server in {}.",
            count(first.sped_up),
            count(first.saved_ms.round() as u64),
            count(first.saved_at_best_ms.round() as u64),
            count(first.client_first),
            count(first.server_first)
        )];
        let kept = self.services.iter().filter(|of| of.times_kept).count();
        if kept >= Self::times_bound() {
            notes.push(format!(
                "Times are kept of {} services; of others only numbers are counted.",
                count(kept as u64)
            ));
        }
        let large = self.all.uploads.large;
        let named = [
            ("connections sent more than 256 KiB.", large),
            ("packets were not TCP.", unused.not_tcp),
            ("TCP headers were malformed or cut off by the mirror.", unused.malformed),
            ("connections went to services that were not asked for.", unused.other_services),
            ("segments belong to connections whose beginning was not seen.", unused.no_flow),
            ("connections were not tracked: the table was full.", unused.flows_not_tracked),
            ("connections made room for others once their first byte had been seen.", unused.flows_let_go),
            ("SYN-ACKs taught nothing: the table of destinations was full.", unused.profile_table_full),
        ];
        let some = named.into_iter().filter(|(_, number)| *number > 0);
        notes.extend(some.map(|(what, number)| format!("{} {what}", count(number))));
        notes
    }
}

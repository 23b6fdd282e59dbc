//! The tables that a comparison prints: every figure in ms, then the medians in round trips.

use super::Report;
use crate::compare::choice::{ClientKind, IpVersion, Mode, ServerKind};
use crate::compare::measurement::Measurement;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle,
};
use std::io::{IsTerminal, stdout};

/// What is left of the handshake's round trip counts as gone below this many RTT.
const FAST: f64 = 1.1;

/// Lines around the table and below its header, none between rows.
const FRAME: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('╭', '─', '┬', '╮'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('╰', '─', '┴', '╯'));

/// Renders both tables, in colour only if standard output is a terminal.
pub fn render(report: &Report) -> String {
    let tables = [milliseconds(report), round_trips(report)];
    let coloured = stdout().is_terminal();
    let titles = ["Time to first byte and connect(), ms", "Median time to first byte, round trips"];
    let titled = titles.iter().zip(tables).map(|(title, mut table)| {
        if !coloured {
            table.force_no_tty();
        }
        format!("{title}\n{table}")
    });
    titled.collect::<Vec<_>>().join("\n\n")
}

/// A way through the testbed without its RTT: a row of the second table.
type Way = (Mode, ClientKind, ServerKind, IpVersion);

fn way(result: &Measurement) -> Way {
    (result.step.mode, result.step.client, result.step.server, result.step.ip)
}

fn way_name((mode, client, server, ip): Way) -> [String; 2] {
    [mode.name().to_owned(), format!("{}→{} {ip}", client.name(), server.name())]
}

fn milliseconds(report: &Report) -> Table {
    let mut table = framed();
    table.set_header([
        "RTT",
        "mode",
        "between",
        "p50",
        "p90",
        "p99",
        "max",
        "connect p50",
        "in RTT",
        "retrans",
        "resets",
        "failed",
    ]);
    let mut previous = None;
    for result in &report.results {
        let rtt = if previous == Some(result.step.rtt_ms) {
            String::new()
        } else {
            format!("{}", result.step.rtt_ms)
        };
        previous = Some(result.step.rtt_ms);
        let [mode, between] = way_name(way(result));
        let time = |value: Option<f64>| right(value.map_or_else(|| "–".into(), |ms| format!("{ms:.1}")));
        let ttfb = result.ttfb_ms;
        table.add_row([
            right(rtt).add_attribute(Attribute::Bold),
            emphasised(Cell::new(mode), result.step.mode),
            Cell::new(between),
            time(ttfb.map(|t| t.p50)),
            time(ttfb.map(|t| t.p90)),
            time(ttfb.map(|t| t.p99)),
            time(ttfb.map(|t| t.max)),
            right(result.connect_ms.map_or_else(|| "–".into(), |connect| format!("{:.2}", connect.p50))),
            rtts_cell(result),
            warning(result.counted.retransmits),
            warning(result.counted.resets),
            warning(result.failed as u64),
        ]);
    }
    table
}

fn round_trips(report: &Report) -> Table {
    let mut rtts: Vec<f64> = report.results.iter().map(|result| result.step.rtt_ms).collect();
    rtts.sort_by(f64::total_cmp);
    rtts.dedup();
    let mut ways: Vec<Way> = Vec::new();
    for result in &report.results {
        if !ways.contains(&way(result)) {
            ways.push(way(result));
        }
    }
    let mut table = framed();
    let columns = rtts.iter().map(|rtt| right(format!("{rtt} ms")));
    table.set_header([Cell::new("mode"), Cell::new("between")].into_iter().chain(columns));
    for row in ways {
        let [mode, between] = way_name(row);
        let found = |rtt: &f64| report.results.iter().find(|r| way(r) == row && r.step.rtt_ms == *rtt);
        let cells = rtts.iter().map(|rtt| found(rtt).map_or_else(|| Cell::new(""), rtts_cell));
        table.add_row([emphasised(Cell::new(mode), row.0), Cell::new(between)].into_iter().chain(cells));
    }
    table
}

/// Makes an empty table in the frame that all tables have.
pub(crate) fn framed() -> Table {
    let mut table = Table::new();
    table.load_style(FRAME);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Makes a cell for a number.
pub(crate) fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

fn rtts_cell(result: &Measurement) -> Cell {
    match result.ttfb_rtts {
        Some(rtts) if rtts <= FAST => {
            right(format!("{rtts:.2}")).fg(Color::Green).add_attribute(Attribute::Bold)
        }
        Some(rtts) => right(format!("{rtts:.2}")),
        None => right("–").fg(Color::Red),
    }
}

/// Our own modes stand out.
fn emphasised(cell: Cell, mode: Mode) -> Cell {
    if matches!(mode, Mode::Paired | Mode::Solo) { cell.add_attribute(Attribute::Bold) } else { cell }
}

/// A count that ought to be zero.
fn warning(count: u64) -> Cell {
    if count == 0 { right(0) } else { right(count).fg(Color::Red) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn every_measurement_is_a_row_and_every_mode_a_row_of_round_trips() {
        let text = render(&sample());
        let rows = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(rows("paired"), 2 + 1);
        assert_eq!(rows("kernel"), 2 + 1);
        let paired = text.lines().rfind(|line| line.contains("paired")).unwrap();
        assert_eq!(paired.matches("1.02").count(), 2, "{paired}");
        assert!(!text.contains('\u{1b}'), "no colours outside a terminal");
    }
}

//! Coverage: which kind of segment met which kind of flow, for both engines, as in the tables at
//! the top of their `engine/mod.rs`.

mod events;
mod unreachable;

pub(super) use events::{ClientEvent, ServerEvent, classify_at_client_nic, classify_at_server_nic};

use clientnic::engine::Phase as ClientPhase;
use comfy_table::{Cell, Color, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use servernic::engine::Phase as ServerPhase;

const CLIENT_ROWS: usize = ClientPhase::ALL.len();
const SERVER_ROWS: usize = ServerPhase::ALL.len();
const CLIENT_COLUMNS: usize = ClientEvent::ALL.len();
const SERVER_COLUMNS: usize = ServerEvent::ALL.len();

/// How often each cell was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    client: [[u64; CLIENT_COLUMNS]; CLIENT_ROWS],
    server: [[u64; SERVER_COLUMNS]; SERVER_ROWS],
}

/// A cell, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// `clientnic` or `servernic`.
    pub engine: &'static str,
    /// The flow.
    pub flow: String,
    /// What it met.
    pub event: String,
    /// How often.
    pub count: u64,
    /// Why it can't happen, if that is so.
    pub unreachable: Option<&'static str>,
}

impl Hits {
    /// Tells whether it was hit although it can't be, or not hit although it can.
    pub fn is_wrong(&self) -> bool {
        (self.count == 0) != self.unreachable.is_some()
    }
}

impl Default for Matrix {
    fn default() -> Self {
        Self { client: [[0; CLIENT_COLUMNS]; CLIENT_ROWS], server: [[0; SERVER_COLUMNS]; SERVER_ROWS] }
    }
}

impl Matrix {
    /// Counts an event at ClientNIC.
    pub(super) fn hit_client(&mut self, phase: ClientPhase, event: ClientEvent) {
        self.client[phase as usize][event as usize] += 1;
    }

    /// Counts an event at ServerNIC.
    pub(super) fn hit_server(&mut self, phase: ServerPhase, event: ServerEvent) {
        self.server[phase as usize][event as usize] += 1;
    }

    /// Adds another's counts.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, others) in self.client.iter_mut().flatten().zip(other.client.iter().flatten()) {
            *mine += others;
        }
        for (mine, others) in self.server.iter_mut().flatten().zip(other.server.iter().flatten()) {
            *mine += others;
        }
    }

    /// Returns every cell.
    pub fn cells(&self) -> Vec<Hits> {
        let mut cells = Vec::new();
        for phase in ClientPhase::ALL {
            for event in ClientEvent::ALL {
                cells.push(Hits {
                    engine: "clientnic",
                    flow: format!("{phase:?}"),
                    event: event.name().to_owned(),
                    count: self.client[phase as usize][event as usize],
                    unreachable: unreachable::at_client_nic(phase, event),
                });
            }
        }
        for phase in ServerPhase::ALL {
            for event in ServerEvent::ALL {
                cells.push(Hits {
                    engine: "servernic",
                    flow: format!("{phase:?}"),
                    event: event.name().to_owned(),
                    count: self.server[phase as usize][event as usize],
                    unreachable: unreachable::at_server_nic(phase, event),
                });
            }
        }
        cells
    }

    /// Draws both tables, events down and flows across.
    pub fn draw(&self) -> String {
        let cells = self.cells();
        let mut text = String::new();
        for engine in ["clientnic", "servernic"] {
            let of_engine: Vec<&Hits> = cells.iter().filter(|cell| cell.engine == engine).collect();
            text += &draw(engine, &of_engine);
            text.push('\n');
        }
        text
    }
}

fn draw(engine: &str, cells: &[&Hits]) -> String {
    let unique = |name: fn(&Hits) -> &str| {
        let mut names: Vec<&str> = Vec::new();
        for cell in cells {
            if !names.contains(&name(cell)) {
                names.push(name(cell));
            }
        }
        names
    };
    let (flows, events) = (unique(|cell| &cell.flow), unique(|cell| &cell.event));
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once(engine).chain(flows.iter().copied()));
    for event in events {
        let mut row = vec![Cell::new(event)];
        for flow in &flows {
            let Some(cell) = cells.iter().find(|cell| cell.flow == *flow && cell.event == event) else {
                continue;
            };
            let drawn = match (cell.count, cell.unreachable) {
                (0, Some(_)) => Cell::new("–"),
                (0, None) => Cell::new("0 !").fg(Color::Red),
                (count, Some(_)) => Cell::new(format!("{count} !")).fg(Color::Red),
                (count, None) => Cell::new(count),
            };
            row.push(drawn.set_alignment(comfy_table::CellAlignment::Right));
        }
        table.add_row(row);
    }
    table.to_string()
}

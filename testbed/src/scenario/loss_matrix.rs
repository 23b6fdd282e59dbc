//! Small transfers both ways over every mixture of loss, RTT and congestion control.
//!
//! Every cell has a lab under kernel forwarding and one with the NICs, both with the same seed.
//! The same dice fall on other packets there, so single times say little; medians do.

use super::figure::median;
use super::lab::CONGESTIONS;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::counters::Snapshot;
use crate::nic::NicMode;
use crate::program::client::{self, Ask, Exchange, Request};
use crate::program::stream;
use crate::wan::Path;
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "loss-matrix",
    about: "loss 0.1/1/3 % × RTT 10/100/300/600 ms × CUBIC, BBR at either end: 50 KB each way arrive, as soon",
    run,
};

const LOSSES: [f64; 3] = [0.001, 0.01, 0.03];
const RTTS: [u64; 4] = [10, 100, 300, 600];
/// Bytes of a transfer: a few flights of slow start.
const SIZE: u64 = 50_000;
/// How often each transfer is made.
const ROUNDS: usize = 2;
/// Ports of the servers, one for each congestion control.
const FIRST_PORT: u16 = 9000;
/// Longest that a transfer may take, however unlucky.
const BOUND: Duration = Duration::from_secs(90);
/// How much slower than under kernel forwarding the median cell may be, and any cell.
const SLOWER: (f64, f64) = (1.2, 2.5);

/// A mixture.
#[derive(Debug, Clone, Copy)]
struct Cell {
    case: Case,
    loss: f64,
    rtt: Duration,
}

/// What a world made of a cell.
#[derive(Debug)]
struct Outcome {
    times: Vec<Duration>,
    lost: u64,
    retransmits: u64,
    timeouts: [u64; 2],
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    let cells = cells();
    let mut labs = Vec::new();
    // Some at a time: raising takes the processor, by which the RTT is judged.
    for some in cells.chunks(LOSSES.len()) {
        labs.extend(raise(some)?);
    }
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = labs.iter().map(|(cell, lab)| scope.spawn(|| play(cell, lab))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<anyhow::Result<_>>()
    })?;
    judge(&cells, &outcomes, report)
}

/// All of them; IP versions like the fields of a chessboard.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (row, rtt) in RTTS.into_iter().enumerate() {
        for (column, loss) in LOSSES.into_iter().enumerate() {
            let case = Case::EACH[(row + column) % 2];
            cells.push(Cell { case, loss, rtt: Duration::from_millis(rtt) });
        }
    }
    cells
}

/// Raises two labs for each cell, kernel forwarding first, all at once.
fn raise(cells: &[Cell]) -> anyhow::Result<Vec<(Cell, Lab)>> {
    let worlds = [None, Some(NicMode::Paired)];
    thread::scope(|scope| {
        let raise = |cell: Cell, nics| {
            let Cell { case, rtt, .. } = cell;
            Ok((cell, Lab::raise(Setting { rtt, ..Setting::new(case, nics) })?))
        };
        let threads: Vec<_> = cells
            .iter()
            .flat_map(|cell| worlds.map(|nics| scope.spawn(move || raise(*cell, nics))))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Makes all transfers of a cell in one world.
fn play(cell: &Cell, lab: &Lab) -> anyhow::Result<Outcome> {
    let world = if lab.setting().nics.is_some() { "with the NICs" } else { "under kernel forwarding" };
    let context = || format!("{}, RTT {:?}, loss {}, {world}", cell.case, cell.rtt, cell.loss);
    let mut servers = Vec::new();
    let mut requests = Vec::new();
    for (port, at_server) in (FIRST_PORT..).zip(CONGESTIONS) {
        servers.push(lab.serve_under(at_server, port, None)?);
        let server = SocketAddr::new(lab.server_address(), port);
        lab.fetch(&Request { server, ..lab.request() }).with_context(context)?;
        for at_client in CONGESTIONS {
            for ask in [Ask::Download(SIZE), Ask::Upload(SIZE)] {
                let congestion = Some(at_client.to_owned());
                requests.push(Request { server, congestion, ask, timeout: BOUND, ..lab.request() });
            }
        }
    }
    let before = Snapshot::take(lab.topology())?;
    lab.topology().set_path(Path { loss: cell.loss, seed: 11, ..Path::with_rtt(cell.rtt) });
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.extend(transfers(lab, &requests).with_context(context)?);
    }
    let after = Snapshot::take(lab.topology())?;
    let [client, server] = [0, 1].map(|end| (after.ends()[end] - before.ends()[end]).timeouts);
    Ok(Outcome {
        times,
        lost: lab.topology().wan().directions().iter().map(|way| way.counters.lost).sum(),
        retransmits: before.until(&after).retransmits,
        timeouts: [client, server],
    })
}

/// Makes all transfers at once; returns how long each took.
fn transfers(lab: &Lab, requests: &[Request]) -> anyhow::Result<Vec<Duration>> {
    let outcomes: Vec<_> = lab.topology().client.enter(|| {
        thread::scope(|scope| {
            let clients: Vec<_> =
                requests.iter().map(|request| scope.spawn(|| client::fetch(request))).collect();
            let join = |client: thread::ScopedJoinHandle<'_, _>| {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            clients.into_iter().map(join).collect()
        })
    })?;
    requests
        .iter()
        .zip(outcomes)
        .map(|(request, outcome)| {
            let exchange = outcome.with_context(|| format!("{:?}", request.ask))?;
            verify(request.ask, &exchange)?;
            Ok(exchange.total)
        })
        .collect()
}

fn verify(ask: Ask, exchange: &Exchange) -> anyhow::Result<()> {
    let sent = stream::digest(stream::SEED, SIZE);
    let arrived = match ask {
        Ask::Upload(_) => exchange.small_body == stream::hex(&sent).as_bytes(),
        _ => exchange.bytes == SIZE && exchange.sha256 == sent,
    };
    ensure!(arrived, "{ask:?}: other bytes arrived than were sent");
    Ok(())
}

fn judge(cells: &[Cell], outcomes: &[Outcome], report: &mut Report) -> anyhow::Result<()> {
    let mut ratios = Vec::new();
    report.note("cell: lost, retransmitted, time-outs client+server; kernel / NICs; ratio of medians");
    for (cell, pair) in cells.iter().zip(outcomes.chunks(2)) {
        let [kernel, nics] = pair else { continue };
        report.same();
        let medians = [median(&kernel.times)?, median(&nics.times)?];
        let ratio = medians[1].as_secs_f64() / medians[0].as_secs_f64();
        let (percent, rtt) = (cell.loss * 100.0, cell.rtt.as_millis());
        let counts =
            |o: &Outcome| format!("{}, {}, {}+{}", o.lost, o.retransmits, o.timeouts[0], o.timeouts[1]);
        report.note(format!(
            "{} {rtt} ms {percent} %: {} / {}; {ratio:.2}",
            cell.case.ip,
            counts(kernel),
            counts(nics)
        ));
        ensure!(ratio <= SLOWER.1, "{percent} % loss at {rtt} ms: {ratio:.2} times kernel forwarding's time");
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let middle = ratios.get(ratios.len() / 2).copied().context("no cell was measured")?;
    let transfers: usize = outcomes.iter().map(|outcome| outcome.times.len()).sum();
    report.note(format!(
        "{transfers} transfers, all whole; median cell {middle:.2} of kernel forwarding's time"
    ));
    ensure!(middle <= SLOWER.0, "the median cell took {middle:.2} times kernel forwarding's time");
    Ok(())
}

//! `testbed sim`.

use super::run::{Outcome, SimOptions, run, trace};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Options of `testbed sim`.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// Packets to hand to the engines
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// Everything follows from it
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Run this world alone
    #[arg(long, value_name = "I")]
    world: Option<u64>,
    /// Print the world's plan and every packet
    #[arg(long, requires = "world")]
    trace: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Write the outcome to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not fail if a cell of the coverage matrix stays empty: for runs too short to fill it
    #[arg(long)]
    allow_empty_cells: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    matrix: Vec<super::matrix::Hits>,
}

/// Simulates, and prints what was found. Returns whether all was well.
///
/// # Errors
/// If the JSON file can't be written.
pub fn command(args: &SimArgs) -> anyhow::Result<bool> {
    if let Some(world) = args.world {
        let failure = trace(args.seed, world, args.trace);
        println!("{}", failure.as_deref().unwrap_or("all is well"));
        return Ok(failure.is_none());
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let outcome = run(&SimOptions { packets: args.packets, seed: args.seed, jobs });
    let cells = outcome.matrix.cells();
    if let Some(path) = &args.json {
        let report = Report { outcome: &outcome, matrix: cells.clone() };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("{}: can't write the outcome", path.display()))?;
    }
    print!("{}", outcome.matrix.draw());
    println!("{}", summary(&outcome));
    let mut well = outcome.failures.is_empty();
    for cell in cells.iter().filter(|cell| cell.is_wrong()) {
        match cell.unreachable {
            Some(why) => {
                println!("{}: {} met {}, which can't be: {why}", cell.engine, cell.flow, cell.event);
                well = false;
            }
            None if !args.allow_empty_cells => {
                println!("{}: {} never met {}", cell.engine, cell.flow, cell.event);
                well = false;
            }
            None => {}
        }
    }
    for (world, what) in &outcome.failures {
        println!(
            "world {world}: {what}\n  replay: testbed sim --seed {} --world {world} --trace",
            outcome.seed
        );
    }
    Ok(well)
}

fn summary(outcome: &Outcome) -> String {
    let Outcome {
        seed,
        worlds,
        packets,
        delivered,
        connections,
        completed,
        leaked,
        replayed,
        at_once,
        opened,
        disowned,
        damage,
        ..
    } = outcome;
    let rate = *packets as f64 / outcome.seconds.max(1e-9);
    format!(
        "seed {seed}: {worlds} worlds, {packets} packets through the engines ({delivered} to hosts) in {:.1} s, \
         {:.0} a second\n\
         {connections} connections, {completed} completed; lost {}, duplicated {}, corrupted {}, delayed {}; \
         {leaked} segments of early data refused by servers, {replayed} taken twice; \
         {at_once} handshakes begun by kernels, {opened} of them with servers, {disowned} for nobody\n\
         {} failures",
        outcome.seconds,
        rate,
        damage.lost,
        damage.duplicated,
        damage.corrupted,
        damage.reordered,
        outcome.failures.len(),
    )
}

//! `testbed bench`.

use super::plan::{Extent, Measurement};
use super::report;
use super::run::{Options, run};
use super::variant::Variant;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `testbed bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure [default: all]
    #[arg(value_name = "MEASUREMENT")]
    measurements: Vec<Measurement>,
    /// Variants beside kernel forwarding [default: all that this machine can run]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    variants: Vec<Variant>,
    /// Rounds; each measures all variants in another order [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// A short form, for CI
    #[arg(long)]
    quick: bool,
    /// Longest wait for an idle machine before each measurement, s
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    idle_wait: f64,
    /// Connections that are made at a given rate over 100 ms
    #[arg(long, value_name = "N", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Connections that are made at 10,000/s over cables
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=300_000))]
    fast_connections: u32,
    /// Idle flows that are held to see what memory they take
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    flows: u32,
    /// Sizes of the matrix's transfers, MB [default: 4,100, with --quick 4]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=10_000))]
    megabytes: Vec<u64>,
    /// Longest a transfer of the matrix may take, s; its goodput until then counts
    #[arg(long, value_name = "S", default_value_t = 20.0, value_parser = seconds)]
    patience: f64,
    /// Packet workers of the daemons, if this build can have several
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Keep processors from sleeping meanwhile (/dev/cpu_dma_latency), for all variants alike
    #[arg(long)]
    awake: bool,
    /// The orders follow from it
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where to write the results for programs
    #[arg(long, value_name = "FILE", default_value = "target/bench/bench.json")]
    json: PathBuf,
    /// Where to write the report for people
    #[arg(long, value_name = "FILE", default_value = "target/bench/bench.html")]
    html: PathBuf,
}

/// Measures, prints the tables and writes the reports. Returns whether kernel forwarding and
/// the daemons gave their figures wherever they can.
///
/// # Errors
/// If nothing can be measured or a report can't be written.
pub fn command(args: BenchArgs) -> anyhow::Result<bool> {
    let (json, html) = (args.json.clone(), args.html.clone());
    let report = run(&options(args), |report| report::save(report, &json, &html))?;
    report::print(&report, &json, &html);
    Ok(report.is_complete())
}

fn options(args: BenchArgs) -> Options {
    let quick = args.quick;
    let megabytes = match args.megabytes {
        chosen if !chosen.is_empty() => chosen,
        _ if quick => vec![4],
        _ => vec![4, 100],
    };
    let (connections, flows) =
        if quick { (args.connections.min(500), args.flows.min(500)) } else { (args.connections, args.flows) };
    Options {
        extent: Extent {
            measurements: args.measurements,
            quick,
            connections,
            fast_connections: args.fast_connections,
            flows,
            megabytes,
            patience: Duration::from_secs_f64(if quick { args.patience.min(5.0) } else { args.patience }),
        },
        variants: args.variants,
        rounds: args.rounds.unwrap_or(if quick { 1 } else { 5 }),
        seed: args.seed,
        idle_wait: Duration::from_secs_f64(args.idle_wait),
        workers: args.workers,
        awake: args.awake,
    }
}

/// Reads a bounded time.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn read(arguments: &[&str]) -> Result<Options, clap::Error> {
        Cli::try_parse_from(["bench"].iter().chain(arguments)).map(|cli| options(cli.bench))
    }

    #[test]
    fn defaults_are_five_rounds_of_everything() {
        let options = read(&[]).unwrap();
        assert_eq!((options.rounds, options.extent.quick), (5, false));
        assert!(options.variants.is_empty() && options.extent.measurements.is_empty());
        assert_eq!(options.extent.megabytes, [4, 100]);
    }

    #[test]
    fn names_select_and_quick_shrinks() {
        let options =
            read(&["latency", "bulk", "--quick", "--variants", "nics,pnet", "--connections", "100000"])
                .unwrap();
        assert_eq!(options.extent.measurements, [Measurement::Latency, Measurement::Bulk]);
        assert_eq!(options.variants, [Variant::Nics, Variant::Pnet]);
        assert_eq!((options.rounds, options.extent.connections), (1, 500));
        assert_eq!(read(&["--quick", "--rounds", "3"]).unwrap().rounds, 3);
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            &["speed"][..],
            &["--rounds", "0"],
            &["--variants", "warp"],
            &["--idle-wait", "-1"],
            &["--flows", "0"],
        ] {
            assert_eq!(read(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }
}

//! From command line to exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches};
use rtt0_core::engine::Engine;

use crate::cli::{Cli, Command, RunArgs};
use crate::failure::Failure;
use crate::serve::Context;
use crate::setup::Setup;
use crate::{key_file, logging, serve};

/// What a daemon is called.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the executable.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
}

/// Runs the daemon: reads `args` (the first is the program's name), does what they say, and
/// returns the exit code (see the [crate's table](crate)). `make_engine` makes the engine of each
/// worker; it gets the options that only this daemon has, a type that derives [`clap::Args`].
///
/// Errors are written to standard error, one line each.
pub fn main<O, E, M>(
    program: &Program,
    args: impl IntoIterator<Item = OsString>,
    mut make_engine: M,
) -> ExitCode
where
    O: Args + Clone,
    E: Engine + Send + 'static,
    M: FnMut(Context, O) -> E,
{
    let command =
        Cli::<O>::command().name(program.name).about(program.about).version(env!("CARGO_PKG_VERSION"));
    let parsed = command.try_get_matches_from(args).and_then(|matches| Cli::<O>::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done for a reader who closed the pipe.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let outcome = match cli.command {
        Command::Run { common, own } => {
            run(program.name, &common, |context| make_engine(context, own.clone()))
        }
        Command::Keygen { file, id } => key_file::generate(&file, id).map_err(Failure::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {}", program.name, failure.line());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run<E, M>(program: &str, args: &RunArgs, make_engine: M) -> Result<(), Failure>
where
    E: Engine + Send + 'static,
    M: FnMut(Context) -> E,
{
    let setup = Setup::new(args)?;
    if args.dry_run {
        print!("{}", setup.describe(program));
        return Ok(());
    }
    logging::start(args.log_format);
    serve::serve(program, setup, make_engine)
}

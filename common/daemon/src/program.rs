//! From command line to exit code.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, FromArgMatches};
use rtt0_core::engine::Engine;
use rtt0_core::offer::Keys;
use rtt0_core::profile::Profiles;
use rtt0_doctor::Role;

use crate::cli::{Cli, Command, Examined, Settings};
use crate::config::{Configured, Layers, Unusable};
use crate::failure::Failure;
use crate::reload::Reload;
use crate::serve::Context;
use crate::setup::Setup;
use crate::{control, doctor, key_file, logging, serve};

/// What a daemon is called.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the executable.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
}

/// What makes a daemon the one it is.
pub trait Nic {
    /// Options that only this daemon has.
    type Options: Args;
    /// What serves the packets.
    type Engine: Engine + Send + 'static;

    /// Which of the two it is, for the doctor.
    const ROLE: Role;

    /// Long names of those options that [`Nic::reload`] takes over; others need a restart.
    const RELOADED: &'static [&'static str] = &[];

    /// Makes what all workers share.
    fn new(options: Self::Options) -> Self;

    /// Makes the engine of a worker.
    fn engine(&mut self, context: Context) -> Self::Engine;

    /// Starts what works beside the packets, once all is in place and before capabilities are given up. `mtu` is the
    /// smallest of the named interfaces, in bytes.
    ///
    /// # Errors
    /// The kernel's; the daemon then ends.
    fn begin(&mut self, _keys: &Keys, _mtu: u16) -> io::Result<()> {
        Ok(())
    }

    /// Takes new secrets, which the engines have taken already.
    fn rekey(&mut self, _keys: &Keys) {}

    /// Returns what is known of destinations, if this daemon learns of them.
    fn profiles(&self) -> Option<Arc<Profiles>> {
        None
    }

    /// Takes over what may change while the daemon runs. Connections under way go on.
    fn reload(&mut self, _options: Self::Options) {}
}

/// Returns the definition of the daemon's command line, from which manual pages and completions are made.
pub fn command<N: Nic>(program: &Program) -> clap::Command {
    Cli::<N::Options>::command().name(program.name).about(program.about).version(env!("CARGO_PKG_VERSION"))
}

/// Runs the daemon: reads `args` (the first is the program's name), environment and configuration file, does
/// what they say, and returns the exit code (see the [crate's table](crate)).
///
/// Errors are written to standard error, one line each.
pub fn main<N: Nic>(program: &Program, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let layers = Layers::new(command::<N>(program), args.into_iter().collect());
    let outcome = match read::<N>(&layers) {
        Ok((cli, configured)) => run::<N>(program.name, cli, layers, configured),
        Err(Unusable::Arguments(error)) => {
            // Nothing can be done for a reader who closed the pipe.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
        Err(Unusable::File(error)) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{}: {}", program.name, failure.line());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Reads all that settings come from, as it now is.
pub(crate) fn read<N: Nic>(layers: &Layers) -> Result<(Cli<N::Options>, Configured), Unusable> {
    let configured = layers.read()?;
    let cli = Cli::from_arg_matches(&configured.matches).map_err(Unusable::Arguments)?;
    Ok((cli, configured))
}

fn run<N: Nic>(
    program: &'static str,
    cli: Cli<N::Options>,
    layers: Layers,
    configured: Configured,
) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(settings) => start::<N>(program, settings, layers, configured)?,
        Command::CheckConfig(settings) => check::<N>(program, settings, &configured)?,
        Command::Keygen { file, id } => key_file::generate(&file, id)?,
        Command::Ask(ask) => control::run(program, ask)?,
        Command::Doctor(Examined { doctor, settings }) => {
            return Ok(doctor::examine(program, N::ROLE, &doctor, &settings.common));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves; or prints what was asked for instead.
fn start<N: Nic>(
    program: &'static str,
    Settings { common, own }: Settings<N::Options>,
    layers: Layers,
    configured: Configured,
) -> Result<(), Failure> {
    if common.print_config {
        print!("{}", configured.show());
        return Ok(());
    }
    let setup = Setup::new(program, &common)?;
    if common.dry_run {
        print!("{}", setup.describe(program));
        return Ok(());
    }
    logging::start(common.log_format);
    serve::serve(program, setup, N::new(own), Reload::new(layers, configured))
}

/// Says whether `run` would accept the configuration. Needs no privileges.
fn check<N: Nic>(
    program: &str,
    settings: Settings<N::Options>,
    configured: &Configured,
) -> Result<(), Failure> {
    if settings.common.print_config {
        print!("{}", configured.show());
    }
    let unread = Setup::check(&settings.common)?;
    // Has been read, and so is right.
    drop(settings.own);
    match unread {
        None => eprintln!("{program}: the configuration is right"),
        Some(error) => eprintln!(
            "{program}: the configuration is right, as far as can be seen: {}",
            Failure::from(error).line()
        ),
    }
    Ok(())
}

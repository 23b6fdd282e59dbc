//! The subcommands that ask a running daemon.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rtt0_core::service::{Prefix, Service};
use serde::{Deserialize, Serialize};

use super::client::{AskError, Client};
use super::protocol::{Done, Flows, Forgotten, MOST_ROWS, Profiles, Request};
use super::{tables, top};
use crate::failure::Failure;
use crate::reload::Reloaded;
use crate::stats::Stats;

/// What is asked of a running daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Ask {
    /// Shows what a running daemon knows
    Show {
        #[command(subcommand)]
        what: Show,
    },
    /// Has a running daemon begin no more connections; those under way go on
    Drain {
        /// Begin connections again
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Has a running daemon forget what it has learned of destinations
    Forget {
        /// Such as 10.1.2.0/24:443 or 10.1.2.7:443
        #[arg(value_name = "PREFIX:PORT")]
        destination: Service,
        #[command(flatten)]
        asking: Asking,
    },
    /// Has a running daemon forget what it has learned of all destinations
    Flush(Asking),
    /// Has a running daemon read its configuration and key file again, as SIGHUP does, and says how that went
    Reload(Asking),
    /// Watches a running daemon: connections, RTT saved, drops; to a pipe, one look as text
    Top {
        /// Time between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        #[command(flatten)]
        asking: Asking,
    },
}

/// What is to be shown.
#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Connections, and what becomes of them
    Flows {
        /// Most rows
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = rows)]
        limit: usize,
        /// Only of such clients
        #[arg(long, value_name = "PREFIX")]
        client: Option<Prefix>,
        /// Only to such destinations
        #[arg(long, value_name = "PREFIX:PORT")]
        server: Option<Service>,
        /// Only in this state, by its name in the table
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Destinations, and what is known of them (ClientNIC)
    Profiles {
        /// Most rows
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = rows)]
        limit: usize,
        #[command(flatten)]
        asking: Asking,
    },
    /// All counters and bounds
    Stats(Asking),
    /// What was dropped, and what nothing was done for, with the reasons
    Drops(Asking),
}

/// Whom to ask, and how to answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct Asking {
    /// The daemon's control socket [default: NAME.sock in /run/rtt0]
    #[arg(long, value_name = "FILE", env = "RTT0_CONTROL_SOCKET", hide_env = true)]
    control_socket: Option<PathBuf>,

    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Asks the running daemon `program`, and writes its answer to standard output.
///
/// # Errors
/// [`Failure::Ask`]; or that standard output takes no more.
pub(crate) fn run(program: &str, ask: Ask) -> Result<(), Failure> {
    match ask {
        Ask::Show { what: Show::Flows { limit, client, server, state, asking } } => {
            let (client, server) =
                (client.map(|prefix| prefix.to_string()), server.map(|rule| rule.to_string()));
            let request = Request::Flows { limit, client, server, state };
            asking.answer::<Flows>(program, &request, tables::flows)
        }
        Ask::Show { what: Show::Profiles { limit, asking } } => {
            asking.answer::<Profiles>(program, &Request::Profiles { limit }, tables::profiles)
        }
        Ask::Show { what: Show::Stats(asking) } => {
            asking.answer::<Stats>(program, &Request::Stats, tables::stats)
        }
        Ask::Show { what: Show::Drops(asking) } => {
            let stats: Stats = asking.ask(program, &Request::Stats)?;
            asking.write(&tables::Lost::new(&stats), tables::drops)
        }
        Ask::Drain { undo, asking } => {
            let request = if undo { Request::Resume } else { Request::Drain };
            asking.answer::<Done>(program, &request, |done| match done.is_draining {
                true => "no connection is begun from now on; those under way go on\n".to_owned(),
                false => "connections are begun again\n".to_owned(),
            })
        }
        Ask::Forget { destination, asking } => {
            asking.answer(program, &Request::Forget { destination: destination.to_string() }, forgotten)
        }
        Ask::Flush(asking) => asking.answer(program, &Request::Flush, forgotten),
        Ask::Reload(asking) => asking.answer::<Reloaded>(program, &Request::Reload, Reloaded::tell),
        Ask::Top { interval, asking } => {
            let mut client = Client::connect(&asking.socket(program))?;
            let mut look = || client.ask::<Stats>(&Request::Stats);
            let interval = Duration::from_secs_f64(interval);
            if io::stdout().is_terminal() && !asking.json {
                return top::watch(&mut look, interval).map_err(Failure::from);
            }
            let before = look()?;
            std::thread::sleep(interval);
            let view = top::View::new(&before, &look()?);
            asking.write(&view, top::View::text)
        }
    }
}

/// Asks the daemon that listens at `path` for its counters, as `show stats --json` does.
///
/// # Errors
/// [`AskError`].
pub(crate) fn stats_of(path: &Path) -> Result<serde_json::Value, AskError> {
    let stats: Stats = Client::connect(path)?.ask(&Request::Stats)?;
    serde_json::to_value(stats).map_err(AskError::Reply)
}

fn forgotten(forgotten: &Forgotten) -> String {
    format!("destinations forgotten: {}\n", forgotten.forgotten)
}

impl Asking {
    fn socket(&self, program: &str) -> PathBuf {
        let usual = || super::usual(Path::new(crate::cli::STATE_DIR), program);
        self.control_socket.clone().unwrap_or_else(usual)
    }

    fn ask<T: for<'a> Deserialize<'a>>(&self, program: &str, request: &Request) -> Result<T, AskError> {
        Client::connect(&self.socket(program))?.ask(request)
    }

    fn answer<T: Serialize + for<'a> Deserialize<'a>>(
        &self,
        program: &str,
        request: &Request,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        self.write(&self.ask::<T>(program, request)?, text)
    }

    fn write<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(answer).map_err(AskError::Reply)? + "\n"
        } else {
            text(answer)
        };
        match io::stdout().write_all(text.as_bytes()) {
            // Whoever reads with `head` has read enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Control { action: "write to standard output", source: error })
            }
            _ => Ok(()),
        }
    }
}

fn rows(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    if (1..=MOST_ROWS).contains(&number) { Ok(number) } else { Err(format!("not from 1 to {MOST_ROWS}")) }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=60.0).contains(&number) { Ok(number) } else { Err("not from 0.1 to 60".to_owned()) }
}

//! What an operator asks of a running daemon: by its control socket, and as metrics over HTTP.
//!
//! ```text
//!  clientnic show … ──► NAME.sock ──┐                    ┌── Question ──► control loop (serve)
//!                                   ├─► thread `control` ─┤                     │ survey
//!  Prometheus ──► HTTP /metrics ────┘                    └── profiles           ▼
//!                                                                         packet threads
//! ```
//!
//! The thread is an ordinary one: whoever asks, and however often, packets go first. What belongs to the
//! control loop is asked of it through a short queue, and answered in bounded steps.

mod client;
mod commands;
mod protocol;
mod server;
mod socket;
mod tables;
mod top;

pub use client::AskError;
pub(crate) use commands::{Ask, run, stats_of};
pub use socket::SocketError;
pub(crate) use socket::{ControlSocket, usual};
pub use top::TopError;

use std::sync::Arc;
use std::thread::JoinHandle;

use rtt0_core::profile::Profiles;
use rtt0_core::survey::Page;
use rtt0_core::time::Instant;
use rtt0_netio::privilege::{self, Duty};
use tokio::sync::{mpsc, oneshot};

use crate::http::HttpSocket;
use crate::metrics;
use crate::reload::Reloaded;
use crate::stats::Stats;

/// Questions that wait for the control loop at a time; those who ask more have to wait.
const QUEUE: usize = 16;

/// What can be answered without the control loop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// How many packet threads there are.
    pub(crate) workers: usize,
    /// What is known of destinations, if anything is.
    pub(crate) profiles: Option<Arc<Profiles>>,
}

/// How a daemon does, in two words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    /// Whether every packet thread goes round its loop.
    pub(crate) is_alive: bool,
    /// Whether it begins no connection because an operator wants it so.
    pub(crate) is_draining: bool,
}

/// What only the control loop can answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// Whether the daemon is well.
    Health(oneshot::Sender<Health>),
    /// What the daemon knows of itself.
    Stats(oneshot::Sender<Stats>),
    /// Some of a worker's flows, and the time by the clock of their deadlines.
    Survey { worker: usize, from: u32, reply: oneshot::Sender<(Page, Instant)> },
    /// Begin no handshake from now on, or begin them again.
    Drain { drain: bool, reply: oneshot::Sender<()> },
    /// Read the configuration again.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
}

/// Asks the control loop.
#[derive(Debug, Clone)]
pub(crate) struct Questions(mpsc::Sender<Question>);

impl Questions {
    /// Asks, and waits for the answer; `None` if the daemon stops meanwhile.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// What questions are received by.
pub(crate) type Receiver = mpsc::Receiver<Question>;

/// The thread that talks to operators.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl ControlPlane {
    /// Starts it; it asks what it can't answer by itself. Without sockets there is none.
    ///
    /// # Errors
    /// That no thread can be had.
    pub(crate) fn start(
        control: Option<ControlSocket>,
        metrics: Option<HttpSocket>,
        known: Known,
    ) -> std::io::Result<(Option<Self>, Receiver)> {
        let (questions, receiver) = mpsc::channel(QUEUE);
        if control.is_none() && metrics.is_none() {
            return Ok((None, receiver));
        }
        let questions = Questions(questions);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            privilege::confine(Duty::Nothing);
            runtime.block_on(async {
                if let Some(socket) = control {
                    tokio::spawn(server::serve(socket, questions.clone(), known));
                }
                if let Some(socket) = metrics {
                    tokio::spawn(metrics::serve(socket, questions));
                }
                // The sender is dropped in any case, and nobody is told anything after that.
                let _ = stopped.await;
            });
        })?;
        Ok((Some(Self { thread, stop }), receiver))
    }

    /// Ends it, with all conversations.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // One that has panicked serves nobody either.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Client;
    use protocol::{Done, Request};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A control plane in front of a control loop that knows nothing but whether it drains.
    fn with_plane(body: impl FnOnce(&std::path::Path)) {
        let folder = tempfile::tempdir().unwrap();
        let path = usual(folder.path(), "testnic");
        let socket = ControlSocket::bind(&path).unwrap();
        let (plane, mut questions) = ControlPlane::start(Some(socket), None, Known::default()).unwrap();
        let answering = std::thread::spawn(move || {
            let mut is_draining = false;
            while let Some(question) = questions.blocking_recv() {
                match question {
                    Question::Stats(reply) => drop(reply.send(Stats { is_draining, ..Stats::default() })),
                    Question::Drain { drain, reply } => {
                        is_draining = drain;
                        let _ = reply.send(());
                    }
                    Question::Health(_) | Question::Survey { .. } | Question::Reload(_) => {}
                }
            }
        });
        body(&path);
        plane.unwrap().stop();
        answering.join().unwrap();
        assert!(!path.exists(), "it leaves nothing behind");
    }

    #[test]
    fn a_conversation_goes_on_and_what_is_odd_ends_it() {
        with_plane(|path| {
            let mut client = Client::connect(path).unwrap();
            let done: Done = client.ask(&Request::Drain).unwrap();
            let stats: Stats = client.ask(&Request::Stats).unwrap();
            assert!(done.is_draining && stats.is_draining);
            let refused = client.ask::<Done>(&Request::Flush).unwrap_err().to_string();
            assert!(refused.contains("keeps no profiles"), "{refused}");
            // The loop gives no answer to this one.
            let refused = client.ask::<Done>(&Request::Reload).unwrap_err().to_string();
            assert_eq!(refused, "the daemon is stopping");
            for odd in [&b"{\"command\":\"explode\"}\n"[..], b"\xff\xfe\n", &[b' '; protocol::LONGEST + 1]] {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(odd).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap_or_default();
                assert!(answer.starts_with("{\"Err\":"), "{answer}");
            }
        });
    }

    #[test]
    fn nobody_waits_for_those_who_say_nothing() {
        with_plane(|path| {
            let silent: Vec<_> = (0..4).map(|_| UnixStream::connect(path).unwrap()).collect();
            let stats: Stats = Client::connect(path).unwrap().ask(&Request::Stats).unwrap();
            assert!(!stats.is_draining);
            drop(silent);
        });
    }
}

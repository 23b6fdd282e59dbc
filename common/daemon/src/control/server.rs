//! The daemon's end of the control socket.

use std::io;
use std::task::Context;
use std::time::Duration;

use rtt0_core::profile::Profiles;
use rtt0_core::service::{Prefix, Service};
use rtt0_core::survey;
use rtt0_netio::clock;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::protocol::{
    Done, FlowRow, Flows, Forgotten, LONGEST, MOST_ROWS, ProfileRow, Profiles as ProfileRows, Reply, Request,
};
use super::{ControlSocket, Known, Question, Questions};
use crate::listen::serve_each;

/// Conversations at a time; further ones wait to be accepted.
const CONVERSATIONS: usize = 16;
/// How long a conversation may be silent, and how long its end may take to read a reply: longer than `top` ever waits.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is said to those who ask while the daemon ends.
const STOPPING: &str = "the daemon is stopping";

/// Serves all who connect, until the runtime ends.
pub(super) async fn serve(socket: ControlSocket, questions: Questions, known: Known) {
    let listener = match socket.listener.try_clone().and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the control socket can't be served"),
    };
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    serve_each(CONVERSATIONS, accept, |stream| {
        let answerer = Answerer { questions: questions.clone(), known: known.clone() };
        // Whoever breaks off, or says nothing, is told nothing.
        async move { drop(converse(stream, &answerer).await) }
    })
    .await;
}

async fn converse(stream: UnixStream, answerer: &Answerer) -> io::Result<()> {
    let (user, process) = stream.peer_cred().map_or((None, None), |peer| (Some(peer.uid()), peer.pid()));
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        timeout(PATIENCE, (&mut lines).take(LONGEST as u64).read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let request = if line.ends_with(b"\n") {
            serde_json::from_slice::<Request>(&line).map_err(|error| format!("this can't be read: {error}"))
        } else {
            Err(format!("a request takes one line of at most {LONGEST} bytes"))
        };
        if let Ok(request) = &request
            && request.changes_something()
        {
            tracing::info!(?request, user, process, "an operator asks");
        }
        let is_odd = request.is_err();
        let mut reply = match request {
            Ok(request) => answerer.answer(request).await,
            Err(error) => write_down::<()>(Err(error)),
        };
        reply.push(b'\n');
        timeout(PATIENCE, write.write_all(&reply)).await??;
        if is_odd {
            return Ok(());
        }
    }
}

impl Request {
    fn changes_something(&self) -> bool {
        match self {
            Self::Stats | Self::Flows { .. } | Self::Profiles { .. } => false,
            Self::Drain | Self::Resume | Self::Forget { .. } | Self::Flush | Self::Reload => true,
        }
    }
}

fn write_down<T: Serialize>(reply: Reply<T>) -> Vec<u8> {
    // Fails only for maps whose keys are no strings; there are none.
    serde_json::to_vec(&reply).unwrap_or_default()
}

struct Answerer {
    questions: Questions,
    known: Known,
}

impl Answerer {
    async fn answer(&self, request: Request) -> Vec<u8> {
        match request {
            Request::Stats => {
                write_down(self.questions.ask(Question::Stats).await.ok_or_else(|| STOPPING.to_owned()))
            }
            Request::Flows { limit, client, server, state } => {
                write_down(match Wanted::new(client.as_deref(), server.as_deref(), state) {
                    Ok(wanted) => self.flows(limit.min(MOST_ROWS), &wanted).await,
                    Err(error) => Err(error),
                })
            }
            Request::Profiles { limit } => {
                write_down(self.profiles().map(|known| rows(known, limit.min(MOST_ROWS))))
            }
            Request::Drain => write_down(self.drain(true).await),
            Request::Resume => write_down(self.drain(false).await),
            Request::Forget { destination } => write_down(self.forget(&destination)),
            Request::Flush => {
                write_down(self.profiles().map(|known| Forgotten { forgotten: known.forget(|_| true) }))
            }
            Request::Reload => {
                let reply = self.questions.ask(Question::Reload).await;
                write_down(reply.unwrap_or_else(|| Err(STOPPING.to_owned())))
            }
        }
    }

    fn profiles(&self) -> Reply<&Profiles> {
        self.known
            .profiles
            .as_deref()
            .ok_or_else(|| "this daemon keeps no profiles; ClientNIC does".to_owned())
    }

    fn forget(&self, destination: &str) -> Reply<Forgotten> {
        let rule: Service = destination.parse().map_err(|error| format!("{error}"))?;
        let forgotten = self.profiles()?.forget(|(address, port)| rule.contains(*address, *port));
        Ok(Forgotten { forgotten })
    }

    async fn drain(&self, drain: bool) -> Reply<Done> {
        let done = self.questions.ask(|reply| Question::Drain { drain, reply }).await;
        done.map(|()| Done { is_draining: drain }).ok_or_else(|| STOPPING.to_owned())
    }

    /// Looks through the flows of all workers, a page at a time: between two pages packets are served.
    async fn flows(&self, limit: usize, wanted: &Wanted) -> Reply<Flows> {
        let mut found = Flows { flows: Vec::new(), total: 0 };
        for worker in 0..self.known.workers {
            let mut next = Some(0);
            while let Some(from) = next {
                let page = self.questions.ask(|reply| Question::Survey { worker, from, reply }).await;
                let (page, now) = page.ok_or_else(|| STOPPING.to_owned())?;
                next = page.next;
                for row in page.rows.iter().filter(|row| wanted.include(row)) {
                    found.total += 1;
                    if found.flows.len() < limit {
                        found.flows.push(FlowRow::new(row, now, worker));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl FlowRow {
    fn new(row: &survey::Row, now: rtt0_core::time::Instant, worker: usize) -> Self {
        Self {
            client: std::net::SocketAddr::from(row.key.client()).to_string(),
            server: std::net::SocketAddr::from(row.key.server()).to_string(),
            state: row.state.into(),
            in_kernel: row.in_kernel,
            expires_in: (row.deadline - now).as_secs_f64(),
            worker,
        }
    }
}

fn rows(profiles: &Profiles, limit: usize) -> ProfileRows {
    let row = |row: rtt0_core::profile::Row| ProfileRow {
        destination: std::net::SocketAddr::from(row.destination).to_string(),
        standing: row.standing.label().into(),
        paired: row.paired,
        mss: row.mss,
        window: row.window,
        options: row.options.into_iter().map(Into::into).collect(),
        rtt: row.rtt.map(|rtt| rtt.as_secs_f64()),
        expires_in: row.expires_in.as_secs_f64(),
    };
    let found = profiles.survey(clock::now(), limit, |_| true);
    ProfileRows { profiles: found.into_iter().map(row).collect(), total: profiles.len() }
}

/// Which flows are asked for.
struct Wanted {
    client: Option<Prefix>,
    server: Option<Service>,
    state: Option<String>,
}

impl Wanted {
    fn new(client: Option<&str>, server: Option<&str>, state: Option<String>) -> Reply<Self> {
        let client = client.map(str::parse::<Prefix>).transpose().map_err(|error| error.to_string())?;
        let server = server.map(str::parse::<Service>).transpose().map_err(|error| error.to_string())?;
        Ok(Self { client, server, state })
    }

    fn include(&self, row: &survey::Row) -> bool {
        let (client, server) = (row.key.client(), row.key.server());
        self.client.is_none_or(|prefix| prefix.contains(client.0))
            && self.server.as_ref().is_none_or(|rule| rule.contains(server.0, server.1))
            && self.state.as_ref().is_none_or(|state| state == row.state)
    }
}

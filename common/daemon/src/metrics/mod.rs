//! Metrics for Prometheus, and whether the daemon is well, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all metrics, in the text format 0.0.4 |
//! | `/healthz` | 200 while every packet thread goes round its loop, else 503 |
//! | `/readyz` | 200 while new connections are also begun, else 503: draining |

mod exposition;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::task::Context;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::control::{Health, Question, Questions};
use crate::listen::serve_each;
use crate::stats::Stats;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the control loop may take to answer before the daemon passes for ill.
const ANSWER: Duration = Duration::from_secs(2);

/// No metrics can be had at an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}; name another with --metrics-address")]
pub struct MetricsError {
    /// The address.
    address: SocketAddr,
    /// What the kernel said.
    source: io::Error,
}

/// Where metrics are asked for.
#[derive(Debug)]
pub(crate) struct MetricsSocket(TcpListener);

impl MetricsSocket {
    /// Listens.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served to other hosts too");
        }
        Ok(Self(listener))
    }

    /// Returns where.
    pub(crate) fn address(&self) -> String {
        self.0.local_addr().map_or("-".to_owned(), |address| address.to_string())
    }
}

/// Serves all who ask, until the runtime ends.
pub(crate) async fn serve(socket: MetricsSocket, questions: Questions) {
    let listener = match tokio::net::TcpListener::from_std(socket.0) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics can't be served"),
    };
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    serve_each(CONNECTIONS, accept, |stream| converse(stream, questions.clone())).await;
}

async fn converse(stream: TcpStream, questions: Questions) {
    let service = service_fn(|request| answer(request, &questions));
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 * 1024);
    // Whoever breaks off, or asks in another language, is told nothing.
    let _ = timeout(PATIENCE, connection.serve_connection(TokioIo::new(stream), service)).await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, questions: &Questions) -> Result<Answer, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    Ok(match request.uri().path() {
        "/metrics" => match ask(questions, Question::Stats).await {
            Ok(stats) => exposed(&stats),
            Err(silence) => silence,
        },
        "/healthz" => health(ask(questions, Question::Health).await, false),
        "/readyz" => health(ask(questions, Question::Health).await, true),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    })
}

/// Asks the control loop; its silence is an answer, too.
async fn ask<T>(
    questions: &Questions,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, Answer> {
    let answer = timeout(ANSWER, questions.ask(question)).await.ok().flatten();
    answer.ok_or_else(|| text(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n"))
}

fn health(health: Result<Health, Answer>, must_be_ready: bool) -> Answer {
    match health {
        Err(silence) => silence,
        Ok(Health { is_alive: false, .. }) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "a packet thread stands still\n")
        }
        Ok(Health { is_draining: true, .. }) if must_be_ready => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        }
        Ok(_) => text(StatusCode::OK, "ok\n"),
    }
}

fn exposed(stats: &Stats) -> Answer {
    match exposition::write(stats) {
        Ok((body, kind)) => reply(StatusCode::OK, body.into(), kind),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written\n")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    reply(status, body.into(), "text/plain; charset=utf-8")
}

fn reply(status: StatusCode, body: Bytes, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

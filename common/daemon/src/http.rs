//! A small HTTP server for machines that ask: only GET, only a few at a time.

use std::convert::Infallible;
use std::future::Future;
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
use tokio::time::timeout;

use crate::listen::serve_each;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(60);

/// No metrics can be had at an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}; name another address")]
pub struct MetricsError {
    /// The address.
    address: SocketAddr,
    /// What the kernel said.
    source: io::Error,
}

/// Where metrics are asked for.
#[derive(Debug)]
pub struct HttpSocket(TcpListener);

impl HttpSocket {
    /// Listens.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served to other hosts too");
        }
        Ok(Self(listener))
    }

    /// Returns where.
    pub fn address(&self) -> String {
        self.0.local_addr().map_or("-".to_owned(), |address| address.to_string())
    }

    /// Serves all who ask with what `answer` makes of a path, until the runtime ends.
    pub async fn serve<A, F>(self, answer: A)
    where
        A: Fn(String) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = match tokio::net::TcpListener::from_std(self.0) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "metrics can't be served"),
        };
        let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
        serve_each(CONNECTIONS, accept, |stream| converse(stream, answer.clone())).await;
    }
}

async fn converse<A, F>(stream: TcpStream, answer: A)
where
    A: Fn(String) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answered = is_get.then(|| answer(request.uri().path().to_owned()));
        async {
            Ok::<_, Infallible>(match answered {
                Some(answered) => answered.await,
                None => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
            })
        }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 * 1024);
    // Whoever breaks off, or asks in another language, is told nothing.
    let _ = timeout(PATIENCE, connection.serve_connection(TokioIo::new(stream), service)).await;
}

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// Makes an answer of plain text.
pub fn text(status: StatusCode, body: &'static str) -> Answer {
    reply(status, body.into(), "text/plain; charset=utf-8")
}

/// Makes an answer.
pub fn reply(status: StatusCode, body: Bytes, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

//! The endpoints of a measurement, whichever programs they are.

use super::choice::{ClientKind, Mode, ServerKind};
use super::measurement::{Collected, Sample};
use super::plan::{Installed, Step};
use crate::host::Host;
use crate::program::client::{self, FetchError, Request};
use crate::program::curl;
use crate::program::nginx::Nginx;
use crate::program::realtime;
use crate::program::server::{Server, ServerConfig};
use crate::program::tcp_info::TcpInfo;
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bound of a single exchange. A lost SYN costs 1 s, a second loss 2 s more.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// Connections with early data that may wait; sequential clients never need more than one.
const FASTOPEN_QUEUE: u32 = 64;

/// A server program under measurement; stopped when dropped.
#[derive(Debug)]
pub struct ServerUnderTest {
    last: Arc<Mutex<Option<TcpInfo>>>,
    _program: Program,
}

#[derive(Debug)]
enum Program {
    Builtin { _server: Server },
    Nginx { _nginx: Nginx },
}

impl ServerUnderTest {
    /// Starts the server of `step` on `host` and waits until it listens.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(host: &Host, installed: &Installed, step: &Step, congestion: &str) -> anyhow::Result<Self> {
        let last = Arc::new(Mutex::new(None));
        let address = step.ip.server();
        let program = match step.server {
            ServerKind::Builtin => {
                let seen = last.clone();
                let config = ServerConfig {
                    congestion: Some(congestion.to_owned()),
                    fastopen_queue: (step.mode == Mode::Tfo).then_some(FASTOPEN_QUEUE),
                    realtime: true,
                    on_served: Some(Arc::new(move |served| {
                        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(served.tcp);
                    })),
                    ..ServerConfig::new(address)
                };
                Program::Builtin { _server: host.enter(|| Server::start(config))?? }
            }
            ServerKind::Nginx => {
                let nginx = installed.nginx.as_deref().context("nginx is not installed")?;
                Program::Nginx { _nginx: Nginx::start(host, nginx, address)? }
            }
        };
        Ok(Self { last, _program: program })
    }

    /// Returns the built-in server's view of the connection it finished last.
    pub fn last_connection(&self) -> Option<TcpInfo> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client program, ready to make connections to one address.
#[derive(Debug)]
pub struct ClientUnderTest<'a> {
    host: &'a Host,
    installed: &'a Installed,
    kind: ClientKind,
    request: Request,
}

impl<'a> ClientUnderTest<'a> {
    /// Prepares the client of `step` on `host`.
    pub fn new(
        host: &'a Host,
        installed: &'a Installed,
        step: &Step,
        target: SocketAddr,
        congestion: &str,
    ) -> Self {
        let request = Request {
            congestion: Some(congestion.to_owned()),
            fastopen: step.mode == Mode::Tfo,
            timeout: TIMEOUT,
            ..Request::new(target)
        };
        Self { host, installed, kind: step.client, request }
    }

    /// Makes `count` connections one after the other and calls `after_each` after each. A
    /// connection that fails is an entry among the errors, not an error.
    ///
    /// # Errors
    /// If the client program can't be run at all.
    pub fn connect(&self, count: u32, after_each: &(dyn Fn() + Sync)) -> anyhow::Result<Collected> {
        match self.kind {
            // One thread makes them all: a fresh thread per connection would start with cold caches.
            ClientKind::Builtin => self.host.enter(|| connect_each(&self.request, count, after_each)),
            ClientKind::Curl => self.connect_curl(count, after_each),
        }
    }

    fn connect_curl(&self, count: u32, after_each: &(dyn Fn() + Sync)) -> anyhow::Result<Collected> {
        let program = self.installed.curl.as_deref().context("curl is not installed")?;
        let mut collected = Collected::default();
        for _ in 0..count {
            match curl::fetch(self.host, program, self.request.server, TIMEOUT) {
                Ok(times) => {
                    collected.samples.push(Sample { connect: times.connect, first_byte: times.first_byte });
                }
                Err(error) => collected.errors.push(format!("{error:#}")),
            }
            after_each();
        }
        Ok(collected)
    }
}

/// Has the built-in client make `count` connections one after the other from the calling thread, which runs before
/// ordinary ones from then on, where that is allowed.
pub(crate) fn connect_each(request: &Request, count: u32, after_each: &(dyn Fn() + Sync)) -> Collected {
    realtime::run_first();
    let mut collected = Collected::default();
    for _ in 0..count {
        match client::fetch(request) {
            Ok(exchange) if exchange.status == 200 => {
                let (connect, first_byte) = (exchange.connect, exchange.first_byte);
                collected.samples.push(Sample { connect, first_byte });
                collected.client_tcp = Some(exchange.tcp);
            }
            Ok(exchange) => collected.errors.push(format!("the server answered {}", exchange.status)),
            Err(FetchError { stage, source, .. }) => collected.errors.push(format!("{stage}: {source}")),
        }
        after_each();
    }
    collected
}

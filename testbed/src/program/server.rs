//! The built-in HTTP/1.1 server: blocking sockets, one thread per connection.
//!
//! Threads wait in accept(2) before there is anything to accept: with early data the request comes
//! together with the connection, and starting a thread would count as time to first byte.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a small text |
//! | `GET /bytes/N` | the first N bytes of [`stream::Stream`] with [`stream::SEED`] |
//! | `POST /upload` | SHA-256 of the body, in hexadecimal |
//!
//! A connection is closed without a reset: the server ends its direction first, then reads what
//! the client still sends until the client ends its own.

use super::http::Head;
use super::tcp_info::TcpInfo;
use super::{realtime, socket, stream};
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;
/// A client that stays silent for this long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// Threads that wait for connections at least, as long as threads can be had.
const IDLE_AT_LEAST: usize = 4;
/// A thread that finds so many others waiting when its connection is over ends.
const IDLE_AT_MOST: usize = 128;
/// Body of `GET /`.
const GREETING: &str = "hello from the server\n";

/// A connection the server has finished with, as seen from its end.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Address of the client, or of the proxy in its place.
    pub peer: SocketAddr,
    /// Requests answered on this connection.
    pub requests: u32,
    /// The kernel's view, taken when the last response had been sent and the client had ended its
    /// direction.
    pub tcp: TcpInfo,
}

/// Called once for every finished connection, on that connection's thread.
pub type ServedHook = Arc<dyn Fn(Served) + Send + Sync>;

/// How the server listens.
#[derive(Clone)]
pub struct ServerConfig {
    /// Address to listen on; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Congestion control of every connection, else the namespace's default.
    pub congestion: Option<String>,
    /// Length of the TCP Fast Open queue (RFC 7413); `None` leaves it off.
    pub fastopen_queue: Option<u32>,
    /// Send no faster than so many bytes a second on each connection; see [`socket::pace`].
    pub pace: Option<u32>,
    /// Let the serving threads run before ordinary ones, where allowed; see [`realtime`].
    pub realtime: bool,
    /// Told of every finished connection.
    pub on_served: Option<ServedHook>,
}

impl ServerConfig {
    /// Listens on `address` with nothing else set.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, congestion: None, fastopen_queue: None, pace: None, realtime: false, on_served: None }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("address", &self.address)
            .field("congestion", &self.congestion)
            .field("fastopen_queue", &self.fastopen_queue)
            .field("pace", &self.pace)
            .field("realtime", &self.realtime)
            .finish_non_exhaustive()
    }
}

/// A running server. It stops listening when dropped; connections under way end by themselves.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    pool: Arc<Pool>,
}

impl Server {
    /// Listens in the network namespace of the calling thread (so call it inside
    /// `Host::enter`) and serves on threads of its own; the sockets stay in that namespace
    /// wherever the value goes.
    ///
    /// # Errors
    /// What `socket`, `bind` or `listen` said, with the address; or that no thread can be had.
    pub fn start(config: ServerConfig) -> anyhow::Result<Self> {
        let listener = listen(&config)
            .with_context(|| format!("the built-in server can't listen on {}", config.address))?;
        let address = listener.local_addr().context("address of the built-in server")?;
        let pool = Arc::new(Pool {
            listener,
            stopping: AtomicBool::new(false),
            idle: AtomicUsize::new(0),
            realtime: config.realtime,
            on_served: config.on_served,
        });
        // If not all threads can be had, those that were started must not listen on.
        let server = Self { address, pool };
        for _ in 0..IDLE_AT_LEAST {
            server.pool.grow().context("thread of the built-in server")?;
        }
        Ok(server)
    }

    /// Returns the address the server listens on, with the port the kernel chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process ends.
    pub fn wait(self) {
        while !self.pool.stopping.load(Ordering::Relaxed) {
            std::thread::park();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pool.stopping.store(true, Ordering::Relaxed);
        // On Linux shutting a listening socket down wakes every blocked accept(2) with EINVAL, and
        // the port is free at once; threads that serve still end with their connections.
        let _ = socket2::SockRef::from(&self.pool.listener).shutdown(Shutdown::Both);
    }
}

/// The threads that accept and serve.
struct Pool {
    listener: TcpListener,
    stopping: AtomicBool,
    /// Threads that wait for a connection.
    idle: AtomicUsize,
    realtime: bool,
    on_served: Option<ServedHook>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts another thread.
    fn grow(self: &Arc<Self>) -> io::Result<()> {
        self.idle.fetch_add(1, Ordering::Relaxed);
        let pool = self.clone();
        let started = std::thread::Builder::new().name("http-serve".into()).spawn(move || pool.work());
        if started.is_err() {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// Serves one connection after the other, until the server stops or too many threads wait.
    fn work(self: &Arc<Self>) {
        if self.realtime {
            realtime::run_first();
        }
        while !self.stopping.load(Ordering::Relaxed) {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(_) if self.stopping.load(Ordering::Relaxed) => return,
                // The client gave up while it waited in the backlog; accept(2) lists more such errors.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    eprintln!("built-in server: accept: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if self.idle.fetch_sub(1, Ordering::Relaxed) < IDLE_AT_LEAST
                && let Err(error) = self.grow()
            {
                eprintln!("built-in server: no further thread, connections must wait: {error}");
            }
            let (requests, tcp) = serve(&stream);
            drop(stream);
            if let Some(hook) = &self.on_served {
                hook(Served { peer, requests, tcp });
            }
            if self.idle.fetch_add(1, Ordering::Relaxed) >= IDLE_AT_MOST {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn listen(config: &ServerConfig) -> io::Result<TcpListener> {
    // Accepted sockets inherit the congestion control of the listening one.
    let socket = socket::tcp(config.address, config.congestion.as_deref())?;
    socket.set_reuse_address(true)?;
    if let Some(rate) = config.pace {
        socket::pace(&socket, rate)?;
    }
    if config.address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&config.address.into())?;
    if let Some(queue) = config.fastopen_queue {
        socket::enable_fastopen(&socket, queue)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves one connection to its end. A client that resets or falls silent ends it early, which is
/// the client's business and no error here.
fn serve(stream: &TcpStream) -> (u32, TcpInfo) {
    let mut requests = 0;
    // A response is written in as few pieces as possible; waiting for more would only cost time.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE));
    let _ = stream.set_write_timeout(Some(IDLE));
    let finished = serve_requests(stream, &mut requests).and_then(|()| {
        stream.shutdown(Shutdown::Write)?;
        // Data that arrives after close(2) is answered with a reset, so take it first.
        io::copy(&mut &*stream, &mut io::sink())
    });
    // The client's reset is a possible end of a connection; the kernel's view is worth having still.
    let _ = finished;
    (requests, socket::tcp_info(stream).unwrap_or_default())
}

fn serve_requests(stream: &TcpStream, requests: &mut u32) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut writer = BufWriter::with_capacity(64 * 1024, stream);
    while let Some(head) = Head::read(&mut reader)? {
        answer(&head, &mut reader, &mut writer)?;
        writer.flush()?;
        *requests += 1;
        if head.close {
            break;
        }
    }
    Ok(())
}

fn answer(head: &Head, reader: &mut impl Read, writer: &mut impl Write) -> io::Result<()> {
    let body = head.content_length.unwrap_or(0);
    let route = head.request();
    if let Some(("POST", "/upload")) = route {
        let digest = stream::hex(&digest_of(&mut reader.take(body))?);
        write!(writer, "{}", response_head(200, "OK", digest.len() as u64, head.close))?;
        return writer.write_all(digest.as_bytes());
    }
    io::copy(&mut reader.take(body), &mut io::sink())?;
    let length = match route {
        Some(("GET", target)) => target.strip_prefix("/bytes/").and_then(|count| count.parse().ok()),
        _ => None,
    };
    match (route, length) {
        (Some(("GET", "/")), _) => {
            write!(writer, "{}{GREETING}", response_head(200, "OK", GREETING.len() as u64, head.close))
        }
        (_, Some(length)) => {
            write!(writer, "{}", response_head(200, "OK", length, head.close))?;
            stream::for_each_piece(stream::SEED, length, |piece| writer.write_all(piece))
        }
        _ => write!(writer, "{}", response_head(404, "Not Found", 0, head.close)),
    }
}

fn response_head(code: u16, reason: &str, length: u64, close: bool) -> String {
    let connection = if close { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    )
}

fn digest_of(reader: &mut impl Read) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

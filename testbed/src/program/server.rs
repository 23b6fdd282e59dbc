//! The built-in HTTP/1.1 server: blocking sockets, one thread per connection.
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
use super::{socket, stream};
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;
/// A client that stays silent for this long is given up.
const IDLE: Duration = Duration::from_secs(60);
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
    /// Told of every finished connection.
    pub on_served: Option<ServedHook>,
}

impl ServerConfig {
    /// Listens on `address` with nothing else set.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, congestion: None, fastopen_queue: None, on_served: None }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("address", &self.address)
            .field("congestion", &self.congestion)
            .field("fastopen_queue", &self.fastopen_queue)
            .finish_non_exhaustive()
    }
}

/// A running server. It stops listening when dropped; connections under way end by themselves.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in the network namespace of the calling thread (so call it inside
    /// `Host::enter`) and accepts on a thread of its own; the sockets stay in that namespace
    /// wherever the value goes.
    ///
    /// # Errors
    /// What `socket`, `bind` or `listen` said, with the address.
    pub fn start(config: ServerConfig) -> anyhow::Result<Self> {
        let listener = Arc::new(
            listen(&config)
                .with_context(|| format!("the built-in server can't listen on {}", config.address))?,
        );
        let address = listener.local_addr().context("address of the built-in server")?;
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::Builder::new()
            .name("http-accept".into())
            .spawn({
                let (listener, stopping) = (listener.clone(), stopping.clone());
                move || accept_loop(&listener, &stopping, config.on_served)
            })
            .context("thread of the built-in server")?;
        Ok(Self { address, listener, stopping, acceptor: Some(acceptor) })
    }

    /// Returns the address the server listens on, with the port the kernel chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server ends, which it does only when it can't accept any more.
    pub fn wait(mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            // The acceptor has nothing to return, and its panic was printed already.
            let _ = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // On Linux shutting a listening socket down wakes the blocked accept(2) with EINVAL.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn listen(config: &ServerConfig) -> io::Result<TcpListener> {
    // Accepted sockets inherit the congestion control of the listening one.
    let socket = socket::tcp(config.address, config.congestion.as_deref())?;
    socket.set_reuse_address(true)?;
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

fn accept_loop(listener: &TcpListener, stopping: &AtomicBool, on_served: Option<ServedHook>) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let on_served = on_served.clone();
                let spawned = std::thread::Builder::new().name("http-serve".into()).spawn(move || {
                    let (requests, tcp) = serve(&stream);
                    if let Some(hook) = on_served {
                        hook(Served { peer, requests, tcp });
                    }
                });
                if let Err(error) = spawned {
                    eprintln!("built-in server: connection of {peer} refused, no thread: {error}");
                }
            }
            Err(_) if stopping.load(Ordering::Relaxed) => return,
            // The client gave up while it waited in the backlog; accept(2) lists more such errors.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                eprintln!("built-in server: accept: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
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

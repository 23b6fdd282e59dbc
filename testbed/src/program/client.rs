//! The built-in client: one request on one fresh connection, with the times that matter.

use super::http::Head;
use super::tcp_info::TcpInfo;
use super::{socket, stream};
use sha2::{Digest, Sha256};
use socket2::Socket;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// `GET /`: a small answer.
    Greeting,
    /// `GET /bytes/N`: N bytes.
    Download(u64),
    /// `POST /upload` of N bytes of the stream of [`stream::SEED`]; the answer is their digest.
    Upload(u64),
}

/// One connection to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub server: SocketAddr,
    /// What to ask.
    pub ask: Ask,
    /// Congestion control, else the namespace's default.
    pub congestion: Option<String>,
    /// Address and port to connect from, else the kernel's choice. `SO_REUSEADDR` is set on it.
    pub local: Option<SocketAddr>,
    /// Send the request with the SYN if the kernel holds a cookie (RFC 7413).
    pub fastopen: bool,
    /// Bound of the whole exchange.
    pub timeout: Duration,
    /// Send no faster than so many bytes a second; see [`socket::pace`].
    pub pace: Option<u32>,
    /// Size of the receive buffer in bytes, else as the kernel sees fit; the kernel doubles it.
    pub receive_buffer: Option<usize>,
}

impl Request {
    /// Asks `server` for the small answer, within 30 s, with nothing else set.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            ask: Ask::Greeting,
            congestion: None,
            local: None,
            fastopen: false,
            timeout: Duration::from_secs(30),
            pace: None,
            receive_buffer: None,
        }
    }

    /// Asks for something else.
    #[must_use]
    pub fn ask(self, ask: Ask) -> Self {
        Self { ask, ..self }
    }
}

/// A finished exchange. All times count from just before `connect(2)`.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// When `connect(2)` returned; with Fast Open, when `sendto(2)` did.
    pub connect: Duration,
    /// When the first byte of the response was read.
    pub first_byte: Duration,
    /// When the server had closed.
    pub total: Duration,
    /// Status code of the response.
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// SHA-256 of the response's body.
    pub sha256: [u8; 32],
    /// The body itself if it has at most 64 bytes (the digest an upload is answered with), else empty.
    pub small_body: Vec<u8>,
    /// The kernel's view of the connection when the response was complete.
    pub tcp: TcpInfo,
    /// Our end of the connection.
    pub local: SocketAddr,
}

/// Where an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before anything was sent: socket, option or bind.
    Prepare,
    /// In `connect(2)`, or `sendto(2)` with Fast Open.
    Connect,
    /// While the request was sent.
    Send,
    /// Before the first byte of the response.
    FirstByte,
    /// In the rest of the response.
    Receive,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "preparing the socket",
            Self::Connect => "connecting",
            Self::Send => "sending the request",
            Self::FirstByte => "waiting for the first byte",
            Self::Receive => "receiving the response",
        })
    }
}

/// A failed exchange.
#[derive(Debug)]
pub struct FetchError {
    /// What was being done.
    pub stage: Stage,
    /// Time since just before `connect(2)`.
    pub after: Duration,
    /// What the system said. `TimedOut` or `WouldBlock` if the bound of the request ran out.
    pub source: io::Error,
}

impl FetchError {
    /// Returns the system's error number, for example `libc::ECONNREFUSED`.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed after {:.1} ms", self.stage, self.after.as_secs_f64() * 1e3)
    }
}

impl std::error::Error for FetchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Makes one exchange in the calling thread's network namespace and waits for its end.
///
/// # Errors
/// [`FetchError`] with the stage and the system's error.
pub fn fetch(request: &Request) -> Result<Exchange, FetchError> {
    let prepared = prepare(request);
    let start = Instant::now();
    let fail = |stage| move |source: io::Error| FetchError { stage, after: start.elapsed(), source };
    let socket = prepared.map_err(fail(Stage::Prepare))?;
    let deadline = start + request.timeout;
    let head = request_head(request);
    let sent = connect(&socket, request, head.as_bytes()).map_err(fail(Stage::Connect))?;
    let connect = start.elapsed();

    let mut stream = TcpStream::from(socket);
    send(&mut stream, request.ask, &head.as_bytes()[sent..]).map_err(fail(Stage::Send))?;
    let mut reader = BufReader::with_capacity(64 * 1024, Bounded { stream: &stream, deadline });
    reader.fill_buf().map_err(fail(Stage::FirstByte))?;
    let first_byte = start.elapsed();

    let response = receive(&mut reader).map_err(fail(Stage::Receive))?;
    let tcp = socket::tcp_info(&stream).map_err(fail(Stage::Receive))?;
    // The server closes after its answer; to have seen its FIN before our own makes the end orderly.
    io::copy(&mut reader, &mut io::sink()).map_err(fail(Stage::Receive))?;
    let total = start.elapsed();
    let local = stream.local_addr().map_err(fail(Stage::Receive))?;
    let Response { status, bytes, sha256, small_body } = response;
    Ok(Exchange { connect, first_byte, total, status, bytes, sha256, small_body, tcp, local })
}

fn prepare(request: &Request) -> io::Result<Socket> {
    let socket = socket::tcp(request.server, request.congestion.as_deref())?;
    socket.set_tcp_nodelay(true)?;
    // SO_SNDTIMEO bounds connect(2) as well as send(2); see socket(7).
    socket.set_write_timeout(Some(request.timeout))?;
    if let Some(rate) = request.pace {
        socket::pace(&socket, rate)?;
    }
    if let Some(size) = request.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(local) = request.local {
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    Ok(socket)
}

/// Connects; returns how many bytes of `head` went with the SYN.
fn connect(socket: &Socket, request: &Request, head: &[u8]) -> io::Result<usize> {
    let connected = if request.fastopen {
        socket::connect_with_data(socket, head, request.server)
    } else {
        socket.connect(&request.server.into()).map(|()| 0)
    };
    connected.map_err(|error| match error.raw_os_error() {
        // How a blocking connect(2) reports that SO_SNDTIMEO ran out.
        Some(libc::EINPROGRESS) => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

fn request_head(request: &Request) -> String {
    let line = match request.ask {
        Ask::Greeting => "GET / HTTP/1.1".to_owned(),
        Ask::Download(bytes) => format!("GET /bytes/{bytes} HTTP/1.1"),
        Ask::Upload(bytes) => format!("POST /upload HTTP/1.1\r\nContent-Length: {bytes}"),
    };
    format!(
        "{line}\r\nHost: {}\r\nUser-Agent: testbed\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        request.server
    )
}

fn send(stream: &mut TcpStream, ask: Ask, head: &[u8]) -> io::Result<()> {
    stream.write_all(head)?;
    match ask {
        Ask::Upload(bytes) => stream::for_each_piece(stream::SEED, bytes, |piece| stream.write_all(piece)),
        _ => Ok(()),
    }
}

struct Response {
    status: u16,
    bytes: u64,
    sha256: [u8; 32],
    small_body: Vec<u8>,
}

fn receive(reader: &mut impl BufRead) -> io::Result<Response> {
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed before its response");
    let head = Head::read(reader)?.ok_or_else(closed)?;
    let status = head
        .status()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1.1"))?;
    let mut body = reader.take(head.content_length.unwrap_or(u64::MAX));
    let (mut hasher, mut bytes, mut small_body) = (Sha256::new(), 0_u64, Vec::new());
    loop {
        let piece = body.fill_buf()?;
        let count = piece.len();
        if count == 0 {
            break;
        }
        hasher.update(piece);
        bytes += count as u64;
        if bytes <= 64 {
            small_body.extend_from_slice(piece);
        } else {
            small_body.clear();
        }
        body.consume(count);
    }
    match head.content_length {
        Some(length) if length != bytes => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the response ended after {bytes} of {length} bytes"),
        )),
        _ => Ok(Response { status, bytes, sha256: hasher.finalize().into(), small_body }),
    }
}

/// Reads that together end at a deadline, however slowly bytes trickle in.
struct Bounded<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::server::{Served, Server, ServerConfig};
    use std::net::TcpListener;
    use std::sync::{Arc, mpsc};

    fn local_server() -> Server {
        Server::start(ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap()
    }

    #[test]
    fn greeting_over_loopback() {
        let server = local_server();
        let exchange = fetch(&Request::new(server.address())).unwrap();
        assert_eq!(exchange.status, 200);
        assert_eq!(exchange.small_body, b"hello from the server\n");
        assert!(exchange.connect <= exchange.first_byte && exchange.first_byte <= exchange.total);
        assert!(exchange.tcp.snd_mss > 0 && exchange.tcp.sack());
    }

    #[test]
    fn download_is_the_seeded_stream() {
        let server = local_server();
        for bytes in [0, 1, 65_536, 1_000_003] {
            let exchange = fetch(&Request::new(server.address()).ask(Ask::Download(bytes))).unwrap();
            assert_eq!(exchange.bytes, bytes);
            assert_eq!(exchange.sha256, stream::digest(stream::SEED, bytes));
        }
    }

    #[test]
    fn upload_is_answered_with_its_digest() {
        let server = local_server();
        for bytes in [0, 1, 300_001] {
            let exchange = fetch(&Request::new(server.address()).ask(Ask::Upload(bytes))).unwrap();
            let expected = stream::hex(&stream::digest(stream::SEED, bytes));
            assert_eq!(String::from_utf8(exchange.small_body).unwrap(), expected);
        }
    }

    #[test]
    fn unknown_target_is_not_found_and_the_connection_lives_on() {
        let server = local_server();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        for _ in 0..2 {
            stream.write_all(b"GET /nothing HTTP/1.1\r\n\r\n").unwrap();
            let head = Head::read(&mut BufReader::new(&stream)).unwrap().unwrap();
            assert_eq!(head.status(), Some(404));
        }
    }

    #[test]
    fn server_reports_each_connection() {
        let (sender, receiver) = mpsc::channel::<Served>();
        let server = Server::start(ServerConfig {
            on_served: Some(Arc::new(move |served| sender.send(served).unwrap())),
            ..ServerConfig::new(([127, 0, 0, 1], 0).into())
        })
        .unwrap();
        let exchange = fetch(&Request::new(server.address()).ask(Ask::Download(5000))).unwrap();
        let served = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((served.peer, served.requests), (exchange.local, 1));
        assert!(served.tcp.snd_mss > 0 && served.tcp.bytes_acked >= 5000, "{:?}", served.tcp);
    }

    #[test]
    fn refused_connection_gives_its_errno() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = fetch(&Request::new(closed)).unwrap_err();
        assert_eq!((error.stage, error.errno()), (Stage::Connect, Some(libc::ECONNREFUSED)));
    }

    #[test]
    fn silent_server_is_bounded() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let request =
            Request { timeout: Duration::from_millis(50), ..Request::new(silent.local_addr().unwrap()) };
        assert_eq!(fetch(&request).unwrap_err().stage, Stage::FirstByte);
    }

    #[test]
    fn cut_response_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            Head::read(&mut BufReader::new(&stream)).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").unwrap();
        });
        let error = fetch(&Request::new(address)).unwrap_err();
        assert_eq!(error.stage, Stage::Receive);
        assert!(error.source.to_string().contains("3 of 10"));
        server.join().unwrap();
    }

    #[test]
    fn stopped_server_refuses() {
        let server = local_server();
        let address = server.address();
        drop(server);
        assert_eq!(fetch(&Request::new(address)).unwrap_err().errno(), Some(libc::ECONNREFUSED));
    }
}

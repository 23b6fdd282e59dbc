//! A few connections with a blocking thread each: echoes, and bytes without end or in number.
//!
//! A client begins with nine bytes: what it wants ([`Wish`]) and how many bytes of it, big endian.

use crate::program::{realtime, socket};
use anyhow::Context;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes handed to the kernel at a time: enough that system calls cost nothing.
pub const PIECE: usize = 256 * 1024;
/// A peer that is silent for this long is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// What a client wants of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Every byte back at once.
    Echo,
    /// So many bytes.
    Down(u64),
    /// To send until it closes.
    Up,
}

impl Wish {
    fn encode(self) -> [u8; 9] {
        let (kind, count) = match self {
            Self::Echo => (b'e', 0),
            Self::Down(count) => (b'd', count),
            Self::Up => (b'u', 0),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&u64::to_be_bytes(count));
        bytes
    }

    fn decode([kind, count @ ..]: [u8; 9]) -> Option<Self> {
        match kind {
            b'e' => Some(Self::Echo),
            b'd' => Some(Self::Down(u64::from_be_bytes(count))),
            b'u' => Some(Self::Up),
            _ => None,
        }
    }
}

/// A running server. It stops listening when dropped; its connections end with their clients.
#[derive(Debug)]
pub struct StreamServer {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl StreamServer {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the system said, with the address.
    pub fn start(address: SocketAddr, congestion: Option<&str>) -> anyhow::Result<Self> {
        let listen = || -> io::Result<TcpListener> {
            let socket = socket::tcp(address, congestion)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        let listener = Arc::new(listen().with_context(|| format!("can't listen on {address}"))?);
        let (stopping, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let server =
            Self { listener: listener.clone(), stopping: stopping.clone(), received: received.clone() };
        std::thread::Builder::new().name("stream-accept".into()).spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else { continue };
                let received = received.clone();
                let serve = move || {
                    // The client may leave at any time: that is how a measurement ends.
                    let _ = serve(&stream, &received);
                };
                if let Err(error) = std::thread::Builder::new().name("stream-serve".into()).spawn(serve) {
                    eprintln!("no thread for another connection: {error}");
                }
            }
        })?;
        Ok(server)
    }

    /// Returns how many bytes have come in altogether.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for StreamServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes accept(2), on Linux.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

fn serve(mut stream: &TcpStream, received: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut wish = [0; 9];
    stream.read_exact(&mut wish)?;
    match Wish::decode(wish).ok_or(io::ErrorKind::InvalidData)? {
        Wish::Echo => {
            realtime::run_first();
            let mut byte = [0; 64];
            loop {
                match stream.read(&mut byte)? {
                    0 => return Ok(()),
                    count => stream.write_all(&byte[..count])?,
                }
            }
        }
        Wish::Down(count) => send(stream, count),
        Wish::Up => drain(stream, received).map(drop),
    }
}

/// Sends `count` bytes of nothing in particular.
///
/// # Errors
/// The peer closed, or took nothing for too long.
pub fn send(mut stream: &TcpStream, count: u64) -> io::Result<()> {
    let piece = vec![0x5a; PIECE];
    let mut left = count;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(&piece[..size])?;
        left -= size as u64;
    }
    Ok(())
}

/// Reads to the end and counts, into `counter` as well while it goes on. Returns the count.
///
/// # Errors
/// The peer reset the connection or was silent for too long.
pub fn drain(mut stream: &TcpStream, counter: &AtomicU64) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut sum = 0;
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(sum),
            count => {
                counter.fetch_add(count as u64, Ordering::Relaxed);
                sum += count as u64;
            }
        }
    }
}

/// Connects in the calling thread's network namespace and says what is wanted.
///
/// # Errors
/// What `connect(2)` or `send(2)` said.
pub fn connect(target: SocketAddr, congestion: Option<&str>, wish: Wish) -> io::Result<TcpStream> {
    let socket = socket::tcp(target, congestion)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&target.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&wish.encode())?;
    Ok(stream)
}

/// Makes a few exchanges of one byte, so that the NICs know the destination.
///
/// # Errors
/// One failed.
pub fn warm_up(target: SocketAddr) -> io::Result<()> {
    for _ in 0..3 {
        let stream = connect(target, None, Wish::Down(1))?;
        drain(&stream, &AtomicU64::new(0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> (StreamServer, SocketAddr) {
        let server = StreamServer::start(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = server.listener.local_addr().unwrap();
        (server, address)
    }

    #[test]
    fn wishes_survive_the_wire() {
        for wish in [Wish::Echo, Wish::Down(u64::MAX), Wish::Down(7), Wish::Up] {
            assert_eq!(Wish::decode(wish.encode()), Some(wish));
        }
        assert_eq!(Wish::decode([0; 9]), None);
    }

    #[test]
    fn bytes_come_down_in_number_and_come_back_one_by_one() {
        let (_server, address) = server();
        warm_up(address).unwrap();
        let stream = connect(address, None, Wish::Down(1_000_003)).unwrap();
        assert_eq!(drain(&stream, &AtomicU64::new(0)).unwrap(), 1_000_003);
        let mut echo = connect(address, None, Wish::Echo).unwrap();
        echo.write_all(b"x").unwrap();
        let mut byte = [0];
        echo.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn what_goes_up_is_counted() {
        let (server, address) = server();
        let stream = connect(address, None, Wish::Up).unwrap();
        send(&stream, 700_000).unwrap();
        drop(stream);
        while server.received() < 700_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(server.received(), 700_000);
    }
}

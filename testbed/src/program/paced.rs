//! Connections that carry data at a fixed rate, like calls or video: their goodput tells what a
//! path is worth while something else happens on it.

use super::{realtime, socket};
use crate::topology::Topology;
use anyhow::Context;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two pieces.
const TICK: Duration = Duration::from_millis(10);
/// What may be made up for after a stall: a longer one is lost goodput.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes a second, each way, of one connection.
pub const RATE: u64 = 3_000_000;

/// Established connections. Dropping it closes them.
#[derive(Debug)]
pub struct Paced {
    streams: Vec<TcpStream>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Paced {
    /// Makes `count` connections from the client to `server`, which must be free on the server's
    /// host, and starts to send [`RATE`] both ways on each.
    ///
    /// # Errors
    /// A connection can't be made, or a thread can't be had.
    pub fn start(topology: &Topology, server: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let listener = topology.server.enter(|| listen(server))?.context("can't listen")?;
        let mut paced = Self { streams: Vec::new(), received: Arc::default(), stop: Arc::default() };
        for _ in 0..count {
            let mut near = topology.client.enter(|| connect(server))?.context("can't connect")?;
            // The client speaks first.
            near.write_all(&[0]).context("can't send")?;
            let (far, _) = listener.accept().context("can't accept")?;
            for end in [near, far] {
                paced.run(end)?;
            }
        }
        Ok(paced)
    }

    fn run(&mut self, end: TcpStream) -> anyhow::Result<()> {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
        let (reader, writer) = (end.try_clone()?, end.try_clone()?);
        self.streams.push(end);
        let (received, stop) = (Arc::clone(&self.received), Arc::clone(&self.stop));
        thread::Builder::new().name("paced-read".into()).spawn(move || read(reader, &received))?;
        thread::Builder::new().name("paced-write".into()).spawn(move || write(writer, &stop))?;
        Ok(())
    }

    /// Returns how many bytes have been received so far, on all connections, both ways.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            // It may have ended already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Real-time priority, above the daemons' and the delay line's: on hosts of their own these threads
/// would not compete with them.
const PRIORITY: i32 = 45;
/// BBR would take long to forget the handshake's RTT, if that was spoofed, and send less than asked.
const CONGESTION: &str = "cubic";

fn listen(server: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket::tcp(server, Some(CONGESTION))?;
    socket.bind(&server.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket::tcp(server, Some(CONGESTION))?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// Counts until the connection ends; that it does shows in the count.
fn read(mut stream: TcpStream, received: &AtomicU64) {
    realtime::run_at(PRIORITY);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Sends until told to stop or the connection ends.
fn write(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    realtime::run_at(PRIORITY);
    let buffer = vec![0x55; bytes_in(CATCH_UP)];
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        let now = Instant::now();
        stream.write_all(&buffer[..bytes_in((now - last).min(CATCH_UP))])?;
        last = now;
    }
    Ok(())
}

fn bytes_in(time: Duration) -> usize {
    (time.as_micros() as u64 * RATE / 1_000_000) as usize
}

//! Reading the path RTT back: datagrams there and back, through the kernels on the way.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::host::Host;

/// Probes that are sent.
const PROBES: usize = 21;
/// Probes that must come back for a median to be believed.
const ENOUGH: usize = 11;
/// Time between two probes; short enough that a path of 200 ms is measured in half a second.
const INTERVAL: Duration = Duration::from_millis(8);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Measures the RTT between `client` and an echo on `server` at `address`: the median of at least
/// eleven datagrams.
///
/// # Errors
/// Sockets cannot be made, or too few probes come back.
pub(crate) fn measure(client: &Host, server: &Host, address: IpAddr) -> anyhow::Result<Duration> {
    let echo = server.enter(|| UdpSocket::bind((address, 0)))?.context("cannot bind the RTT echo")?;
    let target = echo.local_addr()?;
    let probe = client.enter(|| connected(target))?.context("cannot bind the RTT probe")?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
    let mut samples = thread::scope(|scope| {
        let reflector = scope.spawn(|| reflect(&echo, stop.as_fd()));
        // The first round resolves neighbours and wakes caches; it is not counted.
        let samples = volley(&probe, 3).and_then(|_| volley(&probe, PROBES));
        let stopped = rustix::io::write(&stop, &1_u64.to_ne_bytes());
        let reflected = reflector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        stopped?;
        reflected.context("the RTT echo failed")?;
        samples.context("the RTT probe failed")
    })?;
    if samples.len() < ENOUGH {
        bail!("only {} of {PROBES} RTT probes to {target} came back: is the path up?", samples.len());
    }
    samples.sort_unstable();
    Ok(samples[samples.len() / 2])
}

fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// Sends every datagram back until `stop` becomes readable.
fn reflect(echo: &UdpSocket, stop: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let mut fds = [PollFd::new(echo, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        poll(&mut fds, None)?;
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        let (length, from) = echo.recv_from(&mut buffer)?;
        echo.send_to(&buffer[..length], from)?;
    }
}

/// Sends `count` probes at an even pace and returns the RTTs of those that come back.
fn volley(probe: &UdpSocket, count: usize) -> io::Result<Vec<Duration>> {
    let mut sent: Vec<Option<Instant>> = Vec::with_capacity(count);
    let mut samples = Vec::with_capacity(count);
    let start = Instant::now();
    loop {
        let next = INTERVAL * u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let deadline = if sent.len() < count { next } else { next + PATIENCE };
        let left = deadline.saturating_sub(start.elapsed());
        if let Some(number) = answer(probe, left)? {
            // A probe's second answer (the path duplicates packets) finds its time taken.
            if let Some(at) = sent.get_mut(number).and_then(Option::take) {
                samples.push(at.elapsed());
            }
        } else if sent.len() < count {
            sent.push(Some(Instant::now()));
            probe.send(&[u8::try_from(sent.len() - 1).unwrap_or(u8::MAX)])?;
        } else {
            return Ok(samples);
        }
        if samples.len() == count {
            return Ok(samples);
        }
    }
}

/// Waits up to `timeout` for an answer and returns the number of its probe.
fn answer(probe: &UdpSocket, timeout: Duration) -> io::Result<Option<usize>> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(probe, PollFlags::IN)], Some(&timeout))? == 0 {
        return Ok(None);
    }
    let mut buffer = [0; 64];
    let length = probe.recv(&mut buffer)?;
    Ok(buffer[..length].first().map(|number| usize::from(*number)))
}

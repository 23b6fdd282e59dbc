//! Reading the path RTT back: ICMP echoes, answered by the server's kernel and timed by the client's.
//!
//! No program has to wake up at either end, so what is measured is the path's RTT and not the
//! scheduler's mood: a comparison divides by it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rtt0_core::wire::checksum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::ClockId;
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::receive_timed;
use super::port::clock;
use crate::host::Host;

/// Probes that are sent.
const PROBES: usize = 21;
/// Probes that must come back for a median to be believed.
const ENOUGH: usize = 11;
/// Time between two probes; short enough that a path of 200 ms is measured in half a second.
const INTERVAL: Duration = Duration::from_millis(8);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Length of an echo message in bytes (RFC 792, RFC 4443 §4.1).
const ECHO: usize = 8;

/// Measures the RTT between `client` and the host at `address`: the median of at least eleven
/// echoes. Needs `CAP_NET_RAW`.
///
/// # Errors
/// The socket cannot be made, or too few probes come back.
pub(crate) fn measure(client: &Host, address: IpAddr) -> anyhow::Result<Duration> {
    client.enter(|| measure_here(address))?
}

/// As [`measure`], from the calling thread's network namespace.
pub(crate) fn measure_here(address: IpAddr) -> anyhow::Result<Duration> {
    let pinger = Pinger::open(address).context("cannot open a socket for ICMP echoes")?;
    // The first round resolves neighbours and wakes caches; it is not counted.
    let samples = pinger.volley(0, 3).and_then(|_| pinger.volley(3, PROBES));
    let mut samples = samples.context("the RTT probe failed")?;
    if samples.len() < ENOUGH {
        bail!("only {} of {PROBES} RTT probes to {address} came back: is the path up?", samples.len());
    }
    samples.sort_unstable();
    Ok(samples[samples.len() / 2])
}

/// A raw socket for echoes to one host.
struct Pinger {
    socket: Socket,
    v6: bool,
}

impl Pinger {
    fn open(address: IpAddr) -> io::Result<Self> {
        let v6 = address.is_ipv6();
        let (domain, protocol) =
            if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.connect(&SocketAddr::new(address, 0).into())?;
        let on: libc::c_int = 1;
        // SAFETY: setsockopt(2) reads one `c_int`, which outlives the call.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPNS,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { socket, v6 }) }
    }

    /// Sends `count` echoes numbered from `first` at an even pace and returns the RTTs of those
    /// that come back.
    fn volley(&self, first: u16, count: usize) -> io::Result<Vec<Duration>> {
        let mut sent: Vec<Option<Duration>> = Vec::with_capacity(count);
        let mut samples = Vec::with_capacity(count);
        let start = Instant::now();
        while samples.len() < count {
            let next = INTERVAL * u32::try_from(sent.len()).unwrap_or(u32::MAX);
            let deadline = if sent.len() < count { next } else { next + PATIENCE };
            let left = deadline.saturating_sub(start.elapsed());
            if let Some((number, at)) = self.answer(left)? {
                let index = usize::from(number.wrapping_sub(first));
                // An echo's second answer (the path duplicates packets) finds its time taken.
                if let Some(began) = sent.get_mut(index).and_then(Option::take) {
                    samples.push(at.saturating_sub(began));
                }
            } else if left.is_zero() && sent.len() < count {
                sent.push(Some(clock(ClockId::Realtime)));
                let number = first.wrapping_add(sent.len() as u16 - 1);
                self.socket.send(&echo_request(self.v6, number))?;
            } else if left.is_zero() {
                break;
            }
        }
        Ok(samples)
    }

    /// Waits up to `timeout` for a packet; returns the number of the echo it answers and when it
    /// arrived, or `None` if it is something else or none comes.
    fn answer(&self, timeout: Duration) -> io::Result<Option<(u16, Duration)>> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))? == 0 {
            return Ok(None);
        }
        let mut buffer = [0; 128];
        let received = receive_timed(self.socket.as_fd(), &mut buffer, None)?;
        Ok(echo_reply(self.v6, &buffer[..received.length]).map(|number| (number, received.at)))
    }
}

/// Identifier of our echoes; nobody else pings in these namespaces.
const IDENTIFIER: u16 = 0x5254;

fn echo_request(v6: bool, number: u16) -> [u8; ECHO] {
    let mut message = [if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 0];
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..].copy_from_slice(&number.to_be_bytes());
    // The kernel computes that of ICMPv6, which covers addresses (RFC 3542 §3.1).
    let sum = !checksum::sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Reads the number of an echo reply. An IPv4 raw socket delivers the IP header, too.
fn echo_reply(v6: bool, packet: &[u8]) -> Option<u16> {
    let header = if v6 { 0 } else { usize::from(packet.first()? & 0xf) * 4 };
    let message = packet.get(header..header + ECHO)?;
    let expected = if v6 { 129 } else { 0 };
    let ours = message[0] == expected && message[4..6] == IDENTIFIER.to_be_bytes();
    ours.then(|| u16::from_be_bytes([message[6], message[7]]))
}

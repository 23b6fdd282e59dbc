//! The conversation of two doctors: what is said ([`message`]), and its near side.

pub mod message;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::peer::arrival::Caught;
use crate::peer::station::{Shot, Unsent};
use crate::probe::sighting::{self, Sighting};
use message::{Line, Reply, Request, VERSION};

/// Port on which a doctor listens for another.
pub const PORT: u16 = 9642;
/// How long a connection, or an answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the whole conversation may.
const LIFE: Duration = Duration::from_secs(120);

/// The control connection's MSS in bytes: what the least MTU of IPv4 (576, RFC 1122 §3.3.3) and of IPv6 (1280) has room for.
const MSS: (u32, u32) = (536, 1220);

/// Characters of a text, and texts, that are believed to be meant.
const LONGEST: usize = 500;
const SIGHTINGS: usize = 100;

/// A doctor that listens at the far end.
#[derive(Debug)]
pub struct Agent {
    line: Line,
    local: IpAddr,
    seen: IpAddr,
    round_trip: Duration,
}

impl Agent {
    /// Connects to one.
    ///
    /// # Errors
    /// In words: why there is none, or why it does not understand.
    pub fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream =
            connect(address).map_err(|error| format!("no connection to a doctor at {address}: {error}"))?;
        let local = stream.local_addr().map_err(|error| error.to_string())?.ip().to_canonical();
        let mut agent = Self { line: Line::new(stream, LIFE), local, seen: local, round_trip: Duration::MAX };
        // The shorter of two: the first may be slowed down by what happens for the first time.
        for _ in 0..2 {
            let start = Instant::now();
            match agent.ask(&Request::Hello { version: VERSION }, Duration::ZERO)? {
                Reply::Hello { address, .. } => agent.seen = address.to_canonical(),
                _ => return Err(unexpected()),
            }
            agent.round_trip = agent.round_trip.min(start.elapsed());
        }
        Ok(agent)
    }

    /// Returns the address from which this host talks to it.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// Returns the address from which this host seems to talk, as seen from there.
    pub fn seen(&self) -> IpAddr {
        self.seen
    }

    /// Returns how long an answer takes.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Has it count, layer by layer, what arrives from here at a port. Returns when it does.
    ///
    /// # Errors
    /// In words.
    pub fn watch(&mut self, protocol: sighting::Protocol, port: u16) -> Result<(), String> {
        match self.ask(&Request::Watch { protocol, port }, Duration::ZERO)? {
            Reply::Ready => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Returns what it has counted since [`Agent::watch`], in the order of the layers.
    ///
    /// # Errors
    /// In words.
    pub fn report(&mut self) -> Result<Vec<Sighting>, String> {
        match self.ask(&Request::Report, Duration::ZERO)? {
            Reply::Sightings { sightings } => {
                Ok(sightings.into_iter().take(SIGHTINGS).map(harmless_too).collect())
            }
            _ => Err(unexpected()),
        }
    }

    /// Has it take ports and a tap for a path check, the last of them that of a service if one is given. Returns the ports and its interface's MTU in bytes.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn open(&mut self, service: Option<u16>) -> Result<(Vec<u16>, u16), String> {
        match self.ask(&Request::Open { service }, Duration::ZERO)? {
            Reply::Opened { ports, mtu } => Ok((ports, mtu)),
            _ => Err(unexpected()),
        }
    }

    /// Has it send to this host; see [`crate::peer::station::Station::send`].
    ///
    /// # Errors
    /// In words.
    pub(crate) fn send(&mut self, shots: &[Shot]) -> Result<Unsent, String> {
        match self.ask(&Request::Send { shots: shots.to_vec() }, Duration::ZERO)? {
            Reply::Sent(unsent) => Ok(unsent),
            _ => Err(unexpected()),
        }
    }

    /// Returns what has come there; see [`crate::peer::station::Station::catch`].
    ///
    /// # Errors
    /// In words.
    pub(crate) fn catch(&mut self, expected: usize, patience: Duration) -> Result<Vec<Caught>, String> {
        let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Catch { expected, patience: milliseconds }, patience)? {
            Reply::Caught { items } => Ok(items),
            _ => Err(unexpected()),
        }
    }

    /// Asks, and waits for the answer as long as that may take besides `work`.
    fn ask(&mut self, request: &Request, work: Duration) -> Result<Reply, String> {
        let silent = |error: io::Error| format!("the other doctor does not answer any more: {error}");
        self.line.write(request).map_err(silent)?;
        match self.line.read(PATIENCE + work).map_err(silent)? {
            None => Err("the other doctor has ended the connection".to_owned()),
            Some(Ok(Reply::Error { why })) => Err(format!("the other doctor says: {}", harmless(&why))),
            Some(reply) => reply.map_err(|why| format!("the other doctor's answer is not understood: {why}")),
        }
    }
}

/// Connects, with segments so small both ways that they pass where larger ones vanish: that is to be found out, and not to be
/// suffered.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_mss(if address.is_ipv4() { MSS.0 } else { MSS.1 })?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Takes out what a terminal may take for a command: whoever answers there may be anybody.
fn harmless(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST).collect()
}

fn harmless_too(sighting: Sighting) -> Sighting {
    let Sighting { place, layer, packets, suspects } = sighting;
    let suspects = suspects.iter().take(SIGHTINGS).map(|suspect| harmless(suspect)).collect();
    Sighting { place: harmless(&place), layer: harmless(&layer), packets, suspects }
}

fn unexpected() -> String {
    "the other doctor answers something else than it was asked".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_no_commands() {
        assert_eq!(harmless("a\u{1b}[31mb\r\nc→"), "a[31mbc→");
        assert_eq!(harmless(&"x".repeat(9_999)).len(), LONGEST);
    }
}

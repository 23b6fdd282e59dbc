//! One end of the path: ports that nobody else uses and from which the kernel answers nothing, a tap, and a raw socket.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_netio::capture::Tap;
use rtt0_netio::crafted::{CraftedSocket, SilentPort};
use rtt0_netio::interface;
use serde::{Deserialize, Serialize};

use super::arrival::Caught;
use super::order::{NUMBERS, Order};

/// The ports that path checks use, at both ends. What happens to packets from and to them is the doctor's own doing.
pub const PORTS: RangeInclusive<u16> = 9643..=9742;
/// Connections that a path check pretends, each with a port at both ends.
pub const LANES: usize = 5;
/// The lane whose port may be that of a service.
pub const SERVICE_LANE: usize = LANES - 1;
/// Segments that are sent, or reported, at a time, at most.
pub const BATCH: usize = 64;
/// Packets that are looked at before an answer, whatever they are.
const MOST_READ: usize = 4096;
/// Between two segments that are sent, so that no queue on the path overflows for them.
const SPACING: Duration = Duration::from_millis(2);
/// Bytes of a packet at most, whatever the interface takes.
const LARGEST: u16 = 9216;
/// MTU of an interface that does not tell.
const USUAL_MTU: u16 = 1500;
/// `EMSGSIZE`, for which the standard library has no name.
const MESSAGE_SIZE: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
/// `ENOBUFS`, likewise.
const NO_BUFFERS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// A segment to be sent from a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shot {
    /// Which port of the sender's: below [`LANES`].
    pub lane: usize,
    /// To which port of the peer's.
    pub to: u16,
    /// What.
    pub order: Order,
}

/// The numbers of segments that have not left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// They are larger than the interface takes.
    pub too_large: Vec<u16>,
    /// The sender's own kernel refuses: a firewall of the host, or a program of its control group (`EPERM`).
    pub refused: Vec<u16>,
}

impl Unsent {
    /// Tells whether it names a number.
    pub fn has(&self, number: u16) -> bool {
        self.too_large.contains(&number) || self.refused.contains(&number)
    }
}

/// One end, and all that it needs to send to one peer and to see what comes from it.
#[derive(Debug)]
pub struct Station {
    local: IpAddr,
    peer: IpAddr,
    ports: Vec<SilentPort>,
    tap: Tap,
    raw: CraftedSocket,
    mtu: u16,
}

impl Station {
    /// Opens one, which goes by the address `local` and knows nobody but `peer`. The last lane has the port `service`, if one is
    /// given and nobody else has it.
    ///
    /// # Errors
    /// In words: what could not be had, and what it needs.
    pub fn open(local: IpAddr, peer: IpAddr, service: Option<u16>) -> Result<Self, String> {
        let needs_raw = |what| move |error: io::Error| format!("no {what}: {error} (it needs CAP_NET_RAW)");
        let raw = CraftedSocket::open(peer).map_err(needs_raw("raw socket"))?;
        // Before the ports, so that nothing is missed.
        let ranges: Vec<_> = [PORTS].into_iter().chain(service.map(|port| port..=port)).collect();
        let tap = Tap::open(peer, &ranges).map_err(needs_raw("packet socket"))?;
        let mut ports = silent_ports(local)?;
        let service = service.and_then(|port| SilentPort::open(SocketAddr::new(local, port)).ok());
        if let (Some(service), Some(port)) = (service, ports.get_mut(SERVICE_LANE)) {
            *port = service;
        }
        Ok(Self { local, peer, ports, tap, raw, mtu: mtu_of(local) })
    }

    /// Returns its ports, one a lane.
    pub fn ports(&self) -> Vec<u16> {
        self.ports.iter().map(|port| port.local().port()).collect()
    }

    /// Returns the largest packet in bytes that its interface takes, or that is tried.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Sends them, two milliseconds apart. Returns which have not left.
    ///
    /// # Errors
    /// What was asked for is not to be had, or the kernel's.
    pub fn send(&self, shots: &[Shot]) -> Result<Unsent, String> {
        let mut unsent = Unsent::default();
        for Shot { lane, to, order } in shots.iter().take(BATCH) {
            let Some(port) = self.ports.get(*lane) else { return Err(format!("there is no lane {lane}")) };
            if order.number >= NUMBERS || order.length > LARGEST {
                return Err("there is no such segment".to_owned());
            }
            let from = SocketAddr::new(self.local, port.local().port());
            let packet = order.packet(from, SocketAddr::new(self.peer, *to));
            match self.raw.send(&packet) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(MESSAGE_SIZE) => {
                    unsent.too_large.push(order.number)
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    unsent.refused.push(order.number)
                }
                // A queue is full: as good as lost on the way.
                Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => {}
                Err(error) => {
                    return Err(format!(
                        "the kernel of {} refuses to send to {}: {error}",
                        self.local, self.peer
                    ));
                }
            }
            thread::sleep(SPACING);
        }
        Ok(unsent)
    }

    /// Returns what has come, as soon as there are `expected` segments or `patience` is over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn catch(&mut self, expected: usize, patience: Duration) -> Result<Vec<Caught>, String> {
        let deadline = Instant::now() + patience;
        let (mut caught, mut segments) = (Vec::new(), 0);
        for _ in 0..MOST_READ {
            if caught.len() == BATCH {
                break;
            }
            // What has come already is taken in any case.
            let left = if segments >= expected {
                Duration::ZERO
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            let packet = self.tap.receive(left).map_err(|error| format!("the tap fails: {error}"))?;
            let Some(packet) = packet else { break };
            match Caught::read(packet) {
                Some(Caught::Segment(arrival)) if self.is_mine(arrival.destination.port()) => {
                    segments += 1;
                    caught.push(Caught::Segment(arrival));
                }
                Some(Caught::TooBig(too_big)) if self.has_sent(&too_big.source, &too_big.destination) => {
                    caught.push(Caught::TooBig(too_big));
                }
                _ => {}
            }
        }
        Ok(caught)
    }

    fn is_mine(&self, port: u16) -> bool {
        self.ports.iter().any(|mine| mine.local().port() == port)
    }

    fn has_sent(&self, source: &SocketAddr, destination: &SocketAddr) -> bool {
        source.ip() == self.local && self.is_mine(source.port()) && destination.ip() == self.peer
    }
}

/// Takes as many ports as there are lanes.
fn silent_ports(local: IpAddr) -> Result<Vec<SilentPort>, String> {
    let mut ports = Vec::with_capacity(LANES);
    for port in shuffled() {
        match SilentPort::open(SocketAddr::new(local, port)) {
            Ok(port) => ports.push(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(format!("no port {port} on {local}: {error}")),
        }
        if ports.len() == LANES {
            return Ok(ports);
        }
    }
    Err(format!("not enough free ports from {} to {}", PORTS.start(), PORTS.end()))
}

/// Returns all ports, beginning with any: firewalls may remember what was pretended at others.
fn shuffled() -> impl Iterator<Item = u16> {
    // Nobody else knows the keys that the standard library draws.
    let skipped = RandomState::new().hash_one(()) as usize % PORTS.len();
    PORTS.cycle().skip(skipped).take(PORTS.len())
}

/// Returns the MTU of the interface that has the address.
fn mtu_of(address: IpAddr) -> u16 {
    let interface = interface::list().into_iter().find(|interface| interface.addresses.contains(&address));
    interface.and_then(|interface| interface.mtu().ok()).unwrap_or(USUAL_MTU).min(LARGEST)
}

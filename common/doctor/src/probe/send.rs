//! The probes themselves, and what the calls that send them say.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_netio::sighting::{self, Packets};
use socket2::{Domain, Socket, Type};

use super::{Protocol, Target};

/// Between one probe and the next.
const PACE: Duration = Duration::from_millis(5);
/// How long a connection is waited for: less than the second after which its SYN would be repeated.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long answers to datagrams are waited for.
const ANSWERS: Duration = Duration::from_millis(400);
/// Ports above those that the kernel gives out by itself, so that nobody else's packets are taken for probes.
const FIRST_PORT: u16 = 61_000;
const LAST_PORT: u16 = 65_500;
/// Ports more than probes: some may be taken.
const SPARE: u16 = 16;

/// What the calls have said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Probes that were tried.
    pub(super) tried: u64,
    /// Errors of the calls that send, by their number (`errno`), with how often.
    pub(super) errors: BTreeMap<i32, u64>,
    /// Datagrams that came back, or connections that were accepted.
    pub(super) accepted: u64,
    /// Answers of the far side that nobody listens.
    pub(super) refused: u64,
    /// Errors that came afterwards, which routers or this host's own neighbour discovery have sent.
    pub(super) unreachable: BTreeMap<i32, u64>,
}

impl Sent {
    /// Returns how many probes were answered by the far side.
    pub(super) fn answers(&self) -> u64 {
        self.accepted + self.refused
    }

    /// Tells whether a call that sends has failed so.
    pub(super) fn has_failed_with(&self, errno: i32) -> bool {
        self.errors.contains_key(&errno)
    }

    fn fail(&mut self, error: &io::Error) {
        *self.errors.entry(error.raw_os_error().unwrap_or(0)).or_default() += 1;
    }

    fn later(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => self.refused += 1,
            _ => *self.unreachable.entry(error.raw_os_error().unwrap_or(0)).or_default() += 1,
        }
    }
}

/// How probes to a target are known.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    target: Target,
    /// The ports that they come from.
    pub(super) ports: RangeInclusive<u16>,
    token: [u8; 8],
}

impl Marks {
    /// Chooses ports and contents that differ from those of other processes.
    pub(super) fn choose(target: &Target) -> Self {
        let process = std::process::id();
        let width = u16::try_from(target.count).unwrap_or(1000).min(1000) + SPARE;
        let room = LAST_PORT - FIRST_PORT - width;
        let first = FIRST_PORT + (process.wrapping_mul(37) % u32::from(room)) as u16;
        let mut token = *b"rtt0----";
        token[4..].copy_from_slice(&process.to_be_bytes());
        Self { target: target.clone(), ports: first..=first + width, token }
    }

    /// Returns the filter for the probes: of connections only their SYNs.
    pub(super) fn leaving(&self) -> Packets {
        let port = self.target.address.port();
        match self.target.protocol {
            // By its contents: ports and addresses may change on the way (NAT).
            Protocol::Udp => self.all().with_payload(self.token),
            Protocol::Tcp => {
                self.all().from_ports(&self.ports).to_ports(&(port..=port)).with_flags(0x17, 0x02..=0x02)
            }
        }
    }

    /// Returns the filter for their answers: datagrams, or segments with SYN or RST.
    pub(super) fn answers(&self) -> Packets {
        let port = self.target.address.port();
        let answers = self.all().from_ports(&(port..=port)).to_ports(&self.ports);
        match self.target.protocol {
            Protocol::Udp => answers,
            Protocol::Tcp => answers.with_flags(0x06, 0x02..=0x06),
        }
    }

    /// Tells whether ports are those of probes.
    pub(super) fn fits(&self, protocol: u8, (from, to): (u16, u16)) -> bool {
        protocol == self.target.protocol.number()
            && self.ports.contains(&from)
            && to == self.target.address.port()
    }

    fn all(&self) -> Packets {
        Packets::of(self.target.address.is_ipv4(), self.target.protocol.number())
    }

    /// Sends the probes, and waits for answers as long as makes sense.
    pub(super) fn send(&self) -> Sent {
        let mut sent = Sent::default();
        match self.target.protocol {
            Protocol::Udp => self.send_datagrams(&mut sent),
            Protocol::Tcp => self.connect(&mut sent),
        }
        sent
    }

    /// Binds a socket to the first of `ports` that is free.
    fn socket(&self, kind: Type, ports: &mut RangeInclusive<u16>) -> io::Result<Socket> {
        let address = self.target.address;
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.set_nonblocking(true)?;
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        loop {
            let port = ports.next().unwrap_or(0);
            match socket.bind(&SocketAddr::new(any, port).into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => {}
                bound => return bound.map(|()| socket),
            }
        }
    }

    fn send_datagrams(&self, sent: &mut Sent) {
        let socket = self.socket(Type::DGRAM, &mut self.ports.clone()).and_then(|socket| {
            sighting::report_errors(&socket, self.target.address.is_ipv4())?;
            Ok(socket)
        });
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                // Then none of them can be sent.
                sent.tried = self.target.count.into();
                sent.errors.insert(error.raw_os_error().unwrap_or(0), sent.tried);
                return;
            }
        };
        let mut payload = [0; 32];
        payload[..8].copy_from_slice(&self.token);
        for _ in 0..self.target.count {
            self.receive(&socket, sent);
            sent.tried += 1;
            // Not connected: as most programs send, and past the control groups' hooks for that.
            if let Err(error) = socket.send_to(&payload, &self.target.address.into()) {
                sent.fail(&error);
            }
            thread::sleep(PACE);
        }
        let deadline = Instant::now() + ANSWERS;
        while Instant::now() < deadline && sent.answers() < sent.tried {
            self.receive(&socket, sent);
            thread::sleep(PACE);
        }
        self.receive(&socket, sent);
    }

    /// Takes what has come: datagrams and errors.
    fn receive(&self, socket: &Socket, sent: &mut Sent) {
        let mut buffer = [MaybeUninit::uninit(); 64];
        // One probe has at most one answer of each kind.
        for _ in 0..2048 {
            match socket.recv_from(&mut buffer) {
                Ok((_, from)) => {
                    let from = from.as_socket().map(|from| from.ip());
                    sent.accepted += u64::from(from == Some(self.target.address.ip()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => sent.later(&error),
            }
        }
    }

    fn connect(&self, sent: &mut Sent) {
        let mut ports = self.ports.clone();
        let mut waiting: Vec<(Instant, Socket)> = Vec::new();
        for _ in 0..self.target.count {
            sent.tried += 1;
            let connecting = self.socket(Type::STREAM, &mut ports).and_then(|socket| {
                match socket.connect(&self.target.address.into()) {
                    Err(error) if error.raw_os_error() == Some(errno::EINPROGRESS) => {}
                    outcome => outcome?,
                }
                Ok(socket)
            });
            match connecting {
                Ok(socket) => waiting.push((Instant::now(), socket)),
                // On this host's own addresses the answer may be there at once.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sent.refused += 1,
                Err(error) => sent.fail(&error),
            }
            thread::sleep(PACE);
            waiting.retain(|(start, socket)| is_open(*start, socket, sent));
        }
        while !waiting.is_empty() {
            thread::sleep(PACE);
            waiting.retain(|(start, socket)| is_open(*start, socket, sent));
        }
    }
}

/// Tells whether a connection is still waited for.
fn is_open(start: Instant, socket: &Socket, sent: &mut Sent) -> bool {
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => {
            sent.later(&error);
            false
        }
        Ok(None) if socket.peer_addr().is_ok() => {
            sent.accepted += 1;
            false
        }
        Ok(None) => start.elapsed() < PATIENCE,
    }
}

/// Numbers of errors (errno(3)) that mean something to the doctor.
pub(super) mod errno {
    use rustix::io::Errno;

    /// Operation not permitted.
    pub(in crate::probe) const EPERM: i32 = Errno::PERM.raw_os_error();
    /// Permission denied: a route of type prohibit.
    pub(in crate::probe) const EACCES: i32 = Errno::ACCESS.raw_os_error();
    /// Invalid argument: a route of type blackhole.
    pub(in crate::probe) const EINVAL: i32 = Errno::INVAL.raw_os_error();
    /// Message too long.
    pub(in crate::probe) const EMSGSIZE: i32 = Errno::MSGSIZE.raw_os_error();
    /// Network is unreachable.
    pub(in crate::probe) const ENETUNREACH: i32 = Errno::NETUNREACH.raw_os_error();
    /// No buffer space available: a queue has dropped.
    pub(in crate::probe) const ENOBUFS: i32 = Errno::NOBUFS.raw_os_error();
    /// No route to host.
    pub(in crate::probe) const EHOSTUNREACH: i32 = Errno::HOSTUNREACH.raw_os_error();
    /// Operation now in progress.
    pub(in crate::probe) const EINPROGRESS: i32 = Errno::INPROGRESS.raw_os_error();
}

/// Returns an error's name and words, such as `EPERM (Operation not permitted)`.
pub(super) fn error_name(errno: i32) -> String {
    use errno::{EACCES, EHOSTUNREACH, EINVAL, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM};
    let name = match errno {
        EPERM => "EPERM",
        EACCES => "EACCES",
        EINVAL => "EINVAL",
        EMSGSIZE => "EMSGSIZE",
        ENETUNREACH => "ENETUNREACH",
        ENOBUFS => "ENOBUFS",
        EHOSTUNREACH => "EHOSTUNREACH",
        _ => "error",
    };
    format!("{name}, {}", io::Error::from_raw_os_error(errno))
}

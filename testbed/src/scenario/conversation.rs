//! Two programs that talk over one connection by a script, and what each of them sees.
//!
//! What an application can know of its connection is what its system calls return: bytes, the end
//! of the stream, error numbers, and their order. Two ways to forward packets are the same to it
//! if these are.

use super::lab::Lab;
use crate::program::socket;
use crate::program::stream::{SEED, Stream};
use anyhow::{Context, ensure};
use socket2::Socket;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Something that a program does with its connection. After the last step it closes it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Sends so many bytes.
    Send(u64),
    /// Reads so many bytes.
    Read(u64),
    /// Reads until the stream or the connection ends.
    ReadToEnd,
    /// Ends its own direction: `shutdown(SHUT_WR)`.
    Finish,
    /// Waits until the other program has come as far; not a packet is sent for it.
    Meet,
    /// Leaves the packets under way time to arrive.
    Pause(Duration),
    /// Closes with a reset: `SO_LINGER` of 0 (socket(7)).
    Abort,
}

/// What a program saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// `connect(2)` or `accept(2)` succeeded.
    Connected,
    /// So many bytes were taken by the kernel.
    Sent(u64),
    /// So many bytes came, and whether they were those that the other side sends.
    Received {
        /// How many.
        bytes: u64,
        /// Whether they were the right ones.
        intact: bool,
    },
    /// The other side ended its direction.
    EndOfStream,
    /// A system call failed with this error number; `EAGAIN` if it would have waited too long.
    Failed(i32),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Sent(bytes) => write!(f, "sent {bytes}"),
            Self::Received { bytes, intact: true } => write!(f, "received {bytes}"),
            Self::Received { bytes, intact: false } => write!(f, "received {bytes} wrong bytes"),
            Self::EndOfStream => f.write_str("end"),
            Self::Failed(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// What both programs saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The client's.
    pub(super) client: Vec<Event>,
    /// The server's.
    pub(super) server: Vec<Event>,
}

impl Seen {
    /// Returns whether `event` was seen at either end.
    pub(super) fn has(&self, event: impl Fn(&Event) -> bool) -> bool {
        self.client.iter().chain(&self.server).any(event)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |events: &[Event]| events.iter().map(Event::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "client [{}], server [{}]", list(&self.client), list(&self.server))
    }
}

/// What the two programs do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialogue {
    /// What it shows.
    pub(super) name: &'static str,
    /// The client's script.
    pub(super) client: &'static [Step],
    /// The server's script.
    pub(super) server: &'static [Step],
}

/// The shortest talk, in which daemons learn of the server.
const GREETING: Dialogue = Dialogue {
    name: "greeting",
    client: &[Step::Send(1), Step::Read(1), Step::ReadToEnd],
    server: &[Step::Read(1), Step::Send(1), Step::Finish, Step::ReadToEnd],
};

/// Listens on `port` of the server's host.
///
/// # Errors
/// If it can't.
pub(super) fn listen(lab: &Lab, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(lab.server_address(), port);
    let listen = || -> io::Result<Socket> {
        let socket = socket::tcp(address, Some(lab.setting().congestion))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        // Bounds accept(2) too; see socket(7).
        socket.set_read_timeout(Some(lab.setting().patience))?;
        Ok(socket)
    };
    let socket =
        lab.topology().server.enter(listen)?.with_context(|| format!("can't listen on {address}"))?;
    Ok(socket.into())
}

/// A listening socket at the server's host of a lab, to which clients can be connected.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    lab: &'a Lab,
    listener: TcpListener,
    address: SocketAddr,
}

impl<'a> Stage<'a> {
    /// Listens on `port`, and has the daemons, if there are any, learn of it.
    ///
    /// # Errors
    /// If it can't listen, or the first talk fails.
    pub(super) fn raise(lab: &'a Lab, port: u16) -> anyhow::Result<Self> {
        let stage = Self::on(lab, &listen(lab, port)?)?;
        stage.teach()?;
        Ok(stage)
    }

    /// Uses a socket that listens already.
    ///
    /// # Errors
    /// If the process has too many files open.
    pub(super) fn on(lab: &'a Lab, listener: &TcpListener) -> anyhow::Result<Self> {
        Ok(Self { lab, listener: listener.try_clone()?, address: listener.local_addr()? })
    }

    /// Has the shortest talk, in which the daemons learn of the server.
    ///
    /// # Errors
    /// If anything about it fails.
    pub(super) fn teach(&self) -> anyhow::Result<()> {
        let seen = self.play(&GREETING, None)?;
        ensure!(!seen.has(|event| matches!(event, Event::Failed(_))), "the first talk failed: {seen}");
        Ok(())
    }

    /// Has a dialogue over a new connection, from `local` if given.
    ///
    /// # Errors
    /// If the client's socket can't be made. What happens to the connection is no error but seen.
    pub(super) fn play(&self, dialogue: &Dialogue, local: Option<SocketAddr>) -> anyhow::Result<Seen> {
        let seen = self.play_in_turn(dialogue, local, 1)?.pop();
        seen.context("one dialogue was to be had")
    }

    /// Has a dialogue `count` times, each over a new connection; the client does not wait for the
    /// server between them.
    ///
    /// # Errors
    /// As [`Stage::play`].
    pub(super) fn play_in_turn(
        &self,
        dialogue: &Dialogue,
        local: Option<SocketAddr>,
        count: usize,
    ) -> anyhow::Result<Vec<Seen>> {
        let (to_server, from_client) = mpsc::channel();
        let (to_client, from_server) = mpsc::channel();
        let patience = self.lab.setting().patience;
        let client_end = Meeting { tell: to_server, hear: from_server, patience };
        let server_end = Meeting { tell: to_client, hear: from_client, patience };
        let listener = &self.listener;
        thread::scope(|scope| {
            let server = scope.spawn(move || serve(listener, dialogue.server, &server_end, count));
            let connect = |_| {
                Ok(match self.connect(local)? {
                    Ok(stream) => act(stream, dialogue.client, &client_end),
                    Err(error) => vec![failed(&error)],
                })
            };
            let client: anyhow::Result<Vec<_>> = (0..count).map(connect).collect();
            let server = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(client?.into_iter().zip(server).map(|(client, server)| Seen { client, server }).collect())
        })
    }

    fn connect(&self, local: Option<SocketAddr>) -> anyhow::Result<io::Result<TcpStream>> {
        let patience = self.lab.setting().patience;
        let open = || -> io::Result<Socket> {
            let socket = socket::tcp(self.address, Some(self.lab.setting().congestion))?;
            socket.set_tcp_nodelay(true)?;
            socket.set_write_timeout(Some(patience))?;
            if let Some(local) = local {
                socket.set_reuse_address(true)?;
                socket.bind(&local.into())?;
            }
            Ok(socket)
        };
        let socket = self.lab.topology().client.enter(open)?.context("can't make the client's socket")?;
        let deadline = Instant::now() + patience;
        loop {
            match socket.connect(&self.address.into()) {
                // The client's own kernel has not yet let go of the last connection from this port.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_micros(200));
                }
                outcome => return Ok(outcome.map(|()| socket.into())),
            }
        }
    }
}

/// One end of the agreement to wait for one another.
#[derive(Debug)]
struct Meeting {
    tell: Sender<()>,
    hear: Receiver<()>,
    /// What takes longer counts as never.
    patience: Duration,
}

fn failed(error: &io::Error) -> Event {
    Event::Failed(error.raw_os_error().unwrap_or(libc::EPROTO))
}

/// Follows the script on `count` connections. Once none has come for too long, none will.
fn serve(listener: &TcpListener, script: &[Step], meeting: &Meeting, count: usize) -> Vec<Vec<Event>> {
    let mut seen: Vec<Vec<Event>> = Vec::with_capacity(count);
    while seen.len() < count {
        match listener.accept() {
            Ok((stream, _)) => seen.push(act(stream, script, meeting)),
            Err(error) => seen.resize(count, vec![failed(&error)]),
        }
    }
    seen
}

/// Follows a script. A step that fails is seen, and the next one is tried all the same.
fn act(mut stream: TcpStream, script: &[Step], meeting: &Meeting) -> Vec<Event> {
    let mut seen = vec![Event::Connected];
    if let Err(error) = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(meeting.patience)))
        .and_then(|()| stream.set_write_timeout(Some(meeting.patience)))
    {
        seen.push(failed(&error));
    }
    let (mut sent, mut received) = (Stream::new(SEED), Stream::new(SEED));
    for step in script {
        match *step {
            Step::Send(bytes) => seen.push(send(&mut stream, &mut sent, bytes)),
            Step::Read(bytes) => read(&mut stream, &mut received, bytes, &mut seen),
            Step::ReadToEnd => read(&mut stream, &mut received, u64::MAX, &mut seen),
            Step::Finish => {
                if let Err(error) = stream.shutdown(Shutdown::Write) {
                    seen.push(failed(&error));
                }
            }
            Step::Meet => {
                // If the other one has gone, its own list tells why.
                let _ = meeting.tell.send(());
                let _ = meeting.hear.recv_timeout(meeting.patience);
            }
            Step::Pause(time) => thread::sleep(time),
            Step::Abort => {
                let socket = Socket::from(stream);
                if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                    seen.push(failed(&error));
                }
                return seen;
            }
        }
    }
    seen
}

fn send(stream: &mut TcpStream, bytes: &mut Stream, length: u64) -> Event {
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    bytes.fill(&mut piece);
    match stream.write_all(&piece) {
        Ok(()) => Event::Sent(length),
        Err(error) => failed(&error),
    }
}

/// Reads up to `wanted` bytes; fewer if the stream or the connection ends.
fn read(stream: &mut TcpStream, expected: &mut Stream, wanted: u64, seen: &mut Vec<Event>) {
    let (mut bytes, mut intact) = (0, true);
    let mut buffer = vec![0; 64 * 1024];
    let mut compared = buffer.clone();
    let end = loop {
        let room = usize::try_from(wanted - bytes).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            break None;
        }
        match stream.read(&mut buffer[..room]) {
            Ok(0) => break Some(Event::EndOfStream),
            Ok(count) => {
                expected.fill(&mut compared[..count]);
                intact &= buffer[..count] == compared[..count];
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(failed(&error)),
        }
    };
    if bytes > 0 {
        seen.push(Event::Received { bytes, intact });
    }
    seen.extend(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn alone() -> Meeting {
        let (tell, hear) = mpsc::channel();
        Meeting { tell, hear, patience: Duration::from_secs(5) }
    }

    #[test]
    fn bytes_and_ends_are_seen_in_order() {
        let (client, server) = pair();
        let sent = act(client, &[Step::Send(70_000)], &alone());
        assert_eq!(sent, [Event::Connected, Event::Sent(70_000)]);
        let seen = act(server, &[Step::Read(10), Step::ReadToEnd], &alone());
        let received = |bytes| Event::Received { bytes, intact: true };
        assert_eq!(seen, [Event::Connected, received(10), received(69_990), Event::EndOfStream]);
    }

    #[test]
    fn wrong_bytes_are_told() {
        let (mut client, server) = pair();
        client.write_all(b"not the stream").unwrap();
        drop(client);
        let seen = act(server, &[Step::ReadToEnd], &alone());
        assert!(seen.contains(&Event::Received { bytes: 14, intact: false }), "{seen:?}");
    }

    #[test]
    fn aborting_resets() {
        let (client, server) = pair();
        act(client, &[Step::Abort], &alone());
        let seen = act(server, &[Step::ReadToEnd, Step::Send(1)], &alone());
        let failed = Event::Failed;
        assert_eq!(seen, [Event::Connected, failed(libc::ECONNRESET), failed(libc::EPIPE)]);
    }
}

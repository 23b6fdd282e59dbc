//! Where the two programs are: a listening socket at the server's host, clients at the other.

use super::act::{Meeting, act, failed};
use super::{Dialogue, Event, Seen, Step};
use crate::program::socket;
use crate::scenario::Lab;
use anyhow::{Context, ensure};
use socket2::Socket;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

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
pub(in crate::scenario) fn listen(lab: &Lab, port: u16) -> anyhow::Result<TcpListener> {
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
pub(in crate::scenario) struct Stage<'a> {
    lab: &'a Lab,
    listener: TcpListener,
    address: SocketAddr,
    late: Duration,
}

impl<'a> Stage<'a> {
    /// Listens on `port`, and has the daemons, if there are any, learn of it.
    ///
    /// # Errors
    /// If it can't listen, or the first talk fails.
    pub(in crate::scenario) fn raise(lab: &'a Lab, port: u16) -> anyhow::Result<Self> {
        let stage = Self::on(lab, &listen(lab, port)?)?;
        stage.teach()?;
        Ok(stage)
    }

    /// Uses a socket that listens already.
    ///
    /// # Errors
    /// If the process has too many files open.
    pub(in crate::scenario) fn on(lab: &'a Lab, listener: &TcpListener) -> anyhow::Result<Self> {
        Ok(Self {
            lab,
            listener: listener.try_clone()?,
            address: listener.local_addr()?,
            late: Duration::ZERO,
        })
    }

    /// Has the server's program wait so long before it accepts.
    pub(in crate::scenario) fn late(self, late: Duration) -> Self {
        Self { late, ..self }
    }

    /// Has the shortest talk, in which the daemons learn of the server.
    ///
    /// # Errors
    /// If anything about it fails.
    pub(in crate::scenario) fn teach(&self) -> anyhow::Result<()> {
        let seen = self.play(&GREETING, None)?;
        ensure!(!seen.has(|event| matches!(event, Event::Failed(_))), "the first talk failed: {seen}");
        Ok(())
    }

    /// Has a dialogue over a new connection, from `local` if given.
    ///
    /// # Errors
    /// If the client's socket can't be made. What happens to the connection is no error but seen.
    pub(in crate::scenario) fn play(
        &self,
        dialogue: &Dialogue,
        local: Option<SocketAddr>,
    ) -> anyhow::Result<Seen> {
        let seen = self.play_in_turn(dialogue, local, 1)?.pop();
        seen.context("one dialogue was to be had")
    }

    /// Has a dialogue `count` times, each over a new connection; the client does not wait for the
    /// server between them.
    ///
    /// # Errors
    /// As [`Stage::play`].
    pub(in crate::scenario) fn play_in_turn(
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
        let (listener, late) = (&self.listener, self.late);
        thread::scope(|scope| {
            let server = scope.spawn(move || {
                thread::sleep(late);
                serve(listener, dialogue.server, &server_end, count)
            });
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

/// Has both hosts connect to each other at the same moment, from these ports, and then talk.
///
/// # Errors
/// If a socket can't be made. What happens to the connection is no error but seen.
pub(in crate::scenario) fn meet_halfway(
    lab: &Lab,
    dialogue: &Dialogue,
    client_port: u16,
    server_port: u16,
) -> anyhow::Result<Seen> {
    let client = SocketAddr::new(lab.client_address(), client_port);
    let server = SocketAddr::new(lab.server_address(), server_port);
    let patience = lab.setting().patience;
    let bound = |local: SocketAddr| -> io::Result<Socket> {
        let socket = socket::tcp(local, Some(lab.setting().congestion))?;
        socket.set_reuse_address(true)?;
        socket.set_write_timeout(Some(patience))?;
        socket.bind(&local.into())?;
        Ok(socket)
    };
    let hosts = lab.topology();
    let ends = [hosts.client.enter(|| bound(client))??, hosts.server.enter(|| bound(server))??];
    let [(tell, from_client), (tell_client, hear)] = [mpsc::channel(), mpsc::channel()];
    let meetings =
        [Meeting { tell, hear, patience }, Meeting { tell: tell_client, hear: from_client, patience }];
    let start = Barrier::new(2);
    let speak = |end: Socket, to: SocketAddr, script: &[Step], meeting: Meeting| {
        start.wait();
        match end.connect(&to.into()) {
            Ok(()) => act(end.into(), script, &meeting),
            Err(error) => vec![failed(&error)],
        }
    };
    let ([client_end, server_end], [client_meeting, server_meeting]) = (ends, meetings);
    Ok(thread::scope(|scope| {
        let answering = scope.spawn(|| speak(server_end, client, dialogue.server, server_meeting));
        let client = speak(client_end, server, dialogue.client, client_meeting);
        Seen { client, server: answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) }
    }))
}

/// Follows the script on `count` connections. Once none has come for too long, none will.
fn serve(listener: &TcpListener, script: &[Step], meeting: &Meeting, count: usize) -> Vec<Vec<Event>> {
    let mut seen: Vec<Vec<Event>> = Vec::with_capacity(count);
    while seen.len() < count {
        match listener.accept() {
            // From this very host, to fill the accept queue.
            Ok((stream, peer)) if stream.local_addr().is_ok_and(|local| local.ip() == peer.ip()) => {}
            Ok((stream, _)) => seen.push(act(stream, script, meeting)),
            Err(error) => seen.resize(count, vec![failed(&error)]),
        }
    }
    seen
}

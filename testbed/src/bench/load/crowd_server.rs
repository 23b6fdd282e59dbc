//! The server of a crowd: one thread, one process, as many connections as descriptors.

use super::reply::{ANSWER, REQUEST, Then};
use crate::host::Host;
use crate::nic;
use crate::process::Process;
use crate::program::{memory_file, ready, socket};
use anyhow::Context;
use clap::Args;
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Stdio;

/// Connections waiting to be accepted; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// Events taken at a time.
const EVENTS: usize = 1024;
/// Stands for the listening socket among the events.
const LISTENER: u64 = u64::MAX;

/// Options of the hidden subcommand.
#[derive(Debug, Args)]
pub struct CrowdArgs {
    /// Address and port to listen on
    #[arg(long)]
    address: SocketAddr,
}

/// The server in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct CrowdServer {
    process: Process,
}

impl CrowdServer {
    /// Starts it on a host and waits until it listens.
    ///
    /// # Errors
    /// If it does not start; what it said is quoted.
    pub fn start(host: &Host, address: SocketAddr) -> anyhow::Result<Self> {
        let log = memory_file::with_contents("bench-serve.log", "").context("log of the server")?;
        let mut command = host.command(nic::executable()?);
        command.args(["bench-serve", "--address", &address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?);
        let process = Process::spawn(command)?;
        ready::wait_for_listener(host, "bench-serve", address, &log)?;
        Ok(Self { process })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Permits this process all the descriptors it may have, and returns how many.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Lowering nothing, so this can only fail where it would change nothing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Serves until the process is killed.
///
/// # Errors
/// If it can't listen or wait.
pub fn serve(args: &CrowdArgs) -> anyhow::Result<()> {
    raise_descriptors();
    let listener = listen(args.address).with_context(|| format!("can't listen on {}", args.address))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        for event in events.drain(..) {
            let data = event.data.u64();
            if data == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    // A connection that can't be watched is closed.
                    let _ = admit(&poll, &mut peers, stream);
                }
            } else if let Some(slot) = usize::try_from(data).ok().and_then(|index| peers.get_mut(index))
                && slot.as_mut().is_some_and(|peer| peer.go_on().is_err())
            {
                *slot = None;
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket::tcp(address, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn admit(poll: &impl std::os::fd::AsFd, peers: &mut Vec<Option<Peer>>, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut peer = Peer { stream, read: 0, then: Then::Close };
    // The request may have come with the connection.
    if peer.go_on().is_err() {
        return Ok(());
    }
    let index = usize::try_from(peer.stream.as_raw_fd()).map_err(io::Error::other)?;
    let data = epoll::EventData::new_u64(index as u64);
    epoll::add(poll, &peer.stream, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
    if peers.len() <= index {
        peers.resize_with(index + 1, || None);
    }
    peers[index] = Some(peer);
    Ok(())
}

struct Peer {
    stream: TcpStream,
    read: usize,
    then: Then,
}

impl Peer {
    /// Reads what has come and answers a whole request. Fails when the connection is to be closed:
    /// after its answer, by its client, or because of nonsense.
    fn go_on(&mut self) -> io::Result<()> {
        let mut buffer = [0; REQUEST];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.read == 0 {
                self.then = Then::read(buffer[0]).ok_or(io::ErrorKind::InvalidData)?;
            }
            self.read += count;
            if self.read == REQUEST {
                // It fits into the send buffer of a fresh connection.
                self.stream.write_all(&[b'a'; ANSWER])?;
                if self.then == Then::Close {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }
}

//! What goes to and fro while a doctor looks.

use std::io;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use super::case::Place;
use super::site::{Site, TCP_PORT, UDP_PORT};
use crate::address;
use crate::compare::choice::IpVersion;
use crate::program::client::{self, Ask, Request};

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(5);
/// Bound of one connection.
const PATIENCE: Duration = Duration::from_millis(800);

/// A kind of traffic between client and server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Datagrams of 200 bytes to the echo, 200 a second.
    Udp(IpVersion),
    /// Datagrams to another port, with this hop limit.
    UdpTo(u16, u32),
    /// Connections one after the other, each with a download of 64 KiB.
    Tcp(IpVersion),
    /// Connections to another port.
    TcpTo(u16),
    /// Large downloads.
    Bulk(IpVersion),
    /// First fragments of datagrams whose other fragments never follow, from a raw socket.
    FirstFragments,
    /// Connections that last, and on which a byte goes to and fro again and again; made before the damage is done.
    Lasting(usize),
}

impl Kind {
    /// Tells whether it begins before the damage is done.
    pub(super) fn goes_before(self) -> bool {
        matches!(self, Self::Lasting(_))
    }

    /// Starts it.
    ///
    /// # Errors
    /// If a socket or thread can't be had.
    pub(super) fn start(self, site: &Site) -> anyhow::Result<Traffic> {
        let client = site.host(Place::Client);
        let server = |ip: IpVersion, port| SocketAddr::new(ip.of(address::SERVER), port);
        match self {
            Self::Udp(ip) => {
                let to = server(ip, UDP_PORT);
                Traffic::datagrams(client.enter(|| socket_for(to.ip(), None))??, to)
            }
            Self::UdpTo(port, hops) => {
                let to = server(IpVersion::V4, port);
                Traffic::datagrams(client.enter(|| socket_for(to.ip(), Some(hops)))??, to)
            }
            Self::Tcp(ip) => Traffic::fetches(site, server(ip, TCP_PORT), 64 << 10),
            Self::TcpTo(port) => Traffic::fetches(site, server(IpVersion::V4, port), 1),
            Self::Bulk(ip) => Traffic::fetches(site, server(ip, TCP_PORT), 64 << 20),
            Self::FirstFragments => Traffic::first_fragments(client.enter(raw_socket)??),
            Self::Lasting(count) => Traffic::lasting(site, count),
        }
    }
}

fn socket_for(to: IpAddr, hops: Option<u32>) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    if let Some(hops) = hops {
        socket.set_ttl(hops)?;
    }
    Ok(socket)
}

/// Opens a socket for packets with an IP header of their own (raw(7)).
fn raw_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
}

/// Traffic that goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start(threads: impl IntoIterator<Item = Box<dyn FnMut() + Send>>) -> anyhow::Result<Self> {
        let mut traffic = Self { stop: Arc::default(), threads: Vec::new() };
        for mut step in threads {
            let stop = Arc::clone(&traffic.stop);
            let thread = thread::Builder::new().name("traffic".to_owned()).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    step();
                }
            });
            traffic.threads.push(thread.context("can't start a thread")?);
        }
        Ok(traffic)
    }

    /// Sends datagrams back to where they came from.
    pub(super) fn echo(socket: UdpSocket) -> anyhow::Result<Self> {
        // A call that waits would begin to wait anew with each datagram whose checksum is wrong (seen on 6.18).
        socket.set_nonblocking(true)?;
        let mut buffer = [0; 2048];
        Self::start([Box::new(move || match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                // Where there is no way back, that is the fault.
                let _ = socket.send_to(&buffer[..length], from);
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }) as Box<dyn FnMut() + Send>])
    }

    fn datagrams(socket: UdpSocket, to: SocketAddr) -> anyhow::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut buffer = [0; 2048];
        Self::start([Box::new(move || {
            let _ = socket.send_to(&[b'x'; 200], to);
            while socket.recv(&mut buffer).is_ok() {}
            thread::sleep(PACE);
        }) as Box<dyn FnMut() + Send>])
    }

    fn first_fragments(socket: Socket) -> anyhow::Result<Self> {
        let (source, destination) = (address::CLIENT.v4.octets(), address::SERVER.v4.octets());
        // 28 bytes long, more fragments follow, hop limit 64, UDP; the kernel fills in the checksum.
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x20, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&[source, destination].concat());
        packet.extend_from_slice(&[0x1b, 0x58, 0x1b, 0x58, 0x04, 0x00, 0, 0]);
        let to = SocketAddr::new(address::SERVER.v4.into(), 0).into();
        let mut id = 0_u16;
        Self::start([Box::new(move || {
            id = id.wrapping_add(1);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            let _ = socket.send_to(&packet, &to);
            thread::sleep(PACE);
        }) as Box<dyn FnMut() + Send>])
    }

    /// Sends the IPv4 packets that arrive at device `from` out of device `to` as the frames that they came in, MACs and all: what
    /// a program does that knows of layer 2 only.
    pub(super) fn resent(from: &str, to: &str) -> anyhow::Result<Self> {
        const IPV4: [u8; 2] = [0x08, 0x00];
        let channel = |name: &str| {
            let devices = pnet_datalink::interfaces();
            let device = devices.iter().find(|device| device.name == name).context("no such device")?;
            let config =
                pnet_datalink::Config { read_timeout: Some(PACE), ..pnet_datalink::Config::default() };
            match pnet_datalink::channel(device, config).context("can't open a packet socket")? {
                pnet_datalink::Channel::Ethernet(send, receive) => Ok((send, receive)),
                _ => anyhow::bail!("no Ethernet device"),
            }
        };
        let ((_, mut receive), (mut send, _)) = (channel(from)?, channel(to)?);
        Self::start([Box::new(move || {
            if let Ok(frame) = receive.next()
                && frame.get(12..14) == Some(&IPV4)
            {
                let _ = send.send_to(frame, None);
            }
        }) as Box<dyn FnMut() + Send>])
    }

    fn fetches(site: &Site, server: SocketAddr, bytes: u64) -> anyhow::Result<Self> {
        let client = site.host(Place::Client).namespace().as_fd().try_clone_to_owned()?;
        let namespace = rtt0_netio::netns::Namespace::from(client);
        let request = Request { timeout: PATIENCE, ..Request::new(server).ask(Ask::Download(bytes)) };
        Self::start([Box::new(move || {
            // What fails, fails because of the fault.
            let _ = namespace.enter(|| client::fetch(&request));
            thread::sleep(PACE);
        }) as Box<dyn FnMut() + Send>])
    }

    fn lasting(site: &Site, count: usize) -> anyhow::Result<Self> {
        let server = SocketAddr::new(address::SERVER.v4.into(), 7);
        let listener = site.host(Place::Server).enter(|| std::net::TcpListener::bind(server))??;
        let mut steps: Vec<Box<dyn FnMut() + Send>> = Vec::new();
        for _ in 0..count {
            let near = site.host(Place::Client).enter(|| TcpStream::connect(server))??;
            let (far, _) = listener.accept()?;
            for mut stream in [near, far] {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PACE))?;
                stream.set_write_timeout(Some(PACE))?;
                let mut buffer = [0; 256];
                steps.push(Box::new(move || {
                    let _ = stream.write(b"x");
                    let _ = stream.read(&mut buffer);
                    thread::sleep(PACE);
                }));
            }
        }
        Self::start(steps)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

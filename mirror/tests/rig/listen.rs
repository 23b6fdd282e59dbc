//! Who listens behind the mirror.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtt0_netio::netns::Namespace;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Room for what comes while this thread doesn't get the processor.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How often a thread looks whether it has to end.
const POLL: Duration = Duration::from_millis(20);

/// Collects on a thread of its own.
pub struct Listener<T> {
    heard: Arc<Mutex<Vec<T>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Listener<T> {
    fn spawn(mut receive: impl FnMut() -> Option<T> + Send + 'static) -> Self {
        let (heard, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (sink, end) = (Arc::clone(&heard), Arc::clone(&done));
        let work = move || {
            loop {
                match receive() {
                    Some(message) => sink.lock().unwrap_or_else(PoisonError::into_inner).push(message),
                    // Everything that had come has been read.
                    None if end.load(Ordering::Relaxed) => return,
                    None => {}
                }
            }
        };
        Self { heard, done, thread: Some(thread::spawn(work)) }
    }

    /// How many it has heard so far.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes what it has heard so far.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until nothing more comes, and takes all.
    pub fn end(mut self) -> Vec<T> {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.take()
    }
}

impl<T> Drop for Listener<T> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// A plain UDP socket of the analyser's: the kernel has found the checksums right of what it gives.
pub fn udp(namespace: &Namespace, address: IpAddr, port: u16) -> Listener<(SocketAddr, Vec<u8>)> {
    let socket = namespace.enter(|| UdpSocket::bind((address, port))).unwrap().unwrap();
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).unwrap();
    socket.set_read_timeout(Some(POLL)).unwrap();
    let mut buffer = vec![0; 65_536];
    Listener::spawn(move || {
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        Some((from, buffer[..length].to_vec()))
    })
}

/// A UDP service of the analyser's that answers with what it is sent; and its socket, to send more from.
pub fn echo(namespace: &Namespace, address: IpAddr, port: u16) -> (Listener<SocketAddr>, UdpSocket) {
    let socket = namespace.enter(|| UdpSocket::bind((address, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(POLL)).unwrap();
    let service = socket.try_clone().unwrap();
    let mut buffer = vec![0; 65_536];
    let listener = Listener::spawn(move || {
        let (length, from) = service.recv_from(&mut buffer).ok()?;
        service.send_to(&buffer[..length], from).unwrap();
        Some(from)
    });
    (listener, socket)
}

/// Frames that come into a namespace by any of its links, from the Ethernet header on. What the namespace itself sends is
/// left out.
pub fn frames(namespace: &Namespace) -> Listener<Vec<u8>> {
    // ETH_P_ALL, in network order.
    let open = || Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(3u16.to_be()))));
    let socket = namespace.enter(open).unwrap().unwrap();
    // The packet's type, an ancillary field, has to be below PACKET_OUTGOING (4).
    const LOAD_BYTE_ABSOLUTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let program = [
        SockFilter::new(LOAD_BYTE_ABSOLUTE, 0, 0, 0xffff_f000 + 4),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 4),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, 0x40000),
    ];
    socket.attach_filter(&program).unwrap();
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).unwrap();
    socket.set_read_timeout(Some(POLL)).unwrap();
    let mut buffer = vec![0; 65_536];
    Listener::spawn(move || {
        let length = std::io::Read::read(&mut &socket, &mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
}

/// Tells whether a frame carries IP to `address`: returns the packet.
pub fn packet_to(frame: &[u8], address: IpAddr) -> Option<&[u8]> {
    let packet = frame.get(14..)?;
    let destination: IpAddr = match (frame.get(12..14)?, address) {
        ([0x08, 0x00], IpAddr::V4(_)) => <[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into(),
        ([0x86, 0xdd], IpAddr::V6(_)) => <[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into(),
        _ => return None,
    };
    (address == destination).then_some(packet)
}

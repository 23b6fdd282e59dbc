//! What arrives from one host at a few ports, on whatever interface: for comparing what left there with what came here.

use std::io::{self, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use libc::sock_filter;
use socket2::{Domain, Protocol, Socket, Type};

use super::filter::{
    AD_PKTTYPE, AD_PROTOCOL, AND, ICMP, ICMPV6, IPV4, IPV6, JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_NOT_LESS,
    LOAD_BYTE, LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_WORD, LOAD_X_HEADER_LENGTH, PACKET_HOST,
    RETURN, TCP, jump, load,
};
use super::socket;

/// Bytes that wait to be read, at most; the kernel may allow less.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Bytes of the largest IP packet.
const LARGEST: usize = 65_535;

/// A packet socket on all interfaces that takes TCP segments of one host to some ports, and ICMP errors of anybody.
///
/// It sees what arrives before netfilter and traffic control do. Fragments are left out.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Tap {
    /// Opens one; packets that arrive from now on are queued. Calls socket(2) (CAP_NET_RAW), setsockopt(2), bind(2).
    ///
    /// # Errors
    /// The kernel's; `EPERM` without CAP_NET_RAW, `EINVAL` for more than a thousand ranges.
    pub fn open(peer: IpAddr, ports: &[RangeInclusive<u16>]) -> io::Result<Self> {
        // Of this type the kernel takes the link header off, whatever the interface has. Of protocol 0 it receives nothing yet.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket::filter(&socket, &program(peer, ports))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        // No interface in particular.
        socket::bind(&socket, 0, (libc::ETH_P_ALL as u16).to_be())?;
        Ok(Self { socket, buffer: vec![0; LARGEST] })
    }

    /// Returns the next packet, from its IP header on; `None` if none comes within `patience`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&mut self, patience: Duration) -> io::Result<Option<&[u8]>> {
        let deadline = Instant::now() + patience;
        let length = loop {
            // A time-out of zero would be none at all.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut self.buffer) {
                Ok(length) => break length,
                Err(error) if is_transient(&error) && Instant::now() < deadline => {}
                Err(error) if is_transient(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        Ok(self.buffer.get(..length))
    }
}

/// Tells whether an error is only the end of a wait, or that one of the interfaces went down.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NetworkDown, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | NetworkDown)
}

/// Makes the classic-BPF program, for packets that begin with their IP header.
fn program(peer: IpAddr, ports: &[RangeInclusive<u16>]) -> Vec<sock_filter> {
    let mut program = vec![load(LOAD_WORD, AD_PKTTYPE)];
    require(&mut program, PACKET_HOST);
    program.push(load(LOAD_WORD, AD_PROTOCOL));
    match peer {
        IpAddr::V4(peer) => {
            require(&mut program, IPV4);
            // More fragments, or a fragment's offset.
            program.extend([load(LOAD_HALF, 6), load(AND, 0x3fff)]);
            require(&mut program, 0);
            program.extend([load(LOAD_X_HEADER_LENGTH, 0), load(LOAD_BYTE, 9)]);
            // Destination unreachable.
            program.extend([
                jump(JUMP_IF_EQUAL, ICMP, 0, 4),
                load(LOAD_BYTE_INDEXED, 0),
                jump(JUMP_IF_EQUAL, 3, 0, 1),
            ]);
            program.extend([load(RETURN, u32::MAX), load(RETURN, 0)]);
            require(&mut program, TCP);
            program.push(load(LOAD_WORD, 12));
            require(&mut program, peer.to_bits());
            program.push(load(LOAD_HALF_INDEXED, 2));
        }
        IpAddr::V6(peer) => {
            require(&mut program, IPV6);
            program.push(load(LOAD_BYTE, 6));
            // Destination unreachable, or packet too big.
            program.extend([
                jump(JUMP_IF_EQUAL, ICMPV6, 0, 5),
                load(LOAD_BYTE, 40),
                jump(JUMP_IF_EQUAL, 1, 1, 0),
                jump(JUMP_IF_EQUAL, 2, 0, 1),
            ]);
            program.extend([load(RETURN, u32::MAX), load(RETURN, 0)]);
            require(&mut program, TCP);
            for (index, word) in peer.octets().chunks_exact(4).enumerate() {
                program.push(load(LOAD_WORD, 8 + 4 * index as u32));
                require(&mut program, word.iter().fold(0, |all, &byte| all << 8 | u32::from(byte)));
            }
            program.push(load(LOAD_HALF, 42));
        }
    }
    for range in ports {
        program.extend([
            jump(JUMP_IF_NOT_LESS, u32::from(*range.start()), 0, 2),
            jump(JUMP_IF_GREATER, u32::from(*range.end()), 1, 0),
            load(RETURN, u32::MAX),
        ]);
    }
    program.push(load(RETURN, 0));
    program
}

/// Refuses the packet unless the accumulator is `value`.
fn require(program: &mut Vec<sock_filter>, value: u32) {
    program.extend([jump(JUMP_IF_EQUAL, value, 1, 0), load(RETURN, 0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Namespace;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sees_segments_to_its_ports_and_no_others() {
        let Ok(namespace) = Namespace::create() else {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return;
        };
        for address in ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let seen = namespace
                .enter(|| {
                    let listen = |port| TcpListener::bind((address, port)).unwrap();
                    let _listeners = [listen(4999), listen(5000), listen(5002)];
                    let mut tap = Tap::open(address, &[5000..=5001, 5003..=5003]).unwrap();
                    let mut other = Tap::open("192.0.2.1".parse().unwrap(), &[0..=u16::MAX]).unwrap();
                    for port in 4999..=5004 {
                        // Nobody listens at one of them.
                        drop(TcpStream::connect((address, port)));
                    }
                    let mut ports = Vec::new();
                    let tcp = if address.is_ipv4() { 20 } else { 40 };
                    while let Some(packet) = tap.receive(Duration::from_millis(50)).unwrap() {
                        ports.push(u16::from_be_bytes([packet[tcp + 2], packet[tcp + 3]]));
                    }
                    assert_eq!(other.receive(Duration::ZERO).unwrap(), None);
                    ports.dedup();
                    ports
                })
                .unwrap();
            assert_eq!(seen, [5000, 5001, 5003]);
        }
    }
}

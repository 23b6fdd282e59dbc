//! Packet taps that count, AF_PACKET with a filter (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use libc::sock_filter;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Base, Condition, Packets};
use crate::capture::filter::{
    AD_PKTTYPE, AD_PROTOCOL, AND, FRAGMENT_OFFSET, IPV4, IPV6, JUMP_IF_ANY_BIT, JUMP_IF_EQUAL,
    JUMP_IF_GREATER, JUMP_IF_NOT_LESS, LOAD_BYTE, LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_WORD,
    LOAD_WORD_INDEXED, LOAD_X, LOAD_X_HEADER_LENGTH, RETURN,
};
use crate::capture::socket;

/// Length of the IPv6 header in bytes.
const V6_HEADER: u32 = 40;

/// Which way the packets go at the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// They leave.
    Outgoing,
    /// They arrive, addressed to this host.
    Arriving,
    /// They arrive with another host's address at layer 2.
    ForOthers,
}

impl Direction {
    /// The packet type of linux/if_packet.h.
    fn packet_type(self) -> u32 {
        match self {
            Self::Arriving => 0,
            Self::ForOthers => 3,
            Self::Outgoing => 4,
        }
    }
}

/// A tap. It counts in the kernel, and keeps next to nothing.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    counted: u64,
}

impl Tap {
    /// Counts `packets` that go through the interface `index` (0: any) of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
    pub fn start(index: u32, direction: Direction, packets: &Packets) -> io::Result<Self> {
        // With protocol 0 it receives nothing yet.
        let tap = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        tap.set_nonblocking(true)?;
        socket::filter(&tap, &program(direction, packets))?;
        // Taps of one protocol sit behind the ingress hooks; those of all, before.
        socket::bind(&tap, index.cast_signed(), (libc::ETH_P_ALL as u16).to_be())?;
        Ok(Self { socket: tap, counted: 0 })
    }

    /// Returns how many were seen so far, whether there was room to keep them or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&mut self) -> io::Result<u64> {
        let (packets, _) = socket::statistics(&self.socket)?;
        // Those dropped are among them.
        self.counted += u64::from(packets);
        Ok(self.counted)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the filter. The packet begins with its IP header (`SOCK_DGRAM`). Every test falls through or goes on by one
/// to a return of its own, so that no jump is long.
fn program(direction: Direction, packets: &Packets) -> Vec<sock_filter> {
    let mut program = Vec::new();
    load(&mut program, LOAD_BYTE, AD_PKTTYPE);
    unless(&mut program, JUMP_IF_EQUAL, direction.packet_type());
    load(&mut program, LOAD_HALF, AD_PROTOCOL);
    if packets.is_v4 {
        unless(&mut program, JUMP_IF_EQUAL, IPV4);
        load(&mut program, LOAD_HALF, 6);
        when(&mut program, JUMP_IF_ANY_BIT, FRAGMENT_OFFSET);
        load(&mut program, LOAD_BYTE, 9);
        unless(&mut program, JUMP_IF_EQUAL, packets.protocol.into());
        load(&mut program, LOAD_X_HEADER_LENGTH, 0);
    } else {
        unless(&mut program, JUMP_IF_EQUAL, IPV6);
        load(&mut program, LOAD_BYTE, 6);
        unless(&mut program, JUMP_IF_EQUAL, packets.protocol.into());
        load(&mut program, LOAD_X, V6_HEADER);
    }
    for condition in &packets.conditions {
        load(&mut program, opcode(condition), condition.offset.into());
        if condition.mask != u32::MAX {
            load(&mut program, AND, condition.mask);
        }
        unless(&mut program, JUMP_IF_NOT_LESS, condition.low);
        when(&mut program, JUMP_IF_GREATER, condition.high);
    }
    load(&mut program, RETURN, 1);
    program
}

fn opcode(condition: &Condition) -> u16 {
    match (condition.base, condition.length) {
        (Base::Network, 1) => LOAD_BYTE,
        (Base::Network, 2) => LOAD_HALF,
        (Base::Network, _) => LOAD_WORD,
        (Base::Transport, 1) => LOAD_BYTE_INDEXED,
        (Base::Transport, 2) => LOAD_HALF_INDEXED,
        (Base::Transport, _) => LOAD_WORD_INDEXED,
    }
}

fn load(program: &mut Vec<sock_filter>, code: u16, k: u32) {
    program.push(sock_filter { code, jt: 0, jf: 0, k });
}

/// Refuses the packet unless the test holds.
fn unless(program: &mut Vec<sock_filter>, code: u16, k: u32) {
    program.push(sock_filter { code, jt: 1, jf: 0, k });
    load(program, RETURN, 0);
}

/// Refuses the packet if the test holds.
fn when(program: &mut Vec<sock_filter>, code: u16, k: u32) {
    program.push(sock_filter { code, jt: 0, jf: 1, k });
    load(program, RETURN, 0);
}

/// Has the kernel tell a UDP socket all ICMP errors, and all drops before the device: setsockopt(IP_RECVERR).
///
/// # Errors
/// The kernel's.
pub fn report_errors(socket: &impl AsFd, is_v4: bool) -> io::Result<()> {
    let (level, option) = match is_v4 {
        true => (libc::IPPROTO_IP, libc::IP_RECVERR),
        false => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointer and length describe `on`, which lives through the call.
    check(unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length)
    })
}

//! Packet taps that count, AF_PACKET with a filter (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::sock_filter;

use super::{Base, Condition, Packets};

/// PACKET_STATISTICS of linux/if_packet.h; libc does not export it.
const PACKET_STATISTICS: libc::c_int = 6;

// Opcodes (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD_INDEXED: u16 = 0x40;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_BYTE_INDEXED: u16 = 0x50;
/// `X = 4 * (P[k] & 15)`: the length of an IPv4 header.
const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
const LOAD_X: u16 = 0x01;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Length of the IPv6 header in bytes.
const V6_HEADER: u32 = 40;
const FRAGMENT_OFFSET: u32 = 0x1fff;

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
    fd: OwnedFd,
    counted: u64,
}

impl Tap {
    /// Counts `packets` that go through the interface `index` (0: any) of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
    pub fn start(index: u32, direction: Direction, packets: &Packets) -> io::Result<Self> {
        let program = program(direction, packets);
        // SAFETY: socket(2) takes no pointers; a result of 0 or more is a descriptor nobody else owns. With protocol
        // 0 it receives nothing yet.
        let fd = unsafe {
            match libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            ) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        let length = mem::size_of_val(&filter) as libc::socklen_t;
        // SAFETY: `filter` and the instructions that it points to live through the call; the kernel copies them.
        check(unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                length,
            )
        })?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            // Taps of one protocol sit behind the ingress hooks; those of all, before.
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which lives through the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self { fd, counted: 0 })
    }

    /// Returns how many were seen so far, whether there was room to keep them or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&mut self) -> io::Result<u64> {
        /// `struct tpacket_stats`; asking resets it.
        #[repr(C)]
        #[derive(Default)]
        struct Statistics {
            packets: libc::c_uint,
            drops: libc::c_uint,
        }
        let mut statistics = Statistics::default();
        let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the pointer and length describe `statistics`, which the kernel fills; any bits are valid.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        // Those dropped are among them.
        self.counted += u64::from(statistics.packets);
        Ok(self.counted)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the filter. The packet begins with its IP header (`SOCK_DGRAM`). Every test falls through or goes on by one
/// to a return of its own, so that no jump is long.
fn program(direction: Direction, packets: &Packets) -> Vec<sock_filter> {
    let ancillary = |field: libc::c_int| (libc::SKF_AD_OFF + field).cast_unsigned();
    let mut program = Vec::new();
    load(&mut program, LOAD_BYTE, ancillary(libc::SKF_AD_PKTTYPE));
    unless(&mut program, JUMP_IF_EQUAL, direction.packet_type());
    load(&mut program, LOAD_HALF, ancillary(libc::SKF_AD_PROTOCOL));
    if packets.is_v4 {
        unless(&mut program, JUMP_IF_EQUAL, libc::ETH_P_IP as u32);
        load(&mut program, LOAD_HALF, 6);
        when(&mut program, JUMP_IF_ANY_BIT, FRAGMENT_OFFSET);
        load(&mut program, LOAD_BYTE, 9);
        unless(&mut program, JUMP_IF_EQUAL, packets.protocol.into());
        load(&mut program, LOAD_X_HEADER_LENGTH, 0);
    } else {
        unless(&mut program, JUMP_IF_EQUAL, libc::ETH_P_IPV6 as u32);
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

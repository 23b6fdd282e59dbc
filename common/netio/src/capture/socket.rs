//! The AF_PACKET socket (packet(7)) under both capture backends.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rtt0_core::claim::Bypass;
use rtt0_core::service::Services;
use rustix::net::sockopt;

use super::filter::{Program, TooManyRules};
use super::{CaptureError, CaptureOptions};

/// A link of bare IP packets (linux/if_arp.h; libc does not export it).
const ARPHRD_RAWIP: u16 = 519;

/// Length of an Ethernet header in bytes. A VLAN tag never lies in it: the kernel takes the
/// outer one out before taps see the frame.
pub(super) const ETHERNET_HEADER: usize = 14;

/// An AF_PACKET socket that has a filter and is not yet bound to a protocol, so that it has
/// queued nothing yet.
#[derive(Debug)]
pub(super) struct PacketSocket {
    pub(super) fd: OwnedFd,
    pub(super) interface: String,
    /// Index of the interface.
    pub(super) index: libc::c_int,
    /// Length of the link header in bytes.
    pub(super) link_header: usize,
}

impl PacketSocket {
    /// Opens a socket on `interface` that takes what the filter takes that `program` makes for the length of the
    /// interface's link header, with a receive buffer as large as `options` say or as is allowed.
    ///
    /// Calls socket(2) (CAP_NET_RAW), bind(2), setsockopt(2) (SO_RCVBUFFORCE with CAP_NET_ADMIN).
    pub(super) fn open(
        interface: &str,
        program: impl FnOnce(u32) -> Result<Program, TooManyRules>,
        options: &CaptureOptions,
    ) -> Result<Self, CaptureError> {
        let system = |call, source| CaptureError::System { call, interface: interface.to_owned(), source };
        let index = interface_index(interface)?;
        // SAFETY: socket(2) takes no pointers; a result of 0 or more is a descriptor nobody else owns.
        let fd = unsafe {
            match libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
            {
                -1 => return Err(system("socket(AF_PACKET)", io::Error::last_os_error())),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        // Protocol 0 ties the socket to the interface without receiving yet, which tells its type.
        bind(&fd, index, 0).map_err(|e| system("bind(AF_PACKET)", e))?;
        let hardware = address(&fd).map_err(|e| system("getsockname(AF_PACKET)", e))?.sll_hatype;
        let link_header = link_header(hardware)
            .ok_or_else(|| CaptureError::LinkType { interface: interface.to_owned(), hardware })?;
        attach(&fd, &program(link_header as u32)?).map_err(|e| system("setsockopt(SO_ATTACH_FILTER)", e))?;
        set_option(&fd, libc::PACKET_IGNORE_OUTGOING, (!options.sent).into())
            .map_err(|e| system("setsockopt(PACKET_IGNORE_OUTGOING)", e))?;
        sockopt::set_socket_recv_buffer_size_force(&fd, options.receive_buffer)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, options.receive_buffer))
            .map_err(|e| system("setsockopt(SO_RCVBUF)", e.into()))?;
        Ok(Self { fd, interface: interface.to_owned(), index, link_header })
    }

    /// Starts to receive. The tap must be ETH_P_ALL: taps of one protocol sit behind the
    /// ingress hook, where the guard drops what we serve.
    pub(super) fn bind(&self) -> Result<(), CaptureError> {
        bind(&self.fd, self.index, (libc::ETH_P_ALL as u16).to_be()).map_err(|source| CaptureError::System {
            call: "bind(AF_PACKET)",
            interface: self.interface.clone(),
            source,
        })
    }
}

/// Makes the program of a capture of what is sent, or of what is received.
pub(super) fn program(services: &Services, link_header: u32, sent: bool) -> Result<Program, TooManyRules> {
    if sent { Program::of_sent(services, link_header) } else { Program::new(services, link_header) }
}

/// A packet socket that only sends, whole frames with a virtio-net header before them.
#[derive(Debug)]
pub(crate) struct SendingSocket(OwnedFd);

impl SendingSocket {
    /// Opens one on `interface` of the calling thread's namespace: socket(2) (CAP_NET_RAW), bind(2),
    /// setsockopt(PACKET_VNET_HDR).
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let index = interface_index(interface).map_err(io::Error::other)?;
        // SAFETY: socket(2) takes no pointers; a result of 0 or more is a descriptor nobody else owns.
        let fd = unsafe {
            match libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
            {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        set_option(&fd, libc::PACKET_VNET_HDR, 1)?;
        bind(&fd, index, 0)?;
        Ok(Self(fd))
    }
}

impl From<SendingSocket> for OwnedFd {
    fn from(socket: SendingSocket) -> Self {
        socket.0
    }
}

/// Joins sockets that receive from one interface into a group in which `program` says who gets a packet,
/// by its result modulo their number: setsockopt(PACKET_FANOUT, PACKET_FANOUT_DATA). Also of packets that
/// are sent there, if `sent`.
pub(super) fn join(sockets: &[&impl AsFd], program: &[libc::sock_filter], sent: bool) -> io::Result<()> {
    let Some((first, others)) = sockets.split_first() else { return Ok(()) };
    // What PACKET_IGNORE_OUTGOING is for a single socket; that is not looked at in a group.
    let ignored = if sent { 0 } else { libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING };
    let kind = (libc::PACKET_FANOUT_CBPF | ignored).cast_signed() << 16;
    // The kernel chooses the group's number.
    let fresh = libc::PACKET_FANOUT_FLAG_UNIQUEID.cast_signed() << 16;
    set_option(*first, libc::PACKET_FANOUT, kind | fresh)?;
    let mut group: libc::c_int = 0;
    let mut length = mem::size_of_val(&group) as libc::socklen_t;
    // SAFETY: the pointers and length describe `group`, which the kernel fills; any bits are valid.
    check(unsafe {
        libc::getsockopt(
            first.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw mut group).cast(),
            &raw mut length,
        )
    })?;
    for socket in others {
        set_option(*socket, libc::PACKET_FANOUT, kind | (group & 0xffff))?;
    }
    set_program(*first, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program)
}

/// The filters of a capture, one for each bypass.
#[derive(Debug)]
pub struct Filters {
    fd: OwnedFd,
    nothing: Program,
    syns: Program,
    handshakes: Program,
}

impl Filters {
    pub(super) fn new(fd: OwnedFd, services: &Services, link_header: u32) -> Result<Self, CaptureError> {
        let without = |bypass| Program::without(services, link_header, bypass);
        let (nothing, syns) = (without(Bypass::Nothing)?, without(Bypass::Syns)?);
        Ok(Self { fd, nothing, syns, handshakes: without(Bypass::Handshakes)? })
    }

    /// Has the capture leave out what the kernel is to forward by itself: setsockopt(SO_ATTACH_FILTER).
    ///
    /// # Errors
    /// The kernel's; then nothing has changed.
    pub fn leave_out(&self, bypass: Bypass) -> io::Result<()> {
        let program = match bypass {
            Bypass::Nothing => &self.nothing,
            Bypass::Syns => &self.syns,
            Bypass::Handshakes => &self.handshakes,
        };
        attach(&self.fd, program)
    }
}

/// Sets a number of SOL_PACKET, setsockopt(2).
pub(super) fn set_option(fd: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_value(fd, option, &value)
}

/// Sets an option of SOL_PACKET, setsockopt(2).
pub(super) fn set_value<T: Copy>(fd: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = mem::size_of_val(value) as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which lives through the call; the kernel copies it.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    })
}

/// Returns how many packets the socket has dropped for want of buffer since the last call,
/// getsockopt(PACKET_STATISTICS).
pub(super) fn drops(fd: &impl AsFd) -> io::Result<u64> {
    statistics(fd).map(|(_, drops)| drops.into())
}

/// Returns how many packets have come for the socket since the last call, and how many of them it has dropped,
/// getsockopt(PACKET_STATISTICS).
pub(crate) fn statistics(fd: &impl AsFd) -> io::Result<(u32, u32)> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the pointer and length describe `statistics`, which the kernel fills; any bits are valid.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    check(result).map(|()| (statistics.tp_packets, statistics.tp_drops))
}

/// Tells whether the socket's interface still exists: the kernel unties the socket from one that
/// is deleted.
pub(super) fn interface_exists(fd: &impl AsFd) -> bool {
    address(fd).is_ok_and(|address| address.sll_ifindex > 0)
}

fn interface_index(interface: &str) -> Result<libc::c_int, CaptureError> {
    let unknown = |source| CaptureError::UnknownInterface { interface: interface.to_owned(), source };
    let name = std::ffi::CString::new(interface).map_err(|e| unknown(e.into()))?;
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(unknown(io::Error::last_os_error())),
        index => Ok(index.cast_signed()),
    }
}

/// Returns the length of the link header that frames of a hardware type (ARPHRD_*) begin with.
fn link_header(hardware: u16) -> Option<usize> {
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(ETHERNET_HEADER),
        libc::ARPHRD_NONE | ARPHRD_RAWIP => Some(0),
        _ => None,
    }
}

/// Ties the socket to an interface and a protocol in network byte order, bind(2).
pub(crate) fn bind(fd: &impl AsFd, index: libc::c_int, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which lives through the call.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), length) })
}

/// Returns what the socket is tied to, getsockname(2).
fn address(fd: &impl AsFd) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll: it holds integers only.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which the kernel fills.
    check(unsafe { libc::getsockname(fd.as_fd().as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
    Ok(address)
}

/// Attaches a filter, setsockopt(SO_ATTACH_FILTER).
pub(super) fn attach(fd: &impl AsFd, program: &Program) -> io::Result<()> {
    filter(fd, program.instructions())
}

/// Attaches the instructions of a filter, setsockopt(SO_ATTACH_FILTER).
pub(crate) fn filter(fd: &impl AsFd, instructions: &[libc::sock_filter]) -> io::Result<()> {
    set_program(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, instructions)
}

/// Gives the kernel a program, setsockopt(2).
fn set_program(
    fd: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    instructions: &[libc::sock_filter],
) -> io::Result<()> {
    let program =
        libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
    let length = mem::size_of_val(&program) as libc::socklen_t;
    // SAFETY: `program` and the instructions it points to live through the call; the kernel
    // copies and does not write them.
    check(unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, (&raw const program).cast(), length)
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Socket options that socket2 does not offer: `TCP_INFO`, `TCP_REPAIR`, TCP Fast Open, pacing.

use super::tcp_info::TcpInfo;
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

/// Opens a TCP socket of the address's family in the calling thread's network namespace and
/// chooses its congestion control if one is named.
///
/// # Errors
/// The error of `socket(2)`; of `setsockopt(TCP_CONGESTION)`, which names the algorithm: `ENOENT`
/// if the kernel lacks it, `EPERM` if it is restricted and CAP_NET_ADMIN is missing.
pub fn tcp(address: SocketAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes()).map_err(|source| {
            io::Error::new(source.kind(), format!("congestion control '{name}': {source}"))
        })?;
    }
    Ok(socket)
}

/// Returns the kernel's present view of a TCP socket; needs no capability.
///
/// # Errors
/// The error of `getsockopt(TCP_INFO)`.
pub fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let mut buffer = [0_u8; TcpInfo::BUFFER];
    let mut length = TcpInfo::BUFFER as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call; pointer and length describe `buffer`,
    // which outlives it, and the kernel writes at most `length` bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            buffer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo::parse(&buffer[..(length as usize).min(TcpInfo::BUFFER)]))
}

/// Lets a listening socket accept data with the SYN (RFC 7413), with at most `queue` such
/// connections pending. Needs bit 2 of the sysctl `net.ipv4.tcp_fastopen` to have an effect.
///
/// # Errors
/// The error of `setsockopt(TCP_FASTOPEN)`.
pub fn enable_fastopen(socket: &Socket, queue: u32) -> io::Result<()> {
    let queue = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Has the kernel send no more than so many bytes a second, except for the first ten segments of a
/// connection (`SO_MAX_PACING_RATE`, socket(7)). Connections accepted from a listening socket
/// inherit it.
///
/// # Errors
/// The error of `setsockopt(SO_MAX_PACING_RATE)`.
pub fn pace(socket: &Socket, bytes_per_second: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, bytes_per_second.cast_signed())
}

/// Lets `bind(2)` to an address leave the port to `connect(2)`, which then needs only the whole tuple to
/// be unused (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
///
/// # Errors
/// The error of `setsockopt(IP_BIND_ADDRESS_NO_PORT)`.
pub fn choose_port_late(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call; pointer and length describe `value`,
    // which the kernel only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Drops every packet that comes for `socket` from now on, silently, and on a listening socket
/// every SYN (`SO_ATTACH_FILTER`, socket(7)); [`undeafen`] ends it.
///
/// # Errors
/// The error of `setsockopt(SO_ATTACH_FILTER)`.
pub fn deafen(socket: &impl AsFd) -> io::Result<()> {
    // BPF_RET | BPF_K: a packet is cut to its first 0 bytes, that is, dropped.
    let nothing = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing])
}

/// Ends what [`deafen`] has begun.
///
/// # Errors
/// The error of `setsockopt(SO_DETACH_FILTER)`.
pub fn undeafen(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).detach_filter()
}

/// Sets a TCP socket to repair mode: closing it then sends no packet. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The error of `setsockopt(TCP_REPAIR)`.
pub fn repair(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the whole call; pointer and length describe `on`, which
    // the kernel only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Connects and sends `data` with the SYN if a cookie of `address` is at hand; else the kernel asks
/// for a cookie, connects as ever and sends `data` then. Returns how many bytes were taken.
///
/// # Errors
/// The error of `sendto(MSG_FASTOPEN)`: `EOPNOTSUPP` if bit 1 of `net.ipv4.tcp_fastopen` is not
/// set, else what `connect(2)` would have said.
pub fn connect_with_data(socket: &Socket, data: &[u8], address: SocketAddr) -> io::Result<usize> {
    socket.send_to_with_flags(data, &SockAddr::from(address), libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_congestion_control_is_named() {
        let error = tcp(([127, 0, 0, 1], 0).into(), Some("nosuch")).unwrap_err();
        assert!(error.to_string().contains("'nosuch'"), "{error}");
    }

    #[test]
    fn info_of_a_fresh_socket_is_closed() {
        let socket = tcp(([127, 0, 0, 1], 0).into(), None).unwrap();
        // TCP_CLOSE of include/net/tcp_states.h.
        assert_eq!(tcp_info(&socket).unwrap().state, 7);
    }
}

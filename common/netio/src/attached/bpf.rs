//! BPF programs by what they are attached to: bpf(2) with `BPF_PROG_QUERY`, which needs `CAP_NET_ADMIN`.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
/// Programs that are listed at most at one place; the kernel allows 64.
const MOST: usize = 64;

/// How a program is attached (`enum bpf_attach_type`): what of a control group's can keep packets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Packets that arrive for its sockets.
    CgroupIngress,
    /// Packets that leave its sockets.
    CgroupEgress,
    /// connect(2) to an IPv4 address.
    CgroupConnect4,
    /// connect(2) to an IPv6 address.
    CgroupConnect6,
    /// sendto(2), sendmsg(2) of datagrams to an IPv4 address.
    CgroupSend4,
    /// The same to an IPv6 address.
    CgroupSend6,
    /// bind(2) to an IPv4 address.
    CgroupBind4,
    /// bind(2) to an IPv6 address.
    CgroupBind6,
    /// socket(2).
    CgroupSocket,
}

impl Attachment {
    /// All of a control group's.
    pub const CGROUP: [Self; 9] = [
        Self::CgroupIngress,
        Self::CgroupEgress,
        Self::CgroupConnect4,
        Self::CgroupConnect6,
        Self::CgroupSend4,
        Self::CgroupSend6,
        Self::CgroupBind4,
        Self::CgroupBind6,
        Self::CgroupSocket,
    ];

    /// Returns its name as `bpftool` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CgroupIngress => "cgroup_inet_ingress",
            Self::CgroupEgress => "cgroup_inet_egress",
            Self::CgroupConnect4 => "cgroup_inet4_connect",
            Self::CgroupConnect6 => "cgroup_inet6_connect",
            Self::CgroupSend4 => "cgroup_udp4_sendmsg",
            Self::CgroupSend6 => "cgroup_udp6_sendmsg",
            Self::CgroupBind4 => "cgroup_inet4_bind",
            Self::CgroupBind6 => "cgroup_inet6_bind",
            Self::CgroupSocket => "cgroup_inet_sock_create",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::CgroupIngress => 0,
            Self::CgroupEgress => 1,
            Self::CgroupSocket => 2,
            Self::CgroupBind4 => 8,
            Self::CgroupBind6 => 9,
            Self::CgroupConnect4 => 10,
            Self::CgroupConnect6 => 11,
            Self::CgroupSend4 => 14,
            Self::CgroupSend6 => 15,
        }
    }
}

/// Returns the ids of the programs that are attached so to the control group whose folder is open as `cgroup`; not those
/// of the groups that it is in.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` if it has no such attachment.
pub fn cgroup_programs(cgroup: &impl AsFd, attachment: Attachment) -> io::Result<Vec<u32>> {
    query(cgroup.as_fd().as_raw_fd().cast_unsigned(), attachment.number())
}

/// Returns the ids of the tcx programs of the device `index`, in the order in which they run.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` before Linux 6.6.
pub fn tcx_programs(index: u32, is_egress: bool) -> io::Result<Vec<u32>> {
    const TCX_INGRESS: u32 = 46;
    const TCX_EGRESS: u32 = 47;
    query(index, if is_egress { TCX_EGRESS } else { TCX_INGRESS })
}

/// The members of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C, align(8))]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn query(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST];
    let mut query =
        Query { target, attach_type, ids: ids.as_mut_ptr() as u64, count: MOST as u32, ..Query::default() };
    call(BPF_PROG_QUERY, &mut query)?;
    let count = usize::try_from(query.count).unwrap_or(MOST).min(MOST);
    Ok(ids[..count].to_vec())
}

/// Returns the name of a program; empty if it was loaded without one.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_SYS_ADMIN`, `ENOENT` if it is no more.
pub fn program_name(id: u32) -> io::Result<String> {
    #[repr(C, align(8))]
    #[derive(Default)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
        reserved: u32,
    }
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Info {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// Where `struct bpf_prog_info` has the name, and how long it is.
    const NAME: std::ops::Range<usize> = 64..80;

    let fd = call(BPF_PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() })?;
    // SAFETY: the kernel has returned a descriptor, which nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // As many bytes as hold the name; the kernel fills no more.
    let mut info = [0u64; 10];
    let mut ask = Info {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: mem::size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut ask)?;
    let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = bytes[NAME].iter().copied().take_while(|byte| *byte != 0).collect::<Vec<_>>();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Calls bpf(2). Every pointer in `attributes` must point to memory as large as the lengths beside it say.
fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr`, whose size is told and which lives through the call, as does
    // what it points to: both callers above keep arrays as long as they say.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attached_to_a_fresh_loopback() {
        let Ok(namespace) = crate::netns::Namespace::create() else {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        };
        match namespace.enter(|| tcx_programs(1, true)).unwrap() {
            Err(error) => println!("skipped: {error}"),
            Ok(programs) => assert!(programs.is_empty()),
        }
    }

    #[test]
    fn programs_that_do_not_exist_have_no_name() {
        assert!(program_name(u32::MAX).is_err());
    }
}

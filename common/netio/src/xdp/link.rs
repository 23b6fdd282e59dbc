//! What ties an XDP program to an interface: a BPF link, which is a descriptor and nothing else, so that the kernel unties
//! the program however the process ends.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_LINK_CREATE: libc::c_int = 28;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// The members of `union bpf_attr` that `BPF_LINK_CREATE` uses for XDP.
#[repr(C, align(8))]
struct Create {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Ties `program` to the interface of that index in the calling thread's namespace, bpf(2) (`CAP_NET_ADMIN`, Linux 5.9).
/// Not by netlink, which would leave the program behind.
///
/// # Errors
/// The kernel's; `EBUSY` or `EEXIST` if there is a program already.
pub(super) fn create(program: BorrowedFd<'_>, interface: u32, is_generic: bool) -> io::Result<OwnedFd> {
    let flags = if is_generic { SKB_MODE } else { DRV_MODE };
    let program = program.as_raw_fd().cast_unsigned();
    let attributes = Create { program, interface, attach_type: BPF_XDP, flags };
    // SAFETY: `attributes` is a prefix of `union bpf_attr`, whose size is told and which lives through the call; it holds
    // no pointers.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, mem::size_of::<Create>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has returned a descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

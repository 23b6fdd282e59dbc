//! BPF programs of a dozen instructions that drop UDP or TCP over IPv4, at any hook that takes them.
//!
//! They are attached by links (bpf(2), BPF_LINK_CREATE) that live as long as their descriptor: whatever becomes of this process,
//! they are gone.

use std::ffi::c_char;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Commands of bpf(2).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// Where a program stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    /// tcx ingress of a device (Linux 6.6).
    TcIngress,
    /// tcx egress.
    TcEgress,
    /// XDP in the driver or, where that has none, the kernel's own.
    Xdp,
    /// What a control group's sockets send.
    CgroupEgress,
    /// What they receive.
    CgroupIngress,
    /// Their sendmsg(2) over UDP, IPv4.
    CgroupSendmsg,
    /// Their connect(2), IPv4.
    CgroupConnect,
}

/// A program that is attached for as long as this lives.
#[derive(Debug)]
pub(super) struct Attached {
    _link: OwnedFd,
    _program: OwnedFd,
}

/// Attaches a program to `hook`, of the device of index `target` in this thread's network namespace or of the control group whose
/// folder's descriptor it is. It drops packets of the IP protocol `protocol`; at hooks of system calls it refuses them all. Needs root
/// in the initial user namespace.
///
/// # Errors
/// The kernel's.
pub(super) fn attach(hook: Hook, target: u32, protocol: u8) -> io::Result<Attached> {
    let (kind, expected) = hook.numbers();
    let program = load(kind, expected, &hook.instructions(protocol))?;
    let link = link(&program, target, expected)?;
    Ok(Attached { _link: link, _program: program })
}

impl Hook {
    /// Returns the kernel's program type and attach type (`<linux/bpf.h>`).
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::TcIngress => (3, 46),
            Self::TcEgress => (3, 47),
            Self::Xdp => (6, 37),
            Self::CgroupIngress => (8, 0),
            Self::CgroupEgress => (8, 1),
            Self::CgroupConnect => (18, 10),
            Self::CgroupSendmsg => (18, 14),
        }
    }

    fn instructions(self, protocol: u8) -> Vec<Instruction> {
        let protocol = i32::from(protocol);
        match self {
            Self::TcIngress | Self::TcEgress => by_helper(14 + 9, protocol, 2, 0),
            Self::CgroupEgress | Self::CgroupIngress => by_helper(9, protocol, 0, 1),
            Self::CgroupConnect | Self::CgroupSendmsg => vec![mov(0, 0), EXIT],
            // r2 = data, r3 = data_end: the byte has to lie between them.
            Self::Xdp => vec![
                Instruction::new(0x61, 2, 1, 0, 0),
                Instruction::new(0x61, 3, 1, 4, 0),
                Instruction::new(0xbf, 4, 2, 0, 0),
                Instruction::new(0x07, 4, 0, 0, 14 + 10),
                Instruction::new(0x2d, 4, 3, 4, 0),
                Instruction::new(0x71, 5, 2, 14 + 9, 0),
                Instruction::new(0x55, 5, 0, 2, protocol),
                mov(0, 1),
                EXIT,
                mov(0, 2),
                EXIT,
            ],
        }
    }
}

/// A program that returns `dropped` for packets whose byte at `offset` is `protocol`, else `passed`. The byte is loaded by
/// `bpf_skb_load_bytes`, since headers need not lie in one piece.
fn by_helper(offset: i32, protocol: i32, dropped: i32, passed: i32) -> Vec<Instruction> {
    vec![
        mov(2, offset),
        Instruction::new(0xbf, 3, 10, 0, 0),
        Instruction::new(0x07, 3, 0, 0, -8),
        mov(4, 1),
        Instruction::new(0x85, 0, 0, 0, 26),
        Instruction::new(0x55, 0, 0, 4, 0),
        Instruction::new(0x71, 5, 10, -8, 0),
        Instruction::new(0x55, 5, 0, 2, protocol),
        mov(0, dropped),
        EXIT,
        mov(0, passed),
        EXIT,
    ]
}

/// An instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: source << 4 | destination, offset, immediate }
    }
}

const EXIT: Instruction = Instruction::new(0x95, 0, 0, 0, 0);

const fn mov(register: u8, value: i32) -> Instruction {
    Instruction::new(0xb7, register, 0, 0, value)
}

/// The beginning of bpf(2)'s argument for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// And for BPF_LINK_CREATE.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    more: [u64; 4],
}

fn load(kind: u32, expected_attach_type: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license: *const c_char = c"MIT".as_ptr();
    let argument = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"fault_drops\0\0\0\0\0",
        interface: 0,
        expected_attach_type,
    };
    bpf(PROG_LOAD, &argument)
}

fn link(program: &OwnedFd, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    bpf(LINK_CREATE, &Link { program, target, attach_type, flags: 0, more: [0; 4] })
}

/// Calls bpf(2), which returns a descriptor.
fn bpf<T>(command: libc::c_long, argument: &T) -> io::Result<OwnedFd> {
    // SAFETY: `argument` is a valid argument of the command, of the size given, and what it points to lives until the call
    // returns; the kernel only reads.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(argument), mem::size_of::<T>()) };
    match RawFd::try_from(outcome) {
        // SAFETY: the kernel has just made this descriptor, for nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

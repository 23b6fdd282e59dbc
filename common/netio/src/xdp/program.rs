//! The XDP program (`bpf/mirror.bpf.c`, of which the compiled object is part of this crate).

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::Xdp;

use super::MOST_QUEUES;
use super::error::XdpError;
use super::link;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/mirror.bpf.o");
/// Its name in the kernel.
pub(super) const NAME: &str = "rtt0_mirror";

/// Where the program counts what (`bpf/mirror.bpf.c`); behind these, what it has redirected from each queue.
const SEEN: u32 = 0;
const PASSED: u32 = 1;
const UNSERVED: u32 = 2;
const TOO_LONG: u32 = 3;
const REDIRECTED: u32 = 4;

/// What the program has done with the frames of its interface, all queues together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgramCounts {
    /// Frames that it has seen.
    pub seen: u64,
    /// Handed to the sockets.
    pub redirected: u64,
    /// Left to the kernel because they are no tunnel's.
    pub passed: u64,
    /// A tunnel's, left to the kernel because no socket has the queue.
    pub unserved: u64,
    /// A tunnel's, left to the kernel because they are longer than a frame of the sockets.
    pub too_long: u64,
}

/// The program; it ends with the value.
pub(super) struct Program {
    // Before the rest: nothing is redirected any more when the maps go.
    link: Option<OwnedFd>,
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Program {
    /// Loads the program for `ports` and frames of at most `largest` bytes, bpf(2) (`CAP_BPF`, `CAP_NET_ADMIN`).
    pub(super) fn load(ports: &[u16], largest: u32) -> Result<Self, XdpError> {
        let mut ebpf = Ebpf::load(OBJECT).map_err(|error| refused(&error))?;
        let map = |error: MapError| refused(&error);
        let mut bits: Array<MapData, u64> = take(&mut ebpf, "rtt0_mirror_prt")?;
        for port in ports {
            let word = u32::from(port / 64);
            let set = bits.get(&word, 0).map_err(map)?;
            bits.set(word, set | 1 << (port % 64), 0).map_err(map)?;
        }
        let mut longest: Array<MapData, u32> = take(&mut ebpf, "rtt0_mirror_max")?;
        longest.set(0, largest, 0).map_err(map)?;
        let sockets = take(&mut ebpf, "rtt0_mirror_xsk")?;
        let counters = take(&mut ebpf, "rtt0_mirror_cnt")?;
        let program: &mut Xdp = xdp(ebpf.program_mut(NAME))?;
        program.load().map_err(|error| refused(&error))?;
        Ok(Self { link: None, ebpf, sockets, counters })
    }

    /// Attaches the program to the interface of that index, in the driver or in the kernel's stack.
    pub(super) fn attach(&mut self, index: u32, is_generic: bool) -> io::Result<()> {
        let program: &mut Xdp = xdp(self.ebpf.program_mut(NAME)).map_err(io::Error::other)?;
        let fd = program.fd().map_err(io::Error::other)?;
        self.link = Some(link::create(fd.as_fd(), index, is_generic)?);
        Ok(())
    }

    /// Has the program hand a queue's packets to a socket from now on.
    pub(super) fn serve(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| refused(&error))
    }

    /// Returns what it has done since it was loaded, all processors together.
    pub(super) fn counts(&self) -> io::Result<ProgramCounts> {
        Ok(ProgramCounts {
            seen: self.count(SEEN)?,
            redirected: (0..MOST_QUEUES).map(|queue| self.redirected(queue)).sum::<io::Result<u64>>()?,
            passed: self.count(PASSED)?,
            unserved: self.unserved()?,
            too_long: self.too_long()?,
        })
    }

    /// Returns how many packets it has handed to the socket of a queue.
    pub(super) fn redirected(&self, queue: u32) -> io::Result<u64> {
        self.count(REDIRECTED + queue)
    }

    /// Returns [`ProgramCounts::unserved`].
    pub(super) fn unserved(&self) -> io::Result<u64> {
        self.count(UNSERVED)
    }

    /// Returns [`ProgramCounts::too_long`].
    pub(super) fn too_long(&self) -> io::Result<u64> {
        self.count(TOO_LONG)
    }

    /// One counter, all processors together.
    fn count(&self, index: u32) -> io::Result<u64> {
        let values = self.counters.get(&index, 0).map_err(io::Error::other)?;
        Ok(values.iter().sum())
    }
}

fn xdp<'p, P>(program: Option<P>) -> Result<&'p mut Xdp, XdpError>
where
    &'p mut Xdp: TryFrom<P>,
{
    let absent = || XdpError::Program(format!("the object has no program '{NAME}'"));
    program.and_then(|program| program.try_into().ok()).ok_or_else(absent)
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, XdpError> {
    let map =
        ebpf.take_map(name).ok_or_else(|| XdpError::Program(format!("the object has no map '{name}'")))?;
    M::try_from(map).map_err(|error| refused(&error))
}

/// Puts an error and its causes into one line.
fn refused(error: &(dyn Error + 'static)) -> XdpError {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // A verifier's log has thousands of lines; the first says what was tried.
        let words = error.to_string();
        let line = words.lines().next().unwrap_or_default();
        if !text.ends_with(line) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(line);
        }
        next = error.source();
    }
    XdpError::Program(text)
}

//! The packets that the kernel drops, and why: counted by a BPF program at the tracepoint `skb:kfree_skb`.
//!
//! The program (`bpf/drops.bpf.c`, of which the compiled object is part of this crate) counts only what belongs to one
//! network namespace, in maps of fixed sizes. It is held by a file descriptor alone: whichever way the process
//! ends, nothing stays. The reasons' names are read from the kernel's own description of its types, since their numbers
//! differ from version to version; the functions' from `/proc/kallsyms`.

mod btf;
mod obstacle;
mod symbols;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::{fmt, fs, io};

use crate::interface::{self, Interface};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfError, Pod};

/// The compiled program.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/drops.bpf.o");
const TRACEPOINT: &str = "kfree_skb";
/// For the tracepoint's arguments, the newest kernel's first: one that takes more of them than there are is refused.
const PROGRAMS: [&str; 2] = ["dropped", "dropped_before_6_11"];
/// How many calls are remembered, besides that of the function that drops: `CALLERS` in the program.
const CALLERS: usize = 4;
/// More entries than all maps together have.
const MOST_ENTRIES: usize = 8192;
/// Upper half of the number: reasons of modules such as mac80211 or openvswitch, which are no part of the enumeration.
const SUBSYSTEM_SHIFT: u32 = 16;

/// Why the kernel's drops can't be counted.
#[derive(Debug, thiserror::Error)]
pub enum DropReasonsError {
    /// It does not describe its types.
    #[error("the kernel has no BTF at {}, or it can't be read (needs CONFIG_DEBUG_INFO_BTF)", btf::KERNEL)]
    NoBtf(#[source] io::Error),
    /// It does not know why it drops.
    #[error("this kernel gives no reasons when it drops packets: Linux 5.17 and newer do")]
    NoReasons,
    /// The calling thread's network namespace is unknown.
    #[error("the network namespace is unknown: is /proc mounted?")]
    Namespace(#[source] io::Error),
    /// It does not take the program.
    #[error("the kernel does not take the BPF program that counts drops: {cause}{obstacles}")]
    Refused {
        /// What the kernel said.
        cause: String,
        /// What is known to be in the way, beginning with `; `, or nothing.
        obstacles: String,
    },
    /// The counts can't be read.
    #[error("the counts can't be read from the BPF map")]
    Map(#[from] MapError),
}

/// Packets dropped for one reason, in one place, on one device, of one pair of ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The kernel's name for the reason, without `SKB_DROP_REASON_`; a module's as `SUBSYSTEM_2_REASON_7`.
    pub reason: String,
    /// The function that dropped them, if known.
    pub location: Option<String>,
    /// Those that had called it, the nearest first, as far as known: at most four.
    pub callers: Vec<String>,
    /// The device by its index, or that which the packets were to leave by; 0 if none.
    pub interface: u32,
    /// Its name, if it still has one.
    pub device: Option<String>,
    /// What the device took them for, in host byte order; 0 if unknown.
    pub ethertype: u16,
    /// The IP protocol; 0 if unknown.
    pub protocol: u8,
    /// Source and destination port, 0 if unknown; an ICMP message's type and code.
    pub ports: (u16, u16),
    /// Segments with SYN and without ACK.
    pub is_syn: bool,
    /// To a multicast address, or to everybody on the link.
    pub is_to_many: bool,
    /// The socket that was to receive them has a filter.
    pub has_socket_filter: bool,
    /// How many.
    pub packets: u64,
}

/// What was dropped while the kernel was watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// What is known of it. Where the ports were too many those of clients (32768 and above) are 0, or all.
    pub drops: Vec<Dropped>,
    /// Packets that were dropped and for which the tables had no room.
    pub uncounted: u64,
}

/// The program at work. Dropping it ends it.
pub struct DropCounter {
    ebpf: Ebpf,
    names: HashMap<u32, String>,
}

impl fmt::Debug for DropCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DropCounter").finish_non_exhaustive()
    }
}

/// `struct key` of the program.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Key {
    location: u64,
    callers: [u64; CALLERS],
    reason: u32,
    interface: u32,
    ethertype: u16,
    source: u16,
    destination: u16,
    protocol: u8,
    flags: u8,
}

// SAFETY: it consists of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Key {}

mod flag {
    pub(super) const SYN_ALONE: u8 = 1;
    pub(super) const TO_MANY: u8 = 2;
    pub(super) const SOCKET_HAS_FILTER: u8 = 4;
}

impl DropCounter {
    /// Begins to count what is dropped in the calling thread's network namespace. Needs `CAP_BPF` and `CAP_PERFMON`.
    ///
    /// # Errors
    /// [`DropReasonsError`].
    pub fn start() -> Result<Self, DropReasonsError> {
        let types = fs::read(btf::KERNEL).map_err(DropReasonsError::NoBtf)?;
        let names = btf::enum_names(&types, "skb_drop_reason").ok_or(DropReasonsError::NoReasons)?;
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(DropReasonsError::Namespace)?.ino();
        let mut ebpf = Ebpf::load(OBJECT).map_err(|error| refused(&error))?;
        if let Some(settings) = ebpf.map_mut("settings") {
            Array::<_, u64>::try_from(settings)?.set(0, namespace, 0)?;
        }
        attach(&mut ebpf).map_err(|error| refused(&error))?;
        Ok(Self { ebpf, names })
    }

    /// Ends counting, and returns what was dropped since it began.
    ///
    /// # Errors
    /// [`DropReasonsError::Map`].
    pub fn stop(mut self) -> Result<Counted, DropReasonsError> {
        let maps = ["drops", "of_services", "rest"].map(|name| self.ebpf.take_map(name));
        let uncounted = match self.ebpf.map("settings") {
            Some(settings) => Array::<_, u64>::try_from(settings)?.get(&1, 0)?,
            None => 0,
        };
        // The program ends here; the maps are held until they are read.
        drop(self.ebpf);
        let mut entries = Vec::new();
        for map in maps.into_iter().flatten() {
            read(map, &mut entries)?;
        }
        let addresses = entries.iter().flat_map(|(key, _)| key.callers.into_iter().chain([key.location]));
        // Without the functions' names the reasons tell enough.
        let functions = symbols::functions(addresses).unwrap_or_default();
        let devices = interface::list();
        let drops = entries
            .iter()
            .map(|(key, packets)| Dropped::new(key, *packets, &self.names, &functions, &devices))
            .collect();
        Ok(Counted { drops, uncounted })
    }
}

impl Dropped {
    fn new(
        key: &Key,
        packets: u64,
        names: &HashMap<u32, String>,
        functions: &HashMap<u64, String>,
        devices: &[Interface],
    ) -> Self {
        Self {
            reason: reason(names, key.reason),
            location: functions.get(&key.location).cloned(),
            callers: key.callers.iter().map_while(|address| functions.get(address).cloned()).collect(),
            interface: key.interface,
            device: devices
                .iter()
                .find(|device| device.index == key.interface)
                .map(|device| device.name.clone()),
            ethertype: key.ethertype,
            protocol: key.protocol,
            ports: (key.source, key.destination),
            is_syn: key.flags & flag::SYN_ALONE != 0,
            is_to_many: key.flags & flag::TO_MANY != 0,
            has_socket_filter: key.flags & flag::SOCKET_HAS_FILTER != 0,
            packets,
        }
    }
}

fn reason(names: &HashMap<u32, String>, number: u32) -> String {
    match names.get(&number) {
        Some(name) => name.trim_start_matches("SKB_DROP_REASON_").to_owned(),
        None if number >> SUBSYSTEM_SHIFT == 0 => format!("REASON_{number}"),
        None => format!("SUBSYSTEM_{}_REASON_{}", number >> SUBSYSTEM_SHIFT, number & 0xffff),
    }
}

/// Attaches the first program whose arguments this kernel has.
fn attach(ebpf: &mut Ebpf) -> Result<(), EbpfError> {
    let mut outcome = Ok(());
    for name in PROGRAMS {
        let Some(program) = ebpf.program_mut(name) else { continue };
        let program: &mut RawTracePoint = program.try_into()?;
        program.load()?;
        match program.attach(TRACEPOINT) {
            Ok(_) => return Ok(()),
            Err(error @ ProgramError::SyscallError(_)) => outcome = Err(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    outcome
}

fn read(map: Map, entries: &mut Vec<(Key, u64)>) -> Result<(), MapError> {
    let map = BpfHashMap::<MapData, Key, u64>::try_from(map)?;
    for entry in map.iter().take(MOST_ENTRIES) {
        entries.push(entry?);
    }
    Ok(())
}

fn refused(error: &(dyn std::error::Error + 'static)) -> DropReasonsError {
    let mut cause = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // A verifier's log has thousands of lines; the first says what was tried.
        let words = error.to_string();
        let line = words.lines().next().unwrap_or_default();
        if !cause.ends_with(line) {
            cause.push_str(if cause.is_empty() { "" } else { ": " });
            cause.push_str(line);
        }
        next = error.source();
    }
    DropReasonsError::Refused { cause, obstacles: obstacle::known() }
}

#[cfg(test)]
mod tests;

//! Established flows, forwarded by the kernel: a BPF program at the interfaces' ingress.
//!
//! The program (`bpf/offload.bpf.c`, of which the compiled object is part of this crate) rewrites the
//! segments of the flows in its map as the translator would, marks them, and sends them by the kernel's routing
//! and neighbour tables; where these have no plain way it lets the kernel forward them, and the guard lets
//! through what is marked. Of everything else of a service (what begins or ends a connection, and all that is
//! odd) it puts a copy into a device of the daemon's, the outlet, where that captures it; the original
//! goes on to the guard. So one program decides, once for each packet, and nothing is captured at the interfaces
//! themselves.
//!
//! With a BPF file system map and program are pinned: they outlive the process, however it ends, and the
//! next one goes on with them. While there is none the program also translates FIN and RST, so that
//! connections can end. What tells it is that the outlet is gone.
//!
//! Links of tcx are what can be pinned. Where the kernel has none the program is a filter of the clsact
//! qdisc, which stays by itself.

mod attachment;
mod board;
mod clsact;
mod handshakes;
mod opened;
mod outlet;
mod path;
mod pins;
mod queue;
mod times;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapFd, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, SocketFilter};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use rtt0_core::claim::Bypass;
use rtt0_core::offer::{self, Keys};
use rtt0_core::offload::{KERNEL_KEY, KERNEL_VALUE, Offloaded};
use rtt0_core::profile::Board;
use rtt0_core::service::{Prefix, Services};

use crate::device::{DeviceError, Way};
use crate::emit::EMIT_MARK;
use crate::interface;
use attachment::Attached;
pub use attachment::{Attach, Attachment};
use board::KernelBoard;
use handshakes::Beginner;
pub use handshakes::{HandshakeOptions, Handshakes};
use opened::Accepted;
use outlet::Outlet;
pub use path::KernelPath;
use path::News;
use pins::Pins;
use queue::Queue;
pub use times::Served;
use times::Time;

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/offload.bpf.o");
/// How long a packet takes from the program's look at the flows into the capture's queue, well reckoned.
pub(crate) const MARGIN: Duration = Duration::from_micros(20);
/// After that long the kernel forwards a flow's direction even if the daemon has never caught up with it: what is
/// queued may be overtaken.
const LONGEST: Duration = Duration::from_millis(200);
/// Most rules that the program can hold.
const MOST_RULES: usize = 64;

type Key = [u8; KERNEL_KEY];
type Value = [u8; KERNEL_VALUE];
type Flows = HashMap<MapData, Key, Value>;

/// Why the kernel can't forward established flows. The daemon then does it.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// The kernel refuses BPF, or the object.
    #[error("the kernel does not take the BPF programs (they need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)")]
    Load(#[from] EbpfError),
    /// A program can't be loaded or attached.
    #[error(
        "the kernel does not take the BPF program '{name}' (it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and either \
         tcx, Linux 6.6, or the clsact qdisc with cls_bpf)"
    )]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A map can't be used.
    #[error("the BPF map '{name}' can't be used")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The device that the daemon captures from can't be had.
    #[error("no device can be made from which packets could be captured")]
    Outlet(#[from] DeviceError),
    /// Somebody has set it down.
    #[error("device '{0}' is down, and nothing can be captured there; it belongs to this process")]
    OutletDown(String),
    /// Frames of an interface have no Ethernet header.
    #[error("frames of interface '{0}' have no Ethernet header")]
    NoEthernet(String),
    /// The memory shared with the kernel can't be mapped.
    #[error("the BPF map '{name}' can't be mapped into memory")]
    Memory {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object lacks a program or map: it is of another version.
    #[error("the BPF object has no '{0}'")]
    Missing(&'static str),
    /// More service rules than the program holds.
    #[error("{0} service rules, and the kernel's program holds {MOST_RULES}; merge some")]
    TooManyRules(usize),
}

/// What `settings` holds: `struct settings`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    rules: u32,
    largest: u32,
    mark: u32,
    let_through: u32,
    signature: u32,
    longest: u32,
    outlet: u32,
    workers: u32,
    begins: u32,
    mss: [u32; 2],
    large_upload: u32,
}

/// `struct rule`; addresses in network byte order, IPv4 as IPv4-mapped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    prefix: [u8; 16],
    mask: [u8; 16],
    ports: [u16; 2],
}

// SAFETY: all consist of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Settings {}
// SAFETY: as above.
unsafe impl Pod for Rule {}

/// Choices for the offload.
#[derive(Debug, Clone)]
pub struct OffloadOptions<'a> {
    /// The interfaces; their frames have Ethernet headers.
    pub interfaces: &'a [String],
    /// What is served.
    pub services: &'a Services,
    /// The largest IP packet in bytes that every interface carries; what is larger is the engine's.
    pub largest: u16,
    /// Most flows the kernel holds.
    pub flows: usize,
    /// A folder on a BPF file system, for what is to outlive the process.
    pub pins: Option<&'a Path>,
    /// How the program is to be attached to the interfaces.
    pub attach: Attach,
    /// What kind of device the outlet is to be; `None` for the best that can be had.
    pub outlet: Option<Way>,
    /// Which handshakes the kernel is to begin, as far as it takes that program too.
    pub handshakes: Option<HandshakeOptions<'a>>,
}

/// What the kernel has done by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffloadCounts {
    /// Packets forwarded; a super-packet counts as one.
    pub packets: u64,
    /// Bytes of those, from the IP header on.
    pub bytes: u64,
    /// Segments of its flows that it has left to the engine.
    pub left: u64,
    /// Flows taken out because another connection had begun while no engine ran.
    pub forgotten: u64,
}

/// The programs at work. Dropping it takes away what is not pinned.
pub struct KernelOffload {
    ebpf: Ebpf,
    settings: Arc<Mutex<Array<MapData, Settings>>>,
    pins: Option<Pins>,
    outlet: Outlet,
    attached: Attached,
    beginner: Option<Beginner>,
}

impl fmt::Debug for KernelOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelOffload").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl KernelOffload {
    /// Opens the outlet, loads the programs and attaches the one that forwards to the interfaces' ingress. With
    /// `pins`, takes over what an earlier process has left there. From then on packets of the services are to be
    /// captured at [`KernelOffload::outlet`].
    ///
    /// # Errors
    /// [`OffloadError`]; then nothing has changed.
    pub fn start(options: &OffloadOptions<'_>) -> Result<Self, OffloadError> {
        let rules = rules(options.services)?;
        let without = |name: &&String| !interface::has_ethernet(name);
        if let Some(name) = options.interfaces.iter().find(without) {
            return Err(OffloadError::NoEthernet(name.clone()));
        }
        let pins = options.pins.and_then(Pins::open);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("flows", u32::try_from(options.flows).unwrap_or(u32::MAX));
        let which = options.handshakes.map(|handshakes| handshakes.which);
        Handshakes::without(which).iter().for_each(|name| _ = loader.map_max_entries(name, 1));
        let path = pins.as_ref().map(Pins::flows);
        if let Some(path) = &path {
            loader.map_pin_path("flows", path.as_path());
        }
        let mut ebpf = loader.load(OBJECT)?;
        let nothing: &mut SocketFilter = program(&mut ebpf, "nothing")?;
        nothing.load().map_err(program_error("nothing"))?;
        let outlet = Outlet::open(options.outlet, nothing)?;
        let mut settings: Array<MapData, Settings> = take(&mut ebpf, "settings")?;
        let (mss, large_upload) = match which {
            Some(Handshakes::Answered { mss_clamp: (v4, v6), large_upload }) => {
                ([v4.into(), v6.into()], large_upload)
            }
            Some(Handshakes::Accepted) | None => ([0; 2], u32::MAX),
        };
        let first = Settings {
            rules: rules.len() as u32,
            largest: options.largest.into(),
            mark: EMIT_MARK,
            let_through: 0,
            signature: u32::from_be_bytes(offer::PREFIX),
            longest: LONGEST.as_nanos() as u32,
            outlet: outlet.index(),
            workers: options.handshakes.map_or(1, |handshakes| handshakes.workers as u32),
            begins: 0,
            mss,
            large_upload,
        };
        settings.set(0, first, 0).map_err(map_error("settings"))?;
        let mut table: Array<MapData, Rule> = take(&mut ebpf, "rules")?;
        for (index, rule) in (0..).zip(rules) {
            table.set(index, rule, 0).map_err(map_error("rules"))?;
        }
        let beginner = options.handshakes.and_then(|handshakes| {
            let started = Beginner::start(&mut ebpf, &handshakes);
            started.inspect_err(|error| tracing::info!(%error, "handshakes are made in user space")).ok()
        });
        if let Some(beginner) = &beginner {
            let begins = beginner.which.begins();
            settings.set(0, Settings { begins, ..first }, 0).map_err(map_error("settings"))?;
        }
        let forward: &mut SchedClassifier = program(&mut ebpf, "forward")?;
        forward.load().map_err(program_error("forward"))?;
        let attached = Attached::new(forward, options.interfaces, options.attach, pins.as_ref())
            .map_err(program_error("forward"))?;
        let settings = Arc::new(Mutex::new(settings));
        Ok(Self { ebpf, settings, pins, outlet, attached, beginner })
    }

    /// Tells where the flows are pinned, if they outlive this process.
    pub fn pinned(&self) -> Option<&Path> {
        self.pins.as_ref().map(Pins::folder)
    }

    /// Tells how the forwarding program is attached.
    pub fn attachment(&self) -> Attachment {
        self.attached.by
    }

    /// Returns the device out of which the program sends a copy of each packet that may be the engine's: to be
    /// captured there ([`CaptureOptions::sent`]).
    ///
    /// [`CaptureOptions::sent`]: crate::capture::CaptureOptions::sent
    pub fn outlet(&self) -> &str {
        self.outlet.name()
    }

    /// Looks whether copies still leave by the outlet.
    ///
    /// # Errors
    /// [`OffloadError::OutletDown`]: whatever the guard drops is lost, so it had better go.
    pub fn check(&self) -> Result<(), OffloadError> {
        let name = self.outlet.name();
        if interface::is_up(name) { Ok(()) } else { Err(OffloadError::OutletDown(name.to_owned())) }
    }

    /// Returns what changes the program's settings.
    pub fn switch(&self) -> Switch {
        Switch { settings: Arc::clone(&self.settings) }
    }

    /// Returns another way to the flows, for the engine of a worker; each worker has one only. What is queued for that when
    /// it hands a flow over is not overtaken, if it tells how far it has come ([`KernelOffload::served`]); with
    /// `None` there is no queue, and it is the first worker.
    ///
    /// # Errors
    /// [`OffloadError::Map`], [`OffloadError::Memory`].
    pub fn path(&self, worker: Option<u8>) -> Result<KernelPath, OffloadError> {
        let number = worker.unwrap_or(0).into();
        let memory = |name| move |source| OffloadError::Memory { name, source };
        let closed = Queue::open(self.shared("closing")?, number).map_err(memory("closing"))?;
        let news = match self.beginner.as_ref().map(|beginner| beginner.which) {
            Some(Handshakes::Answered { .. }) => {
                News::Begun(Queue::open(self.shared("begun")?, number).map_err(memory("begun"))?)
            }
            Some(Handshakes::Accepted) => News::Opened(Box::new(Accepted {
                queue: Queue::open(self.shared("opened")?, number).map_err(memory("opened"))?,
                openings: self.another("openings")?,
                left: self.another("left")?,
            })),
            None => News::None,
        };
        let allowed = match news {
            News::None => None,
            _ => Some(Time::open(self.shared("allowed")?, number).map_err(memory("allowed"))?),
        };
        Ok(KernelPath::new(self.another("flows")?, closed, allowed, news, worker))
    }

    /// Tells which handshakes the kernel begins by itself, if it does.
    pub fn handshakes(&self) -> Option<Handshakes> {
        self.beginner.as_ref().map(|beginner| beginner.which)
    }

    /// Returns where profiles tell what the kernel may promise, if it answers SYNs; once.
    pub fn board(&mut self) -> Option<Box<dyn Board>> {
        if !matches!(self.beginner.as_ref()?.which, Handshakes::Answered { .. }) {
            return None;
        }
        let map = take(&mut self.ebpf, "promises").ok()?;
        Some(Box::new(KernelBoard::new(map)))
    }

    /// Has the kernel use other keys from now on.
    ///
    /// # Errors
    /// [`OffloadError::Map`]; then it uses what it has.
    pub fn rekey(&mut self, keys: &Keys) -> Result<(), OffloadError> {
        self.beginner.as_mut().map_or(Ok(()), |beginner| beginner.rekey(keys))
    }

    /// Returns what a worker tells with how far it has come.
    ///
    /// # Errors
    /// [`OffloadError::Memory`].
    pub fn served(&self, worker: usize) -> Result<Served, OffloadError> {
        let served = Time::open(self.shared("served")?, worker);
        served.map(Served).map_err(|source| OffloadError::Memory { name: "served", source })
    }

    fn shared(&self, name: &'static str) -> Result<&MapFd, OffloadError> {
        match self.ebpf.map(name) {
            Some(Map::Array(map)) => Ok(map.fd()),
            _ => Err(OffloadError::Missing(name)),
        }
    }

    /// Hands `take` every flow that the kernel has; it returns whether there is an engine for it. All
    /// others are taken out. Returns how many were kept and how many taken out.
    ///
    /// # Errors
    /// [`OffloadError::Map`].
    pub fn adopt(&self, mut take: impl FnMut(&Offloaded) -> bool) -> Result<(usize, usize), OffloadError> {
        let mut flows = self.flows()?;
        let keys: Vec<Key> = flows.keys().filter_map(Result::ok).collect();
        let mut kept = 0;
        for key in &keys {
            let flow = flows.get(key, 0).ok().and_then(|value| Offloaded::from_kernel(key, &value));
            if flow.is_some_and(|flow| take(&flow)) {
                kept += 1;
            } else {
                // It may have gone by itself.
                let _ = flows.remove(key);
            }
        }
        Ok((kept, keys.len() - kept))
    }

    /// Returns what the kernel has done since [`KernelOffload::start`].
    ///
    /// # Errors
    /// [`OffloadError::Map`].
    pub fn counts(&self) -> Result<OffloadCounts, OffloadError> {
        let map = self.ebpf.map("counters").ok_or(OffloadError::Missing("counters"))?;
        let counters: PerCpuArray<_, u64> = map.try_into().map_err(map_error("counters"))?;
        let read = |index| -> Result<u64, OffloadError> {
            let values = counters.get(&index, 0).map_err(map_error("counters"))?;
            Ok(values.iter().sum())
        };
        Ok(OffloadCounts { packets: read(0)?, bytes: read(1)?, left: read(2)?, forgotten: read(3)? })
    }

    /// Runs the forwarding program on an Ethernet frame addressed to the loopback interface, without
    /// sending anything (BPF_PROG_TEST_RUN). `gso_size` is that of a super-packet, 0 for none. Returns the
    /// frame, and whether it is marked as forwarded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn trial(&self, frame: &[u8], gso_size: u16) -> Result<(Vec<u8>, bool), OffloadError> {
        let forward = self.ebpf.program("forward").ok_or(OffloadError::Missing("forward"))?;
        let forward: &SchedClassifier = forward.try_into().map_err(program_error("forward"))?;
        path::trial(forward, frame, gso_size).map_err(program_error("forward"))
    }

    /// Has the kernel act from now on as if this process had died.
    ///
    /// # Errors
    /// [`OffloadError::Map`].
    pub fn abandon(&self) -> Result<(), OffloadError> {
        let abandoned = self.switch().change(|settings| settings.outlet = 0);
        abandoned.map_err(|error| OffloadError::Map { name: "settings", source: MapError::IoError(error) })
    }

    /// Ends the offload as a daemon does that stops. If the kernel still has flows and they are pinned,
    /// they go on; returns how many. Otherwise nothing is left.
    pub fn stop(self) -> usize {
        let flows = self.flows().map_or(0, |flows| flows.keys().filter(Result::is_ok).count());
        let Some(pins) = self.pins else { return 0 };
        if flows == 0 {
            pins.remove();
        }
        flows
    }

    fn flows(&self) -> Result<Flows, OffloadError> {
        self.another("flows")
    }

    /// Opens a map once more.
    fn another<K: Pod, V: Pod>(&self, name: &'static str) -> Result<HashMap<MapData, K, V>, OffloadError> {
        let map = self.ebpf.map(name).ok_or(OffloadError::Missing(name))?;
        path::another(map).map_err(map_error(name))
    }
}

/// Takes away what a process has pinned in `folder`, and its filters there and on `interfaces`;
/// connections that the kernel forwarded break, unless somebody else translates them.
pub fn remove(interfaces: &[String], folder: Option<&Path>) {
    if let Some(folder) = folder {
        Pins::remove_from(folder);
    }
    for interface in interfaces {
        attachment::remove_filter(interface, None);
    }
}

/// Changes the program's settings while it runs.
#[derive(Clone)]
pub struct Switch {
    settings: Arc<Mutex<Array<MapData, Settings>>>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    /// Has the program copy nothing of what the kernel is to forward by itself.
    ///
    /// # Errors
    /// The kernel's; then nothing has changed.
    pub fn leave_out(&self, bypass: Bypass) -> io::Result<()> {
        let let_through = match bypass {
            Bypass::Nothing => 0,
            Bypass::Syns => 1,
            Bypass::Handshakes => 2,
        };
        self.change(|settings| settings.let_through = let_through)
    }

    /// Sets the largest IP packet in bytes that every interface carries.
    ///
    /// # Errors
    /// The kernel's; then nothing has changed.
    pub fn set_largest(&self, largest: u16) -> io::Result<()> {
        self.change(|settings| settings.largest = largest.into())
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut map = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let old = map.get(&0, 0).map_err(io::Error::other)?;
        let mut new = old;
        change(&mut new);
        if new == old { Ok(()) } else { map.set(0, new, 0).map_err(io::Error::other) }
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, OffloadError> {
    let map = ebpf.take_map(name).ok_or(OffloadError::Missing(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn program<'e, P>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut P, OffloadError>
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(OffloadError::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> OffloadError {
    move |source| OffloadError::Map { name, source }
}

fn program_error(name: &'static str) -> impl Fn(ProgramError) -> OffloadError {
    move |source| OffloadError::Program { name, source }
}

fn rules(services: &Services) -> Result<Vec<Rule>, OffloadError> {
    if services.rules().len() > MOST_RULES {
        return Err(OffloadError::TooManyRules(services.rules().len()));
    }
    let rule = |service: &rtt0_core::service::Service| {
        let (prefix, mask) = mapped(&service.prefix);
        Rule { prefix, mask, ports: [*service.ports.start(), *service.ports.end()] }
    };
    Ok(services.rules().iter().map(rule).collect())
}

/// Returns a prefix's address and mask, those of IPv4 in IPv4-mapped form.
fn mapped(prefix: &Prefix) -> ([u8; 16], [u8; 16]) {
    let (address, length) = match prefix.address() {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), 96 + u32::from(prefix.length())),
        IpAddr::V6(address) => (address, prefix.length().into()),
    };
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (address.octets(), mask.to_be_bytes())
}

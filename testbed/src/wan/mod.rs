//! The long leg: a delay line in user space between the two NICs. A local leg can be one, too.
//!
//! ```text
//! clientnic wan0 ─► port ─► line (impairments, delay) ─► port ─► wan0 servernic
//!                ◄─ port ◄─ line                      ◄─ port ◄─
//! ```
//!
//! A port is a TAP device made inside the NIC's namespace, or where `/dev/net/tun` is closed to
//! us, a packet socket on a veth whose other end is the NIC's `wan0`. A thread for each direction
//! carries the frames. With offloads on, super-packets pass whole; as soon as the path drops,
//! repeats, reorders or serialises packets, the kernel is told to hand over single segments, so
//! that each of them has its own fate.

mod fate;
mod line;
mod packet;
mod port;
mod rtt;
mod tap;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use rtt0_core::service;
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rustix::event::{EventfdFlags, eventfd};

pub use fate::{Fate, Saboteur};
pub use line::{Counters, Lateness};
pub(crate) use packet::{Ear, PacketSocket, Received};
pub(crate) use port::VNET_HEADER;
pub(crate) use rtt::{measure as measure_rtt, measure_here as measure_rtt_here};

use line::Line;
use packet::PacketPort;
use port::{Carrier, Port};
pub(crate) use tap::{Burden, Tap};

/// Length of an Ethernet header without tags; the testbed has none.
const ETHERNET_HEADER: usize = 14;
/// Names of the veth ends inside the namespace of the packet-socket backend.
const INNER: [&str; 2] = ["left0", "right0"];
/// Transmit queue of a TAP device in packets: what a burst may need before the line's thread runs.
const TAP_QUEUE: u32 = 8_192;

/// What happens to packets on the long leg, the same in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// How long a packet is on its way.
    pub one_way_delay: Duration,
    /// The delay varies uniformly by up to this, either way. It alone never reorders packets.
    pub jitter: Duration,
    /// Probability (0–1) that a packet is lost.
    pub loss: f64,
    /// Probability (0–1) that a packet is held back by another 1–5 ms, so that later ones overtake.
    pub reorder: f64,
    /// Probability (0–1) that a packet arrives twice.
    pub duplicate: f64,
    /// Rate in bit/s of Ethernet frames, with a buffer of 100 ms before it; none means unlimited.
    pub rate_bits: Option<u64>,
    /// Seed of the random choices: the same seed and packets give the same fate.
    pub seed: u64,
}

impl Path {
    /// A clean path with this round-trip time.
    pub fn with_rtt(rtt: Duration) -> Self {
        Self {
            one_way_delay: rtt / 2,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            rate_bits: None,
            seed: 1,
        }
    }

    /// Tells whether packets have fates of their own, so that segments must travel singly.
    fn acts_on_single_packets(&self) -> bool {
        self.loss > 0.0 || self.reorder > 0.0 || self.duplicate > 0.0 || self.rate_bits.is_some()
    }
}

/// How the delay line gets at the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// TAP devices. Needs access to `/dev/net/tun`.
    Tap,
    /// Packet sockets on veth pairs in a fifth namespace.
    Packet,
    /// No line at all: one veth pair between the ends. It neither delays nor loses, has no counters,
    /// and takes no processor time beyond the kernel's own.
    Cable,
}

impl Backend {
    /// Tells whether the backend's devices can be had here, privileges over the network granted.
    pub fn is_available(self) -> bool {
        match self {
            Self::Tap => OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok(),
            Self::Packet | Self::Cable => true,
        }
    }
}

/// One direction's state, for reading.
#[derive(Debug, Clone)]
pub struct Direction {
    /// What was done so far.
    pub counters: Counters,
    /// How late frames came out.
    pub lateness: Lateness,
}

/// A device of a line, to be made.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace it is made in.
    pub namespace: &'a Namespace,
    /// Its name there, at most 15 bytes.
    pub device: &'static str,
}

/// The running delay line. Dropping it stops its threads and removes its devices.
#[derive(Debug)]
pub struct Wan {
    devices: Devices,
    offloads: bool,
    lines: [Arc<Mutex<Line>>; 2],
    stop: Arc<OwnedFd>,
    carriers: Vec<JoinHandle<()>>,
}

/// What a backend keeps for changing the burden later.
#[derive(Debug)]
enum Devices {
    Tap([Tap; 2]),
    /// Both ends' namespaces and devices, and the namespace in between.
    Packet([(Namespace, &'static str); 2], Namespace),
    /// Both ends' namespaces and devices.
    Cable([(Namespace, &'static str); 2]),
}

impl Wan {
    /// Makes the devices at both ends (down), the client's side first, and starts carrying frames
    /// between them. Needs `CAP_NET_ADMIN` and `CAP_NET_RAW`. `offloads` permits super-packets and partial
    /// checksums; `mtu` is in bytes.
    ///
    /// # Errors
    /// A device, socket or thread cannot be made.
    pub fn raise(
        ends: [End<'_>; 2],
        backend: Backend,
        path: Path,
        offloads: bool,
        mtu: u16,
    ) -> anyhow::Result<Self> {
        let (devices, ports) = match backend {
            Backend::Tap => make_taps(ends, burden(offloads, &path), mtu).map(some_ports),
            Backend::Packet => make_veths(ends, mtu).map(some_ports),
            Backend::Cable => make_cable(ends, mtu).map(|devices| (devices, None)),
        }
        .with_context(|| format!("cannot make the devices of a delay line ({backend:?})"))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let lines = [0, 1].map(|side| Arc::new(Mutex::new(Line::new(path, salt(side)))));
        let mut wan = Self { devices, offloads, lines, stop, carriers: Vec::new() };
        wan.set_path(path)?;
        if let Some(ports) = ports {
            wan.start(ports)?;
        }
        Ok(wan)
    }

    fn start(&mut self, [client_side, server_side]: [Ports; 2]) -> anyhow::Result<()> {
        let ways = [
            ("wan-to-server", client_side.from, server_side.to, &self.lines[0]),
            ("wan-to-client", server_side.from, client_side.to, &self.lines[1]),
        ];
        for (name, from, to, line) in ways {
            let carrier = Carrier { from, to, line: Arc::clone(line), stop: Arc::clone(&self.stop) };
            let thread = thread::Builder::new().name(name.to_owned()).spawn(move || carrier.run())?;
            self.carriers.push(thread);
        }
        Ok(())
    }

    /// Tells which backend runs.
    pub fn backend(&self) -> Backend {
        match self.devices {
            Devices::Tap(_) => Backend::Tap,
            Devices::Packet(..) => Backend::Packet,
            Devices::Cable(_) => Backend::Cable,
        }
    }

    /// Changes the path for packets that enter from now on.
    ///
    /// # Errors
    /// The kernel refuses to change the devices' offloads; the path is changed all the same. Or it is
    /// a [`Backend::Cable`], and the path is more than that.
    pub fn set_path(&self, path: Path) -> anyhow::Result<()> {
        let is_bare = path.one_way_delay.is_zero() && path.jitter.is_zero() && !path.acts_on_single_packets();
        if matches!(self.devices, Devices::Cable(_)) && !is_bare {
            bail!("a cable neither delays nor loses: use a delay line");
        }
        for (side, line) in self.lines.iter().enumerate() {
            line.lock().unwrap_or_else(PoisonError::into_inner).set_path(path, salt(side));
        }
        self.set_burden(&path).context("cannot set the offloads of a delay line")
    }

    /// Sets who decides on the packets that enter `way` from now on; none ends it. The saboteur runs
    /// on the thread that carries the frames, so it must be quick. With offloads on it sees
    /// super-packets, unless the path acts on single packets.
    pub fn sabotage(&self, way: service::Direction, saboteur: Option<Saboteur>) {
        let side = match way {
            service::Direction::ToServer => 0,
            service::Direction::ToClient => 1,
        };
        self.lines[side].lock().unwrap_or_else(PoisonError::into_inner).set_saboteur(saboteur);
    }

    /// Returns what both directions have done: client to server, server to client.
    pub fn directions(&self) -> [Direction; 2] {
        [0, 1].map(|side: usize| {
            let line = self.lines[side].lock().unwrap_or_else(PoisonError::into_inner);
            Direction { counters: line.counters(), lateness: line.lateness().clone() }
        })
    }

    fn set_burden(&self, path: &Path) -> io::Result<()> {
        let burden = burden(self.offloads, path);
        match &self.devices {
            Devices::Tap(taps) => taps.iter().try_for_each(|tap| tap.set_burden(burden)),
            Devices::Cable(ends) => set_offloads_of(ends, burden),
            Devices::Packet(ends, between) => {
                set_offloads_of(ends, burden)?;
                between.enter(|| INNER.iter().try_for_each(|name| set_offloads(name, burden)))?
            }
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        // Only an overflow of the eventfd's counter could make this fail.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        for carrier in self.carriers.drain(..) {
            // A panic in there was printed when it happened; the testbed's end is no place for it.
            let _ = carrier.join();
        }
    }
}

/// A device's port, once for each of the two threads that use it.
struct Ports {
    from: Box<dyn Port>,
    to: Box<dyn Port>,
}

impl Ports {
    fn of<P: Port + Clone + 'static>(port: P) -> Self {
        Self { from: Box::new(port.clone()), to: Box::new(port) }
    }
}

fn make_taps(ends: [End<'_>; 2], burden: Burden, mtu: u16) -> anyhow::Result<(Devices, [Ports; 2])> {
    let make = |end: End<'_>| -> anyhow::Result<Tap> {
        let tap = Tap::create(end.namespace, end.device, burden).context("cannot use /dev/net/tun")?;
        Links::open(end.namespace)?.set_mtu_and_queue(end.device, mtu.into(), TAP_QUEUE)?;
        Ok(tap)
    };
    let taps = [make(ends[0])?, make(ends[1])?];
    let ports = [Ports::of(taps[0].clone()), Ports::of(taps[1].clone())];
    Ok((Devices::Tap(taps), ports))
}

fn make_veths(ends: [End<'_>; 2], mtu: u16) -> anyhow::Result<(Devices, [Ports; 2])> {
    let between = Namespace::create()?;
    // Whatever else the kernel might say on these devices is not the path's business.
    rtt0_netio::sysctl::set(&between, &[("net.ipv6.conf.default.disable_ipv6", "1")])?;
    let links = Links::open(&between)?;
    let make = |end: End<'_>, inner: &'static str| -> anyhow::Result<Ports> {
        let near = VethEnd { namespace: &between, name: inner };
        Links::add_veth(near, VethEnd { namespace: end.namespace, name: end.device }, mtu.into())?;
        links.bring_up(inner)?;
        Ok(Ports::of(PacketPort::open(&between, links.index(inner)?)?))
    };
    let ports = [make(ends[0], INNER[0])?, make(ends[1], INNER[1])?];
    Ok((Devices::Packet([copy(ends[0])?, copy(ends[1])?], between), ports))
}

fn make_cable(ends: [End<'_>; 2], mtu: u16) -> anyhow::Result<Devices> {
    let [near, far] = ends.map(|End { namespace, device }| VethEnd { namespace, name: device });
    Links::add_veth(near, far, mtu.into())?;
    Ok(Devices::Cable([copy(ends[0])?, copy(ends[1])?]))
}

fn copy(end: End<'_>) -> io::Result<(Namespace, &'static str)> {
    Ok((end.namespace.as_fd().try_clone_to_owned().map(Namespace::from)?, end.device))
}

fn some_ports((devices, ports): (Devices, [Ports; 2])) -> (Devices, Option<[Ports; 2]>) {
    (devices, Some(ports))
}

fn set_offloads_of(ends: &[(Namespace, &'static str); 2], burden: Burden) -> io::Result<()> {
    for (namespace, device) in ends {
        namespace.enter(|| set_offloads(device, burden))??;
    }
    Ok(())
}

fn burden(offloads: bool, path: &Path) -> Burden {
    match (offloads, path.acts_on_single_packets()) {
        (false, _) => Burden::Plain,
        (true, true) => Burden::Checksums,
        (true, false) => Burden::SuperPackets,
    }
}

/// Sets a veth's offloads, in the namespace of the calling thread. GRO stays off as veth has it:
/// it would put off a packet's arrival.
fn set_offloads(interface: &str, burden: Burden) -> io::Result<()> {
    let checksums = burden != Burden::Plain;
    let super_packets = burden == Burden::SuperPackets;
    let present = offload::read(interface)?;
    let wanted =
        Offloads { tso: super_packets, gso: super_packets, tx_checksum: checksums, gro: false, ..present };
    offload::write(interface, wanted)
}

/// Makes the directions' fates differ under one seed.
fn salt(side: usize) -> u64 {
    [0, 0x5bd1_e995_97f4_a7c1][side & 1]
}

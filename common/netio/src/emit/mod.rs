//! Emission of IP packets at layer 3: single segments through raw sockets (raw(7)), super-packets
//! whole through a device of our own.
//!
//! The kernel routes every packet, resolves the next hop's link address and queues it, as it
//! does for its own. What a NIC would have finished, of what goes through a raw socket, is finished
//! here: full TCP checksums. Segments of a flow that come one by one are joined to super-packets first
//! (`run`). Where the device can't be had, super-packets are cut into segments here
//! too ([`segment`]), which costs most of the bulk rate.
//!
//! What the kernel changes in an IPv4 packet: it fills in total length and header checksum
//! (both already right), and an identification of 0, which is harmless (RFC 6864 §4.1: the field
//! means nothing in an atomic datagram). Policy routing by source address or input interface
//! does not apply to what is emitted; routing by [`EMIT_MARK`] does.

mod entrance;
mod lane;
mod mtu;
mod run;
pub mod segment;
mod whole;

use std::io;

use rtt0_core::packet::Offload;
use socket2::Domain;

use crate::counters::IoCounters;
pub use crate::device::{DeviceError, Way};
use entrance::Entrance;
use lane::{BATCH, Lane, Message};
use mtu::PathMtu;
use run::Run;
use segment::{Cut, ip_length};
use whole::Whole;

/// Mark (SO_MARK) on every emitted packet: the guard exempts these from connection tracking.
/// Reads `RTT0` in ASCII.
pub const EMIT_MARK: u32 = 0x5254_5430;

/// As [`EMIT_MARK`], on what a traffic mirror sends on: the guard of its egress knows it by this. Reads `RTTM`.
pub const MIRROR_MARK: u32 = 0x5254_544d;

/// As [`EMIT_MARK`], on replies that a traffic mirror gives back to those who asked. Reads `RTTR`.
pub const REPLIES_MARK: u32 = 0x5254_5452;

/// What the names of devices begin with through which super-packets are emitted.
pub const DEVICE_PREFIX: &str = "rtt0-";

/// The emission can't be opened. EPERM means that CAP_NET_RAW is missing.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed (it needs CAP_NET_RAW, and SO_MARK CAP_NET_ADMIN too before Linux 5.17)")]
pub struct EmitError {
    /// The call and its notable argument.
    call: &'static str,
    /// What the kernel said.
    source: io::Error,
}

/// How packets leave.
#[derive(Debug, Clone, Copy)]
struct Leaving<'a> {
    /// The only interface, if that is not the routing table's choice (SO_BINDTODEVICE).
    interface: Option<&'a str>,
    /// SO_MARK.
    mark: u32,
}

/// Raw sockets for both IP versions, and a device for super-packets.
///
/// Packets of one direction of a flow leave in the order they are handed in.
#[derive(Debug)]
pub struct Emitter {
    v4: Lane,
    /// None if the kernel has no IPv6.
    v6: Option<Lane>,
    /// None if super-packets are cut here.
    whole: Option<Whole>,
    mtu: PathMtu,
}

impl Emitter {
    /// Opens the sockets, and the best device for super-packets that can be had, in the network
    /// namespace of the calling thread. What that is, and why if not the best, is logged.
    ///
    /// # Errors
    /// [`EmitError`]; EPERM if CAP_NET_RAW is missing. A kernel without IPv6 is no error: IPv6
    /// packets are then counted as unreachable.
    pub fn open() -> Result<Self, EmitError> {
        Self::open_with(&[Way::Tun, Way::Veth])
    }

    /// As [`Emitter::open`], with the first of `ways` that works; if none does, super-packets are
    /// cut.
    ///
    /// # Errors
    /// As [`Emitter::open`].
    pub fn open_with(ways: &[Way]) -> Result<Self, EmitError> {
        Self::open_leaving(Leaving { interface: None, mark: EMIT_MARK }, ways)
    }

    /// Opens the sockets so that whatever they send leaves by `interface` and no other, and bears `mark`. Routes through
    /// other interfaces don't count. Super-packets are cut.
    ///
    /// # Errors
    /// As [`Emitter::open`], and ENODEV if there is no such interface.
    pub fn open_bound(interface: &str, mark: u32) -> Result<Self, EmitError> {
        Self::open_leaving(Leaving { interface: Some(interface), mark }, &[])
    }

    fn open_leaving(leaving: Leaving<'_>, ways: &[Way]) -> Result<Self, EmitError> {
        let v6 = match Lane::open(Domain::IPV6, leaving) {
            Ok(lane) => Some(lane),
            Err(error) if error.source.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let mtu = PathMtu::open().map_err(|source| EmitError { call: "socket(SOCK_DGRAM)", source })?;
        let v4 = Lane::open(Domain::IPV4, leaving)?;
        let whole = open_whole(ways);
        Ok(Self { v4, v6, whole, mtu })
    }

    /// Returns how super-packets enter the kernel whole; `None` if they are cut here.
    pub fn way(&self) -> Option<Way> {
        self.whole.as_ref().map(|whole| whole.device().way())
    }

    /// Sends `packets` in order, with as few system calls as their number allows, and returns
    /// when the kernel has taken or refused every one. Bytes behind the IP packet (link padding)
    /// are not sent. Every failure is counted by its cause.
    ///
    /// For a packet that exceeds the next hop's MTU `too_big` gets that packet as it would have
    /// left and the MTU in bytes; of the segments of a super-packet only the first.
    pub fn send<'a>(
        &mut self,
        packets: impl IntoIterator<Item = (&'a [u8], Offload)>,
        counters: &IoCounters,
        mut too_big: impl FnMut(&[u8], u16),
    ) {
        let Self { v4, v6, whole, mtu } = self;
        let mut batch = Batch {
            v4: Queue::new(v4, counters),
            v6: v6.as_mut().map(|lane| Queue::new(lane, counters)),
            whole: whole.as_mut(),
            mtu,
            counters,
            report: |mtu: &PathMtu, pieces: [&[u8]; 2]| {
                let packet = pieces.concat();
                if let Ok(mtu) = mtu.towards(lane::destination(&packet)) {
                    too_big(&packet, mtu);
                }
            },
        };
        let mut run: Option<Run<'_>> = None;
        for (number, (bytes, offload)) in packets.into_iter().enumerate() {
            let Ok(length) = ip_length(bytes) else {
                counters.send_malformed.add(1);
                continue;
            };
            let bytes = &bytes[..length];
            if run.as_mut().is_some_and(|run| run.join(bytes, offload)) {
                continue;
            }
            if let Some(run) = run.take() {
                batch.run(&run);
            }
            if batch.whole.is_some() {
                run = Run::begin(bytes, offload, number);
            }
            if run.is_none() {
                batch.one(number, bytes, offload);
            }
        }
        if let Some(run) = run {
            batch.run(&run);
        }
        batch.flush();
    }
}

/// Packets that are being sent.
struct Batch<'l, 'a, R> {
    v4: Queue<'l, 'a>,
    v6: Option<Queue<'l, 'a>>,
    whole: Option<&'l mut Whole>,
    mtu: &'l mut PathMtu,
    counters: &'l IoCounters,
    report: R,
}

impl<'a, R: FnMut(&PathMtu, [&[u8]; 2])> Batch<'_, 'a, R> {
    /// Sends packet `number` through the device, or queues it for the raw socket.
    fn one(&mut self, number: usize, bytes: &'a [u8], offload: Offload) {
        let Self { v4, v6, whole, mtu, counters, report } = self;
        let queue = if bytes[0] >> 4 == 4 { Some(v4) } else { v6.as_mut() };
        let Some(queue) = queue else { return counters.send_unreachable.add(1) };
        let lane = match whole {
            Some(whole) => whole.send(bytes, offload, mtu, |mtu| queue.flush(&mut |p| report(mtu, p))),
            None => whole::Lane::Raw,
        };
        match lane {
            whole::Lane::Sent => {
                counters.sent_whole.add(1);
                counters.sent_bytes.add(bytes.len() as u64);
            }
            whole::Lane::Raw => queue.push(number, bytes, offload, &mut |p| report(mtu, p)),
            whole::Lane::RawNow => {
                queue.push(number, bytes, offload, &mut |p| report(mtu, p));
                queue.flush(&mut |p| report(mtu, p));
            }
        }
    }

    /// Sends a run as one super-packet, or its packets one by one.
    fn run(&mut self, run: &Run<'a>) {
        let Self { v4, v6, whole, mtu, counters, report } = self;
        let queue = if run.is_v4() { Some(v4) } else { v6.as_mut() };
        if run.len() > 1
            && let (Some(whole), Some(queue)) = (whole, queue)
            && whole.send_run(run, mtu, |mtu| queue.flush(&mut |p| report(mtu, p)))
        {
            counters.joined.add(run.len() as u64);
            counters.sent_whole.add(1);
            counters.sent_bytes.add(run.length() as u64);
            return;
        }
        for (number, bytes) in run.packets() {
            self.one(number, bytes, run.offload());
        }
    }

    fn flush(&mut self) {
        let Self { v4, v6, mtu, report, .. } = self;
        v4.flush(&mut |p| report(mtu, p));
        if let Some(v6) = v6 {
            v6.flush(&mut |p| report(mtu, p));
        }
    }
}

/// Opens the first of `ways` that works.
fn open_whole(ways: &[Way]) -> Option<Whole> {
    let mut failures = Vec::new();
    for way in ways {
        match Entrance::open(*way, &failures) {
            Ok(entrance) => return Some(Whole::new(entrance)),
            Err(error) => failures.push(format!("{way:?}: {}", line(&error))),
        }
    }
    if !ways.is_empty() {
        tracing::warn!(
            why = failures.join("; "),
            "super-packets are cut in user space, which costs most of the bulk rate; \
             load the tun module and let this program open /dev/net/tun"
        );
    }
    None
}

/// Returns an error and its causes in one line.
fn line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Gets the pieces of a packet that exceeds the MTU.
type Report<'r> = dyn FnMut([&[u8]; 2]) + 'r;

/// Messages on their way into one socket.
struct Queue<'l, 'a> {
    lane: &'l mut Lane,
    messages: Vec<Message<'a>>,
    counters: &'l IoCounters,
    /// The packet last reported as too big: its other segments are not reported again.
    reported: Option<usize>,
    /// The send buffer stayed full for as long as it is waited for.
    stuck: bool,
}

impl<'l, 'a> Queue<'l, 'a> {
    fn new(lane: &'l mut Lane, counters: &'l IoCounters) -> Self {
        Self { lane, messages: Vec::new(), counters, reported: None, stuck: false }
    }

    /// Appends one packet, cut and with full checksums as its offload state demands.
    fn push(&mut self, packet: usize, bytes: &'a [u8], offload: Offload, report: &mut Report<'_>) {
        if offload == Offload::default() {
            self.make_room(report);
            self.messages.push(Message { header_length: 0, rest: bytes, packet });
            return;
        }
        let cut = match Cut::new(bytes, offload) {
            Ok(cut) if cut.segments() > 1 => {
                self.counters.resegmented.add(1);
                cut
            }
            Ok(cut) if offload.needs_csum => cut,
            // A size says nothing of a packet that is within it.
            Ok(_) => return self.push(packet, bytes, Offload::default(), report),
            Err(_) => return self.counters.send_malformed.add(1),
        };
        for index in 0..cut.segments() {
            self.make_room(report);
            let (header_length, rest) = cut.write(index, self.lane.header(self.messages.len()));
            self.messages.push(Message { header_length, rest, packet });
        }
    }

    fn make_room(&mut self, report: &mut Report<'_>) {
        if self.messages.len() == BATCH {
            self.flush(report);
        }
        if self.messages.capacity() == 0 {
            self.messages.reserve_exact(BATCH);
        }
    }

    /// Sends every message; goes on behind one that fails.
    fn flush(&mut self, report: &mut Report<'_>) {
        let mut next = 0;
        while next < self.messages.len() {
            match self.lane.send(&self.messages, next) {
                Ok(sent) => {
                    let pieces = (next..next + sent).flat_map(|i| self.lane.pieces(&self.messages, i));
                    self.counters.sent_bytes.add(pieces.map(|piece| piece.len() as u64).sum());
                    self.counters.sent.add(sent as u64);
                    next += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.stuck => {
                    self.stuck = !self.lane.wait_for_room();
                }
                Err(error) => {
                    self.fail(next, &error, report);
                    next += 1;
                }
            }
        }
        self.messages.clear();
    }

    /// Counts a message the kernel refused.
    fn fail(&mut self, index: usize, error: &io::Error, report: &mut Report<'_>) {
        let counters = self.counters;
        let counter = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => {
                let packet = self.messages[index].packet;
                if self.reported.replace(packet) != Some(packet) {
                    report(self.lane.pieces(&self.messages, index));
                }
                &counters.send_too_big
            }
            Some(libc::EPERM | libc::EACCES) => &counters.send_refused,
            Some(libc::EAGAIN | libc::ENOBUFS) => &counters.send_queue_full,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => &counters.send_unreachable,
            _ => &counters.send_failed,
        };
        counter.add(1);
    }
}

//! Packet recording on the devices of the hosts, in memory or into pcapng files.
//!
//! Each device has a packet socket and a thread. The kernel's time stamps are used, so it does
//! not matter when the thread gets around to reading; the socket's buffer is what bounds it.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::host::Host;
use crate::topology::Topology;
use crate::wan::{Ear, PacketSocket, Received, VNET_HEADER};

/// Length of an Ethernet header without tags; the testbed has none.
const ETHERNET_HEADER: usize = 14;
/// Room for the largest super-packet with its headers.
const CAPACITY: usize = 68 * 1024;
/// Most bytes a recorder keeps in memory; later packets are dropped and counted.
const MEMORY: usize = 256 << 20;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of `<linux/virtio_net.h>`.
const NEEDS_CSUM: u8 = 1;

/// One recorded IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When the kernel saw it, since 1970-01-01 UTC.
    pub at: Duration,
    /// Where, as `host:device`.
    pub interface: String,
    /// Whether the host sent it; else it received it.
    pub outgoing: bool,
    /// The packet from the first byte of its IP header, up to the snap length.
    pub bytes: Vec<u8>,
    /// The length of the whole packet in bytes.
    pub length: usize,
    /// The checksum field holds only the pseudo-header's sum.
    pub needs_csum: bool,
    /// TCP payload of one segment in bytes if this is a super-packet, else 0.
    pub gso_size: u16,
}

/// Chooses the packets to keep, by their bytes from the IP header on.
pub type Filter = Box<dyn Fn(&[u8]) -> bool + Send>;

/// Records one device in memory until stopped. Dropping it discards the packets.
#[derive(Debug)]
pub struct Recorder {
    worker: Worker<Memory>,
}

impl Recorder {
    /// Starts recording the IP packets that pass `interface` of `host`, in both directions, up to
    /// `snaplen` bytes of each and 256 MiB of all. Needs `CAP_NET_RAW`. When this returns, packets
    /// are being recorded.
    ///
    /// # Errors
    /// There is no such device, or the socket or thread cannot be made.
    pub fn start(
        host: &Host,
        interface: &str,
        snaplen: usize,
        filter: Option<Filter>,
    ) -> anyhow::Result<Self> {
        let name = format!("{}:{interface}", host.name());
        let sink = Memory { interface: name, snaplen, filter, records: Vec::new(), bytes: 0 };
        Ok(Self { worker: Worker::start_on(host, interface, sink)? })
    }

    /// Stops, and returns the packets in the order the kernel handed them over.
    ///
    /// # Errors
    /// Reading failed meanwhile, more than 256 MiB would have been kept, or packets came too fast
    /// to be recorded: the records would not be the truth.
    pub fn stop(self) -> anyhow::Result<Vec<Record>> {
        self.worker.stop()
    }
}

/// Recordings of all devices into files. Dropping it completes the files as far as possible.
#[derive(Debug)]
pub struct Recording {
    workers: Vec<(PathBuf, Worker<Capture>)>,
}

impl Recording {
    /// Stops, completes the files and returns their paths.
    ///
    /// # Errors
    /// A file could not be written, or reading failed meanwhile.
    pub fn stop(self) -> anyhow::Result<Vec<PathBuf>> {
        let complete = |(path, worker): (PathBuf, Worker<Capture>)| {
            worker.stop().with_context(|| format!("cannot record {}", path.display()))?;
            Ok(path)
        };
        self.workers.into_iter().map(complete).collect()
    }
}

/// Records both sides of every hop into `directory`, which is made if needed: one pcapng file for
/// each device, such as `clientnic-wan0.pcapng`.
///
/// # Errors
/// A file, socket or thread cannot be made.
pub fn record_all(topology: &Topology, directory: &Path) -> anyhow::Result<Recording> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let start = |(host, device): (&Host, &str)| -> anyhow::Result<(PathBuf, Worker<Capture>)> {
        let path = directory.join(format!("{}-{device}.pcapng", host.name()));
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let capture = Capture::new(file, &format!("{}:{device}", host.name()), u64::MAX)?;
        Ok((path, Worker::start_on(host, device, capture)?))
    };
    let workers = topology.devices().into_iter().map(start).collect::<anyhow::Result<_>>()?;
    Ok(Recording { workers })
}

/// Records the first `packets` packets that pass `device` of the calling thread's network namespace into a pcapng file.
/// When this returns, packets are being recorded.
///
/// # Errors
/// As [`record_all`], or if there is no such device.
pub fn record_here(device: &str, path: &Path, packets: u64) -> anyhow::Result<Recording> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let capture = Capture::new(file, device, packets)?;
    let worker = Worker::start(&Namespace::current()?, device, capture)?;
    Ok(Recording { workers: vec![(path.to_owned(), worker)] })
}

/// Where frames go. A frame has a vnet header in front.
trait Sink: Send + 'static {
    type Kept: Send;

    fn keep(&mut self, frame: &[u8], received: &Received) -> anyhow::Result<()>;

    /// Ends the recording, in which the kernel dropped `missed` packets for want of room.
    fn finish(self, missed: u32) -> anyhow::Result<Self::Kept>;
}

/// Keeps IP packets in memory.
struct Memory {
    interface: String,
    snaplen: usize,
    filter: Option<Filter>,
    records: Vec<Record>,
    bytes: usize,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl Sink for Memory {
    type Kept = Vec<Record>;

    fn keep(&mut self, frame: &[u8], received: &Received) -> anyhow::Result<()> {
        let Some((vnet, ethernet)) = frame.split_at_checked(VNET_HEADER) else { return Ok(()) };
        let Some((link, packet)) = ethernet.split_at_checked(ETHERNET_HEADER) else { return Ok(()) };
        let is_ip = matches!(link[12..], [0x08, 0x00] | [0x86, 0xdd]);
        if !is_ip || self.filter.as_ref().is_some_and(|keep| !keep(packet)) {
            return Ok(());
        }
        let bytes = packet[..packet.len().min(self.snaplen)].to_vec();
        self.bytes += bytes.len() + size_of::<Record>();
        if self.bytes > MEMORY {
            let limit = MEMORY >> 20;
            return Err(anyhow!("more than {limit} MiB recorded at {}; use a filter", self.interface));
        }
        self.records.push(Record {
            at: received.at,
            interface: self.interface.clone(),
            outgoing: received.outgoing,
            bytes,
            length: received.whole.saturating_sub(VNET_HEADER + ETHERNET_HEADER),
            needs_csum: vnet[0] & NEEDS_CSUM != 0,
            // The vnet header is in the host's byte order: flags, type, header length, size.
            gso_size: u16::from_ne_bytes([vnet[4], vnet[5]]),
        });
        Ok(())
    }

    fn finish(self, missed: u32) -> anyhow::Result<Self::Kept> {
        if missed > 0 {
            let interface = self.interface;
            return Err(anyhow!("{missed} packets at {interface} came too fast to be recorded"));
        }
        Ok(self.records)
    }
}

/// Writes Ethernet frames into a pcapng file.
struct Capture {
    writer: PcapNgWriter<BufWriter<File>>,
    /// How many it still takes.
    room: u64,
}

impl Capture {
    fn new(file: File, interface: &str, room: u64) -> anyhow::Result<Self> {
        let mut writer = PcapNgWriter::new(BufWriter::new(file)).context("cannot begin the file")?;
        let description = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(interface)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        writer.write_pcapng_block(description).context("cannot begin the file")?;
        Ok(Self { writer, room })
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

impl Sink for Capture {
    type Kept = ();

    fn keep(&mut self, frame: &[u8], received: &Received) -> anyhow::Result<()> {
        let Some(ethernet) = frame.get(VNET_HEADER..) else { return Ok(()) };
        let Some(room) = self.room.checked_sub(1) else { return Ok(()) };
        self.room = room;
        // Bits 0–1 of epb_flags: 1 is inbound, 2 outbound.
        let direction = if received.outgoing { 2 } else { 1 };
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: received.at,
            original_len: u32::try_from(received.whole - VNET_HEADER)?,
            data: Cow::Borrowed(ethernet),
            options: vec![EnhancedPacketOption::Flags(direction)],
        };
        self.writer.write_pcapng_block(packet).context("cannot write a packet")?;
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "pcapng wants the time of day")]
    fn finish(mut self, missed: u32) -> anyhow::Result<Self::Kept> {
        let statistics = InterfaceStatisticsBlock {
            interface_id: 0,
            timestamp: SystemTime::now().duration_since(UNIX_EPOCH)?,
            options: vec![InterfaceStatisticsOption::IsbOsDrop(missed.into())],
        };
        self.writer.write_pcapng_block(statistics).context("cannot end the file")?;
        self.writer.get_mut().flush().context("cannot end the file")
    }
}

/// A thread that reads a device's packet socket into a sink. Dropping it stops the thread.
#[derive(Debug)]
struct Worker<S: Sink> {
    stop: OwnedFd,
    thread: Option<JoinHandle<anyhow::Result<S::Kept>>>,
}

impl<S: Sink> Worker<S> {
    fn start_on(host: &Host, device: &str, sink: S) -> anyhow::Result<Self> {
        Self::start(host.namespace(), device, sink).with_context(|| format!("on {}", host.name()))
    }

    fn start(namespace: &Namespace, device: &str, sink: S) -> anyhow::Result<Self> {
        let index = Links::open(namespace)?.index(device)?;
        let socket = PacketSocket::open(namespace, index, Ear::Both)
            .with_context(|| format!("cannot listen on {device}"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = thread::Builder::new()
            .name(format!("record-{device}"))
            .spawn(move || record(&socket, &stopped, sink))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn stop(mut self) -> anyhow::Result<S::Kept> {
        self.signal()?;
        let thread = self.thread.take().context("the recorder was stopped before")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn signal(&self) -> io::Result<()> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

impl<S: Sink> Drop for Worker<S> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && self.signal().is_ok()
        {
            // Its error is of no use to anybody any more.
            let _ = thread.join();
        }
    }
}

fn record<S: Sink>(socket: &PacketSocket, stop: &OwnedFd, mut sink: S) -> anyhow::Result<S::Kept> {
    let mut buffer = vec![0; CAPACITY];
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for packets"),
        }
        let last = !fds[1].revents().is_empty();
        // What had passed before the stop is still recorded.
        loop {
            match socket.receive(&mut buffer) {
                Ok(received) => sink.keep(&buffer[..received.length], &received)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot read packets"),
            }
        }
        if last {
            return sink.finish(socket.missed()?);
        }
    }
}

//! The file of a trace, and the thread that writes it.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::UNIX_EPOCH;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;

use super::{Entry, Trace, Way};
use crate::privilege::{self, Duty};

/// Packets that wait to be written; more are left out.
const QUEUE: usize = 4096;

/// The file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write packets to '{path}'; name a new file with --pcap")]
pub struct TraceError {
    path: PathBuf,
    source: io::Error,
}

/// A pcapng file that fills. Dropping it has the thread write what is there already, once all [`Trace`]s are gone.
#[derive(Debug)]
pub struct TraceFile {
    trace: Option<Trace>,
    thread: Option<JoinHandle<()>>,
}

impl TraceFile {
    /// Makes the file, mode 0600, for at most `packets` packets. An existing one is never overwritten.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn create(path: &Path, packets: u64) -> Result<Self, TraceError> {
        let failed = |source| TraceError { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let writer = begin(file).map_err(failed)?;
        let (to, entries) = mpsc::sync_channel(QUEUE);
        let shown = path.display().to_string();
        let thread = std::thread::Builder::new().name("trace".to_owned()).spawn(move || {
            privilege::confine(Duty::Nothing);
            if let Err(error) = write(writer, &entries, packets) {
                tracing::error!(%error, file = shown, "packets are no longer written");
            }
        });
        Ok(Self { trace: Some(Trace(to)), thread: Some(thread.map_err(failed)?) })
    }

    /// Returns where workers send what they see.
    pub fn trace(&self) -> Option<Trace> {
        self.trace.clone()
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        drop(self.trace.take());
        // A thread that has panicked writes nothing more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

type Writer = PcapNgWriter<BufWriter<File>>;

fn begin(file: File) -> io::Result<Writer> {
    let mut writer = PcapNgWriter::new(BufWriter::new(file)).map_err(io::Error::other)?;
    for name in ["in", "out"] {
        let description = InterfaceDescriptionBlock {
            // Packets begin with the IP header.
            linktype: DataLink::RAW,
            snaplen: super::KEPT as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        writer.write_pcapng_block(description).map_err(io::Error::other)?;
    }
    Ok(writer)
}

/// Writes what comes until nobody is left to send it; whatever is not under way can be read at once.
fn write(mut writer: Writer, entries: &Receiver<Entry>, packets: u64) -> io::Result<()> {
    let mut room = packets;
    while let Ok(first) = entries.recv() {
        for entry in std::iter::once(first).chain(entries.try_iter()) {
            let Some(left) = room.checked_sub(1) else { continue };
            room = left;
            writer.write_pcapng_block(block(entry)).map_err(io::Error::other)?;
            if room == 0 {
                tracing::info!(packets, "the file of packets is full");
            }
        }
        writer.get_mut().flush()?;
    }
    Ok(())
}

fn block(entry: Entry) -> EnhancedPacketBlock<'static> {
    EnhancedPacketBlock {
        interface_id: match entry.way {
            Way::In => 0,
            Way::Out => 1,
        },
        // A clock before 1970 is not worth more.
        timestamp: UNIX_EPOCH.elapsed().unwrap_or_default(),
        original_len: u32::try_from(entry.length).unwrap_or(u32::MAX),
        data: Cow::Owned(entry.bytes),
        options: vec![EnhancedPacketOption::Common(CommonOption::Comment(Cow::Owned(entry.comment)))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn the_file_takes_so_many_packets_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.pcapng");
        let file = TraceFile::create(&path, 3).unwrap();
        let trace = file.trace().unwrap();
        for number in 0..5 {
            let (bytes, comment) = (vec![0x45; 20 + number], format!("packet {number}"));
            trace.0.send(Entry { way: Way::Out, bytes, length: 1500, comment }).unwrap();
        }
        drop(trace);
        drop(file);
        assert!(TraceFile::create(&path, 3).unwrap_err().to_string().contains("--pcap"), "never overwritten");
        let mut reader = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().0 {
                seen.push((
                    packet.interface_id,
                    packet.original_len,
                    packet.data.len(),
                    format!("{:?}", packet.options),
                ));
            }
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().enumerate().all(|(number, (way, length, kept, options))| {
            (*way, *length, *kept) == (1, 1500, 20 + number) && options.contains(&format!("packet {number}"))
        }));
    }
}

//! Packet recording on the devices of the hosts.

use std::path::Path;
use std::time::Duration;

use crate::host::Host;
use crate::topology::Topology;

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

/// Records one device until stopped.
#[derive(Debug)]
pub struct Recorder {}

impl Recorder {
    /// Starts recording `interface` of `host` in memory.
    pub fn start(
        _host: &Host,
        _interface: &str,
        _snaplen: usize,
        _filter: Option<Filter>,
    ) -> anyhow::Result<Self> {
        anyhow::bail!("not built yet")
    }
    /// Stops, and returns the packets in the order the kernel saw them.
    pub fn stop(self) -> anyhow::Result<Vec<Record>> {
        anyhow::bail!("not built yet")
    }
}

/// Recordings of all devices into files.
#[derive(Debug)]
pub struct Recording {}

impl Recording {
    /// Stops and completes the files. Dropping does the same but cannot report errors.
    pub fn stop(self) -> anyhow::Result<()> {
        anyhow::bail!("not built yet")
    }
}

/// Records both sides of every hop into `directory`, a pcapng file for each device.
pub fn record_all(_topology: &Topology, _directory: &Path) -> anyhow::Result<Recording> {
    anyhow::bail!("not built yet")
}

//! What outlives the process, in a folder on a BPF file system.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use rustix::fs::statfs;

use super::clsact;

/// BPF_FS_MAGIC of linux/magic.h.
const BPF_FILE_SYSTEM: u32 = 0xcafe_4a11;
/// Raised with any change of a flow's layout: flows of another version are not taken over. Those that the daemon has on record
/// go on in user space.
const VERSION: u32 = 4;
/// What the name of a pinned map of flows begins with; the version follows.
const FLOWS: &str = "flows";
/// What the note of a filter begins with; the interface's index follows.
const FILTER: &str = "filter_";
/// What the note says if the qdisc is there because of the filter, and if it was there before.
const QDISC_MADE: &str = "qdisc_made";
const QDISC_FOUND: &str = "qdisc_found";

/// The folder.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Makes the folder if need be; `None` if there is no BPF file system, which is logged.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        if made.is_ok() && is_bpf(folder) {
            let pins = Self { folder: folder.to_owned() };
            pins.remove_other_versions();
            return Some(pins);
        }
        if made.is_ok() {
            // Nothing was in it.
            let _ = fs::remove_dir(folder);
        }
        tracing::warn!(
            folder = %folder.display(),
            "there is no BPF file system: flows in the kernel end with this process (mount -t bpf bpf /sys/fs/bpf)"
        );
        None
    }

    /// Unpins flows of other versions, which nobody reads any more: up to 256 MB of the kernel's memory.
    fn remove_other_versions(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let is_other = |path: &PathBuf| *path != self.flows();
        let flows = entries
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(FLOWS.as_bytes()));
        for other in flows.map(|entry| entry.path()).filter(is_other) {
            let _ = fs::remove_file(other);
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the map of flows is pinned.
    pub(super) fn flows(&self) -> PathBuf {
        self.folder.join(format!("{FLOWS}{VERSION}"))
    }

    /// Opens the link that an earlier process has pinned for an interface.
    pub(super) fn link(&self, interface: &str) -> Option<SchedClassifierLink> {
        let link = PinnedLink::from_pin(self.link_path(interface)).ok()?;
        SchedClassifierLink::try_from(FdLink::from(link)).ok()
    }

    /// Pins a link; returns it.
    pub(super) fn keep_link(
        &self,
        interface: &str,
        link: SchedClassifierLink,
    ) -> Result<SchedClassifierLink, ProgramError> {
        let link = FdLink::try_from(link).map_err(link_error)?;
        let pinned = link
            .pin(self.link_path(interface))
            .map_err(|error| ProgramError::IOError(std::io::Error::other(error)))?;
        SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_error)
    }

    pub(super) fn remove_link(&self, interface: &str) {
        let _ = fs::remove_file(self.link_path(interface));
    }

    /// Notes that an interface has a filter of ours, and whether its qdisc was made for that. A filter
    /// can't be pinned, and a BPF file system has no files to write in: the note is what a symbolic link
    /// points to.
    pub(super) fn note_filter(&self, index: u32, made_qdisc: bool) -> io::Result<()> {
        if fs::read_link(self.filter_path(index)).is_ok() && self.has_made_qdisc(index) == made_qdisc {
            return Ok(());
        }
        self.forget_filter(index);
        symlink(if made_qdisc { QDISC_MADE } else { QDISC_FOUND }, self.filter_path(index))
    }

    /// Tells whether the qdisc of an interface was made for our filter.
    pub(super) fn has_made_qdisc(&self, index: u32) -> bool {
        was_made(&self.filter_path(index))
    }

    pub(super) fn forget_filter(&self, index: u32) {
        let _ = fs::remove_file(self.filter_path(index));
    }

    /// Unpins everything, and takes away the filters.
    pub(super) fn remove(&self) {
        Self::remove_from(&self.folder);
    }

    /// Unpins everything in a folder, if it is one of a BPF file system, and takes away the filters noted
    /// there.
    pub(super) fn remove_from(folder: &Path) {
        if !is_bpf(folder) {
            return;
        }
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if let Some(index) = filter_index(&entry.file_name()) {
                clsact::remove(index, was_made(&entry.path()));
            }
            let _ = fs::remove_file(entry.path());
        }
        // Another daemon may have put its folder beside this one.
        let _ = fs::remove_dir(folder);
    }

    fn filter_path(&self, index: u32) -> PathBuf {
        self.folder.join(format!("{FILTER}{index}"))
    }

    fn link_path(&self, interface: &str) -> PathBuf {
        // A BPF file system takes no dots in names.
        self.folder.join(format!("link_{}", interface.replace('.', "_")))
    }
}

/// Of which interface a note is.
fn filter_index(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix(FILTER)?.parse().ok()
}

fn was_made(note: &Path) -> bool {
    fs::read_link(note).is_ok_and(|target| target == Path::new(QDISC_MADE))
}

/// The type's width differs between architectures; magic numbers have 32 bits.
fn is_bpf(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|system| system.f_type as u32 == BPF_FILE_SYSTEM)
}

fn link_error(error: LinkError) -> ProgramError {
    ProgramError::IOError(std::io::Error::other(error))
}

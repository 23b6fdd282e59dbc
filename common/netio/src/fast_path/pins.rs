//! What outlives the process, in a folder on a BPF file system.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use rustix::fs::statfs;

/// BPF_FS_MAGIC of linux/magic.h.
const BPF_FILE_SYSTEM: u32 = 0xcafe_4a11;
/// Raised with any change of a flow's layout: flows of another version are not taken over.
const VERSION: u32 = 3;

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
            return Some(Self { folder: folder.to_owned() });
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

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the map of flows is pinned.
    pub(super) fn flows(&self) -> PathBuf {
        self.folder.join(format!("flows{VERSION}"))
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

    /// Unpins everything.
    pub(super) fn remove(&self) {
        Self::remove_from(&self.folder);
    }

    /// Unpins everything in a folder, if it is one of a BPF file system.
    pub(super) fn remove_from(folder: &Path) {
        if !is_bpf(folder) {
            return;
        }
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        // Another daemon may have put its folder beside this one.
        let _ = fs::remove_dir(folder);
    }

    fn link_path(&self, interface: &str) -> PathBuf {
        // A BPF file system takes no dots in names.
        self.folder.join(format!("link_{}", interface.replace('.', "_")))
    }
}

/// The type's width differs between architectures; magic numbers have 32 bits.
fn is_bpf(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|system| system.f_type as u32 == BPF_FILE_SYSTEM)
}

fn link_error(error: LinkError) -> ProgramError {
    ProgramError::IOError(std::io::Error::other(error))
}

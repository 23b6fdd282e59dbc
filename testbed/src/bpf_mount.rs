//! A BPF file system of the testbed's own, in which daemons keep what outlives them.
//!
//! The process has a mount namespace of its own ([`separate`]), so that however it ends nothing stays
//! mounted, and what is pinned goes with it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and those that it starts, mounts of their own: unshare(2). Needs
/// CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel's; a user namespace may not be allowed to.
pub fn separate() -> io::Result<()> {
    // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// A mounted BPF file system; unmounted when dropped.
#[derive(Debug)]
pub struct BpfMount {
    path: PathBuf,
}

impl BpfMount {
    /// Mounts one on a new folder.
    ///
    /// # Errors
    /// The kernel's: EPERM in a user namespace.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir(&path)?;
        match mount("bpf", &path, "bpf", MountFlags::empty(), None) {
            Ok(()) => Ok(Self { path }),
            Err(error) => {
                // Empty, and the folder around it will be removed.
                let _ = std::fs::remove_dir(&path);
                Err(error.into())
            }
        }
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        // It goes with the mount namespace at the latest.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

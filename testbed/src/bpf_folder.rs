//! Folders on a BPF file system of the testbed's own, in which daemons keep what outlives them.
//!
//! The process has a mount namespace of its own with a BPF file system in its usual place ([`separate`]), so
//! that however it ends nothing stays mounted, and what is pinned goes with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where it is mounted.
const PLACE: &str = "/sys/fs/bpf";

/// Gives the calling thread, and those that it starts, mounts of their own, unshare(2), and among them a
/// BPF file system if the kernel has it. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel's.
pub fn separate() -> io::Result<()> {
    // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Without it nothing in the kernel outlives a daemon, which the daemons say.
    let _ = mount("bpf", PLACE, "bpf", MountFlags::empty(), None);
    Ok(())
}

/// A folder; removed with all that is pinned in it when dropped.
#[derive(Debug)]
pub struct BpfFolder {
    path: PathBuf,
}

impl BpfFolder {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel's: there is no BPF file system, or not for a user namespace.
    pub fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(PLACE).join(format!("testbed_{}_{number}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        // It goes with the mount namespace at the latest.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

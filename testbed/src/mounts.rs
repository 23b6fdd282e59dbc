//! Folders in which daemons keep what outlives them: what is pinned in the kernel, and the state file.
//!
//! The process has a mount namespace of its own ([`separate`]) with a BPF file system and a file system in
//! memory in their usual places, so that however it ends nothing stays mounted and nothing is left on either.

use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

/// Where the BPF file system is mounted.
const BPF: &str = "/sys/fs/bpf";
/// Where the file system in memory is mounted.
const MEMORY: &str = "/dev/shm";
/// How much it may hold: hundreds of key, state and log files.
const MEMORY_OPTIONS: &CStr = c"size=256m,mode=0700";

/// Whether that in memory is this process's own.
static HAS_MEMORY: AtomicBool = AtomicBool::new(false);

/// Gives the calling thread, and those that it starts, mounts of their own, unshare(2), and among them the
/// two file systems if the kernel has them. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel's.
pub fn separate() -> io::Result<()> {
    // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Without it nothing in the kernel outlives a daemon, which the daemons say.
    let _ = mount("bpf", BPF, "bpf", MountFlags::empty(), None);
    let memory = mount("tmpfs", MEMORY, "tmpfs", MountFlags::empty(), MEMORY_OPTIONS);
    HAS_MEMORY.store(memory.is_ok(), Ordering::Relaxed);
    Ok(())
}

/// Makes a folder in memory, as the daemons' state is to have: a busy disk delays packets there. Without a
/// memory file system of this process's own it lies among the temporary files.
///
/// # Errors
/// The kernel's.
pub fn memory_folder() -> io::Result<TempDir> {
    match HAS_MEMORY.load(Ordering::Relaxed) {
        true => tempfile::tempdir_in(MEMORY),
        false => tempfile::tempdir(),
    }
}

/// A folder on the BPF file system; removed with all that is pinned in it when dropped.
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
        let path = Path::new(BPF).join(format!("testbed_{}_{number}", std::process::id()));
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

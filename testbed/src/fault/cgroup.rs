//! A control group for the processes of one case.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

use super::shell::Untriable;

/// What the folders' names begin with; the process id follows.
const PREFIX: &str = "testbed-fault-";

/// A control group of version 2; removed when dropped. Those that a killed process has left are removed by the next.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Makes one below the group that this process is in.
    ///
    /// # Errors
    /// If there is no control group file system of version 2, or no permission.
    pub(super) fn make() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let none = || Untriable("no control group file system of version 2 is mounted".to_owned());
        let root = mount_point(&mounts).ok_or_else(none)?;
        sweep(&root);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Untriable::unless_permitted("control groups", error))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, folder })
    }

    /// Lends its folder, for attaching programs.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Has the child of `command` begin its life in it.
    pub(super) fn run_inside(&self, command: &mut Command) {
        let procs = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.procs"));
        let procs = procs.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        let enter = move || match &procs {
            Ok(file) => rustix::io::write(file, b"0").map(drop).map_err(io::Error::from),
            Err(code) => Err(io::Error::from_raw_os_error(*code)),
        };
        // SAFETY: the closure runs between fork and exec and only calls write(2), which is async-signal-safe; it neither
        // allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The processes in it have ended; the next to make one tries again.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Finds where version 2 is mounted, in the text of mountinfo (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Removes those of processes that are gone.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of_whom =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if of_whom.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_among_mounts() {
        let mounts = "25 20 0:22 / /sys/fs/cgroup/cpu rw shared:7 - cgroup cgroup rw,cpu\n\
                      26 20 0:23 / /sys/fs/cgroup/unified rw shared:8 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("25 20 0:22 / / rw - ext4 /dev/vda rw\n"), None);
    }
}

//! One folder for everything temporary, which goes away however the process is asked to end.
//!
//! Namespaces, devices and children end with the process by themselves; files do not. What a process
//! leaves that is killed (SIGKILL) the next one removes: each holds a lock in its folder, and a lock
//! ends with its process.

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::Path;
use tempfile::TempDir;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell adds to a signal's number to make an exit status.
const EXIT_BY_SIGNAL: i32 = 128;
/// Exit status of a run that failed.
const FAILED: i32 = 1;
/// What the folders' names begin with.
const PREFIX: &str = "testbed-";
/// The file in a folder whose lock its process holds.
const LOCK: &str = ".lock";

/// The folder of this process; removed with all it holds when dropped, and on SIGINT, SIGTERM or
/// SIGHUP, which end the process with status 128 + signal.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// Removes the folders of processes that were killed, makes one for this process, lets every later temporary file of this process lie in it, and starts the
    /// thread that waits for signals.
    ///
    /// # Errors
    /// If the folder or the thread can't be made, or if the process has such a folder already.
    pub fn open() -> anyhow::Result<Self> {
        sweep(&std::env::temp_dir());
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let folder = folder.context("can't make a folder for temporary files")?;
        let lock = lock(folder.path()).context("can't lock the folder for temporary files")?;
        if tempfile::env::override_temp_dir(folder.path()).is_err() {
            bail!("this process has a folder for temporary files already");
        }
        let path = folder.path().to_owned();
        let runtime =
            runtime::Builder::new_current_thread().enable_io().build().context("can't wait for signals")?;
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if let Ok(number) = runtime.block_on(first_signal()) {
                    end(&path, EXIT_BY_SIGNAL + number);
                }
            })
            .context("can't start the thread that waits for signals")?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns what ends the process with status 1 from any thread and leaves nothing behind.
    pub fn abandon(&self) -> impl FnOnce() + Send + 'static {
        let path = self.folder.path().to_owned();
        move || end(&path, FAILED)
    }
}

/// Locks a new folder.
fn lock(folder: &Path) -> io::Result<File> {
    let draft = folder.join(".locking");
    let file = File::create_new(&draft)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Under its own name it has never been without its lock.
    std::fs::rename(draft, folder.join(LOCK))?;
    Ok(file)
}

/// Removes the folders in `parent` whose processes are no more. What can't be removed, such as
/// another user's, stays.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_ours {
            continue;
        }
        let Ok(file) = File::open(entry.path().join(LOCK)) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits for a request to end and returns its signal's number.
async fn first_signal() -> std::io::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
        _ = hangup.recv() => libc::SIGHUP,
    })
}

/// Ends the process at once; children are killed by the kernel.
fn end(folder: &Path, status: i32) -> ! {
    // A child may write another file meanwhile; a second attempt finds it.
    let _ = std::fs::remove_dir_all(folder).or_else(|_| std::fs::remove_dir_all(folder));
    std::process::exit(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_whose_lock_is_free_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir_all(path.join("within")).unwrap();
            path
        };
        let [alive, dead, unlocked, other] = ["testbed-a", "testbed-b", "testbed-c", "other-d"].map(folder);
        let _held = lock(&alive).unwrap();
        drop(lock(&dead).unwrap());
        drop(lock(&other).unwrap());
        std::os::unix::fs::symlink(&other, parent.path().join("testbed-link")).unwrap();
        sweep(parent.path());
        assert!(alive.exists() && !dead.exists() && unlocked.exists() && other.join("within").exists());
    }
}

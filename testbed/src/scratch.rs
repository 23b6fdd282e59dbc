//! One folder for everything temporary, which goes away however the process is asked to end.
//!
//! Namespaces, devices and children end with the process by themselves; files do not.

use anyhow::{Context, bail};
use std::path::Path;
use tempfile::TempDir;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell adds to a signal's number to make an exit status.
const EXIT_BY_SIGNAL: i32 = 128;

/// The folder of this process; removed with all it holds when dropped, and on SIGINT, SIGTERM or
/// SIGHUP, which end the process with status 128 + signal.
#[derive(Debug)]
pub struct Scratch {
    _folder: TempDir,
}

impl Scratch {
    /// Makes the folder, lets every later temporary file of this process lie in it, and starts the
    /// thread that waits for signals.
    ///
    /// # Errors
    /// If the folder or the thread can't be made, or if the process has such a folder already.
    pub fn open() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("testbed-").tempdir();
        let folder = folder.context("can't make a folder for temporary files")?;
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
                    end(&path, number);
                }
            })
            .context("can't start the thread that waits for signals")?;
        Ok(Self { _folder: folder })
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
fn end(folder: &Path, signal: i32) -> ! {
    // A child may write another file meanwhile; a second attempt finds it.
    let _ = std::fs::remove_dir_all(folder).or_else(|_| std::fs::remove_dir_all(folder));
    std::process::exit(EXIT_BY_SIGNAL + signal)
}

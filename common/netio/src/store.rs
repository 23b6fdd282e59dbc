//! A file with the records of all established flows, for the daemon after this one.
//!
//! ```text
//!  0            128     4096          4096 + 128 n
//!  ├── header ──┼── 0 ──┼── slot 0 ──┬── slot n ──┬──▶ sparse
//!     magic, versions, boot id
//! ```
//!
//! Every change is one pwrite(2) into the page cache: there it survives the process, however that
//! ends, but not the machine, and no connection survives a reboot of the machine either. So the
//! file belongs on a tmpfs, and nothing is ever synced. A record lies within one page and carries a
//! checksum: whatever is torn or damaged is refused when it is read, never believed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rtt0_core::journal::{Change, Slot};
use rtt0_core::record::{LENGTH, Record, VERSION};
use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};

/// Where slot 0 begins: a page of its own for the header keeps records within pages.
const FIRST_SLOT: u64 = 4096;
/// What the file begins with.
const MAGIC: &[u8; 8] = b"rtt0flow";
/// Slots read at a time.
const SLOTS_PER_READ: usize = 8192;
/// File systems in memory, statfs(2).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Why the state file can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder does not exist and can't be made.
    #[error("cannot make the state folder '{path}'; name another with --state-dir, or run with --no-state")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could put another file in its place.
    #[error("others can write to the state folder '{path}' (mode {mode:04o}); run: chmod 700 {path}")]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It can't be opened, or is no file of ours.
    #[error("cannot open the state file '{path}'; remove it, or name another folder with --state-dir")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "the state file '{path}' is in use by another daemon; stop that one, or name another folder with \
         --state-dir"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It can't be read or written.
    #[error("cannot {action} the state file '{path}'")]
    Access {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was found in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Flows that are translated on.
    pub restored: usize,
    /// Records that were damaged, of another format, or that the engine did not take.
    pub refused: usize,
    /// Whether the whole file was refused: another version wrote it, or it was before a reboot.
    pub is_foreign: bool,
}

/// The file, locked (flock(2)) for as long as this lives. It stays when this is dropped.
#[derive(Debug)]
pub struct Store {
    file: File,
    path: PathBuf,
    is_failing: bool,
}

impl Store {
    /// Opens `NAME.state` in `folder` and locks it; makes folder and file (mode 0700 and 0600) if
    /// there are none.
    ///
    /// # Errors
    /// [`StoreError`]; nothing in the file is changed then.
    pub fn open(folder: &Path, name: &str) -> Result<Self, StoreError> {
        make_private(folder)?;
        let path = folder.join(format!("{name}.state"));
        let failed = |source: io::Error| StoreError::Open { path: path.clone(), source };
        // A pipe would block the open, and a link could lead to any file.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(failed(io::Error::other(format!("it belongs to user {}", metadata.uid()))));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked { path }),
            Err(error) => return Err(failed(error.into())),
        }
        file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(failed)?;
        Ok(Self { file, path, is_failing: false })
    }

    /// Tells whether there is a file of that name.
    pub fn exists(folder: &Path, name: &str) -> bool {
        folder.join(format!("{name}.state")).exists()
    }

    /// Removes the file.
    ///
    /// # Errors
    /// [`StoreError::Access`].
    pub fn remove(self) -> Result<(), StoreError> {
        let Self { path, .. } = self;
        std::fs::remove_file(&path).map_err(|source| StoreError::Access { action: "remove", path, source })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the file lies in memory; on a disk, writing would wait for the disk.
    pub fn is_in_memory(&self) -> bool {
        // The type's width differs between architectures; magic numbers have 32 bits.
        fstatfs(&self.file).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u32)))
    }

    /// Hands `take` every sound record in the order of the slots; it returns whether it has use for
    /// it. All else is wiped out, and slots from `bound` on are cut off.
    ///
    /// # Errors
    /// [`StoreError::Access`].
    pub fn load(
        &mut self,
        bound: usize,
        mut take: impl FnMut(Slot, &Record) -> bool,
    ) -> Result<Found, StoreError> {
        let access = |action| {
            let path = self.path.clone();
            move |source| StoreError::Access { action, path, source }
        };
        let header = header().map_err(access("date"))?;
        let mut found = Found::default();
        let mut first = [0; LENGTH];
        let length = self.file.metadata().map_err(access("read"))?.len();
        if length < FIRST_SLOT || self.file.read_exact_at(&mut first, 0).is_err() || first != header {
            found.is_foreign = length != 0;
            self.file.set_len(0).map_err(access("empty"))?;
            self.file.write_all_at(&header, 0).map_err(access("write"))?;
            self.file.set_len(FIRST_SLOT).map_err(access("write"))?;
            return Ok(found);
        }
        let slots = usize::try_from((length - FIRST_SLOT) / LENGTH as u64).unwrap_or(usize::MAX).min(bound);
        let mut end = 0;
        let mut buffer = vec![0; SLOTS_PER_READ.min(slots) * LENGTH];
        for begin in (0..slots).step_by(SLOTS_PER_READ) {
            let bytes = &mut buffer[..SLOTS_PER_READ.min(slots - begin) * LENGTH];
            self.file.read_exact_at(bytes, offset(begin as u32)).map_err(access("read"))?;
            for (number, bytes) in (begin as u32..).zip(bytes.as_chunks().0) {
                let Some(slot) = Slot::new(number) else { break };
                match Record::decode(bytes) {
                    Ok(None) => continue,
                    Ok(Some(record)) if take(slot, &record) => {
                        found.restored += 1;
                        end = number + 1;
                    }
                    Ok(Some(_)) | Err(_) => {
                        found.refused += 1;
                        self.file.write_all_at(&[0; LENGTH], offset(number)).map_err(access("write"))?;
                    }
                }
            }
        }
        self.file.set_len(offset(end)).map_err(access("shorten"))?;
        Ok(found)
    }

    /// Writes a change down: one pwrite(2). Returns whether it is; the first failure of a row is
    /// logged, and the flow concerned will not survive this process.
    pub fn write(&mut self, change: &Change) -> bool {
        let bytes = change.record.map_or([0; LENGTH], |record| record.encode());
        let written = self.file.write_all_at(&bytes, offset(change.slot.number()));
        if let Err(error) = &written
            && !self.is_failing
        {
            tracing::error!(
                file = %self.path.display(),
                %error,
                "state can't be written; flows established from now on will not survive a restart"
            );
        }
        self.is_failing = written.is_err();
        written.is_ok()
    }
}

fn offset(slot: u32) -> u64 {
    FIRST_SLOT + u64::from(slot) * LENGTH as u64
}

/// Makes the folder, or sees that nobody else can exchange the file in it.
fn make_private(folder: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mode = std::fs::metadata(folder).map_err(failed)?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Exposed { path: folder.to_owned(), mode });
    }
    Ok(())
}

/// What a file of this version and this boot begins with.
fn header() -> io::Result<[u8; LENGTH]> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim_ascii();
    let mut header = [0; LENGTH];
    header[..8].copy_from_slice(MAGIC);
    header[8] = VERSION;
    header[9] = LENGTH as u8;
    let room = boot.len().min(LENGTH - 16);
    header[16..16 + room].copy_from_slice(&boot[..room]);
    Ok(header)
}

#[cfg(test)]
mod tests;

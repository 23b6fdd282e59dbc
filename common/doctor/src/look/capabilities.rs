//! What a process may do, and what its executable would give it: capabilities(7).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::getxattr;

/// CAP_NET_ADMIN.
pub const NET_ADMIN: u8 = 12;
/// CAP_NET_RAW.
pub const NET_RAW: u8 = 13;
/// CAP_BPF.
pub const BPF: u8 = 39;

/// Most threads that are looked at.
const MOST: usize = 128;

/// A set of capabilities, by bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// Tells whether it holds a capability.
    pub fn has(self, capability: u8) -> bool {
        self.0 & (1 << capability) != 0
    }
}

/// What a thread may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadCapabilities {
    /// Its name.
    pub name: String,
    /// What it may do now.
    pub effective: Set,
    /// What it could take.
    pub permitted: Set,
    /// What no program that it starts can exceed.
    pub bounding: Set,
    /// Programs that it starts gain nothing by their files.
    pub no_new_privileges: bool,
    /// 0 for none, 1 for strict, 2 for a filter.
    pub seccomp: u8,
}

/// What an executable gives to who starts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCapabilities {
    /// What is permitted.
    pub permitted: Set,
    /// Whether that is effective at once.
    pub is_effective: bool,
    /// When the file's attributes were last changed.
    pub changed: Option<SystemTime>,
}

/// Reads what the threads of a process may do, the main one first; `folder` is its own in `/proc`. Empty if it has gone.
pub fn of_threads(folder: &Path) -> Vec<ThreadCapabilities> {
    let Ok(entries) = fs::read_dir(folder.join("task")) else { return Vec::new() };
    let mut ids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let main = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
    ids.sort_unstable_by_key(|id| (Some(*id) != main, *id));
    let read = |id: u32| fs::read_to_string(folder.join(format!("task/{id}/status"))).ok();
    ids.into_iter().take(MOST).filter_map(|id| status(&read(id)?)).collect()
}

/// Reads `/proc/PID/task/TID/status`.
fn status(text: &str) -> Option<ThreadCapabilities> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let set = |name| Some(Set(u64::from_str_radix(field(name)?.trim(), 16).ok()?));
    let number = |name| field(name).and_then(|value| value.trim().parse::<u8>().ok()).unwrap_or_default();
    Some(ThreadCapabilities {
        name: field("Name")?.trim().to_owned(),
        effective: set("CapEff")?,
        permitted: set("CapPrm")?,
        bounding: set("CapBnd")?,
        no_new_privileges: number("NoNewPrivs") != 0,
        seccomp: number("Seccomp"),
    })
}

/// Reads the attribute `security.capability` of an executable; none is an empty set.
///
/// # Errors
/// Why it can't be read.
pub fn of_file(path: &Path) -> Result<FileCapabilities, String> {
    let changed = fs::metadata(path).map_err(|error| error.to_string())?;
    let changed = u64::try_from(changed.ctime()).map(Duration::from_secs).ok();
    let changed = changed.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let mut buffer = [0; 64];
    let read = getxattr(path, "security.capability", &mut buffer[..]).map_err(io::Error::from);
    let given = match read {
        Ok(length) => attribute(buffer.get(..length).unwrap_or_default())
            .ok_or_else(|| "its attribute security.capability is of an unknown kind".to_owned())?,
        Err(error) if is_none(&error) => FileCapabilities::default(),
        Err(error) => return Err(error.to_string()),
    };
    Ok(FileCapabilities { changed, ..given })
}

/// No such attribute, or a file system that has none.
fn is_none(error: &io::Error) -> bool {
    const ENODATA: i32 = 61;
    const EOPNOTSUPP: i32 = 95;
    matches!(error.raw_os_error(), Some(ENODATA | EOPNOTSUPP))
}

/// Reads `struct vfs_cap_data` of linux/capability.h, revision 2 or 3, little-endian. (Revision 1 has 32 bits only.)
fn attribute(bytes: &[u8]) -> Option<FileCapabilities> {
    const REVISION: u32 = 0xff00_0000;
    const EFFECTIVE: u32 = 1;
    let word = |index: usize| {
        let four = bytes.get(4 * index..4 * index + 4)?;
        four.try_into().ok().map(u32::from_le_bytes)
    };
    let magic = word(0)?;
    let high = match (magic & REVISION, bytes.len()) {
        (0x0100_0000, 12) => 0,
        // Of revision 3 the last word says whose user namespace it counts in.
        (0x0200_0000, 20) | (0x0300_0000, 24) => word(3)?,
        _ => return None,
    };
    let permitted = Set(u64::from(high) << 32 | u64::from(word(1)?));
    Some(FileCapabilities { permitted, is_effective: magic & EFFECTIVE != 0, changed: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &str = "Name:\tpackets-0\nUmask:\t0022\nState:\tS (sleeping)\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000008000000000\nCapEff:\t0000008000000000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn a_thread_is_read() {
        let thread = status(STATUS).unwrap();
        assert_eq!((thread.name.as_str(), thread.seccomp, thread.no_new_privileges), ("packets-0", 2, true));
        assert!(thread.effective.has(BPF) && !thread.effective.has(NET_ADMIN));
        assert!(thread.bounding.has(NET_ADMIN) && thread.bounding.has(NET_RAW));
        assert_eq!(status("Name:\tx\n"), None);
    }

    #[test]
    fn an_attribute_is_read() {
        // setcap cap_net_admin,cap_net_raw,cap_bpf+ep
        let bytes = [1, 0, 0, 2, 0, 0x30, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
        let given = attribute(&bytes).unwrap();
        assert!(given.is_effective && [NET_ADMIN, NET_RAW, BPF].iter().all(|bit| given.permitted.has(*bit)));
        let mut third = bytes.to_vec();
        third[3] = 3;
        assert_eq!(attribute(&third), None, "too short");
        third.extend([0; 4]);
        assert_eq!(attribute(&third), Some(given));
    }

    #[test]
    fn this_process_is_read() {
        let threads = of_threads(Path::new(&format!("/proc/{}", std::process::id())));
        assert!(!threads.is_empty());
        assert!(of_file(Path::new("/proc/self/exe")).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_panics_on_an_attribute(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = attribute(&bytes);
        }

        #[test]
        fn nothing_panics_on_a_status(text in ".{0,300}") {
            let _ = status(&text);
        }

        #[test]
        fn what_was_written_is_read(low: u32, high: u32, effective: bool) {
            let mut bytes = (0x0200_0000_u32 | u32::from(effective)).to_le_bytes().to_vec();
            for word in [low, 0, high, 0] {
                bytes.extend(word.to_le_bytes());
            }
            let given = attribute(&bytes).unwrap();
            prop_assert_eq!(given.permitted, Set(u64::from(high) << 32 | u64::from(low)));
            prop_assert_eq!(given.is_effective, effective);
        }
    }
}

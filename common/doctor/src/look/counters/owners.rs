//! Which process has a socket open.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Descriptors looked at, at most.
const MOST: usize = 500_000;

/// The processes by their sockets' inodes: read when first asked, and only then.
#[derive(Debug, Default)]
pub(super) struct Owners(Option<BTreeMap<u64, String>>);

impl Owners {
    /// Returns the process that has the socket of this inode open, such as `nginx, process 17`; none if this user may not
    /// know.
    pub(super) fn of(&mut self, inode: u64) -> Option<String> {
        self.0.get_or_insert_with(all).get(&inode).cloned()
    }
}

fn all() -> BTreeMap<u64, String> {
    let mut owners = BTreeMap::new();
    let mut left = MOST;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process of another user's, or one that has ended.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if left == 0 {
                return owners;
            }
            left -= 1;
            if let Some(inode) = socket(&descriptor.path()) {
                owners.entry(inode).or_insert_with(|| format!("{}, process {id}", program(&process.path())));
            }
        }
    }
    owners
}

/// Returns the inode of the socket that a descriptor is of.
fn socket(descriptor: &Path) -> Option<u64> {
    let target = fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn program(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn own_sockets_are_ours() {
        let descriptor = UdpSocket::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let inode = socket(Path::new(&path)).unwrap();
        let owner = Owners::default().of(inode).unwrap();
        assert!(owner.ends_with(&format!("process {}", std::process::id())), "{owner}");
    }
}

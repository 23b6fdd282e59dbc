//! The privileges that namespaces need, from root or from a user namespace.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;

use crate::mounts;
use rtt0_netio::netns::Namespace;
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe};

/// What the testbed's network namespaces need.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::SYS_ADMIN);

/// Exit status for missing privilege (`EX_NOPERM` of sysexits.h).
pub const EXIT_CODE: u8 = 77;

/// Where the privileges come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The process had them.
    Inherited,
    /// The process moved into a user namespace of its own, where it is root. No TUN device unless
    /// `/dev/net/tun` is open to everybody, no real-time scheduling.
    UserNamespace,
}

/// Why the testbed cannot have its namespaces. `main` should exit with [`EXIT_CODE`].
#[derive(Debug)]
pub struct PrivilegeError {
    step: &'static str,
    source: io::Error,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "missing privilege: CAP_NET_ADMIN and CAP_SYS_ADMIN (could not {}); run as root, or allow \
             unprivileged user namespaces (sysctl user.max_user_namespaces above 0, and where they \
             exist kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)",
            self.step
        )
    }
}

impl Error for PrivilegeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Obtains CAP_NET_ADMIN and CAP_SYS_ADMIN: those the process has, else by moving the process
/// into a new user namespace (`user_namespaces(7)`) in which it is root. Its mounts are its own from then on.
///
/// Call it first in `main`: the kernel refuses to move a process with more than one thread.
///
/// # Errors
/// [`PrivilegeError`] if both ways are closed.
pub fn acquire() -> Result<Privilege, PrivilegeError> {
    let privilege = if is_held() {
        mounts::separate().map_err(failed("make a mount namespace"))?;
        Privilege::Inherited
    } else {
        move_into_user_namespace()?;
        Privilege::UserNamespace
    };
    // Security modules may let the user namespace pass and then strip its capabilities.
    Namespace::create().map_err(failed("make a network namespace"))?;
    Ok(privilege)
}

/// Tells whether the process holds CAP_NET_ADMIN and CAP_SYS_ADMIN in its user namespace.
pub fn is_held() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED))
}

/// Returns the user id that the testbed was started with, also inside its user namespace.
pub fn outer_uid() -> u32 {
    let inside = rustix::process::geteuid().as_raw();
    fs::read_to_string("/proc/self/uid_map").ok().and_then(|map| mapped(&map, inside)).unwrap_or(inside)
}

/// Looks `id` up in the text of a `uid_map`: lines of *first inside, first outside, count*.
fn mapped(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

fn move_into_user_namespace() -> Result<(), PrivilegeError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }
        .map_err(|error| failed("unshare a user namespace")(error.into()))?;
    // Without CAP_SETGID outside, the kernel lets the group map be written only once setgroups(2)
    // is denied for good.
    fs::write("/proc/self/setgroups", "deny").map_err(failed("write /proc/self/setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("write /proc/self/uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("write /proc/self/gid_map"))
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> PrivilegeError {
    move |source| PrivilegeError { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_user_is_found_outside() {
        assert_eq!(mapped("         0       1000          1\n", 0), Some(1000));
        assert_eq!(mapped("0 1000 1\n", 1), None);
        assert_eq!(mapped("0 0 4294967295\n", 7), Some(7));
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n", 5), Some(100_004));
    }
}

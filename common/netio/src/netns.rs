//! Network namespaces kept alive by a file descriptor alone.
//!
//! No name is bound under `/run/netns`: when the last descriptor and the last thread inside are
//! gone, the kernel removes the namespace and every device in it. Nothing outlives `kill -9`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::links::Links;

/// The namespace of the calling thread, see `namespaces(7)`.
const OWN_NETWORK: &str = "/proc/thread-self/ns/net";

/// A network namespace that lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a fresh network namespace whose loopback device is up.
    ///
    /// # Errors
    /// The error of `unshare(2)` with `CLONE_NEWNET`: `EPERM` without `CAP_SYS_ADMIN` in the
    /// user namespace, `ENOSPC` above the limit in `/proc/sys/user/max_net_namespaces`; or that
    /// of bringing up loopback, which needs `CAP_NET_ADMIN` inside.
    pub fn create() -> io::Result<Self> {
        let namespace = on_own_thread(|| {
            // SAFETY: unsafe only because of `UnshareFlags::FILES`, which is not given: the
            // descriptor table stays shared with the other threads.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Self::current()
        })?;
        let links = Links::open(&namespace).map_err(io::Error::other)?;
        links.bring_up("lo").map_err(io::Error::other)?;
        Ok(namespace)
    }

    /// Refers to the namespace of the calling thread.
    ///
    /// # Errors
    /// The error of `open(2)`, if `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self { fd: File::open(OWN_NETWORK)?.into() })
    }

    /// Runs `f` inside the namespace, on a thread made for it, and returns what `f` returns.
    ///
    /// Sockets belong for ever to the namespace they were made in, so they may be carried out.
    ///
    /// # Errors
    /// The error of `setns(2)` (`EPERM` without `CAP_SYS_ADMIN`) or of starting a thread.
    ///
    /// # Panics
    /// Passes on a panic of `f`.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })
    }

    /// Lends the descriptor, for `setns(2)` or `IFLA_NET_NS_FD`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Namespace {
    /// Adopts a descriptor opened from `/proc/<pid>/ns/net` or `/proc/<pid>/fd/<n>`.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// A thread's namespace cannot be put back reliably (the way back needs privileges over the old
/// one), so a thread that changes it is thrown away.
fn on_own_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, f)?;
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    fn inode(fd: BorrowedFd<'_>) -> u64 {
        File::from(fd.try_clone_to_owned().unwrap()).metadata().unwrap().ino()
    }

    fn own_inode() -> u64 {
        std::fs::metadata(OWN_NETWORK).unwrap().ino()
    }

    fn created() -> Option<Namespace> {
        match Namespace::create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                None
            }
            outcome => Some(outcome.unwrap()),
        }
    }

    #[test]
    fn loopback_works_inside_and_the_caller_stays_outside() {
        let Some(namespace) = created() else { return };
        let before = own_inode();
        let inside = namespace
            .enter(|| {
                let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
                TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let listener = TcpListener::bind(("::1", 0)).unwrap();
                TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                own_inode()
            })
            .unwrap();
        assert_eq!(inside, inode(namespace.as_fd()));
        assert_ne!(inside, before);
        assert_eq!(own_inode(), before);
    }

    #[test]
    fn a_panic_inside_reaches_the_caller() {
        let Some(namespace) = created() else { return };
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| namespace.enter(|| panic!("inside"))));
        assert!(outcome.is_err());
    }
}

//! One of the four hosts: a network namespace with a name.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use rtt0_netio::netns::Namespace;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::die_with_parent;

/// A host of the testbed.
#[derive(Debug)]
pub struct Host {
    name: &'static str,
    namespace: Namespace,
}

impl Host {
    /// Makes a host without any device but loopback. Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn create(name: &'static str) -> anyhow::Result<Self> {
        let namespace =
            Namespace::create().with_context(|| format!("cannot make the network namespace of {name}"))?;
        Ok(Self { name, namespace })
    }

    /// Returns `client`, `clientnic`, `servernic` or `server`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs `f` on this host, on a thread of its own. Sockets it makes may be carried out.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// Passes on a panic of `f`.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.namespace.enter(f).with_context(|| format!("cannot enter the namespace of {}", self.name))
    }

    /// Prepares a command that will run on this host and be killed (SIGKILL) when the thread that
    /// spawns it dies: hand it to [`crate::process::Process::spawn`], or spawn it on a thread that
    /// waits for it, as [`Command::output`] does.
    ///
    /// Only the network is the host's; files, processes and users are shared.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // Spawning reports the error if the descriptor could not be duplicated.
        let namespace: Result<OwnedFd, i32> = self
            .namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EMFILE));
        let enter = move || match &namespace {
            Ok(fd) => Ok(move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?),
            Err(code) => Err(std::io::Error::from_raw_os_error(*code)),
        };
        // SAFETY: the closure runs between fork and exec and only calls setns(2), which is
        // async-signal-safe; it neither allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
        die_with_parent(&mut command);
        command
    }

    /// Lends the network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

//! How hosts are reached.

use super::site::{Role, Site};
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A way to four hosts. Every call ends in bounded time, and early if the user interrupts.
pub trait Transport {
    /// Says what the hosts are, for the report.
    fn description(&self) -> String;

    /// Finds the hosts anew.
    ///
    /// # Errors
    /// If one is missing, or none can be asked for.
    fn discover(&mut self) -> anyhow::Result<Site>;

    /// Runs a shell script on a host and waits until it has ended and everything that it has started has let go of its
    /// output. `purpose` names it in messages.
    ///
    /// # Errors
    /// [`Unreachable`] if it can't have been run; otherwise if it does not end within `bound`. A script that fails is no
    /// error.
    fn run(&self, role: Role, purpose: &str, script: &str, bound: Duration) -> anyhow::Result<Output>;

    /// Puts a file into the folders of hosts, with this name and these permissions. Nobody else can read it on the way.
    ///
    /// # Errors
    /// If it can't be read, carried or written.
    fn put(&self, roles: &[Role], from: &Path, name: &str, mode: u32) -> anyhow::Result<()>;

    /// Gets a file from a host's folder. The local folder must exist.
    ///
    /// # Errors
    /// If it can't be read, carried or written.
    fn get(&self, role: Role, name: &str, to: &Path) -> anyhow::Result<()>;

    /// Returns the folder on a host in which everything of ours lies.
    fn folder(&self, role: Role) -> String;

    /// Tells whether the NICs have to delay the middle leg themselves, should it have a round-trip time.
    fn wants_delay(&self) -> bool;

    /// Removes what files have left on the way, should one of them not have arrived.
    ///
    /// # Errors
    /// If something may be left.
    fn finish(&self) -> anyhow::Result<()>;
}

/// What a script has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and more if a signal ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A host could not be reached, and nothing has been done there.
#[derive(Debug)]
pub struct Unreachable {
    /// Which host.
    pub role: Role,
    /// How that showed.
    pub reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't be reached: {}", self.role, self.reason)
    }
}

impl Error for Unreachable {}

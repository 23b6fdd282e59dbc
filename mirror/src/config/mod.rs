//! The configuration file: TOML, every key of which is checked before a packet is looked at.
//!
//! `deploy/mirror/mirror.toml` shows all keys. Whatever is wrong is told with its line, column and what to write
//! instead; a key that is not known is an error too, since a misspelt one would otherwise be left out in silence.

mod file;
mod place;
#[cfg(test)]
mod tests;
mod text;

pub use place::ConfigError;

use crate::nat::Rules;
use crate::tunnel::Listening;
use rtt0_core::service::Service;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The longest file, in bytes: 1,024 rules take a quarter of it.
pub const LONGEST: u64 = 1 << 20;
/// The most workers.
pub const MOST_WORKERS: usize = 64;
/// The largest number of a processor (CPU_SETSIZE, sched_setaffinity(2)).
pub const LARGEST_PROCESSOR: usize = 1_023;
/// The most tunnels.
pub const MOST_TUNNELS: usize = 16;
/// The most virtual network identifiers of one tunnel.
pub const MOST_VNIS: usize = 4_096;
/// The most observed services.
pub const MOST_SERVICES: usize = 1_024;

/// By what packets are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The best that works; the log says which, and why no better.
    #[default]
    Auto,
    /// AF_XDP, native or generic.
    Xdp,
    /// AF_PACKET, a ring of memory shared with the kernel.
    Packet,
    /// The pnet crate, one packet a system call.
    Pnet,
}

/// What is only looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observe {
    /// Servers whose connections are of interest; all if empty. At most [`MOST_SERVICES`].
    pub services: Vec<Service>,
}

/// A configuration in which every value is right by itself and goes with the others.
#[derive(Debug)]
pub struct Config {
    /// Where the mirror's packets arrive: 1–15 bytes.
    pub interface: String,
    /// The only interface by which translated packets may leave; never `interface`.
    pub egress: Option<String>,
    /// The only interface by which restored replies may leave, never `interface`; there is one if any rule wants replies.
    pub replies_egress: Option<String>,
    /// The file with the allowed addresses.
    pub allowlist: Option<PathBuf>,
    /// Packet threads, 1–64; 1 unless given.
    pub workers: usize,
    /// The processors that they run on, in turns; any if there are none. At most [`MOST_WORKERS`].
    pub cpus: Vec<usize>,
    /// SCHED_FIFO priority of the packet threads, 1–99 (sched(7)); ordinary scheduling if there is none.
    pub realtime_priority: Option<u8>,
    /// Whether the host's processors are kept from sleeping meanwhile.
    pub awake: bool,
    /// By what packets are captured.
    pub backend: Backend,
    /// Where metrics can be read over HTTP, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The tunnels that are expected: one or more, each port once.
    pub tunnels: Vec<Listening>,
    /// The translations, in order; maybe none.
    pub rules: Rules,
    /// What is only looked at.
    pub observe: Observe,
    path: PathBuf,
}

/// What forwarding needs besides what observing does.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The only interface by which translated packets may leave.
    pub egress: &'a str,
    /// The file with the allowed addresses.
    pub allowlist: &'a Path,
    /// The translations: one or more.
    pub rules: &'a Rules,
}

impl Config {
    /// Reads a configuration. `path` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError`] says where, what and how to mend it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        file::parse(text, path)
    }

    /// Reads the configuration in a file, of at most [`LONGEST`] bytes.
    ///
    /// # Errors
    /// [`ConfigError`] says where, what and how to mend it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(LONGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LONGEST {
            return Err(ConfigError::TooLong { path: path.to_owned() });
        }
        Self::parse(&text, path)
    }

    /// Returns what forwarding needs. Observing does without: it sends nothing.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] names the key that is not there.
    pub fn forwarding(&self) -> Result<Forwarding<'_>, ConfigError> {
        let missing = |key, example| ConfigError::Missing { path: self.path.clone(), key, example };
        let egress = self.egress.as_deref().ok_or_else(|| missing("egress", "egress = \"ens6\""))?;
        let list = || missing("allowlist", "allowlist = \"/etc/rtt0/allow.json\"");
        let allowlist = self.allowlist.as_deref().ok_or_else(list)?;
        if self.rules.is_empty() {
            return Err(missing("rule", "[[rule]] with name = \"analyser\" and to = \"192.0.2.95:8081\""));
        }
        Ok(Forwarding { egress, allowlist, rules: &self.rules })
    }
}

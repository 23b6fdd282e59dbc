//! `up`, `exec` and `down`: a topology that stays for exploring.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::process::Process;
use crate::topology::{Topology, TopologyConfig};

/// Raises a topology and keeps it in a background process.
///
/// Call [`crate::privilege::acquire`] before, and both before any thread is started. `inside` runs
/// in the background process once the topology stands; the processes it returns live as long.
pub fn up(
    _config: &TopologyConfig,
    _inside: impl FnOnce(&Topology) -> anyhow::Result<Vec<Process>>,
) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

/// Replaces this process by `command`, run on `host` of the topology that is up. Do not call
/// [`crate::privilege::acquire`] before.
pub fn exec(_host: &str, _command: &[OsString]) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

/// Ends the topology that is up. Do not call [`crate::privilege::acquire`] before.
pub fn down() -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

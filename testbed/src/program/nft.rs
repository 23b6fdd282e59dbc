//! Packet filters of a host, made with `nft` (nftables) as an administrator would.

use super::installed;
use crate::host::Host;
use anyhow::{Context, bail};
use std::io::Write;
use std::process::Stdio;

/// Name of the program.
pub const NAME: &str = "nft";

/// Tells whether it is installed.
pub fn is_installed() -> bool {
    installed::find(NAME).is_some()
}

/// Adds `rules`, in the syntax of nft(8), to the host's rule set. They vanish with the host.
///
/// # Errors
/// If nft is not installed or refuses the rules; the error quotes what it said.
pub fn apply(host: &Host, rules: &str) -> anyhow::Result<()> {
    let program = installed::find(NAME).context("nft is not installed")?;
    let mut command = host.command(program);
    command.args(["--file", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = command.spawn().context("can't run nft")?;
    // Taken, so that it is closed: nft reads to the end.
    nft.stdin.take().context("nft has no input")?.write_all(rules.as_bytes()).context("can't tell nft")?;
    let output = nft.wait_with_output().context("can't wait for nft")?;
    if !output.status.success() {
        bail!("nft refuses the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

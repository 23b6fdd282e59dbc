//! What an administrator would type.

use anyhow::{Context, bail};

use crate::host::Host;
use crate::program::installed;

/// A program that is not installed: the case can't be tried here.
#[derive(Debug, thiserror::Error)]
#[error("not installed: {0}")]
pub(super) struct NotInstalled(pub(super) String);

/// Runs a command line on a host. Words are separated by blanks; there is no quoting.
///
/// # Errors
/// [`NotInstalled`]; or what the program says if it fails.
pub(super) fn run(host: &Host, line: &str) -> anyhow::Result<()> {
    run_words(host, line, &[])
}

/// Runs one with further words, which may have blanks in them.
///
/// # Errors
/// As [`run`].
pub(super) fn run_words(host: &Host, line: &str, more: &[&str]) -> anyhow::Result<()> {
    let mut words = line.split_whitespace().chain(more.iter().copied());
    let name = words.next().context("no command")?;
    let program = installed::find(name).ok_or_else(|| NotInstalled(name.to_owned()))?;
    let output = host.command(program).args(words).output().with_context(|| format!("can't run {name}"))?;
    if !output.status.success() {
        bail!("'{line}' failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Adds rules of nft(8) to a host.
///
/// # Errors
/// [`NotInstalled`]; or what nft says.
pub(super) fn nft(host: &Host, rules: &str) -> anyhow::Result<()> {
    if !crate::program::nft::is_installed() {
        return Err(NotInstalled(crate::program::nft::NAME.to_owned()).into());
    }
    crate::program::nft::apply(host, rules)
}

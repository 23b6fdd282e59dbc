//! What an administrator would type.

use std::io;

use anyhow::{Context, bail};

use crate::host::Host;
use crate::program::installed;

/// Why a case can't be tried here: a program is not installed, or this user may not do that.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Untriable(pub(super) String);

impl Untriable {
    fn not_installed(program: &str) -> Self {
        Self(format!("not installed: {program}"))
    }

    /// Takes an error for what it is: a lack of permission makes the case untriable.
    pub(super) fn unless_permitted(what: &str, error: io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self(format!("not permitted here: {what}")).into(),
            _ => anyhow::Error::new(error).context(format!("can't have {what}")),
        }
    }
}

/// Runs a command line on a host. Words are separated by blanks; there is no quoting.
///
/// # Errors
/// [`Untriable`]; or what the program says if it fails.
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
    let program = installed::find(name).ok_or_else(|| Untriable::not_installed(name))?;
    let output = host.command(program).args(words).output().with_context(|| format!("can't run {name}"))?;
    if !output.status.success() {
        bail!("'{line}' failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Adds rules of nft(8) to a host.
///
/// # Errors
/// [`Untriable`]; or what nft says.
pub(super) fn nft(host: &Host, rules: &str) -> anyhow::Result<()> {
    if !crate::program::nft::is_installed() {
        return Err(Untriable::not_installed(crate::program::nft::NAME).into());
    }
    crate::program::nft::apply(host, rules)
}

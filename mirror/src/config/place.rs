//! Where in a file something is wrong.

use super::LONGEST;
use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be opened or read, or is no UTF-8.
    #[error("configuration file '{path}' cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is longer than any configuration.
    #[error("configuration file '{path}' is longer than {LONGEST} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}:{column}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What, and what would be right.
        problem: String,
    },
    /// Forwarding needs a key that is not there.
    #[error("{path}: forwarding needs '{key}'; write {example}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// How it could be written.
        example: &'static str,
    },
}

/// Makes errors about places in one text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    /// Says that something at byte `at` is wrong.
    pub(super) fn wrong(self, at: usize, problem: impl ToString) -> ConfigError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        ConfigError::Content {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            // One line in the log, whoever wrote it.
            problem: problem.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

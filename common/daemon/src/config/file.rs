//! The configuration file: TOML, of which every key is the long name of an option.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::is_list;

/// A configuration is far smaller; a larger file is another one.
const LARGEST: u64 = 1 << 20;
/// How alike a known key must be to be suggested (0–1).
const ALIKE: f64 = 0.7;

/// Why a configuration file can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It was named and does not exist.
    #[error("configuration file '{path}' does not exist; name another with --config, or /dev/null for none")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It can't be opened or read.
    #[error("configuration file '{path}' cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is longer than any configuration.
    #[error("configuration file '{path}' is longer than {LARGEST} bytes")]
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
        /// What, and where that is known what would be right.
        problem: String,
    },
}

/// A file that is TOML.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    entries: Vec<Entry>,
}

/// A key and what stands behind it. Positions are offsets in bytes.
#[derive(Debug)]
struct Entry {
    key: String,
    at: usize,
    value_at: usize,
    is_list: bool,
    /// Each as it would stand on the command line, or nothing if it could not.
    values: Vec<(usize, Option<String>)>,
}

impl ConfigFile {
    /// Reads a file; what its keys mean is not looked at yet.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ConfigFileError::Missing { path: path.to_owned() },
            _ => ConfigFileError::Unreadable { path: path.to_owned(), source },
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LARGEST {
            return Err(ConfigFileError::TooLong { path: path.to_owned() });
        }
        let mut file = Self { path: path.to_owned(), text, entries: Vec::new() };
        file.entries = match DeTable::parse(&file.text) {
            Ok(table) => table.get_ref().iter().map(|(key, value)| Entry::new(key, value)).collect(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                return Err(file.wrong(at, one_line(error.message())));
            }
        };
        file.entries.sort_by_key(|entry| entry.at);
        Ok(file)
    }

    /// Has the file's values take the place of the defaults of `command`'s options, of which it may set all but `not`.
    pub(super) fn fill(&self, command: Command, not: &[&str]) -> Result<Command, ConfigFileError> {
        let mut filled = HashMap::new();
        for entry in &self.entries {
            let is_it = |argument: &&Arg| argument.get_long() == Some(entry.key.as_str());
            let Some(argument) = command.get_arguments().find(is_it).filter(|_| !not.contains(&&*entry.key))
            else {
                return Err(self.wrong(entry.at, unknown(&entry.key, &command, not)));
            };
            filled.insert(argument.get_id().clone(), self.values_for(argument, entry)?);
        }
        Ok(command.mut_args(|argument| match filled.remove(argument.get_id()) {
            // Clap knows no default of an option that must be given.
            Some(values) => argument.required(false).default_values(values),
            None => argument,
        }))
    }

    /// Returns file and line of a key, if it is there.
    pub(super) fn place_of(&self, key: &str) -> Option<String> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(format!("{}:{}", self.path.display(), self.line_and_column(entry.at).0))
    }

    fn values_for(&self, argument: &Arg, entry: &Entry) -> Result<Vec<String>, ConfigFileError> {
        if entry.is_list && !is_list(argument) {
            return Err(self.wrong(entry.value_at, format!("'{}' takes one value and no list", entry.key)));
        }
        let check = |(at, value): &(usize, Option<String>)| {
            let kinds = || format!("'{}' takes a string, an integer or a boolean", entry.key);
            let value = value.clone().ok_or_else(|| self.wrong(*at, kinds()))?;
            match check(argument, &entry.key, &value) {
                Ok(()) => Ok(value),
                Err(problem) => Err(self.wrong(*at, problem)),
            }
        };
        entry.values.iter().map(check).collect()
    }

    fn wrong(&self, at: usize, problem: String) -> ConfigFileError {
        let (line, column) = self.line_and_column(at);
        ConfigFileError::Content { path: self.path.clone(), line, column, problem }
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

impl Entry {
    fn new(key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Self {
        let (is_list, values) = match value.get_ref() {
            DeValue::Array(items) => (true, items.iter().map(scalar).collect()),
            _ => (false, vec![scalar(value)]),
        };
        let key_text = key.get_ref().as_ref().to_owned();
        Self { key: key_text, at: key.span().start, value_at: value.span().start, is_list, values }
    }
}

/// Returns where a value stands and how it would be written on the command line.
fn scalar(value: &Spanned<DeValue<'_>>) -> (usize, Option<String>) {
    let text = match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    };
    (value.span().start, text)
}

/// Has the command line's parser read one value of an option.
fn check(argument: &Arg, key: &str, value: &str) -> Result<(), String> {
    // By itself, without what it has to do with other options.
    let alone = Arg::new("value")
        .long(key.to_owned())
        .action(ArgAction::Set)
        .allow_hyphen_values(true)
        .value_parser(argument.get_value_parser().clone());
    let line = Command::new("file").no_binary_name(true).disable_help_flag(true).arg(alone);
    let Err(error) = line.try_get_matches_from([format!("--{key}={value}")]) else { return Ok(()) };
    let mut problem = format!("invalid value '{value}' for '{key}'");
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    if let Some(cause) = cause {
        problem += &format!(": {cause}");
    } else if let Some(ContextValue::Strings(possible)) = error.get(ContextKind::ValidValue) {
        problem += &format!(" [possible values: {}]", possible.join(", "));
    }
    Err(one_line(&problem))
}

/// Says of an unknown key which was meant, or which there are.
fn unknown(key: &str, command: &Command, not: &[&str]) -> String {
    let mut known: Vec<&str> =
        command.get_arguments().filter_map(Arg::get_long).filter(|name| !not.contains(name)).collect();
    known.sort_unstable();
    let alike = |name: &&str| strsim::jaro_winkler(key, name);
    let nearest = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match nearest.filter(|name| alike(name) >= ALIKE && key != *name) {
        Some(name) => format!("unknown key '{key}'; did you mean '{name}'?"),
        None => format!("unknown key '{key}'; there are: {}", known.join(", ")),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! The file with the secrets that both NICs share.
//!
//! One or two lines, each a key id (0–3) and a key of 16 bytes in hexadecimal:
//!
//! ```text
//! 1 000102030405060708090a0b0c0d0e0f
//! 0 f0e0d0c0b0a090807060504030201000
//! ```
//!
//! The first key signs, all are accepted. To rotate without a gap, put the new key second on
//! both NICs, then first on both, then take the old one out. Empty lines and lines that begin
//! with `#` are skipped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rtt0_core::offer::{KeyIdError, Keys};
use rustix::fs::OFlags;

/// A key file is far smaller; the rest of a larger one is not read.
const LARGEST: u64 = 4096;

/// Hexadecimal digits of a SipHash key.
const DIGITS: usize = 32;

/// Why a key file can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// No file was named.
    #[error("no key file given; name one with --key-file")]
    NotGiven,
    /// It does not exist.
    #[error("key file '{path}' does not exist; make one with 'keygen {path}' and copy it to the other NIC")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It can't be opened or read.
    #[error("key file '{path}' cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("key file '{path}' is not a regular file; name a file made with 'keygen FILE'")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others can read or write it.
    #[error("key file '{path}' is accessible to group or others (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it, and so can change it.
    #[error(
        "key file '{path}' belongs to user {owner}; do this as that user, or run: chown {expected} {path}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// The daemon's effective user id.
        expected: u32,
    },
    /// A line is not a key.
    #[error(
        "key file '{path}', line {line}: {problem}; write an id from 0 to 3 and {DIGITS} hexadecimal digits"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// No key or too many.
    #[error("key file '{path}' holds {count} keys; 1 is needed, 2 while keys are rotated")]
    Count {
        /// The file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
    /// The ids don't fit.
    #[error(transparent)]
    Ids(#[from] KeyIdError),
    /// A new one can't be written.
    #[error("cannot write key file '{path}'; an existing file is never overwritten")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl KeyFileError {
    /// Tells whether the file might be fine for a user with more rights.
    pub(crate) fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Reads a key file. It must be a regular file that belongs to the effective user or root and is
/// accessible to nobody else.
///
/// # Errors
/// [`KeyFileError`].
pub fn read(path: &Path) -> Result<Keys, KeyFileError> {
    read_with(path, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
}

/// Permission bits of others. systemd may let the service's user read a credential by an access list (acl(5)), of which
/// the group's bits then show the mask; nobody else gets into that folder.
fn bits_of_others(path: &Path, credentials: Option<&Path>) -> u32 {
    if credentials.is_some() && path.parent() == credentials { 0o037 } else { 0o077 }
}

fn read_with(path: &Path, credentials: Option<&Path>) -> Result<Keys, KeyFileError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing { path: path.to_owned() },
        _ => KeyFileError::Unreadable { path: path.to_owned(), source },
    };
    // A pipe would block the open.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    // Of the open file, so that nobody can exchange it in between.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & bits_of_others(path, credentials) != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let (owner, expected) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != expected && owner != 0 {
        return Err(KeyFileError::Foreign { path: path.to_owned(), owner, expected });
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Keys, KeyFileError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let key = parse_line(line);
            keys.push(key.map_err(|problem| KeyFileError::Line {
                path: path.to_owned(),
                line: index + 1,
                problem,
            })?);
        }
    }
    match keys[..] {
        [current] => Ok(Keys::new(current, None)?),
        [current, previous] => Ok(Keys::new(current, Some(previous))?),
        _ => Err(KeyFileError::Count { path: path.to_owned(), count: keys.len() }),
    }
}

/// Never repeats any part of the key in what it says: errors end up in logs.
fn parse_line(line: &str) -> Result<(u8, [u8; 16]), String> {
    let mut words = line.split_whitespace();
    let (Some(id), Some(digits), None) = (words.next(), words.next(), words.next()) else {
        return Err("not two words".to_owned());
    };
    let id = match id.parse() {
        Ok(id @ 0..=3) => id,
        _ => return Err("the id is not a number from 0 to 3".to_owned()),
    };
    if digits.len() != DIGITS {
        return Err(format!("the key has {} digits", digits.chars().count()));
    }
    let mut key = [0; DIGITS / 2];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
            _ => return Err("the key has a digit that is not hexadecimal".to_owned()),
        }
    }
    Ok((id, key))
}

/// Writes a fresh random key with `id` (0–3) to a new file of mode 0600.
///
/// # Errors
/// [`KeyFileError::Unwritable`]; above all if the file exists already. A file that could not be
/// written whole is removed.
pub fn generate(path: &Path, id: u8) -> Result<(), KeyFileError> {
    let unwritable = |source| KeyFileError::Unwritable { path: path.to_owned(), source };
    let mut key = [0; DIGITS / 2];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut key)).map_err(unwritable)?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    let written = writeln!(file, "{id} {digits}").and_then(|()| file.sync_all());
    written.map_err(|source| {
        // The first error tells more than one of the removal would.
        let _ = std::fs::remove_file(path);
        unwritable(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const KEY: &str = "000102030405060708090a0B0c0d0e0F";

    fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("key");
        write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    fn outcome(text: &str) -> Result<Keys, KeyFileError> {
        let (_directory, path) = file(text, 0o600);
        read(&path)
    }

    #[test]
    fn reads_one_key_or_two() {
        let bytes = std::array::from_fn(|index| index as u8);
        let one = outcome(&format!("# a comment\n\n2 {KEY}\n")).unwrap();
        assert_eq!(one, Keys::new((2, bytes), None).unwrap());
        let two = outcome(&format!("0 {}\n2 {KEY}", "ff".repeat(16))).unwrap();
        assert_eq!(two, Keys::new((0, [0xff; 16]), Some((2, bytes))).unwrap());
    }

    #[test]
    fn a_credential_may_have_an_access_list() {
        for (mode, is_accepted) in [(0o400, true), (0o440, true), (0o460, false), (0o444, false)] {
            let (directory, path) = file(&format!("0 {KEY}"), mode);
            assert_eq!(read_with(&path, Some(directory.path())).is_ok(), is_accepted, "{mode:o}");
            assert_eq!(read_with(&path, None).is_ok(), mode == 0o400, "{mode:o}");
            assert_eq!(read_with(&path, Some(Path::new("/run"))).is_ok(), mode == 0o400, "{mode:o}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line_without_telling_the_key() {
        for (text, expected) in [
            (format!("0 {}", &KEY[1..]), "the key has 31 digits"),
            (format!("0 {KEY}0"), "the key has 33 digits"),
            (format!("0 g{}", &KEY[1..]), "not hexadecimal"),
            (format!("4 {KEY}"), "not a number from 0 to 3"),
            (KEY.to_owned(), "not two words"),
            (format!("0 {KEY} x"), "not two words"),
        ] {
            let message = outcome(&text).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("line 1"), "{message}");
            assert!(!message.contains(&KEY[1..9]), "{message}");
        }
    }

    #[test]
    fn refuses_no_key_three_keys_and_equal_ids() {
        assert!(matches!(outcome("\n"), Err(KeyFileError::Count { count: 0, .. })));
        let three = format!("0 {KEY}\n1 {KEY}\n2 {KEY}");
        assert!(matches!(outcome(&three), Err(KeyFileError::Count { count: 3, .. })));
        assert!(matches!(outcome(&format!("1 {KEY}\n1 {KEY}")), Err(KeyFileError::Ids(_))));
    }

    #[test]
    fn refuses_what_others_can_access() {
        for mode in [0o640, 0o604, 0o620, 0o777] {
            let (_directory, path) = file(&format!("0 {KEY}"), mode);
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{message}");
        }
        let (_directory, path) = file(&format!("0 {KEY}"), 0o400);
        assert!(read(&path).is_ok());
    }

    #[test]
    fn refuses_a_foreign_owner() {
        let (_directory, path) = file(&format!("0 {KEY}"), 0o600);
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_err() {
            println!("skipped: needs CAP_CHOWN");
            return;
        }
        assert!(matches!(read(&path), Err(KeyFileError::Foreign { owner: 65_534, .. })));
    }

    #[test]
    fn refuses_what_is_missing_or_no_file() {
        let directory = TempDir::new().unwrap();
        assert!(matches!(read(&directory.path().join("none")), Err(KeyFileError::Missing { .. })));
        assert!(matches!(read(directory.path()), Err(KeyFileError::NotAFile { .. })));
    }

    #[test]
    fn generates_distinct_keys_and_never_overwrites() {
        let directory = TempDir::new().unwrap();
        let [first, second] = ["a", "b"].map(|name| directory.path().join(name));
        generate(&first, 3).unwrap();
        generate(&second, 3).unwrap();
        assert_ne!(read(&first).unwrap(), read(&second).unwrap());
        assert_eq!(read(&first).unwrap().signing(), 3);
        let before = std::fs::read(&first).unwrap();
        assert!(matches!(generate(&first, 3), Err(KeyFileError::Unwritable { .. })));
        assert_eq!(std::fs::read(&first).unwrap(), before);
    }
}

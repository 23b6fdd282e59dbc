//! Files without a name, for programs that want their configuration in a file: nothing is left on
//! disk, however the testbed ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs::{MemfdFlags, memfd_create};

/// What a program is told to read to get the file it has as its standard input.
pub const STANDARD_INPUT: &str = "/dev/stdin";

/// Makes a file in memory with these contents, ready to be read from its start: memfd_create(2).
///
/// # Errors
/// The error of `memfd_create`, or of `write` if memory is short.
pub fn with_contents(name: &str, contents: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(contents.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Returns all that was written to `log`, by whichever process; empty if it can't be read.
pub fn contents(mut log: &File) -> String {
    let mut bytes = Vec::new();
    let read = log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_end(&mut bytes));
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_program_reads_one_and_writes_the_other() {
        let input = with_contents("input", "as given\n").unwrap();
        let log = with_contents("log", "").unwrap();
        let status = Command::new("cat")
            .arg(STANDARD_INPUT)
            .stdin(input)
            .stdout(log.try_clone().unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(contents(&log), "as given\n");
    }
}

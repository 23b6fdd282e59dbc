//! Asking a running daemon.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::protocol::{self, Request};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon answers at '{path}'; is it running, and is this its --control-socket?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the daemon did not answer")]
    Broken(#[source] io::Error),
    /// The daemon is of another version.
    #[error("the daemon's answer can't be read; is it of another version?")]
    Reply(#[source] serde_json::Error),
    /// The daemon objects.
    #[error("{0}")]
    Refused(String),
}

/// A conversation with a daemon.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Begins it.
    ///
    /// # Errors
    /// [`AskError::Connect`].
    pub(super) fn connect(path: &Path) -> Result<Self, AskError> {
        let failed = |source| AskError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`].
    pub(super) fn ask<T: for<'a> Deserialize<'a>>(&mut self, request: &Request) -> Result<T, AskError> {
        protocol::read(&self.ask_line(request)?)
    }

    fn ask_line(&mut self, request: &Request) -> Result<String, AskError> {
        let mut line = serde_json::to_vec(request).map_err(AskError::Reply)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(AskError::Broken)?;
        let mut reply = String::new();
        match self.stream.read_line(&mut reply).map_err(AskError::Broken)? {
            0 => Err(AskError::Broken(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(reply),
        }
    }
}

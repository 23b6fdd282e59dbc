//! The socket that operators talk to a daemon by.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who may connect: the daemon's user and group.
const MODE: u32 = 0o660;

/// Why there is no control socket, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error(
        "another daemon answers at the control socket '{path}'; stop that one, or name another with --control-socket"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("'{path}' is no socket; remove it, or name another with --control-socket")]
    NoSocket {
        /// What is there.
        path: PathBuf,
    },
    /// It can't be made.
    #[error("cannot make the control socket '{path}'; name another with --control-socket")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Returns the path of the control socket of `program` if none is named.
pub(crate) fn usual(state_dir: &Path, program: &str) -> PathBuf {
    state_dir.join(program).with_extension("sock")
}

/// A socket that listens. Its name is removed when it is dropped; after a kill the next daemon takes it over.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes it, mode 0660. One that nobody answers at is left from a daemon that was killed, and is replaced.
    ///
    /// # Errors
    /// [`SocketError`]; nothing is changed then.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let refused = |source| SocketError::Refused { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NoSocket { path: path.to_owned() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(SocketError::InUse { path: path.to_owned() });
            }
            Ok(_) => fs::remove_file(path).map_err(refused)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(refused)?;
        let socket = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(refused)?;
        socket.listener.set_nonblocking(true).map_err(refused)?;
        Ok(socket)
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If it is gone, so much the better.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_a_living_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = usual(folder.path(), "testnic");
        assert!(path.ends_with("testnic.sock"));
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse { .. })));
        // Killed: the name stays.
        drop(std::mem::ManuallyDrop::into_inner(std::mem::ManuallyDrop::new(socket)));
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::bind(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let nowhere = folder.path().join("none/x.sock");
        assert!(matches!(ControlSocket::bind(&nowhere), Err(SocketError::Refused { .. })));
    }
}

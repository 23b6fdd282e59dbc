//! One mirror for each interface.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Nobody else mirrors from this interface while this value lives.
///
/// It is a Unix socket with an abstract name (unix(7)), which belongs to the network namespace, as the interface does,
/// and which the kernel takes back in whatever way the process ends.
#[derive(Debug)]
pub struct Instance {
    _listener: UnixListener,
}

/// The interface can't be claimed.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another mirror runs.
    #[error("{} already mirrors from interface '{interface}'; stop it first", holder(*.process))]
    Taken {
        /// The interface's name.
        interface: String,
        /// The other's process id, if the kernel tells.
        process: Option<i32>,
    },
    /// The kernel refused the socket.
    #[error("cannot claim interface '{interface}'")]
    Refused {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn holder(process: Option<i32>) -> String {
    process.map_or("another process".to_owned(), |process| format!("process {process}"))
}

impl Instance {
    /// Claims `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`InstanceError::Taken`] while another process has it.
    pub fn claim(interface: &str) -> Result<Self, InstanceError> {
        let refused = |source| InstanceError::Refused { interface: interface.to_owned(), source };
        let name = SocketAddr::from_abstract_name(format!("rtt0-mirror-{interface}")).map_err(refused)?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Ok(Self { _listener: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(InstanceError::Taken { interface: interface.to_owned(), process: listener_of(&name) })
            }
            Err(error) => Err(refused(error)),
        }
    }
}

/// Returns the process that listens at a name.
fn listener_of(name: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(name).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(credentials.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_one_mirror_at_a_time() {
        let first = Instance::claim("test0").unwrap();
        let message = Instance::claim("test0").unwrap_err().to_string();
        let expected =
            format!("process {} already mirrors from interface 'test0'; stop it first", std::process::id());
        assert_eq!(message, expected);
        Instance::claim("test1").unwrap();
        drop(first);
        Instance::claim("test0").unwrap();
    }
}

//! Why a daemon ends early, and with which exit code.

use std::error::Error;
use std::fmt::Write as _;

use rtt0_core::offer::KeyIdError;
use rtt0_core::service::ServiceError;
use rtt0_netio::awake::AwakeError;
use rtt0_netio::capture::CaptureError;
use rtt0_netio::emit::EmitError;
use rtt0_netio::fast_path::OffloadError;
use rtt0_netio::guard::GuardError;
use rtt0_netio::interface::UnknownInterface;
use rtt0_netio::privilege::PrivilegeError;
use rtt0_netio::store::StoreError;
use rtt0_netio::trace::TraceError;
use rtt0_netio::worker::WorkerError;

use crate::config::ConfigFileError;
use crate::control::{AskError, SocketError, TopError};
use crate::http::MetricsError;
use crate::key_file::KeyFileError;

/// Exit codes, in the manner of sysexits(3head).
pub mod exit {
    /// Failed while starting or running.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// A capability is missing (EX_NOPERM).
    pub const PRIVILEGE: u8 = 77;
    /// The configuration is wrong (EX_CONFIG).
    pub const CONFIGURATION: u8 = 78;
}

/// Why a daemon ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration file can't be used.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// A service rule can't be read.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The key file can't be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The state file can't be used.
    #[error(transparent)]
    State(#[from] StoreError),
    /// No interface of that name.
    #[error(transparent)]
    Interface(#[from] UnknownInterface),
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// Processors can't be kept awake.
    #[error(transparent)]
    Awake(#[from] AwakeError),
    /// A capture can't be opened.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The emitter can't be opened.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// What is shared with the kernel's program can't be had, or is gone.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// The kernel guard can't be installed.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The packet worker could not start, or has died.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The packet worker has ended though nobody stopped it.
    #[error("the packet worker has ended by itself; please report this")]
    WorkerEnded,
    /// There can be no control socket.
    #[error(transparent)]
    ControlSocket(#[from] SocketError),
    /// Metrics can't be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// What becomes of packets can't be written.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A running daemon does not answer, or objects.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The live view has ended early.
    #[error(transparent)]
    Top(#[from] TopError),
    /// The control plane failed.
    #[error("cannot {action}")]
    Control {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl From<KeyIdError> for Failure {
    fn from(error: KeyIdError) -> Self {
        Self::KeyFile(error.into())
    }
}

impl Failure {
    /// Returns the exit code that belongs to it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ConfigFile(_)
            | Self::Service(_)
            | Self::KeyFile(_)
            | Self::Interface(_)
            | Self::ControlSocket(_)
            | Self::Metrics(_)
            | Self::Trace(_) => exit::CONFIGURATION,
            Self::State(StoreError::Access { .. }) => exit::FAILURE,
            Self::State(_) => exit::CONFIGURATION,
            Self::Capture(
                CaptureError::UnknownInterface { .. }
                | CaptureError::LinkType { .. }
                | CaptureError::Filter(_),
            )
            | Self::Guard(GuardError::UnknownInterface(_) | GuardError::InterfaceName(..)) => {
                exit::CONFIGURATION
            }
            Self::Privilege(PrivilegeError::Missing { .. }) => exit::PRIVILEGE,
            Self::Awake(error) if error.is_permission_denied() => exit::PRIVILEGE,
            _ => exit::FAILURE,
        }
    }

    /// Returns the error and its causes in one line.
    pub fn line(&self) -> String {
        chain(self)
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_causes_and_no_breaks() {
        let source = std::io::Error::other("first\nsecond");
        let failure = Failure::Control { action: "watch signals", source };
        assert_eq!(failure.line(), "cannot watch signals: first second");
        assert_eq!(failure.exit_code(), exit::FAILURE);
    }

    #[test]
    fn configuration_errors_have_their_code() {
        let service = "10.1.2.0/33:443".parse::<rtt0_core::service::Service>().unwrap_err();
        assert_eq!(Failure::from(service).exit_code(), exit::CONFIGURATION);
        let unknown = rtt0_netio::interface::by_name("nosuch0").unwrap_err();
        assert_eq!(Failure::from(unknown).exit_code(), exit::CONFIGURATION);
    }
}

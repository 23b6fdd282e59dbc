//! What a run is to do.

use std::path::PathBuf;
use std::time::Duration;

/// Congestion control of client and server.
pub(super) const CONGESTION: &str = "cubic";
/// Connections that are captured in each mode, besides those that are measured: recording costs time that no measured
/// one should pay.
pub(super) const CAPTURED: u32 = 3;
/// Most packets of a capture.
pub(super) const PACKETS: u64 = 20_000;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Port of the server.
    pub port: u16,
    /// Measured connections in each mode.
    pub connections: u32,
    /// Round-trip time to give the leg between the NICs, if the hosts are to.
    pub rtt: Option<Duration>,
    /// The testbed to install.
    pub executable: PathBuf,
    /// Where captures, logs and reports go.
    pub out: PathBuf,
    /// Where the results for programs go.
    pub json: PathBuf,
}

impl Plan {
    /// Bounds a measurement: most of its connections must not each take longer than two seconds.
    pub(super) fn measuring(&self) -> Duration {
        Duration::from_secs(60 + 2 * u64::from(self.connections))
    }

    /// Bounds the life of what is started, should nobody be there any more to stop it.
    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(1200) + 2 * self.measuring()
    }
}

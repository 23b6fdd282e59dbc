//! The faults, by the layer at which they are injected.

mod daemon;
mod device;
mod firewall;
mod path;
mod programs;
mod routing;
mod transport;

use super::case::Case;

/// All of them.
pub(super) const GROUPS: &[&[Case]] =
    &[firewall::ALL, programs::ALL, routing::ALL, device::ALL, transport::ALL, path::ALL, daemon::ALL];

/// Probes that a client sends over UDP to the server's echo.
const UDP_PROBE: &[&str] = &["--probe", "udp", "10.1.2.10:9000"];
/// And over TCP to its server.
const TCP_PROBE: &[&str] = &["--probe", "tcp", "10.1.2.10:8080"];

//! Which way packets are captured, and why.

use rtt0_netio::capture::{self, Capture, CaptureOptions};

use crate::config::Backend;

/// Opens the captures of each worker; says in one line how, and why not better.
///
/// # Errors
/// What was asked for does not work; or, of `auto`, nothing does.
pub(super) fn open(
    choice: Backend,
    interface: &str,
    ports: &[u16],
    workers: usize,
) -> anyhow::Result<(Vec<Vec<Capture>>, String)> {
    let backend = match choice {
        Backend::Auto | Backend::Packet => capture::Backend::Mmsg,
        Backend::Pnet => capture::Backend::Pnet,
        Backend::Xdp => anyhow::bail!("AF_XDP is not built in yet; use --backend packet"),
    };
    let options = CaptureOptions { backend, ..CaptureOptions::default() };
    let captures = Capture::open_tunnels_group(interface, ports, &options, workers)?;
    let line = match backend {
        capture::Backend::Mmsg => "packet: AF_PACKET, recvmmsg, 64 packets a call",
        capture::Backend::Pnet => "pnet: AF_PACKET, one packet a call",
    };
    Ok((captures.into_iter().map(|capture| vec![capture]).collect(), line.to_owned()))
}

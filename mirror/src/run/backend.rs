//! Which way packets are captured, and why.

use std::io;

use anyhow::Context as _;
use rtt0_netio::capture::{Backend, Capture, CaptureError, CaptureOptions};

use crate::cli::BackendChoice;

/// Opens the captures of each worker; says in one line how, and why not better.
///
/// # Errors
/// What was asked for does not work; or, of `auto`, nothing does.
pub(super) fn open(
    choice: BackendChoice,
    interface: &str,
    ports: &[u16],
    workers: usize,
) -> anyhow::Result<(Vec<Vec<Capture>>, String)> {
    let backend = match choice {
        BackendChoice::Auto | BackendChoice::Packet => Backend::Mmsg,
        BackendChoice::Pnet => Backend::Pnet,
        BackendChoice::Xdp => anyhow::bail!("AF_XDP is not built in yet; use --backend packet"),
    };
    let options = CaptureOptions { backend, ..CaptureOptions::default() };
    let captures = Capture::open_tunnels_group(interface, ports, &options, workers)?;
    let line = match backend {
        Backend::Mmsg => "packet: AF_PACKET, recvmmsg, 64 packets a call",
        Backend::Pnet => "pnet: AF_PACKET, one packet a call",
    };
    Ok((captures.into_iter().map(|capture| vec![capture]).collect(), line.to_owned()))
}

//! Which way packets are captured, and why.

use anyhow::Context as _;
use rtt0_netio::capture::{self, Capture, CaptureOptions};
use rtt0_netio::interface;
use rtt0_netio::xdp;

use crate::config::Backend;

/// Opens the captures of each worker; says in one line how, and why not better.
///
/// # Errors
/// What was asked for does not work; or, of [`Backend::Auto`], nothing does.
pub(super) fn open(
    choice: Backend,
    interface: &str,
    ports: &[u16],
    workers: usize,
) -> anyhow::Result<(Vec<Vec<Capture>>, String)> {
    match choice {
        Backend::Xdp => {
            let forced =
                "--backend xdp was asked for, and does not work; `auto` would fall back to AF_PACKET";
            told(redirected(interface, ports, workers).context(forced)?, None)
        }
        Backend::Packet => told(sockets(capture::Backend::Ring, interface, ports, workers)?, None),
        Backend::Pnet => told(sockets(capture::Backend::Pnet, interface, ports, workers)?, None),
        Backend::Auto => {
            let no_better = match redirected(interface, ports, workers) {
                Ok(captures) => return told(captures, None),
                Err(error) => format!("not AF_XDP: {error:#}"),
            };
            match sockets(capture::Backend::Ring, interface, ports, workers) {
                Ok(captures) => told(captures, Some(no_better)),
                Err(error) => {
                    let captures = sockets(capture::Backend::Pnet, interface, ports, workers)?;
                    told(captures, Some(format!("{no_better}; not a ring: {error:#}")))
                }
            }
        }
    }
}

fn told(captures: Vec<Capture>, no_better: Option<String>) -> anyhow::Result<(Vec<Vec<Capture>>, String)> {
    let first = captures.first().context("no capture was opened")?;
    let mut line = first.describe();
    if let Some(why) = no_better {
        line = format!("{line}; {why}");
    }
    Ok((captures.into_iter().map(|capture| vec![capture]).collect(), line))
}

fn sockets(
    backend: capture::Backend,
    interface: &str,
    ports: &[u16],
    workers: usize,
) -> anyhow::Result<Vec<Capture>> {
    let options = CaptureOptions { backend, ..CaptureOptions::default() };
    Ok(Capture::open_tunnels_group(interface, ports, &options, workers)?)
}

fn redirected(interface: &str, ports: &[u16], workers: usize) -> anyhow::Result<Vec<Capture>> {
    let frame_size = xdp::frame_size_for(interface::by_name(interface)?.mtu()?).with_context(|| {
        let most = xdp::LARGEST_MTU;
        format!("packets at this MTU do not fit into its frames; lower the MTU to {most} bytes")
    })?;
    let options = xdp::Options { ports: ports.to_vec(), frame_size, ..xdp::Options::default() };
    Ok(Capture::open_tunnels_xdp_group(interface, &options, workers)?)
}

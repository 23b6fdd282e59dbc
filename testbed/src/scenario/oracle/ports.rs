//! What servers' ports do to those who connect, once the daemons have learned of them.

use super::super::lab::Lab;
use crate::program::socket;
use anyhow::Context;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// The state of the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum Ports {
    /// They accept.
    Open,
    /// They are closed: the server's host refuses.
    Closed,
    /// Every packet for them is dropped, silently.
    Silent,
    /// Every packet for them is dropped for so long.
    SilentFor(Duration),
    /// Their accept queues are full for so long.
    FullFor(Duration),
}

impl Ports {
    /// Puts the listening sockets into that state; returns how long their programs have to wait
    /// before they accept.
    ///
    /// # Errors
    /// What the kernel says about it.
    pub(super) fn begin(self, lab: &Lab, listeners: &[TcpListener]) -> anyhow::Result<Duration> {
        match self {
            Self::Open => {}
            // Linux: a listening socket that is shut down refuses connections.
            Self::Closed => {
                for listener in listeners {
                    rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?;
                }
            }
            Self::Silent => listeners.iter().try_for_each(socket::deafen)?,
            Self::SilentFor(time) => {
                listeners.iter().try_for_each(socket::deafen)?;
                let copies = listeners.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
                thread::spawn(move || {
                    thread::sleep(time);
                    // A port that stays silent fails the dialogue.
                    let _ = copies.iter().try_for_each(socket::undeafen);
                });
            }
            Self::FullFor(time) => {
                listeners.iter().try_for_each(|listener| fill(lab, listener))?;
                return Ok(time);
            }
        }
        Ok(Duration::ZERO)
    }
}

/// Fills a listening socket's accept queue with a connection from the server's own host, which its
/// program passes over.
fn fill(lab: &Lab, listener: &TcpListener) -> anyhow::Result<()> {
    // listen(2) on a listening socket changes its backlog only. Of 0 it has room for one.
    rustix::net::listen(listener, 0)?;
    let address = listener.local_addr()?;
    lab.topology().server.enter(|| TcpStream::connect(address))?.context("can't fill the accept queue")?;
    Ok(())
}

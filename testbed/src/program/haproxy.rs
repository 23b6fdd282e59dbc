//! Drives HAProxy on both NICs: the way people cut round trips today, by ending the client's
//! connection near it and having another across the long leg.

use super::{memory_file, ready};
use crate::host::Host;
use crate::process::Process;
use crate::topology::Topology;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

/// What the two proxies pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Bytes: every client connection makes one across the long leg, so its handshake is only moved.
    Tcp,
    /// Requests, over connections across the long leg that are kept open and shared.
    Http,
}

/// The chain of addresses the request takes.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    /// Where the proxy of ClientNIC listens; the client connects here.
    pub client_nic: SocketAddr,
    /// Where the proxy of ServerNIC listens.
    pub server_nic: SocketAddr,
    /// The server.
    pub server: SocketAddr,
}

/// Two running proxies, stopped when dropped.
#[derive(Debug)]
pub struct HaproxyPair {
    client_nic: Haproxy,
    server_nic: Haproxy,
}

impl HaproxyPair {
    /// Starts the HAProxy at `program` on both NICs and waits until both listen.
    ///
    /// # Errors
    /// If one can't be started or does not listen in time; its complaint is quoted.
    pub fn start(topology: &Topology, program: &Path, mode: ProxyMode, chain: Chain) -> anyhow::Result<Self> {
        let server_nic = Haproxy::start(&topology.server_nic, program, mode, chain.server_nic, chain.server)?;
        let client_nic =
            Haproxy::start(&topology.client_nic, program, mode, chain.client_nic, chain.server_nic)?;
        Ok(Self { client_nic, server_nic })
    }

    /// Returns the process ids, ClientNIC's first.
    pub fn ids(&self) -> [u32; 2] {
        [self.client_nic.process.id(), self.server_nic.process.id()]
    }
}

#[derive(Debug)]
struct Haproxy {
    process: Process,
}

impl Haproxy {
    fn start(
        host: &Host,
        program: &Path,
        mode: ProxyMode,
        listen: SocketAddr,
        next: SocketAddr,
    ) -> anyhow::Result<Self> {
        let configuration = configure(mode, listen, next);
        let stdin = memory_file::with_contents("haproxy.cfg", &configuration).context("input of haproxy")?;
        let log = memory_file::with_contents("haproxy.log", "").context("log of haproxy")?;
        let mut command = host.command(program);
        // -db: in the foreground, a single process.
        command.arg("-db").arg("-f").arg(memory_file::STANDARD_INPUT);
        command.stdin(stdin).stdout(Stdio::null()).stderr(log.try_clone().context("log of haproxy")?);
        let process = Process::spawn(command).context("can't start haproxy")?;
        ready::wait_for_listener(host, "haproxy", listen, &log)?;
        Ok(Self { process })
    }
}

/// One thread, so that every pooled connection is at every request's disposal, and a pool that is
/// never emptied while a measurement lasts. Where fewer descriptors may be had than that many
/// connections need, it runs all the same.
fn configure(mode: ProxyMode, listen: SocketAddr, next: SocketAddr) -> String {
    let (name, pooling, keep) = match mode {
        ProxyMode::Tcp => ("tcp", "", ""),
        ProxyMode::Http => ("http", "  http-reuse always\n", " pool-purge-delay 1h pool-low-conn 4"),
    };
    format!(
        "global
  maxconn 9000
  no strict-limits
  nbthread 1
defaults
  mode {name}
  timeout connect 10s
  timeout client 60s
  timeout server 1h
frontend near
  bind {listen} backlog 4096
  default_backend far
backend far
{pooling}  server next {next}{keep}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::installed;
    use std::process::Command;

    #[test]
    fn haproxy_accepts_both_configurations() {
        let Some(program) = installed::find("haproxy") else {
            eprintln!("skipped: haproxy is not installed");
            return;
        };
        for mode in [ProxyMode::Tcp, ProxyMode::Http] {
            for address in ["127.0.0.1:8080", "[::1]:8080"] {
                let address: SocketAddr = address.parse().unwrap();
                let stdin = memory_file::with_contents("cfg", &configure(mode, address, address)).unwrap();
                let mut check = Command::new(&program);
                let output =
                    check.arg("-c").arg("-f").arg(memory_file::STANDARD_INPUT).stdin(stdin).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

//! Drives nginx: an unmodified server that nobody here wrote.

use super::ready;
use crate::host::Host;
use crate::process::Process;
use anyhow::Context;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

/// A running nginx with a prefix and a configuration of its own, stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    // Dropped in this order: the process first, then the folder it writes to.
    _process: Process,
    _prefix: TempDir,
}

impl Nginx {
    /// Starts the nginx at `program` inside `host` and waits until it listens on `address`. It
    /// answers every request for `/` with a small text.
    ///
    /// # Errors
    /// If it can't be started or does not listen in time; its complaint is quoted.
    pub fn start(host: &Host, program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let prefix = tempfile::tempdir().context("folder for nginx")?;
        let configuration = prefix.path().join("nginx.conf");
        std::fs::write(&configuration, configure(address)).context("configuration for nginx")?;
        let log = prefix.path().join("stderr");
        let stderr = File::create(&log).context("log for nginx")?;
        let mut command = host.command(program);
        command.arg("-e").arg("stderr").arg("-p").arg(prefix.path()).arg("-c").arg(&configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let process = Process::spawn(command).context("can't start nginx")?;
        ready::wait_for_listener(host, "nginx", address, &log)?;
        Ok(Self { _process: process, _prefix: prefix })
    }
}

/// A single process in the foreground: a worker of its own would survive a killed master, and with
/// it the namespace.
fn configure(address: SocketAddr) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  tcp_nodelay on;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {address} backlog=4096;
    location = / {{ default_type text/plain; return 200 \"hello from nginx\\n\"; }}
  }}
}}
"
    )
}

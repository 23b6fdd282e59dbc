//! Drives nginx: an unmodified server that nobody here wrote.

use super::{memory_file, ready};
use crate::host::Host;
use crate::process::Process;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

/// A running nginx with a configuration of its own, stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts the nginx at `program` inside `host` and waits until it listens on `address`. It
    /// answers every request for `/` with a small text.
    ///
    /// # Errors
    /// If it can't be started or does not listen in time; its complaint is quoted.
    pub fn start(host: &Host, program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        // nginx insists on a folder for request bodies and the like. Ours never have any, so the
        // folder can go as soon as nginx has seen it, and is not left behind when we are killed.
        let prefix = tempfile::tempdir().context("folder for nginx")?;
        let stdin =
            memory_file::with_contents("nginx.conf", &configure(address)).context("input of nginx")?;
        let log = memory_file::with_contents("nginx.log", "").context("log of nginx")?;
        let mut command = host.command(program);
        command.args(["-e", "stderr", "-c", memory_file::STANDARD_INPUT, "-p"]).arg(prefix.path());
        command.stdin(stdin).stdout(Stdio::null()).stderr(log.try_clone().context("log of nginx")?);
        let process = Process::spawn(command).context("can't start nginx")?;
        ready::wait_for_listener(host, "nginx", address, &log)?;
        Ok(Self { _process: process })
    }
}

/// A single process in the foreground: a worker of its own would survive a killed master, and with
/// it the namespace. It stays root, the only user that a user namespace is sure to have.
fn configure(address: SocketAddr) -> String {
    format!(
        "daemon off;
user root root;
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

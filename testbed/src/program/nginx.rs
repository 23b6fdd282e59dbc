//! Drives nginx: an unmodified server that nobody here wrote, and its stream proxy.

use super::{memory_file, ready};
use crate::host::Host;
use crate::process::Process;
use anyhow::Context;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running nginx with a configuration of its own, stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts the nginx at `program` inside `host` and waits until it listens on `address`. It
    /// answers every request for `/` with a small text.
    ///
    /// # Errors
    /// If it can't be started or does not listen in time; its complaint is quoted.
    pub fn start(host: &Host, program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        run(host, program, address, &configure(address)).map(|process| Self { process })
    }

    /// Starts the nginx at `program` as a proxy of TCP connections, likewise: it listens on `address`
    /// and passes bytes on to `next`.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_stream(
        host: &Host,
        program: &Path,
        module: &StreamModule,
        address: SocketAddr,
        next: SocketAddr,
    ) -> anyhow::Result<Self> {
        run(host, program, address, &configure_stream(module, address, next)).map(|process| Self { process })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Where nginx has its stream proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamModule {
    /// Within the program.
    BuiltIn,
    /// In a file.
    File(PathBuf),
}

impl StreamModule {
    /// Looks for the module of the nginx at `program`; `None` if it has none.
    pub fn find(program: &Path) -> Option<Self> {
        let output = Command::new(program).arg("-V").output().ok()?;
        let options = String::from_utf8_lossy(&output.stderr).into_owned();
        if options.split_whitespace().any(|option| option == "--with-stream") {
            return Some(Self::BuiltIn);
        }
        let named = options.split_whitespace().find_map(|option| option.strip_prefix("--modules-path="));
        let folders = named.into_iter().chain(MODULE_FOLDERS);
        let files = folders.map(|folder| Path::new(folder).join("ngx_stream_module.so"));
        files.into_iter().find(|file| file.is_file()).map(Self::File)
    }
}

/// Where distributions put modules.
const MODULE_FOLDERS: [&str; 2] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];

fn run(host: &Host, program: &Path, address: SocketAddr, configuration: &str) -> anyhow::Result<Process> {
    // nginx insists on a folder for request bodies and the like. Ours never have any, so the
    // folder can go as soon as nginx has seen it, and is not left behind when we are killed.
    let prefix = tempfile::tempdir().context("folder for nginx")?;
    let stdin = memory_file::with_contents("nginx.conf", configuration).context("input of nginx")?;
    let log = memory_file::with_contents("nginx.log", "").context("log of nginx")?;
    let mut command = host.command(program);
    command.args(["-e", "stderr", "-c", memory_file::STANDARD_INPUT, "-p"]).arg(prefix.path());
    command.stdin(stdin).stdout(Stdio::null()).stderr(log.try_clone().context("log of nginx")?);
    let process = Process::spawn(command).context("can't start nginx")?;
    ready::wait_for_listener(host, "nginx", address, &log)?;
    Ok(process)
}

fn configure_stream(module: &StreamModule, address: SocketAddr, next: SocketAddr) -> String {
    let load = match module {
        StreamModule::BuiltIn => String::new(),
        StreamModule::File(file) => format!("load_module {};\n", file.display()),
    };
    format!(
        "{load}daemon off;
user root root;
master_process off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 18000; }}
stream {{
  server {{
    listen {address} backlog=4096;
    proxy_pass {next};
    proxy_buffer_size 64k;
    proxy_timeout 1h;
    tcp_nodelay on;
  }}
}}
"
    )
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

//! The two NIC daemons as child processes of the testbed, between its hosts.
//!
//! They are this same executable under its hidden subcommands, so that a comparison never runs
//! against daemons of another build.

use crate::address::{LAN0, WAN0};
use crate::host::Host;
use crate::mounts::{self, BpfFolder};
use crate::process::Process;
use crate::topology::Topology;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Every TCP port of every address on the server's leg.
const SERVICES: &str = "10.1.2.0/24:1-65535,[fd00:1:2::/64]:1-65535";
/// How long a daemon may take to start, or to do as it is told, on a machine that is busy with something else.
const BOUND: Duration = Duration::from_secs(30);

/// Which daemons run, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicMode {
    /// Both; ClientNIC spoofs with or without a ServerNIC.
    Auto,
    /// Both; ClientNIC spoofs only with a ServerNIC.
    Paired,
    /// ClientNIC alone.
    Solo,
}

impl NicMode {
    fn argument(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Paired => "paired",
            Self::Solo => "solo",
        }
    }
}

/// How the daemons are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicOptions {
    /// Which of them run.
    pub mode: NicMode,
    /// What `run` of both is told besides.
    pub arguments: Vec<String>,
    /// What ServerNIC alone is told, besides.
    pub server_arguments: Vec<String>,
}

impl From<NicMode> for NicOptions {
    fn from(mode: NicMode) -> Self {
        Self { mode, arguments: Vec::new(), server_arguments: Vec::new() }
    }
}

/// Tells whether `run` of the daemons has an option such as `--workers`: what a comparison asks of
/// one build may be unknown to another.
///
/// # Errors
/// If the daemon can't be run to print its help.
pub fn has_option(name: &str) -> anyhow::Result<bool> {
    let mut command = Command::new(executable()?);
    let output = command.args(["servernic", "run", "--help"]).output().context("can't run servernic")?;
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(help.split(|c: char| !(c == '-' || c.is_ascii_alphanumeric())).any(|word| word == name))
}

/// Both daemons; stopped (SIGTERM) when dropped.
#[derive(Debug)]
pub struct Nics {
    client: Option<Process>,
    server: Option<Process>,
    options: NicOptions,
    interfaces: &'static [&'static str],
    /// None in a user namespace: then nothing in the kernel outlives a daemon.
    bpf: Option<BpfFolder>,
    folder: TempDir,
}

impl Nics {
    /// Starts the daemons that the mode needs and waits until each says that it is ready.
    ///
    /// # Errors
    /// If one does not start; the error quotes what it logged.
    pub fn start(topology: &Topology, options: impl Into<NicOptions>) -> anyhow::Result<Self> {
        let folder = mounts::memory_folder().context("can't make a folder for the key")?;
        let key = folder.path().join("key");
        let made =
            topology.client_nic.command(executable()?).args(["clientnic", "keygen"]).arg(&key).status();
        if !made.context("can't run keygen")?.success() {
            bail!("keygen failed");
        }
        let interfaces: &[_] = if topology.gates.is_some() { &[LAN0] } else { &[LAN0, WAN0] };
        let bpf = BpfFolder::new().ok();
        let options = options.into();
        let mode = options.mode;
        let mut nics = Self { client: None, server: None, options, interfaces, bpf, folder };
        if mode != NicMode::Solo {
            nics.start_server(&topology.server_nic)?;
        }
        nics.start_client(&topology.client_nic)?;
        Ok(nics)
    }

    /// Starts ClientNIC.
    ///
    /// # Errors
    /// As [`Nics::start`].
    pub fn start_client(&mut self, host: &Host) -> anyhow::Result<()> {
        let mode = self.options.mode.argument();
        let file = self.config_file("clientnic");
        if !file.exists() {
            std::fs::write(&file, format!("mode = \"{mode}\"\n")).context("can't write the configuration")?;
        }
        self.client = Some(self.daemon(host, "clientnic", &[])?);
        Ok(())
    }

    /// Starts ServerNIC.
    ///
    /// # Errors
    /// As [`Nics::start`].
    pub fn start_server(&mut self, host: &Host) -> anyhow::Result<()> {
        let own: Vec<&str> = self.options.server_arguments.iter().map(String::as_str).collect();
        self.server = Some(self.daemon(host, "servernic", &own)?);
        Ok(())
    }

    /// Returns the running ClientNIC, to be taken and killed.
    pub fn client(&mut self) -> &mut Option<Process> {
        &mut self.client
    }

    /// Returns the running ServerNIC, to be taken and killed.
    pub fn server(&mut self) -> &mut Option<Process> {
        &mut self.server
    }

    /// Returns the process ids of those that run, ClientNIC's first, each with its name.
    pub fn ids(&self) -> Vec<(&'static str, u32)> {
        let named = [("clientnic", &self.client), ("servernic", &self.server)];
        named.into_iter().filter_map(|(name, process)| Some((name, process.as_ref()?.id()))).collect()
    }

    /// Returns the path of the key file that both share.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// Writes a key file and has `daemon` (`clientnic` or `servernic`) read it (SIGHUP).
    ///
    /// # Errors
    /// If the daemon does not run or does not say in time that it has read the file.
    pub fn rekey(&mut self, daemon: &str, keys: &[&str]) -> anyhow::Result<()> {
        std::fs::write(self.key_file(), keys.join("\n")).context("can't write the key file")?;
        self.reload(daemon, "was read again")
    }

    /// Writes the configuration of `daemon` and has it read that (SIGHUP) and say something with `answer` in it. What
    /// the testbed itself says with flags goes before it.
    ///
    /// # Errors
    /// If the daemon does not run or does not say so in time.
    pub fn configure(&mut self, daemon: &str, text: &str, answer: &str) -> anyhow::Result<()> {
        self.write_configuration(daemon, text)?;
        self.reload(daemon, answer)
    }

    /// Writes the configuration of `daemon`, which has still to read it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_configuration(&self, daemon: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.config_file(daemon), text).context("can't write the configuration")
    }

    /// Runs a subcommand of `daemon` that asks the one that runs, such as `show stats`; returns what it writes.
    ///
    /// # Errors
    /// What it says if it fails.
    pub fn ask(&self, daemon: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(executable()?);
        command.arg(daemon).args(words).arg("--control-socket").arg(self.control_socket(daemon));
        let output = command.output().context("can't run the daemon's command line")?;
        if !output.status.success() {
            bail!("{} failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns the path of the control socket of `daemon`.
    pub fn control_socket(&self, daemon: &str) -> PathBuf {
        self.folder.path().join("state").join(daemon).with_extension("sock")
    }

    fn reload(&self, daemon: &str, answer: &str) -> anyhow::Result<()> {
        let said = || self.log(daemon).matches(answer).count();
        let before = said();
        let process = if daemon == "servernic" { &self.server } else { &self.client };
        let id = process.as_ref().context("the daemon does not run")?.id();
        kill_process(Pid::from_raw(id.cast_signed()).context("bad process id")?, Signal::HUP)?;
        let deadline = Instant::now() + BOUND;
        while said() == before {
            if Instant::now() >= deadline {
                bail!("{daemon} never said that {answer}: {}", self.log(daemon));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn config_file(&self, daemon: &str) -> PathBuf {
        self.folder.path().join(daemon).with_extension("toml")
    }

    /// Returns what `daemon` (`clientnic` or `servernic`) has logged since it started last.
    pub fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(log_file(self.folder.path(), daemon)).unwrap_or_default()
    }

    /// Stops both daemons and returns the counters that each logged at its end.
    ///
    /// # Errors
    /// If one can't be stopped or ended badly.
    pub fn stop(mut self) -> anyhow::Result<(Counts, Counts)> {
        for (process, name) in [(self.client.take(), "clientnic"), (self.server.take(), "servernic")] {
            let Some(mut process) = process else { continue };
            let status = process.terminate()?;
            if !status.success() {
                bail!("{name} ended with {status}; it said: {}", self.log(name));
            }
        }
        Ok((Counts::read(&self.log("clientnic")), Counts::read(&self.log("servernic"))))
    }

    /// Lets go of both daemons: they run until their processes are dropped. The key file is
    /// removed; they have read it.
    pub fn release(mut self) -> Vec<Process> {
        self.client.take().into_iter().chain(self.server.take()).collect()
    }

    /// Returns the arguments with which this executable, or a copy of it, runs the daemon of `host`.
    pub fn run_arguments(&self, host: &Host) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![host.name().into(), "run".into()];
        arguments.extend(self.settings(host.name()));
        arguments
    }

    /// Returns a command that examines the NIC of `host`, with the settings of its daemon.
    ///
    /// # Errors
    /// If this executable can't be found.
    pub fn doctor(&self, host: &Host) -> anyhow::Result<Command> {
        let mut command = host.command(executable()?);
        command.args([host.name(), "doctor"]).args(self.settings(host.name()));
        Ok(command)
    }

    /// Returns the settings that `run` of a daemon is given, and its doctor.
    fn settings(&self, name: &str) -> Vec<OsString> {
        let folder = |option: &str, path: &Path| [option.into(), path.as_os_str().to_owned()];
        let mut settings: Vec<OsString> = vec!["--service".into(), SERVICES.into()];
        settings.extend(folder("--config", &self.config_file(name)));
        settings
            .extend(self.interfaces.iter().flat_map(|interface| ["--interface".into(), interface.into()]));
        settings.extend(folder("--key-file", &self.key_file()));
        settings.extend(self.options.arguments.iter().map(OsString::from));
        settings.extend(folder("--state-dir", &self.folder.path().join("state")));
        if let Some(bpf) = &self.bpf {
            settings.extend(folder("--bpf-dir", bpf.path()));
        }
        settings
    }

    fn daemon(&self, host: &Host, name: &str, own: &[&str]) -> anyhow::Result<Process> {
        let socket_path = self.folder.path().join(format!("{name}.notify"));
        let _ = std::fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path).context("can't make the notification socket")?;
        let log = log_file(self.folder.path(), name);
        let mut command = host.command(executable()?);
        let file = self.config_file(name);
        if !file.exists() {
            // The machine may have a NIC's configuration of its own, which is not meant.
            std::fs::write(&file, "").context("can't write the configuration")?;
        }
        command.args([name, "run"]).args(self.settings(name)).args(own);
        command.env("NOTIFY_SOCKET", &socket_path).env("RUST_LOG", "info").stdin(std::process::Stdio::null());
        command.stderr(std::fs::File::create(&log).context("can't make the daemon's log")?);
        let mut process = Process::spawn(command)?;
        match wait_until_ready(&socket, &mut process) {
            Ok(true) => Ok(process),
            outcome => {
                let said = self.log(name);
                bail!("{name} did not start ({outcome:?}); it said: {}", said.trim())
            }
        }
    }
}

/// A daemon's counters as it logged them at its end.
#[derive(Debug, Clone, Default)]
pub struct Counts(Vec<(String, u64)>);

impl Counts {
    /// Reads them from a log; without any if it does not say.
    pub(crate) fn read(log: &str) -> Self {
        let line = log.lines().rev().find_map(|line| line.split_once("counters=\"")).map_or("", |(_, c)| c);
        let pairs = line.trim_end_matches('"').split_whitespace();
        Self(
            pairs
                .filter_map(|p| p.split_once('='))
                .filter_map(|(k, v)| Some((k.into(), v.trim_end_matches('"').parse().ok()?)))
                .collect(),
        )
    }

    /// Returns a counter, 0 if it never counted: `event.spoofed_paired`, `drop.hop_limit`, …
    pub fn of(&self, label: &str) -> u64 {
        self.0.iter().find(|(name, _)| name == label).map_or(0, |(_, count)| *count)
    }
}

fn log_file(folder: &Path, daemon: &str) -> PathBuf {
    folder.join(format!("{daemon}.log"))
}

pub(crate) fn executable() -> anyhow::Result<impl AsRef<OsStr>> {
    // Not the path it was started by: the file may have been replaced by a rebuild since.
    std::env::current_exe().context("can't find this executable")
}

fn wait_until_ready(socket: &UnixDatagram, process: &mut Process) -> anyhow::Result<bool> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let deadline = std::time::Instant::now() + BOUND;
    let mut message = [0u8; 256];
    while std::time::Instant::now() < deadline {
        match socket.recv(&mut message) {
            Ok(length) if message[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if let Some(status) = process.try_wait()? {
                    bail!("it ended with {status}");
                }
            }
            Err(error) => return Err(error).context("can't read the notification socket"),
        }
    }
    Ok(false)
}

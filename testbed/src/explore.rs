//! `up`, `exec` and `down`: a topology that stays for exploring.
//!
//! [`up`] leaves a background process, the holder, which owns the topology. A state file says
//! which process that is and which of its descriptors are the hosts' namespaces; the holder keeps
//! the file locked (`flock(2)`), so an unlocked file is one that a killed holder left, whoever
//! has its process id now. The file lies in `$XDG_RUNTIME_DIR/rtt0-testbed` or, without that, in
//! `/tmp/rtt0-testbed-<uid>`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};

use crate::privilege::outer_uid;
use crate::process::Process;
use crate::topology::{Topology, TopologyConfig};

/// How long the holder may take to remove its topology after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// What the holder tells [`up`] when the topology stands; anything else is an error's text.
const READY: &str = "ready";

/// What the holder writes for `exec` and `down`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    pid: i32,
    /// The holder's descriptor of each host's network namespace.
    hosts: BTreeMap<String, i32>,
}

/// Raises a topology and keeps it in a background process.
///
/// Call [`crate::privilege::acquire`] before, and both before any thread is started. `inside` runs
/// in the background process once the topology stands; the processes it returns live as long as
/// the topology does.
///
/// # Errors
/// A topology is up already, or it cannot be raised, or `inside` fails; nothing is left behind.
pub fn up(
    config: &TopologyConfig,
    inside: impl FnOnce(&Topology) -> anyhow::Result<Vec<Process>>,
) -> anyhow::Result<()> {
    let directory = make_directory()?;
    let state = lock_state(&directory)?;
    let (told, tell) = io::pipe()?;
    ensure!(fs::read_dir("/proc/self/task")?.count() == 1, "the holder must be forked before threads start");
    // SAFETY: this process has no other thread, so the child's memory is whole and no lock in it
    // is held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot fork the holder"),
        0 => {
            drop(told);
            let code = match hold(config, inside, &directory, &state, tell) {
                Ok(()) => 0,
                Err(_) => 1,
            };
            std::process::exit(code)
        }
        _ => {
            // The lock belongs to the open file, which the holder has now alone.
            drop((state, tell));
            wait_for_holder(told, &directory)
        }
    }
}

fn wait_for_holder(mut told: PipeReader, directory: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    told.read_to_string(&mut text)?;
    match text.as_str() {
        READY => Ok(()),
        "" => bail!("the holder died while raising the topology, see {}", log(directory).display()),
        error => bail!("{error}"),
    }
}

/// The holder's life: raise, tell, wait for a signal, remove.
fn hold(
    config: &TopologyConfig,
    inside: impl FnOnce(&Topology) -> anyhow::Result<Vec<Process>>,
    directory: &Path,
    state: &File,
    mut tell: PipeWriter,
) -> anyhow::Result<()> {
    let raise = || {
        detach(directory)?;
        // From here on a signal is remembered, so that it cannot cut the raising short.
        let ending = Ending::watch()?;
        let topology = Topology::raise(config)?;
        let processes = inside(&topology)?;
        write_state(state, &topology)?;
        Ok((ending, topology, processes))
    };
    let outcome = match raise() {
        Ok((ending, topology, processes)) => {
            tell.write_all(READY.as_bytes())?;
            drop(tell);
            ending.wait();
            // The processes use the topology's devices, so they go first.
            drop(processes);
            drop(topology);
            Ok(())
        }
        Err(error) => {
            // Should the pipe be broken, nobody is there to be told.
            let _ = write!(tell, "{error:#}");
            Err(error)
        }
    };
    remove_traces(directory)?;
    outcome
}

/// The signals that end the holder.
struct Ending {
    runtime: Runtime,
    terminate: UnixSignal,
    interrupt: UnixSignal,
    hangup: UnixSignal,
}

impl Ending {
    fn watch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }

    fn wait(mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => (),
                _ = self.interrupt.recv() => (),
                _ = self.hangup.recv() => (),
            }
        });
    }
}

/// Leaves the terminal: a session of its own, standard streams to nowhere and to the log.
fn detach(directory: &Path) -> anyhow::Result<()> {
    setsid().context("cannot leave the terminal's session")?;
    env::set_current_dir("/")?;
    let log = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(log(directory))?;
    let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

fn write_state(mut file: &File, topology: &Topology) -> anyhow::Result<()> {
    let hosts = topology
        .hosts()
        .into_iter()
        .map(|host| (host.name().to_owned(), host.namespace().as_fd().as_raw_fd()))
        .collect();
    let state = State { pid: rustix::process::getpid().as_raw_nonzero().get(), hosts };
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&state)?).context("cannot write the state file")
}

/// Replaces this process by `command`, run on `host` of the topology that is up. Do not call
/// [`crate::privilege::acquire`] before: the command must enter the holder's user namespace, not
/// one of its own. Returns only if the command cannot be run, with the exit code a shell would
/// give (126, 127).
///
/// # Errors
/// No topology is up, it has no such host, or its namespaces cannot be entered.
pub fn exec(host: &str, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let state = running()?.context("no topology is up: raise one with `testbed up`")?;
    let descriptor = state.hosts.get(host).with_context(|| {
        let names: Vec<_> = state.hosts.keys().map(String::as_str).collect();
        format!("no host is named {host:?}; there are {}", names.join(", "))
    })?;
    enter(state.pid, *descriptor).with_context(|| format!("cannot enter {host}"))?;
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }))
}

/// Moves this process into the holder's user namespace, if it has one of its own, and into the
/// network namespace behind one of the holder's descriptors.
fn enter(pid: i32, descriptor: i32) -> anyhow::Result<()> {
    let users = File::open(format!("/proc/{pid}/ns/user"))?;
    let network = File::open(format!("/proc/{pid}/fd/{descriptor}"))?;
    if users.metadata()?.ino() != fs::metadata("/proc/self/ns/user")?.ino() {
        move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
            .context("the holder's user namespace is closed to this user")?;
    }
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("missing privilege: CAP_SYS_ADMIN")
}

/// Ends the topology that is up. Do not call [`crate::privilege::acquire`] before.
///
/// # Errors
/// No topology is up, or its holder cannot be ended.
pub fn down() -> anyhow::Result<()> {
    let state = running()?.context("no topology is up")?;
    let pid = Pid::from_raw(state.pid).context("the state file names no process")?;
    let holder = pidfd_open(pid, PidfdFlags::empty()).context("the holder has just ended")?;
    let ends_by = |signal| -> anyhow::Result<bool> {
        pidfd_send_signal(&holder, signal).context("cannot end the holder")?;
        let timeout = Timespec::try_from(GRACE)?;
        Ok(poll(&mut [PollFd::new(&holder, PollFlags::IN)], Some(&timeout))? > 0)
    };
    if ends_by(Signal::TERM)? {
        return Ok(());
    }
    ensure!(ends_by(Signal::KILL)?, "the holder (process {}) does not end", state.pid);
    remove_traces(&directory()?)
}

/// Reads the state of the running topology. One that a killed holder left is removed.
fn running() -> anyhow::Result<Option<State>> {
    let path = state_file(&directory()?);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    ensure_own(&file.metadata()?, &path)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        remove_traces(&directory()?)?;
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let state = serde_json::from_str(&text).context("the topology is still being raised; try again")?;
    Ok(Some(state))
}

/// Opens the state file and locks it, for this process and its children to come.
fn lock_state(directory: &Path) -> anyhow::Result<File> {
    let path = state_file(directory);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a topology is up already: use it with `testbed exec`, or end it with `testbed down`");
    }
    // Between opening and locking, somebody may have found the file stale and removed it.
    let there =
        fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
    ensure!(there, "another `testbed` was clearing up; try again");
    Ok(file)
}

fn directory() -> anyhow::Result<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_dir());
    Ok(match runtime {
        Some(runtime) => Path::new(&runtime).join("rtt0-testbed"),
        None => PathBuf::from(format!("/tmp/rtt0-testbed-{}", outer_uid())),
    })
}

/// Makes the directory for the state file. In `/tmp` anybody could have made it before.
fn make_directory() -> anyhow::Result<PathBuf> {
    let directory = directory()?;
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", directory.display()));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(&directory)?;
    ensure!(metadata.is_dir(), "{} is not a directory: remove it", directory.display());
    ensure_own(&metadata, &directory)?;
    Ok(directory)
}

/// Refuses what other users made or may write to.
fn ensure_own(metadata: &fs::Metadata, path: &Path) -> anyhow::Result<()> {
    let own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    ensure!(own, "{} belongs to another user or is open to others: remove it", path.display());
    Ok(())
}

fn state_file(directory: &Path) -> PathBuf {
    directory.join("topology.json")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("holder.log")
}

/// Removes the state file, the log and their directory.
fn remove_traces(directory: &Path) -> anyhow::Result<()> {
    for path in [log(directory), state_file(directory)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // A topology that is being raised just now has its file there.
    let _ = fs::remove_dir(directory);
    Ok(())
}

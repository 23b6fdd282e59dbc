//! Child processes that never outlive the testbed.
//!
//! A child asks the kernel to be killed when its parent dies (`PR_SET_PDEATHSIG`, prctl(2)). The
//! kernel takes *parent* to be the thread that forked, so a child started from a short-lived
//! worker thread would die with that thread. [`Process::spawn`] therefore forks on one thread
//! that exists for this only and lives until the process ends, in whatever way.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// How long a child may take to obey SIGTERM: on a machine with much else to do even the kernel's part of it,
/// undoing sockets and tables, has taken seconds.
const GRACE: Duration = Duration::from_secs(30);
/// How often it is asked whether it has.
const POLL: Duration = Duration::from_millis(2);

/// A child process: terminated (SIGTERM, then SIGKILL after 30 seconds) and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`; the child is killed when this process dies.
    ///
    /// Make the command with [`crate::host::Host::command`]: any other runs in the namespaces of
    /// the thread that spawned the first child, not in those of the caller.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        die_with_parent(&mut command);
        let child = fork_on_lasting_thread(command)
            .with_context(|| format!("cannot start {}", name.to_string_lossy()))?;
        Ok(Self { child })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lends the child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the child (SIGKILL) and reaps it.
    ///
    /// # Errors
    /// The error of `kill(2)` or `waitpid(2)`.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill().context("cannot kill the child")?;
        self.wait()
    }

    /// Asks the child to end (SIGTERM), kills it if it has not after 30 seconds, and reaps it.
    ///
    /// # Errors
    /// The error of `kill(2)` or `waitpid(2)`.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("bad process id")?;
        kill_process(pid, Signal::TERM).context("cannot terminate the child")?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        self.kill()
    }

    /// Returns the exit status if the child has ended, without waiting.
    ///
    /// # Errors
    /// The error of `waitpid(2)`.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for the child")
    }

    /// Waits until the child ends.
    ///
    /// # Errors
    /// The error of `waitpid(2)`.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().context("cannot wait for the child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about an error here; the death signal remains as the last resort.
        let _ = self.terminate();
    }
}

/// Makes the child of `command` die (SIGKILL) with the thread that forks it.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was armed.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure runs between fork and exec and only makes system calls that are
    // async-signal-safe; it neither allocates nor takes locks.
    unsafe { command.pre_exec(arm) };
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// The thread that forks, once the first child has been asked for.
static FORKER: Mutex<Option<Sender<Order>>> = Mutex::new(None);

fn fork_on_lasting_thread(command: Command) -> io::Result<Child> {
    let (reply, answer) = mpsc::sync_channel(1);
    {
        let mut forker = FORKER.lock().unwrap_or_else(PoisonError::into_inner);
        if forker.is_none() {
            *forker = Some(start_forker()?);
        }
        if let Some(orders) = forker.as_ref() {
            orders.send((command, reply)).map_err(io::Error::other)?;
        }
    }
    answer.recv().map_err(io::Error::other)?
}

fn start_forker() -> io::Result<Sender<Order>> {
    let (orders, queue) = mpsc::channel::<Order>();
    thread::Builder::new().name("forker".to_owned()).spawn(move || {
        for (mut command, reply) in queue {
            // The asker waits for the answer, so it can only be missing if it panicked.
            let _ = reply.send(command.spawn());
        }
    })?;
    Ok(orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("60");
        command
    }

    fn exists(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_not_its_owner() {
        let mut process = thread::spawn(|| Process::spawn(sleeper()).unwrap()).join().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(process.try_wait().unwrap(), None);
        let pid = process.id();
        drop(process);
        assert!(!exists(pid));
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed() {
        use std::io::Read;
        use std::os::unix::process::ExitStatusExt;
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
        command.stdout(std::process::Stdio::piped());
        let mut process = Process::spawn(command).unwrap();
        let mut ready = [0; 5];
        process.child().stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(process.terminate().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Process::spawn(Command::new("/absent/program")).unwrap_err();
        assert!(error.to_string().contains("/absent/program"), "{error}");
    }
}

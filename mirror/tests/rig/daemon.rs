//! The program under test, as a child in the box's namespace.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtt0_netio::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use super::counted::Counted;
use super::{eventually, within};

/// Lines that a thread collects while the child writes them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn collect(&self, from: impl std::io::Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A running `mirror run`. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    output: Lines,
    log: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// How it has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub output: Vec<String>,
    pub log: Vec<String>,
}

impl Daemon {
    /// Starts `program run --config … --json`, with `more` arguments, and waits until it is ready.
    #[track_caller]
    pub fn start(program: &Path, middle: &Namespace, configuration: &Path, more: &[&str]) -> Self {
        let started = Self::try_start(program, middle, configuration, more);
        started.unwrap_or_else(|log| panic!("the daemon ended: {log:#?}"))
    }

    /// As [`Daemon::start`]; returns the log if it ends instead.
    #[track_caller]
    pub fn try_start(
        program: &Path,
        middle: &Namespace,
        configuration: &Path,
        more: &[&str],
    ) -> Result<Self, Vec<String>> {
        let mut daemon = Self::launch(program, middle, configuration, more);
        let is_ready =
            eventually("the daemon must become ready", || match daemon.child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => daemon.has_told(&["ready"]).then_some(true),
            });
        if is_ready { Ok(daemon) } else { Err(daemon.wait().log) }
    }

    /// Starts it and doesn't wait.
    pub fn launch(program: &Path, middle: &Namespace, configuration: &Path, more: &[&str]) -> Self {
        let spawn = || {
            let arguments = ["run", "--json", "--config"].map(OsStr::new);
            Command::new(program)
                .args(arguments)
                .arg(configuration)
                .args(more)
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        };
        // A child has the namespaces of the thread that forks it.
        let mut child = middle.enter(spawn).unwrap().unwrap();
        let (output, log) = (Lines::default(), Lines::default());
        let readers =
            vec![output.collect(child.stdout.take().unwrap()), log.collect(child.stderr.take().unwrap())];
        Self { child, output, log, readers }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// Tells whether one line of the log has all `words`, in whatever case.
    pub fn has_told(&self, words: &[&str]) -> bool {
        tells(&self.log(), words)
    }

    /// What it has counted, as its last line says.
    #[track_caller]
    pub fn counted(&self) -> Counted {
        let last = eventually("there must be a line each second", || self.output.all().last().cloned());
        serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {last}"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has counted so many packets, seen or lost.
    #[track_caller]
    pub fn wait_for(&self, packets: u64) {
        let mut last = Counted::default();
        within(Duration::from_secs(30), "all packets must be counted", || {
            last = self.counted();
            (last.captured + last.overflow >= packets).then_some(())
        });
    }

    /// Ends it as a service manager does; returns the last line, which has to add up.
    #[track_caller]
    pub fn end(mut self) -> Counted {
        self.signal(Signal::TERM);
        let ended = self.wait();
        assert!(ended.status.success(), "{}: {:#?}", ended.status, ended.log);
        let last = ended.output.last().expect("a last line");
        let last: Counted = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"));
        assert!(last.is_final, "the last line says that it is: {last:?}");
        last.must_add_up();
        last
    }

    /// Kills it (SIGKILL), as the kernel does that lacks memory.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> Ended {
        let child = &mut self.child;
        let status = eventually("the daemon must end", || child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ended { status, output: self.output.all(), log: self.log.all() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failure: its log is what one wants to read.
        if thread::panicking() {
            println!("the daemon's log: {:#?}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells whether one of `lines` has all `words`, in whatever case.
pub fn tells(lines: &[String], words: &[&str]) -> bool {
    let has = |line: &str| words.iter().all(|word| line.contains(&word.to_lowercase()));
    lines.iter().any(|line| has(&line.to_lowercase()))
}

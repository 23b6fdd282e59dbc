//! Processes of a daemon, by `/proc`: proc(5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::capabilities::{self, FileCapabilities, ThreadCapabilities};

/// USER_HZ, see [`super::neighbours`].
const TICKS: u64 = 100;
/// What a host may have in its stead: an executable that runs the daemon under another name.
const MULTICALL: &str = "testbed";
/// Longest name that the kernel keeps of a process.
const COMM: usize = 15;

/// A process of a daemon that serves, or did before it was stopped.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id, as seen from here.
    pub pid: u32,
    /// The kernel's letter for what it does: R, S, D run; T and t are stopped; Z is dead.
    pub state: char,
    /// How it was called.
    pub arguments: Vec<String>,
    /// Its executable; `None` if that may not be known.
    pub executable: Option<PathBuf>,
    /// Whether it is in this network namespace; `None` if that may not be known.
    pub is_here: Option<bool>,
    /// When it was started, by the wall clock: to be compared with times of files.
    pub started: Option<SystemTime>,
    /// How long ago that was.
    pub age: Option<Duration>,
    /// What its threads may do; the first is the main one.
    pub threads: Vec<ThreadCapabilities>,
    /// What its executable gives, or why that is not known.
    pub file: Result<FileCapabilities, String>,
    /// The profile of a security module that confines it, if one does.
    pub label: Option<String>,
}

impl Process {
    /// Tells whether it stands still.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Tells whether its executable was replaced or removed since it was started.
    pub fn is_replaced(&self) -> bool {
        self.executable.as_ref().is_some_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
    }

    /// Returns the interfaces that its command line names.
    pub fn interfaces(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let value = match argument.strip_prefix("--interface") {
                Some("") => arguments.next().map(String::as_str),
                Some(rest) => rest.strip_prefix('='),
                None => None,
            };
            names.extend(value.into_iter().flat_map(|value| value.split(',')));
        }
        names
    }
}

/// Finds the processes of the daemon `program` that serve in this network namespace, or may.
///
/// # Errors
/// Why processes can't be listed.
pub fn daemons(program: &str) -> Result<Vec<Process>, String> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc can't be read: {error}"))?;
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    if fs::metadata("/proc/self/stat").is_err() {
        return Err("/proc is not mounted".to_owned());
    }
    let boot = Boot {
        time: fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text)),
        uptime: fs::read_to_string("/proc/uptime").ok().and_then(|text| uptime(&text)),
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter_map(|pid| process(pid, program, own.as_deref(), boot))
        .filter(|process| process.is_here != Some(false))
        .collect())
}

/// Tells whether processes of other users are hidden from this one (`hidepid`).
pub fn are_hidden() -> bool {
    fs::metadata("/proc/1").is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// When the host was started, and how long ago that was.
#[derive(Debug, Clone, Copy)]
struct Boot {
    time: Option<SystemTime>,
    uptime: Option<Duration>,
}

/// Reads one, if it is what is looked for. It may end meanwhile.
fn process(pid: u32, program: &str, own: Option<&Path>, boot: Boot) -> Option<Process> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let arguments = arguments(&fs::read(folder.join("cmdline")).ok()?);
    let executable = fs::read_link(folder.join("exe")).ok();
    let name = match &executable {
        Some(path) => file_name(path),
        None => fs::read_to_string(folder.join("comm")).ok()?.trim_end().to_owned(),
    };
    if !serves(program, &name, &arguments) {
        return None;
    }
    let (state, ticks) = stat(&fs::read_to_string(folder.join("stat")).ok()?)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let namespace = fs::read_link(folder.join("ns/net")).ok();
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000 / TICKS));
    Some(Process {
        pid,
        state,
        arguments,
        is_here: namespace.zip(own).map(|(its, own)| its == own),
        started: boot.time.and_then(|boot| boot.checked_add(since_boot)),
        age: boot.uptime.and_then(|uptime| uptime.checked_sub(since_boot)),
        threads: capabilities::of_threads(&folder),
        file: capabilities::of_file(&folder.join("exe")),
        label: label(&folder),
        executable,
    })
}

/// Tells whether a process called so serves, and does not only ask a daemon something.
fn serves(program: &str, executable: &str, arguments: &[String]) -> bool {
    let cut = |name: &str| name.get(..COMM).unwrap_or(name).to_owned();
    let is = |name: &str| executable == name || executable == cut(name);
    match arguments {
        [_, word, order, ..] if is(MULTICALL) => word == program && order == "run",
        [_, rest @ ..] => is(program) && rest.iter().any(|word| word == "run"),
        [] => false,
    }
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    if words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

/// Reads the state and the start, in ticks since the boot, of `/proc/PID/stat`. The name in it may hold anything.
fn stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 3 and 22 of proc_pid_stat(5).
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Reads when the host was started, of `/proc/stat`.
fn boot_time(text: &str) -> Option<SystemTime> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Reads how long ago the host was started, of `/proc/uptime`.
fn uptime(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

/// Reads the profile of AppArmor, SELinux or Smack that a process is under.
fn label(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("attr/current")).ok()?;
    let text = text.trim_matches(['\0', '\n', ' ']);
    let is_free = text.is_empty() || text == "unconfined" || text.contains("unconfined_t");
    (!is_free).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn who_serves_is_known_by_executable_and_order() {
        let serves = |executable, text| serves("clientnic", executable, &words(text));
        assert!(serves("clientnic", "/usr/bin/clientnic run --interface lan0"));
        assert!(serves("clientnic", "clientnic --config x run"));
        assert!(serves("testbed", "/x/testbed clientnic run --interface lan0"));
        assert!(!serves("clientnic", "clientnic show flows"));
        assert!(!serves("clientnic", "clientnic doctor"));
        assert!(!serves("sudo", "sudo clientnic run"), "only waits for it");
        assert!(!serves("testbed", "testbed servernic run"));
        assert!(!serves("testbed", "testbed run clientnic"));
        assert!(!serves("bash", "bash -c clientnic run"));
    }

    #[test]
    fn a_name_in_stat_may_hold_anything() {
        let rest = "T 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(stat(&format!("12 (a) b (c) {rest}")), Some(('T', 4711)));
        assert_eq!(stat("12 (a"), None);
        assert_eq!(stat("12 (a) S 1"), None);
    }

    #[test]
    fn interfaces_are_read_from_the_command_line() {
        let process = Process {
            pid: 1,
            state: 'S',
            arguments: words("clientnic run --interface lan0,lan1 --service x --interface=wan0"),
            executable: Some("/usr/bin/clientnic (deleted)".into()),
            is_here: Some(true),
            started: None,
            age: None,
            threads: Vec::new(),
            file: Err(String::new()),
            label: None,
        };
        assert_eq!(process.interfaces(), ["lan0", "lan1", "wan0"]);
        assert!(process.is_replaced() && !process.is_stopped());
        assert_eq!(file_name(Path::new("/usr/bin/clientnic (deleted)")), "clientnic");
    }

    #[test]
    fn times_are_read() {
        let boot = boot_time("cpu 1 2\nbtime 1700000000\nprocesses 5\n").unwrap();
        assert_eq!(boot, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
        assert_eq!(uptime("2.50 9.00\n"), Some(Duration::from_millis(2500)));
        assert_eq!(uptime("-1 x"), None);
        assert_eq!(arguments(b"a\0\0b\0"), ["a", "", "b"]);
    }

    proptest! {
        #[test]
        fn nothing_panics_on_what_proc_says(text in ".{0,200}") {
            let _ = stat(&text);
            let _ = boot_time(&text);
            let _ = uptime(&text);
            let _ = arguments(text.as_bytes());
        }
    }
}

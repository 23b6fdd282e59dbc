//! An account with one stack, made of a `testbed up` and the stub.

use crate::stub::{self, Call};
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Exit status for missing privilege.
pub(crate) const NO_PRIVILEGE: i32 = 77;

/// The program under test.
pub(crate) fn testbed() -> Command {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
}

/// Lists the processes whose executables or log files lie under a folder.
pub(crate) fn running_under(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let links = ["exe", "cwd", "fd/1", "fd/2"].map(|link| fs::read_link(entry.path().join(link)));
        if links.iter().flatten().any(|target| target.starts_with(&folder)) {
            found.push(
                fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " "),
            );
        }
    }
    found
}

/// The account. What it consists of is removed when dropped.
pub(crate) struct Cloud {
    folder: TempDir,
    has_hosts: bool,
}

impl Cloud {
    /// Makes one with hosts; none if this user can't have namespaces.
    pub(crate) fn raise() -> io::Result<Option<Self>> {
        let mut cloud = Self::without_hosts()?;
        let output = cloud.explore(&["up", "--rtt", "50"]).output()?;
        if output.status.code() == Some(NO_PRIVILEGE) {
            return Ok(None);
        }
        assert!(output.status.success(), "{output:?}");
        cloud.has_hosts = true;
        Ok(Some(cloud))
    }

    /// Makes one in which nothing can be run.
    pub(crate) fn without_hosts() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["stub/bucket", "stub/commands", "bin", "hosts", "runtime", "tmp"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        fs::set_permissions(folder.path().join("runtime"), Permissions::from_mode(0o700))?;
        let quoted = |path: &Path| format!("'{}'", path.display());
        let script = format!(
            "#!/bin/sh\n{}={} {}={} exec {} \"$@\"\n",
            stub::FOLDER,
            quoted(&folder.path().join("stub")),
            stub::TESTBED,
            quoted(Path::new(env!("CARGO_BIN_EXE_testbed"))),
            quoted(&std::env::current_exe()?),
        );
        let aws = folder.path().join("bin/aws");
        fs::write(&aws, script)?;
        fs::set_permissions(&aws, Permissions::from_mode(0o755))?;
        Ok(Self { folder, has_hosts: false })
    }

    fn explore(&self, arguments: &[&str]) -> Command {
        let mut command = testbed();
        command.args(arguments).env("XDG_RUNTIME_DIR", self.folder.path().join("runtime"));
        command
    }

    /// The runner against this account. Later options go before these.
    pub(crate) fn remote(&self, arguments: &[&str]) -> Command {
        let mut command = self.explore(&["remote", "--transport", "aws", "--stack", "some-stack"]);
        let path = |name| self.folder.path().join(name);
        if !arguments.contains(&"--aws-program") {
            command.arg("--aws-program").arg(path("bin/aws"));
        }
        // A topology that is up has servers at the default port.
        command.args(["--port", "8090"]);
        command.arg("--folder").arg(path("hosts")).arg("--out").arg(self.out()).args(arguments);
        command.env("TMPDIR", path("tmp"));
        command
    }

    /// Where the runner puts what it has collected.
    pub(crate) fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// What the stub knows and notes.
    pub(crate) fn stub(&self) -> PathBuf {
        self.folder.path().join("stub")
    }

    /// Has the stub behave otherwise.
    pub(crate) fn tell(&self, what: &str, value: &str) {
        fs::write(self.stub().join(what), value).unwrap();
    }

    /// Has it behave as ever.
    pub(crate) fn untell(&self, what: &str) {
        fs::remove_file(self.stub().join(what)).unwrap();
    }

    /// What was asked of it so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        stub::calls(&self.stub())
    }

    /// No process of a run is left, no object in the bucket, no file on a host, no temporary file.
    pub(crate) fn assert_nothing_left(&self) {
        let path = |name| self.folder.path().join(name);
        assert_eq!(running_under(&path("hosts")), [""; 0]);
        for folder in ["stub/bucket", "hosts", "tmp"] {
            let left: Vec<_> = fs::read_dir(path(folder)).unwrap().flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if self.has_hosts {
            let output = self.explore(&["down"]).output();
            assert!(std::thread::panicking() || output.is_ok_and(|output| output.status.success()));
        }
    }
}

/// A run under way.
pub(crate) struct Child {
    child: std::process::Child,
    lines: Receiver<String>,
    said: String,
}

impl Child {
    /// Starts it.
    pub(crate) fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines, said: String::new() })
    }

    /// Waits until it says this or ends; returns whether it has said it.
    pub(crate) fn await_line(&mut self, expected: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.said.contains(expected) {
            assert!(Instant::now() < deadline, "{}", self.said);
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => self.said += &(line + "\n"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; returns what it has said, too.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        for line in self.lines.iter() {
            self.said += &(line + "\n");
        }
        (status, self.said)
    }
}

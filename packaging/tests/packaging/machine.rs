//! A machine made of namespaces that a real systemd has started (`machine.sh`), and its network.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::sysctl;
use tempfile::TempDir;

use crate::{is_installed, repository, success};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packaging/machine.sh");
const SYSTEMD: &str = "/lib/systemd/systemd";
/// How long it may take until something that was asked for is so.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Tells what is missing for a machine, if anything.
pub(crate) fn lacks() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a machine of namespaces with its own devices needs root".to_owned());
    }
    if !Path::new(SYSTEMD).exists() {
        return Some("systemd is not installed".to_owned());
    }
    let tools = ["bash", "setpriv", "unshare", "nsenter", "mount", "systemctl", "journalctl"];
    if let Some(tool) = tools.into_iter().find(|tool| !is_installed(tool)) {
        return Some(format!("{tool} is not installed"));
    }
    // What a container usually may not do.
    let tried = "mount --make-rprivate / && mount -t cgroup2 none /mnt && mkdir /mnt/rtt0-try && rmdir /mnt/rtt0-try &&
        mount -t tmpfs none /mnt && mknod /mnt/node b 7 0 && mkdir /mnt/root /mnt/changes /mnt/work &&
        mount -t overlay none /mnt/root -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work";
    let unshare = ["--pid", "--fork", "--mount", "--net", "--cgroup", "--uts", "--ipc", "sh", "-c", tried];
    match Command::new("unshare").args(unshare).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no machine can be made of namespaces here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare can't be started: {error}")),
    }
}

/// The files that a machine is to have besides this one's.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Result<Self, Failed> {
        let folder = TempDir::with_prefix("rtt0-machine-")?;
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        for name in ["files", "memory"] {
            fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { folder })
    }

    /// Adds a copy of a file of this machine.
    pub(crate) fn add(self, path: &str, original: impl AsRef<Path>) -> Result<Self, Failed> {
        fs::copy(original, self.place(path)?)?;
        Ok(self)
    }

    pub(crate) fn write(self, path: &str, text: &str) -> Result<Self, Failed> {
        fs::write(self.place(path)?, text)?;
        Ok(self)
    }

    fn place(&self, path: &str) -> Result<PathBuf, Failed> {
        let path = self.folder.path().join("files").join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap())?;
        Ok(path)
    }

    /// Adds what the packages would install for a unit to run, with this program as what it runs.
    pub(crate) fn installed(self) -> Result<Self, Failed> {
        let mut files = self;
        for name in crate::PROGRAMS {
            let units = [
                (format!("/usr/lib/systemd/system/{name}.service"), format!("deploy/systemd/{name}.service")),
                (format!("/usr/lib/sysusers.d/{name}.conf"), format!("deploy/systemd/{name}.sysusers")),
            ];
            for (path, original) in units {
                files = files.add(&path, repository(&original))?;
            }
            files = files.add(&format!("/usr/bin/{name}"), std::env::current_exe()?)?;
        }
        for name in crate::NICS {
            let settings = repository(&format!("deploy/{name}.toml"));
            files = files.add(&format!("/etc/rtt0/{name}.toml"), settings)?;
            let pins = repository(&format!("deploy/systemd/{name}.tmpfile"));
            files = files.add(&format!("/usr/lib/tmpfiles.d/{name}.conf"), pins)?;
        }
        for name in ["mirror.toml", "allow.json"] {
            files = files.add(&format!("/etc/rtt0/{name}"), repository(&format!("deploy/mirror/{name}")))?;
        }
        Ok(files)
    }

    pub(crate) fn start(self) -> Result<Machine, Failed> {
        let script = Command::new(SCRIPT)
            .arg("boot")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut machine = Machine { script, first: 0, folder: self.folder };
        machine.await_start()?;
        Ok(machine)
    }
}

/// A running machine. Its end is that of all processes in it.
pub(crate) struct Machine {
    script: Child,
    /// The process that is its number 1.
    first: u32,
    folder: TempDir,
}

impl Machine {
    fn await_start(&mut self) -> Result<(), Failed> {
        let begin = Instant::now();
        let children = format!("/proc/{0}/task/{0}/children", self.script.id());
        while begin.elapsed() < PATIENCE {
            if self.script.try_wait()?.is_some() {
                let mut said = String::new();
                self.script.stderr.take().unwrap().read_to_string(&mut said)?;
                return Err(format!("the machine has not started: {said}").into());
            }
            self.first = fs::read_to_string(&children)?.trim().parse().unwrap_or(0);
            let comm = fs::read_to_string(format!("/proc/{}/comm", self.first)).unwrap_or_default();
            if comm.trim() == "systemd" && self.sh("systemctl is-system-running --wait").is_ok() {
                self.sh("systemd-sysusers; systemd-tmpfiles --create --prefix=/sys/fs/bpf")?;
                return Ok(());
            }
            sleep(POLL);
        }
        Err("systemd does not come up".into())
    }

    /// Runs a shell script in the machine.
    pub(crate) fn output(&self, script: &str) -> Result<Output, Failed> {
        let first = self.first.to_string();
        let environment = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=dumb",
            "DEBIAN_FRONTEND=noninteractive",
        ];
        let mut command = Command::new("nsenter");
        command.args(["--target", &first, "--all", "--"]).args(environment).args(["sh", "-c", script]);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Runs a shell script in the machine that has to end well; returns what it has said.
    pub(crate) fn sh(&self, script: &str) -> Result<String, Failed> {
        success(self.output(script)?).map_err(|failed| format!("{script}: {failed:?}").into())
    }

    /// As [`Machine::sh`]; where that fails the log is in the error.
    pub(crate) fn start(&self, unit: &str) -> Result<(), Failed> {
        match self.sh(&format!("systemctl start {unit}")) {
            Ok(_) => Ok(()),
            Err(failed) => Err(format!("{failed:?}\n{}", self.log(unit)?).into()),
        }
    }

    /// Returns a unit's property.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String, Failed> {
        Ok(self.sh(&format!("systemctl show --property {name} --value {unit}"))?.trim().to_owned())
    }

    /// Returns what a unit has logged.
    pub(crate) fn log(&self, unit: &str) -> Result<String, Failed> {
        self.sh(&format!("journalctl --sync; journalctl --no-pager --output cat --unit {unit}"))
    }

    /// Waits until a shell script ends well.
    pub(crate) fn wait_for(&self, script: &str) -> Result<(), Failed> {
        let begin = Instant::now();
        while !self.output(script)?.status.success() {
            if begin.elapsed() > PATIENCE {
                return Err(format!("never so: {script}").into());
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Gives it a client on eth0 and a server on eth1, as the example configurations have them.
    pub(crate) fn network(&self) -> Result<Network, Failed> {
        let router = Namespace::from(OwnedFd::from(File::open(format!("/proc/{}/ns/net", self.first))?));
        let (client, server) = (Namespace::create()?, Namespace::create()?);
        for (host, name, subnet) in [(&client, "eth0", 0), (&server, "eth1", 2)] {
            Links::add_veth(
                VethEnd { namespace: host, name: "eth0" },
                VethEnd { namespace: &router, name },
                1500,
            )?;
            let gateway = IpAddr::from([10, 1, subnet, 1]);
            let (links, router) = (Links::open(host)?, Links::open(&router)?);
            links.add_address("eth0", IpAddr::from([10, 1, subnet, 10]), 24)?;
            router.add_address(name, gateway, 24)?;
            links.bring_up("eth0")?;
            router.bring_up(name)?;
            links.add_route(IpAddr::from([0, 0, 0, 0]), 0, gateway)?;
        }
        sysctl::set(&router, &[("net.ipv4.ip_forward", "1")])?;
        let listener = server.enter(|| TcpListener::bind("10.1.2.10:443"))??;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Ok(Network { client, router, server })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With the script's process goes the first of the machine, and with that all others.
        let _ = self.script.kill();
        let _ = self.script.wait();
        // The kernel may take a moment for them.
        for _ in 0..100 {
            let cleaned = Command::new(SCRIPT).arg("clean").arg(self.folder.path()).output();
            if cleaned.is_ok_and(|output| output.status.success()) {
                break;
            }
            sleep(POLL);
        }
    }
}

/// The machine's network, and client and server beyond it.
pub(crate) struct Network {
    pub(crate) client: Namespace,
    /// The machine's own.
    pub(crate) router: Namespace,
    pub(crate) server: Namespace,
}

impl Network {
    /// Opens a connection to the server, which sends back all that it gets.
    pub(crate) fn connect(&self) -> Result<Echo, Failed> {
        let stream = self.client.enter(|| TcpStream::connect("10.1.2.10:443"))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut echo = Echo(stream);
        echo.say(1000)?;
        Ok(echo)
    }
}

/// A connection.
pub(crate) struct Echo(TcpStream);

impl Echo {
    /// Sends so many bytes and gets them back.
    pub(crate) fn say(&mut self, bytes: usize) -> Result<(), Failed> {
        let sent: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
        let mut received = vec![0; bytes];
        self.0.write_all(&sent)?;
        self.0.read_exact(&mut received)?;
        if sent == received { Ok(()) } else { Err("what came back is not what was sent".into()) }
    }

    pub(crate) fn close(mut self) -> Result<(), Failed> {
        self.0.shutdown(Shutdown::Write)?;
        self.0.read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

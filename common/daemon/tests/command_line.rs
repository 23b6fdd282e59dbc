//! The daemon as a process: what it prints, how it ends.
//!
//! Without the environment variable [`AS_DAEMON`] this program is the test runner; with it, it
//! is a daemon whose engine forwards everything.
#![allow(clippy::unwrap_used, reason = "a test without the built-in harness is not seen as one")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::journal::Journal;
use rtt0_core::offer::Keys;
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::time::Instant;
use rtt0_daemon::{Context, Nic, NoOptions, Program};
use rtt0_netio::awake::Awake;
use rtt0_netio::emit::DEVICE_PREFIX;
use rtt0_netio::interface;
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::sysctl;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use tempfile::TempDir;

const AS_DAEMON: &str = "RTT0_TEST_AS_DAEMON";
/// Has the engine never come back from a certain key.
const STANDS_STILL: &str = "RTT0_TEST_STANDS_STILL";
const KEY: &str = "0 000102030405060708090a0b0c0d0e0f\n";

type Test = fn() -> Result<(), Failed>;

struct TestNic;

impl Nic for TestNic {
    const ROLE: rtt0_daemon::Role = rtt0_daemon::Role::Host;

    type Options = NoOptions;
    type Engine = Forwarder;

    fn new(_: NoOptions) -> Self {
        Self
    }

    fn engine(&mut self, context: Context) -> Forwarder {
        Forwarder(context.counters, Journal::default())
    }
}

struct Forwarder(Arc<Counters>, Journal);

impl Engine for Forwarder {
    fn handle(&mut self, _: Instant, _: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        Verdict::Forward
    }
    fn too_big(&mut self, _: Instant, _: &[u8], _: u16, _: &mut Outbox) {}
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}
    fn counters(&self) -> &Counters {
        &self.0
    }
    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.1)
    }
    fn rekey(&mut self, keys: Keys) {
        eprintln!("signs with {}", keys.signing());
        while std::env::var_os(STANDS_STILL).is_some() && keys.signing() == STANDSTILL {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn main() -> ExitCode {
    if std::env::var_os(AS_DAEMON).is_some() {
        let program = Program { name: "testnic", about: "Forwards everything" };
        return rtt0_daemon::main::<TestNic>(&program, std::env::args_os());
    }
    let tests: [(&str, Test); 18] = [
        ("usage_errors_end_with_2", usage_errors),
        ("configuration_errors_end_with_78", configuration_errors),
        ("a_missing_capability_ends_with_77", missing_capabilities),
        ("a_dry_run_needs_no_privilege", dry_run),
        ("keygen_writes_a_key_that_run_accepts", keygen),
        ("serves_until_sigterm", serves_until_sigterm),
        ("processors_are_kept_awake_or_it_says_why_not", awake),
        ("operators_ask_by_the_socket_and_by_http", operators),
        ("check_config_says_what_run_would_refuse", check_config),
        ("print_config_tells_who_has_set_what", print_config),
        ("sighup_reads_the_key_file_again", sighup),
        ("sighup_reads_the_configuration_again", sighup_configuration),
        ("the_watchdog_hears_of_it_until_a_worker_stands_still", watchdog),
        ("a_state_file_belongs_to_one_daemon", state_file),
        ("ends_with_1_when_its_interface_vanishes", vanished_interface),
        ("ends_with_1_when_its_outlet_is_taken_down", outlet_down),
        ("forwards_what_the_kernel_does_not", || forwards(&[])),
        ("so_do_several_workers", || forwards(&["--workers", "3", "--cpus", "0,1", "--busy-poll", "200"])),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn daemon(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(AS_DAEMON, "1").env_remove("RUST_LOG").args(arguments);
    command
}

/// A configuration file beside the key file.
fn config_file(key: &Path, text: &str) -> PathBuf {
    let path = key.with_file_name("testnic.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn key_file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    (directory, path)
}

fn run(interface: &str, service: &str, key: &Path) -> Command {
    let mut command = daemon(&["run", "--interface", interface, "--service", service]);
    command.arg("--key-file").arg(key).arg("--state-dir").arg(state_dir(key));
    command
}

/// Of a daemon with this key file.
fn state_dir(key: &Path) -> PathBuf {
    key.with_file_name("state")
}

fn expect_code(output: &Output, code: i32) -> Result<String, Failed> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(found) if found == code => Ok(text),
        found => Err(format!("exit code {found:?} instead of {code}: {text}").into()),
    }
}

/// One line that begins with the program's name and holds every one of `words`.
fn expect_line(text: &str, words: &[&str]) -> Result<(), Failed> {
    let one_line = text.lines().count() == 1 && text.starts_with("testnic: ");
    match words.iter().find(|word| !text.contains(**word)) {
        None if one_line => Ok(()),
        missing => Err(format!("not one line with {missing:?}: {text}").into()),
    }
}

fn usage_errors() -> Result<(), Failed> {
    for arguments in [
        &[][..],
        &["walk"],
        &["run", "--service", "10.1.2.0/24:443", "--key-file", "k"],
        &["run", "--interface", "lo", "--key-file", "k"],
        &["check-config"],
        &[
            "run",
            "--interface",
            "lo",
            "--service",
            "10.1.2.0/24:443",
            "--key-file",
            "k",
            "--log-format",
            "xml",
        ],
        &["keygen"],
        &["keygen", "k", "--id", "4"],
    ] {
        expect_code(&daemon(arguments).output()?, 2)?;
    }
    expect_code(&daemon(&["run", "--help"]).output()?, 0)?;
    expect_code(&daemon(&["--version"]).output()?, 0)?;
    Ok(())
}

fn configuration_errors() -> Result<(), Failed> {
    let service = "10.1.2.0/24:443";
    let (_kept, good) = key_file(KEY, 0o600);
    let (_kept, exposed) = key_file(KEY, 0o644);
    let (_kept, short) = key_file("0 0001\n", 0o600);
    let missing = Path::new("/nonexistent/key");
    let without_key = daemon(&["run", "--interface", "lo", "--service", service]);
    let mut unknown_key = run("lo", service, &good);
    unknown_key.arg("--config").arg(config_file(&good, "workers = 2\nworkerz = 3"));
    let mut without_file = run("lo", service, &good);
    without_file.args(["--config", "/nonexistent/testnic.toml"]);
    for (command, words) in [
        (without_key, ["no key file given", "--key-file"]),
        (unknown_key, ["testnic.toml:2:1: unknown key 'workerz'", "did you mean 'workers'?"]),
        (without_file, ["'/nonexistent/testnic.toml' does not exist", "--config"]),
        (run("nosuch0", service, &good), ["unknown interface 'nosuch0'", "lo"]),
        (run("lo", "10.1.2.0/33:443", &good), ["service '10.1.2.0/33:443'", "prefix length"]),
        (run("lo", "10.1.2.0/24", &good), ["service '10.1.2.0/24'", "no port"]),
        (run("lo", "10.1.2.0/24:443,x:1", &good), ["service 'x:1'", "not an IP address"]),
        (run("lo", service, missing), ["'/nonexistent/key' does not exist", "keygen"]),
        (run("lo", service, &exposed), ["mode 0644", "chmod 600"]),
        (run("lo", service, &short), ["line 1", "4 digits"]),
    ] {
        let mut command = command;
        expect_line(&expect_code(&command.output()?, 78)?, &words)?;
    }
    Ok(())
}

/// Starts `command` without a capability, which root would have otherwise.
fn without(capability: CapabilitySet, command: &mut Command) -> std::io::Result<Output> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread, and so of the process it starts.
            match remove_capability_from_bounding_set(capability) {
                // Without CAP_SETPCAP there is no other capability to lose either.
                Ok(()) | Err(rustix::io::Errno::PERM) => command.output(),
                Err(error) => Err(error.into()),
            }
        });
        thread.join().unwrap()
    })
}

fn missing_capabilities() -> Result<(), Failed> {
    let (_kept, key) = key_file(KEY, 0o600);
    for (capability, name) in
        [(CapabilitySet::NET_RAW, "CAP_NET_RAW"), (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")]
    {
        if !rustix::process::geteuid().is_root() && name == "CAP_NET_ADMIN" {
            println!("skipped: needs CAP_NET_RAW to see CAP_NET_ADMIN missed");
            continue;
        }
        let output = without(capability, &mut run("lo", "10.1.2.0/24:443", &key))?;
        expect_line(&expect_code(&output, 77)?, &[name])?;
    }
    Ok(())
}

fn dry_run() -> Result<(), Failed> {
    let mut command =
        daemon(&["run", "--interface", "lo", "--service", "10.1.2.0/24:443,[fd00::/64]:443", "--dry-run"]);
    let output = without(CapabilitySet::NET_ADMIN, &mut command)?;
    expect_code(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in [
        "table netdev rtt0_",
        "device \"lo\"",
        "ip daddr 10.1.2.0/24 tcp dport 443 goto tcp4_to_service",
        "ip6 daddr fd00::/64 tcp dport 443 goto tcp6_to_service",
        "notrack",
        "Offload changes: none",
        "State file: /run/rtt0/testnic.state",
    ] {
        if !text.contains(words) {
            return Err(format!("{words} is missing in {text}").into());
        }
    }
    Ok(())
}

fn keygen() -> Result<(), Failed> {
    let directory = TempDir::new()?;
    let path = directory.path().join("key");
    let path = path.to_str().unwrap();
    expect_code(&daemon(&["keygen", path, "--id", "2"]).output()?, 0)?;
    let arguments =
        ["run", "--interface", "lo", "--service", "10.1.2.0/24:443", "--key-file", path, "--dry-run"];
    expect_code(&daemon(&arguments).output()?, 0)?;
    let again = expect_code(&daemon(&["keygen", path]).output()?, 78)?;
    expect_line(&again, &[path, "never overwritten"])
}

fn operators() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let socket = folder.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for words in [&["show", "stats"][..], &["drain"], &["flush"], &["reload"], &["top"]] {
        let output = daemon(&[words, &["--control-socket", socket]].concat()).output()?;
        expect_line(&expect_code(&output, 1)?, &[socket, "is it running"])?;
    }
    expect_code(&daemon(&["forget", "10.1.2.0:x"]).output()?, 2)?;
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    Links::open(&namespace)?.bring_up("lo")?;
    let (_directory, key) = key_file(KEY, 0o600);
    let mut command = run("lo", "10.1.2.0/24:443", &key);
    command.args(["--metrics-address", "127.0.0.1:9641"]);
    let running = Running::start(&namespace, &mut command)?;
    let socket = state_dir(&key).join("testnic.sock");
    let ask = |words: &[&str]| daemon(words).arg("--control-socket").arg(&socket).output();
    for words in
        [&["show", "stats"][..], &["show", "flows"], &["show", "drops"], &["top", "--interval", "0.1"]]
    {
        let output = ask(words)?;
        expect_code(&output, 0)?;
        if output.stdout.is_empty() {
            return Err(format!("{words:?} says nothing").into());
        }
    }
    let profiles = ask(&["show", "profiles"])?;
    expect_line(&expect_code(&profiles, 1)?, &["this daemon keeps no profiles"])?;
    // Neither takes a place that is taken.
    let (_other, other_key) = key_file(KEY, 0o600);
    let second = |option: &str, value: &Path| -> Result<String, Failed> {
        let mut command = run("lo", "10.1.2.0/24:443", &other_key);
        command.arg(option).arg(value).args(["--log-format", "json"]);
        let output = namespace.enter(|| command.output())??;
        expect_code(&output, 78)
    };
    let refused = second("--control-socket", &socket)?;
    let taken = second("--metrics-address", Path::new("127.0.0.1:9641"))?;
    for (text, words) in
        [(refused, "another daemon answers"), (taken, "cannot serve metrics at 127.0.0.1:9641")]
    {
        if !text.contains(words) {
            return Err(format!("{words} is missing in {text}").into());
        }
    }
    running.signal(Signal::TERM)?;
    let (code, log) = running.end()?;
    if code != Some(0) {
        return Err(format!("ended with {code:?}: {log}").into());
    }
    if socket.exists() { Err("the control socket is left behind".into()) } else { Ok(()) }
}

/// Makes `count` namespaces, or none where that is not allowed.
fn namespaces<const COUNT: usize>() -> Result<Option<[Namespace; COUNT]>, Failed> {
    let made = (0..COUNT).map(|_| Namespace::create()).collect::<Result<Vec<_>, _>>();
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            Ok(None)
        }
        made => Ok(made?.try_into().ok()),
    }
}

/// A daemon that has said that it is ready.
struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(namespace: &Namespace, command: &mut Command) -> Result<Self, Failed> {
        command.args(["--log-format", "json"]).stderr(Stdio::piped());
        let mut child = namespace.enter(|| command.spawn())??;
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        for line in log.by_ref() {
            before.push(line?);
            if before.last().is_some_and(|line| line.contains("\"ready\"")) {
                return Ok(Self { child, log });
            }
        }
        child.wait()?;
        Err(format!("never ready: {before:?}").into())
    }

    fn signal(&self, signal: Signal) -> Result<(), Failed> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for the end; returns the exit code and the rest of the log.
    fn end(mut self) -> Result<(Option<i32>, String), Failed> {
        let rest: Vec<String> = self.log.by_ref().collect::<Result<_, _>>()?;
        Ok((self.child.wait()?.code(), rest.join("\n")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service manager that listens to a daemon.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    /// Waits for no message longer than `patience`.
    fn new(directory: &TempDir, patience: Duration) -> Result<Self, Failed> {
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, path })
    }

    fn heard(&self) -> std::io::Result<String> {
        let mut message = [0; 128];
        let length = self.socket.recv(&mut message)?;
        Ok(String::from_utf8_lossy(&message[..length]).into_owned())
    }
}

fn serves_until_sigterm() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (directory, key) = key_file(KEY, 0o600);
    let manager = Manager::new(&directory, Duration::from_secs(10))?;
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = run("lo", "10.1.2.0/24:443", &key);
        let daemon = Running::start(&namespace, command.env("NOTIFY_SOCKET", &manager.path))?;
        assert!(manager.heard()?.starts_with("READY=1"));
        daemon.signal(signal)?;
        let (code, log) = daemon.end()?;
        assert!(code == Some(0) && log.contains("\"stopped\""), "{signal:?}: {code:?} {log}");
        assert!(manager.heard()?.starts_with("STOPPING=1"));
    }
    Ok(())
}

fn awake() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    let mut command = run("lo", "10.1.2.0/24:443", &key);
    match (Running::start(&namespace, command.arg("--awake")), Awake::keep()) {
        (Ok(daemon), Ok(_)) => {
            let opened = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))?;
            let mut files = opened.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
            assert!(files.any(|file| file == Path::new("/dev/cpu_dma_latency")));
            // Not by its drop, which kills: what is pinned would stay.
            daemon.signal(Signal::TERM)?;
            daemon.end()?;
        }
        (Err(failed), Err(error)) => {
            let log = failed.message().unwrap_or_default().to_owned();
            assert!(log.contains(&error.to_string()), "{log}");
        }
        (daemon, here) => panic!("it starts: {}, and here {here:?}", daemon.is_ok()),
    }
    Ok(())
}

fn check_config() -> Result<(), Failed> {
    let (_kept, key) = key_file(KEY, 0o600);
    let told = format!("interface = 'lo'\nservice = ['10.1.2.0/24:443']\nkey-file = '{}'\n", key.display());
    let check = |text: &str| {
        let file = config_file(&key, text);
        let mut command = daemon(&["check-config", "--config"]);
        without(CapabilitySet::NET_ADMIN, command.arg(file))
    };
    expect_line(&expect_code(&check(&told)?, 0)?, &["the configuration is right"])?;
    for (text, words) in [
        (told.replace("'lo'", "'nosuch0'"), ["unknown interface 'nosuch0'", "lo"]),
        (told.replace("/24:443", "/33:443"), ["service '10.1.2.0/33:443'", "prefix length"]),
        (told.replace("key\'", "none\'"), ["does not exist", "keygen"]),
        (told.clone() + "mode = 'auto'", ["testnic.toml:4:1: unknown key 'mode'", "there are:"]),
    ] {
        expect_line(&expect_code(&check(&text)?, 78)?, &words)?;
    }
    Ok(())
}

fn print_config() -> Result<(), Failed> {
    let (_kept, key) = key_file(KEY, 0o600);
    let file = config_file(&key, "interface = 'lo'\nworkers = 2\nidle-timeout = '1h'\n");
    let mut command = daemon(&["run", "--print-config", "--service", "10.1.2.0/24:443,10.1.3.1:80"]);
    // The environment may name the file, too.
    let output = command.env("RTT0_CONFIG", &file).env("RTT0_WORKERS", "3").output()?;
    expect_code(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (line, origin) in [
        ("interface = [\"lo\"]", format!("# {}:1", file.display())),
        ("service = [\"10.1.2.0/24:443\", \"10.1.3.1:80\"]", "# --service".to_owned()),
        ("workers = 3", "# environment: RTT0_WORKERS".to_owned()),
        ("idle-timeout = \"1h\"", format!("# {}:3", file.display())),
        ("handshake-timeout = \"15s\"", "# default".to_owned()),
    ] {
        let is_it = |said: &str| said.starts_with(&format!("{line} ")) && said.ends_with(&origin);
        if !text.lines().any(is_it) {
            return Err(format!("no line {line} {origin} in {text}").into());
        }
    }
    Ok(())
}

/// What an engine is told to do that never ends: the key to be rotated to.
const STANDSTILL: u8 = 3;

fn watchdog() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (directory, key) = key_file(KEY, 0o600);
    let manager = Manager::new(&directory, Duration::from_secs(2))?;
    let mut command = run("lo", "10.1.2.0/24:443", &key);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "400000").env(STANDS_STILL, "1");
    // It can only be killed, and would leave pinned maps.
    let daemon = Running::start(&namespace, command.args(["--workers", "2", "--offload", "off"]))?;
    assert!(manager.heard()?.starts_with("READY=1"));
    for _ in 0..3 {
        assert!(manager.heard()?.starts_with("WATCHDOG=1"));
    }
    std::fs::write(&key, format!("{STANDSTILL} {}\n", "ab".repeat(16)))?;
    daemon.signal(Signal::HUP)?;
    // One sign may still be due for what was answered before.
    let rest: Vec<String> = std::iter::from_fn(|| manager.heard().ok()).collect();
    let signs = rest.iter().filter(|message| message.starts_with("WATCHDOG=1")).count();
    assert!(signs <= 1, "{rest:?}");
    assert!(rest.iter().any(|message| message.starts_with("READY=1")), "{rest:?}");
    Ok(())
}

/// Reads the log until `expected` has been said; returns the lines up to there.
fn wait_for(daemon: &mut Running, expected: &str) -> Result<String, Failed> {
    let mut seen = String::new();
    while !seen.contains(expected) {
        let line = daemon.log.next().ok_or_else(|| format!("ended without {expected}: {seen}"))??;
        seen += &line;
    }
    Ok(seen)
}

fn sighup_configuration() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (directory, key) = key_file(KEY, 0o600);
    let manager = Manager::new(&directory, Duration::from_secs(10))?;
    let text = "interface = 'lo'\nservice = '10.1.2.0/24:443'\nno-state = true\n";
    let file = config_file(&key, text);
    let mut command = daemon(&["run"]);
    command.arg("--config").arg(&file).arg("--key-file").arg(&key).env("NOTIFY_SOCKET", &manager.path);
    let mut daemon = Running::start(&namespace, &mut command)?;
    assert!(manager.heard()?.starts_with("READY=1"));
    for (text, expected, ready) in [
        (format!("{text}workerz = 2"), "testnic.toml:4:1: unknown key 'workerz'", "stay in use"),
        (format!("{text}workers = 2"), "\"options\":\"workers\"", "need a restart"),
        // Still waits for one.
        (format!("{text}workers = 2\nmax-flows = 5"), "\"options\":\"workers,max-flows\"", "need a restart"),
        (text.to_owned(), "\"changed\":\"\"", "was read again"),
    ] {
        std::fs::write(&file, text)?;
        daemon.signal(Signal::HUP)?;
        let said = wait_for(&mut daemon, ready)?;
        assert!(said.contains(expected), "no {expected} in {said}");
        let reloading = manager.heard()?;
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert!(manager.heard()?.starts_with("READY=1"));
    }
    daemon.signal(Signal::TERM)?;
    assert_eq!(daemon.end()?.0, Some(0));
    Ok(())
}

fn sighup() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    let mut daemon = Running::start(&namespace, &mut run("lo", "10.1.2.0/24:443", &key))?;
    let rotated = format!("3 {}\n{KEY}", "ab".repeat(16));
    for (text, expected) in
        [(rotated.as_str(), "signs with 3"), ("3 abc", "keys stay in use"), (KEY, "signs with 0")]
    {
        std::fs::write(&key, text)?;
        daemon.signal(Signal::HUP)?;
        let said = wait_for(&mut daemon, expected)?;
        assert!(!said.contains("abab"), "a key in the log: {said}");
    }
    daemon.signal(Signal::TERM)?;
    let (code, log) = daemon.end()?;
    assert_eq!(code, Some(0), "{log}");
    Ok(())
}

fn state_file() -> Result<(), Failed> {
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    let daemon = Running::start(&namespace, &mut run("lo", "10.1.2.0/24:443", &key))?;
    let file = state_dir(&key).join("testnic.state");
    assert!(file.exists());
    let second = namespace.enter(|| run("lo", "10.1.2.0/24:443", &key).output())??;
    let said = expect_code(&second, 78)?;
    expect_line(said.lines().last().unwrap_or_default(), &["testnic.state", "in use", "--state-dir"])?;
    daemon.signal(Signal::KILL)?;
    daemon.end()?;
    // Nothing of the dead one is in the way.
    let next = Running::start(&namespace, &mut run("lo", "10.1.2.0/24:443", &key))?;
    next.signal(Signal::TERM)?;
    assert_eq!(next.end()?.0, Some(0));
    assert!(file.exists(), "the flows live on after a stop");
    let mut without = run("lo", "10.1.2.0/24:443", &key);
    let both = without.arg("--no-state").output()?;
    expect_code(&both, 2)?;
    Ok(())
}

fn vanished_interface() -> Result<(), Failed> {
    let Some([near, far]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    let end = |namespace, name| VethEnd { namespace, name };
    Links::add_veth(end(&near, "lan0"), end(&far, "eth0"), 1500)?;
    Links::open(&near)?.bring_up("lan0")?;
    let daemon = Running::start(&near, &mut run("lan0", "10.1.2.0/24:443", &key))?;
    // With the namespace goes its end of the pair, and with that the other.
    drop(far);
    let (code, log) = daemon.end()?;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("testnic: interface 'lan0' was deleted"), "{log}");
    Ok(())
}

fn outlet_down() -> Result<(), Failed> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: without BPF there is no outlet, and that needs root");
        return Ok(());
    }
    let Some([namespace]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    let daemon = Running::start(&namespace, &mut run("lo", "10.1.2.0/24:443", &key))?;
    let devices = namespace.enter(interface::list)?.into_iter().map(|device| device.name);
    let links = Links::open(&namespace)?;
    // The other one is for super-packets; nobody misses it.
    for device in devices.filter(|name| name.starts_with(DEVICE_PREFIX)) {
        links.take_down(&device)?;
    }
    let (code, log) = daemon.end()?;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is down, and nothing can be captured there"), "{log}");
    Ok(())
}

/// Sends a megabyte through a router that runs the daemon, with all offloads on.
fn forwards(options: &[&str]) -> Result<(), Failed> {
    let Some([client, router, server]) = namespaces()? else { return Ok(()) };
    let (_kept, key) = key_file(KEY, 0o600);
    for (host, name, subnet, own) in [(&client, "lan0", 0, 10), (&server, "wan0", 2, 10)] {
        Links::add_veth(
            VethEnd { namespace: host, name: "eth0" },
            VethEnd { namespace: &router, name },
            1500,
        )?;
        let near = IpAddr::from([10, 1, subnet, own]);
        let gateway = IpAddr::from([10, 1, subnet, 1]);
        let (links, router) = (Links::open(host)?, Links::open(&router)?);
        links.add_address("eth0", near, 24)?;
        router.add_address(name, gateway, 24)?;
        links.bring_up("eth0")?;
        router.bring_up(name)?;
        links.add_route(IpAddr::from([0, 0, 0, 0]), 0, gateway)?;
    }
    sysctl::set(&router, &[("net.ipv4.ip_forward", "1")])?;
    let daemon = Running::start(&router, run("lan0,wan0", "10.1.2.0/24:443", &key).args(options))?;

    let listener = server.enter(|| TcpListener::bind("10.1.2.10:443"))??;
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    // Enough connections that each worker has some.
    for _ in 0..12 {
        let listener = listener.try_clone()?;
        let received = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        });
        let mut stream = client.enter(|| TcpStream::connect("10.1.2.10:443"))??;
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)?;
        // Ends when the server has closed, so that nothing is on its way any more but the last ACK.
        stream.read_to_end(&mut Vec::new())?;
        assert!(received.join().unwrap()? == sent, "what arrived is not what was sent");
    }

    daemon.signal(Signal::TERM)?;
    let (code, log) = daemon.end()?;
    assert_eq!(code, Some(0), "{log}");
    let number = |label: &str| -> u64 {
        let (_, rest) = log.split_once(label).unwrap_or_default();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
    };
    let (taken, kept) = (number("received="), number("\"packets\":"));
    assert!(taken > 20 && kept > 20, "{log}");
    // All that the daemon took and nothing else was kept from the kernel; the last ACK may have
    // come after the guard's count was read.
    assert!(taken.abs_diff(kept) <= 1, "{log}");
    assert!(!log.contains("send_"), "{log}");
    Ok(())
}

//! Tries what a unit's sandbox should forbid, and says of each attempt how it went.
//!
//! Every attempt is one that does no harm where it is allowed: in a machine of the test's own, on files made for that,
//! or with arguments that are found wrong after the permission.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, ExitCode, Stdio};

/// Has this program be the probe.
pub(crate) const AS_PROBE: &str = "RTT0_TEST_AS_PROBE";
/// Name of files that everybody may read and write, where only the sandbox is in the way.
pub(crate) const OPEN: &str = "rtt0-open";
/// A program that says whom it runs as, with root's set-user-id bit.
pub(crate) const SET_USER_ID: &str = "/usr/local/bin/rtt0-whoami";

type Attempt = fn() -> io::Result<()>;

/// What to try. All is possible for root without a sandbox.
pub(crate) const ATTEMPTS: [(&str, Attempt); 35] = [
    ("write in /etc", || write_to("/etc")),
    ("write in /usr", || write_to("/usr")),
    ("write in /var", || write_to("/var")),
    ("write in /run", || write_to("/run")),
    ("write in /dev/shm", || write_to("/dev/shm")),
    ("read in /home", || read_in("/home")),
    ("read in /root", || read_in("/root")),
    ("read in others' /tmp", || read_in("/tmp")),
    ("see others' BPF objects", || read_in("/sys/fs/bpf")),
    ("see another user's process", || fs::read("/proc/1/status").map(drop)),
    ("change a kernel parameter", || open_to_write("/proc/sys/kernel/core_pattern")),
    ("change a device's setting", || open_to_write("/sys/module/kernel/parameters/panic")),
    ("make a control group", || fs::create_dir("/sys/fs/cgroup/rtt0-probe")),
    ("open a block device", || File::open("/dev/loop0").map(drop)),
    ("make a block device", || succeeds("mknod", &["/run/rtt0/node", "b", "7", "0"])),
    ("mount", || succeeds("mount", &["-t", "tmpfs", "none", "/mnt"])),
    ("make a user namespace", || succeeds("unshare", &["--user", "true"])),
    ("make a network namespace", || succeeds("unshare", &["--net", "true"])),
    ("become root by set-user-id", become_root),
    ("make a set-user-id file", set_user_id),
    ("give a file away", || chown("/run/rtt0/probe", Some(1), None)),
    ("become another user", || call(libc::SYS_setuid, [0; 6])),
    ("trace a process", trace),
    ("load a module", || call(libc::SYS_finit_module, [-1, 0, 0, 0, 0, 0])),
    ("read the kernel's log", || call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0])),
    ("set the clock", || call(libc::SYS_clock_settime, [0; 6])),
    ("set the host's name", || call(libc::SYS_sethostname, [0, 1, 0, 0, 0, 0])),
    ("swap", || call(libc::SYS_swapon, [0; 6])),
    ("reboot", || call(libc::SYS_reboot, [0; 6])),
    ("change the root folder", || call(libc::SYS_chroot, [0; 6])),
    ("use the kernel's keyring", || call(libc::SYS_keyctl, [0, -3, 0, 0, 0, 0])),
    ("use io_uring", || call(libc::SYS_io_uring_setup, [0; 6])),
    ("change the personality", || call(libc::SYS_personality, [8, 0, 0, 0, 0, 0])),
    ("open a socket of another family", || call(libc::SYS_socket, [libc::AF_VSOCK.into(), 1, 0, 0, 0, 0])),
    ("map memory to write and execute", || {
        let (protection, flags) =
            (libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call(libc::SYS_mmap, [0, 4096, protection.into(), flags.into(), -1, 0])
    }),
];

/// What an attempt's line says if it was refused.
pub(crate) const REFUSED: &str = "refused";

pub(crate) fn main() -> ExitCode {
    for (name, attempt) in ATTEMPTS {
        match attempt() {
            Ok(()) => println!("{name}: done"),
            Err(error) if is_refusal(&error) => println!("{name}: {REFUSED} ({error})"),
            // The arguments are wrong, as was meant; nobody has objected to the call.
            Err(error) => println!("{name}: allowed ({error})"),
        }
    }
    ExitCode::SUCCESS
}

fn is_refusal(error: &io::Error) -> bool {
    // What is hidden does not exist.
    let refusals = [libc::EPERM, libc::EACCES, libc::EROFS, libc::EAFNOSUPPORT, libc::ENOENT];
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

fn write_to(folder: &str) -> io::Result<()> {
    open_to_write(&format!("{folder}/{OPEN}"))
}

/// Writes nothing.
fn open_to_write(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn read_in(folder: &str) -> io::Result<()> {
    fs::metadata(format!("{folder}/{OPEN}")).map(drop)
}

/// Of a program that fails it is taken that it was refused what it wants.
fn succeeds(program: &str, arguments: &[&str]) -> io::Result<()> {
    let status = Command::new(program).args(arguments).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn become_root() -> io::Result<()> {
    let output = Command::new(SET_USER_ID).arg("-u").output()?;
    if output.stdout == b"0\n" { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn set_user_id() -> io::Result<()> {
    File::create("/run/rtt0/probe")?;
    fs::set_permissions("/run/rtt0/probe", PermissionsExt::from_mode(0o4755))
}

/// A process of its own, which even an ordinary user may trace.
fn trace() -> io::Result<()> {
    let mut child = Command::new("sleep").arg("60").spawn()?;
    let outcome = call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), child.id().into(), 0, 0, 0, 0]);
    child.kill()?;
    child.wait()?;
    outcome
}

/// Makes a system call.
fn call(number: libc::c_long, arguments: [i64; 6]) -> io::Result<()> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no attempt gives a pointer but a null one, which the kernel does not follow; what mmap(2) maps is new.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

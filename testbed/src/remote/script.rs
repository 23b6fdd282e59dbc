//! The shell scripts that hosts run. No secret is in any: SSM keeps what it is sent.
//!
//! Whatever outlives its script is started by [`start`] and known by a file `NAME.pid` in the host's folder: process id
//! and start time, so that [`stop`] ends what was started and not whoever has the number now.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Seconds for a program to end after SIGTERM, before it is killed.
const GRACE: u32 = 10;
/// What a NIC's BPF programs are pinned under.
pub(super) const BPF_FOLDER: &str = "/sys/fs/bpf/rtt0-testbed";

/// Functions that scripts share. A zombie does not run: `started` says nothing of it.
const FUNCTIONS: &str = r#"
started() { sed -n 's/^[0-9]* (.*) [^ZX] //p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f19; }
runs() { [ -n "$2" ] && [ "$(started "$1")" = "$2" ]; }
"#;

/// A program to leave behind.
#[derive(Debug, Clone)]
pub struct Detached<'a> {
    /// What its files are named after.
    pub name: &'a str,
    /// The executable's arguments, written as shell words.
    pub arguments: &'a str,
    /// What its log says once it does its work.
    pub mark: &'a str,
    /// When it is ended if nobody has done so before.
    pub lifetime: Duration,
}

/// Writes `text` as one word of a shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Makes the host's folder, which only its owner may enter, and checks that the host has what scripts use.
pub fn prepare(folder: &str, forwards: bool) -> String {
    let mut script = format!(
        "set -eu\numask 077\nmkdir -p {folder}\nchmod 700 {folder}\n\
         for tool in setsid timeout sed cut grep tail readlink; do\n  command -v $tool >/dev/null || \
         {{ echo \"$tool is missing: install util-linux, coreutils, sed and grep\" >&2; exit 1; }}\ndone\n",
        folder = quote(folder),
    );
    if forwards {
        script.push_str(
            "[ \"$(cat /proc/sys/net/ipv4/ip_forward)\" = 1 ] || \
             { echo 'IP forwarding is off: sysctl -w net.ipv4.ip_forward=1' >&2; exit 1; }\n\
             [ \"$(cat /proc/sys/net/ipv4/conf/all/rp_filter)\" != 1 ] || \
             { echo 'rp_filter is strict: sysctl -w net.ipv4.conf.all.rp_filter=2' >&2; exit 1; }\n",
        );
    }
    script
}

/// Runs the installed executable with `arguments`, which are shell words.
pub fn execute(folder: &str, arguments: &str) -> String {
    format!("set -eu\ncd {}\n./testbed {arguments}\n", quote(folder))
}

/// Prints the device of each address, one per line.
pub fn devices(folder: &str, addresses: &[Ipv4Addr]) -> String {
    let lines = addresses.iter().map(|address| format!("./testbed station device {address}\n"));
    format!("set -eu\ncd {}\n{}", quote(folder), lines.collect::<String>())
}

/// Delays what leaves by a device.
pub fn delay(device: &str, time: Duration) -> String {
    format!(
        "set -eu\ncommand -v tc >/dev/null || {{ echo 'tc is missing: install iproute-tc' >&2; exit 1; }}\n\
         tc qdisc replace dev {device} root netem delay {}us limit 100000 || {{ echo \
         'netem is missing: install kernel-modules-extra, or leave --rtt out' >&2; exit 1; }}\n",
        time.as_micros(),
        device = quote(device),
    )
}

/// Starts a program that outlives the script, in a session of its own and with nothing of the script's open, and waits
/// until it does its work.
pub fn start(folder: &str, program: &Detached<'_>) -> String {
    let Detached { name, arguments, mark, lifetime } = program;
    format!(
        r#"set -eu
umask 077
cd {folder}
{FUNCTIONS}
RUST_LOG=info setsid timeout -k {GRACE} {seconds} ./testbed {arguments} </dev/null >{name}.log 2>&1 &
pid=$!
start=$(started "$pid")
echo "$pid $start" >{name}.pid
n=0
until grep -qs {mark} {name}.log; do
  n=$((n + 1))
  if ! runs "$pid" "$start" || [ "$n" -ge 150 ]; then
    echo "{name} did not come up; it said:" >&2
    tail -n 20 {name}.log >&2
    exit 1
  fi
  sleep 0.1
done
"#,
        folder = quote(folder),
        seconds = lifetime.as_secs(),
        mark = quote(mark),
    )
}

/// Ends the programs whose names begin with `prefix`, and fails if one is left. With an empty prefix nothing may be left
/// that runs the installed executable, whoever has started it.
pub fn stop(folder: &str, prefix: &str) -> String {
    // A pid file may be missing if the script that was to write it was cut short.
    let strays = match prefix {
        "" => {
            r#"  for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" 2>/dev/null) in "$here"/testbed*) exe=${exe#/proc/}; left="$left ${exe%/exe}" ;; esac
  done
"#
        }
        _ => "",
    };
    format!(
        r#"set -u
cd -P {folder} 2>/dev/null || exit 0
here=$PWD
{FUNCTIONS}
find_left() {{
  left=
  for file in {prefix}*.pid; do
    [ -f "$file" ] || continue
    read -r pid start <"$file" || continue
    if runs "$pid" "$start"; then left="$left $pid"; fi
  done
{strays}}}
n=0
while find_left; [ -n "$left" ]; do
  case $n in
    0 | 30) kill -TERM $left 2>/dev/null ;;
    150) kill -KILL $left 2>/dev/null ;;
    200) echo "still running: process$left" >&2; exit 1 ;;
  esac
  n=$((n + 1))
  sleep 0.1
done
rm -f {prefix}*.pid
"#,
        folder = quote(folder),
    )
}

/// Removes what a run has left on a host: the key at once, then all else, and what the kernel has for these devices.
pub fn clear(folder: &str, devices: &[String], delayed: bool) -> String {
    let mut script = format!("set -u\ncd / && rm -rf {}\n", quote(folder));
    if !devices.is_empty() {
        // Pins stay if a daemon was ended while the kernel still forwarded flows, and before Linux 6.6 filters, too.
        let _ = writeln!(script, "[ ! -d {BPF_FOLDER} ] || rm -rf {BPF_FOLDER}");
    }
    for device in devices {
        let device = quote(device);
        let _ = writeln!(
            script,
            "command -v tc >/dev/null && tc filter del dev {device} ingress pref 82 2>/dev/null"
        );
        if delayed {
            let _ = writeln!(script, "tc qdisc del dev {device} root 2>/dev/null");
        }
    }
    script.push_str("exit 0\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::{Command, Output};

    fn shell(script: &str) -> Output {
        Command::new("sh").args(["-c", script]).output().unwrap()
    }

    /// A folder with a `testbed` that says that it is ready and sleeps, whatever it is asked.
    fn folder_with(program: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let testbed = folder.path().join("testbed");
        std::fs::write(&testbed, program).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&testbed, executable).unwrap();
        folder
    }

    fn service(name: &str) -> Detached<'_> {
        Detached { name, arguments: "run", mark: "ready", lifetime: Duration::from_secs(60) }
    }

    fn pid(folder: &Path, name: &str) -> i32 {
        let text = std::fs::read_to_string(folder.join(name).with_extension("pid")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    fn runs(pid: i32) -> bool {
        Path::new(&format!("/proc/{pid}/cwd")).read_link().is_ok()
    }

    #[test]
    fn what_is_started_outlives_its_script_and_ends_with_its_stop() {
        let folder = folder_with("#!/bin/sh\necho ready\nexec sleep 60\n");
        let path = folder.path().to_str().unwrap();
        for name in ["one", "two"] {
            let started = shell(&start(path, &service(name)));
            assert!(started.status.success() && started.stdout.is_empty(), "{started:?}");
        }
        let pids = ["one", "two"].map(|name| pid(folder.path(), name));
        assert!(pids.iter().all(|pid| runs(*pid)));
        assert!(shell(&stop(path, "one")).status.success());
        assert_eq!(pids.map(runs), [false, true]);
        assert!(shell(&stop(path, "")).status.success());
        assert_eq!(pids.map(runs), [false, false]);
        assert!(shell(&stop(path, "")).status.success(), "there is nothing left to stop");
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let folder = folder_with("#!/bin/sh\necho 'no such interface' >&2\nexit 78\n");
        let output = shell(&start(folder.path().to_str().unwrap(), &service("nic")));
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no such interface"), "{output:?}");
    }

    #[test]
    fn a_number_that_is_another_processs_by_now_is_left_alone() {
        let folder = folder_with("");
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(folder.path().join("old.pid"), format!("{} 1\n", other.id())).unwrap();
        assert!(shell(&stop(folder.path().to_str().unwrap(), "")).status.success());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_without_a_pid_file_is_found_by_its_executable() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy("/bin/sleep", folder.path().join("testbed")).unwrap();
        let mut stray = Command::new(folder.path().join("testbed")).arg("60").spawn().unwrap();
        // As on a host, where nobody else waits for it.
        let reaper = std::thread::spawn(move || stray.wait());
        let output = shell(&stop(folder.path().to_str().unwrap(), ""));
        assert!(output.status.success(), "{output:?}");
        assert!(!reaper.join().unwrap().unwrap().success());
    }

    #[test]
    fn a_folder_is_made_for_its_owner_and_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("it's here/client");
        let path = folder.to_str().unwrap();
        let output = shell(&prepare(path, false));
        assert!(output.status.success(), "{output:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        assert!(shell(&clear(path, &[], false)).status.success());
        assert!(!folder.exists());
    }

    #[test]
    fn words_stay_words() {
        let output = shell(&format!("printf %s {}", quote("a'b $c `d`")));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a'b $c `d`");
    }
}

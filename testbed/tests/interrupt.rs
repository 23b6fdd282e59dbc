//! Whoever interrupts a comparison finds nothing left behind.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exit status without the privileges that namespaces need.
const NO_PRIVILEGE: i32 = 77;

#[test]
fn sigint_and_sigterm_end_a_comparison_and_leave_no_file() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = start(folder.path()).unwrap();
        wait_for_entry(folder.path(), &mut child).unwrap();
        if let Some(ended) = child.try_wait().unwrap() {
            assert_eq!(ended.code(), Some(NO_PRIVILEGE), "it ended by itself");
            eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN, or user namespaces");
            return;
        }
        // Into the measurement, where daemons and their files are.
        std::thread::sleep(Duration::from_millis(1500));
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(status));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_a_killed_one_leaves_the_next_removes_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut killed = start(folder.path()).unwrap();
    wait_for_entry(folder.path(), &mut killed).unwrap();
    if let Some(ended) = killed.try_wait().unwrap() {
        assert_eq!(ended.code(), Some(NO_PRIVILEGE), "it ended by itself");
        eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN, or user namespaces");
        return;
    }
    std::thread::sleep(Duration::from_millis(300));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = entries();
    assert_eq!(left.len(), 1);
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut next = start(folder.path()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // The first takes one away and makes one; the second only makes one.
        while entries().contains(&left[0]) || entries().len() != 1 + others.len() {
            assert!(Instant::now() < deadline, "{:?}", entries());
            assert_eq!(next.try_wait().unwrap(), None);
            std::thread::sleep(Duration::from_millis(5));
        }
        others.push(next);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(entries().len(), 2, "a living one's folder is not touched");
    for mut other in others {
        let sent = Command::new("kill").args(["-s", "TERM", &other.id().to_string()]).status().unwrap();
        assert!(sent.success());
        other.wait().unwrap();
    }
    assert!(entries().is_empty());
}

/// Starts a comparison that would take a minute, with its temporary files in `folder`.
fn start(folder: &Path) -> io::Result<Child> {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["compare", "--modes", "paired", "--rtt", "20", "--connections", "3000"])
        .args(["--clients", "builtin", "--servers", "builtin"])
        .env("TMPDIR", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Waits until the child has made a file or has ended.
fn wait_for_entry(folder: &Path, child: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(folder)?.next().is_none() && child.try_wait()?.is_none() {
        assert!(Instant::now() < deadline, "nothing happened in 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

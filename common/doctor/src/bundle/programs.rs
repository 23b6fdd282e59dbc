//! Runs a program of the host's for what it prints: for a bounded time, and no more than so much of it.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// Not the caller's search path: this may run as root.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns what a program prints, at most `most` bytes of it; or why there is nothing.
pub(super) fn output(command: &str, most: usize) -> Result<Vec<u8>, String> {
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "not installed".to_owned(),
            _ => error.to_string(),
        })?;
    let printed = read_aside(child.stdout.take(), most);
    let complaint = read_aside(child.stderr.take(), 1000);
    let deadline = Instant::now() + LONGEST;
    let status = wait(&mut child, deadline);
    // Something that it has started may still hold the pipe.
    let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
    let printed = printed.recv_timeout(left).unwrap_or_default();
    match status {
        Some(status) if status || !printed.is_empty() => Ok(printed),
        Some(_) => {
            let complaint = complaint.recv_timeout(PAUSE).unwrap_or_default();
            Err(format!("failed: {}", String::from_utf8_lossy(&complaint).trim()))
        }
        None => Err(format!("took longer than {} s", LONGEST.as_secs())),
    }
}

/// Returns whether it succeeded, or nothing if it had to be ended.
fn wait(child: &mut Child, deadline: Instant) -> Option<bool> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Reads on a thread of its own, which ends with the pipe or when there is enough.
fn read_aside(pipe: Option<impl Read + Send + 'static>, most: usize) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(most as u64).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_bounded() {
        assert_eq!(output("echo four", 2).unwrap(), b"fo");
        assert_eq!(output("cat /dev/zero", 1000).map(|bytes| bytes.len()), Ok(1000));
    }

    #[test]
    fn what_can_t_be_had_says_why() {
        assert_eq!(output("no-such-program", 10), Err("not installed".to_owned()));
        assert!(output("ls /no-such-folder", 10).unwrap_err().contains("No such file"));
        assert_eq!(output("sleep 60", 10), Err("took longer than 5 s".to_owned()));
    }
}

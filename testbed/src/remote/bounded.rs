//! Commands that end in bounded time, or are ended.

use super::interrupt::Interrupt;
use super::transport::Output;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Between two looks whether the user has interrupted.
const PERIOD: Duration = Duration::from_millis(50);
/// Most that is kept of an output, bytes.
const LIMIT: u64 = 1 << 20;
/// What a shell adds to a signal's number to make an exit status.
const BY_SIGNAL: i32 = 128;

/// Runs `command` in a process group of its own, so that a terminal's Ctrl-C does not reach it, and waits until it has
/// ended and nobody holds its output any more.
///
/// # Errors
/// If it can't be started, or does not end within `bound` or before an interrupt; then the group is killed.
pub(super) fn run(
    mut command: Command,
    bound: Duration,
    interrupt: Option<&Interrupt>,
) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("can't run {name}"))?;
    let outcome = wait(&mut child, bound, interrupt);
    if outcome.is_err() {
        end(&mut child);
    }
    outcome.with_context(|| format!("{name} was ended"))
}

fn wait(child: &mut Child, bound: Duration, interrupt: Option<&Interrupt>) -> anyhow::Result<Output> {
    let check = || interrupt.map_or(Ok(()), Interrupt::check);
    let deadline = Instant::now() + bound;
    let stdout = child.stdout.take().context("the output is not piped")?;
    let stderr = child.stderr.take().context("the output is not piped")?;
    let (sender, texts) = mpsc::channel();
    read_all(0, stdout, sender.clone())?;
    read_all(1, stderr, sender)?;
    let mut said = [String::new(), String::new()];
    for _ in 0..said.len() {
        let (which, text) = loop {
            check()?;
            match texts.recv_timeout(PERIOD) {
                Ok(read) => break read,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => bail!(
                    "it, or something it has started that holds its output, did not end within {bound:.0?}"
                ),
            }
        };
        said[which] = text;
    }
    // Whoever has closed its output ends soon, but for a program that has closed it on purpose.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        check()?;
        if Instant::now() >= deadline {
            bail!("it did not end within {bound:.0?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let [stdout, stderr] = said;
    let by_signal = || BY_SIGNAL + status.signal().unwrap_or(0);
    Ok(Output { status: status.code().unwrap_or_else(by_signal), stdout, stderr })
}

/// Reads a pipe to its end on a thread of its own; what exceeds the limit is thrown away.
fn read_all(
    which: usize,
    mut pipe: impl Read + Send + 'static,
    sender: mpsc::Sender<(usize, String)>,
) -> anyhow::Result<()> {
    let read = move || {
        let mut bytes = Vec::new();
        // A pipe that can't be read is as good as ended.
        let _ = pipe.by_ref().take(LIMIT).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        // Nobody waits any more if the time was up.
        let _ = sender.send((which, String::from_utf8_lossy(&bytes).into_owned()));
    };
    std::thread::Builder::new().name("output".into()).spawn(read).context("can't read the output")?;
    Ok(())
}

/// Kills the group of a child that has not been waited for, so that its number is still its own.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Nothing can be done about an error.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, bound: Duration) -> anyhow::Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, bound, None)
    }

    #[test]
    fn output_and_status_come_back() {
        let output = shell("echo out; echo err >&2; exit 7", Duration::from_secs(10)).unwrap();
        assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
        assert_eq!(shell("kill -TERM $$", Duration::from_secs(10)).unwrap().status, 143);
    }

    #[test]
    fn whoever_holds_the_output_holds_the_command_as_under_ssm() {
        let began = Instant::now();
        let error = shell("sleep 20 & exit 0", Duration::from_millis(300)).unwrap_err();
        assert!(format!("{error:#}").contains("holds its output"), "{error:#}");
        let script = "setsid sleep 1 </dev/null >/dev/null 2>&1 &";
        assert_eq!(shell(script, Duration::from_millis(900)).unwrap().status, 0);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_named() {
        let command = Command::new("/absent/aws");
        let error = run(command, Duration::from_secs(1), None).unwrap_err();
        assert!(error.to_string().contains("/absent/aws"), "{error}");
    }
}

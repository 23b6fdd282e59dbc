//! The programs of several dialogues, and what is seen of them.

use super::super::conversation::{Dialogue, Stage, listen};
use super::super::lab::Lab;
use super::endings::Watch;
use super::{Observation, Performed, Ports};
use crate::host::Host;
use anyhow::{Context, ensure};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// Ports of the dialogues: each has its own, so that one does not teach the daemons about another.
pub(in crate::scenario) const FIRST_PORT: u16 = 9000;
/// How long connections may take to leave both hosts' tables after both programs have closed,
/// round trips not counted.
const LINGER: Duration = Duration::from_secs(3);

/// Listening sockets at the server of a lab, one for each dialogue.
#[derive(Debug)]
pub(in crate::scenario) struct Company {
    dialogues: &'static [Dialogue],
    listeners: Vec<TcpListener>,
}

impl Company {
    /// Listens, and has the daemons, if there are any, learn of every port.
    ///
    /// # Errors
    /// If it can't listen, or one of the first talks fails.
    pub(in crate::scenario) fn gather(lab: &Lab, dialogues: &'static [Dialogue]) -> anyhow::Result<Self> {
        // All at once, here and below: they spend their time waiting for packets.
        let ports: Vec<u16> = (FIRST_PORT..).take(dialogues.len()).collect();
        let listeners = all(&ports, |port| {
            let listener = listen(lab, *port)?;
            Stage::on(lab, &listener)?.teach()?;
            Ok(listener)
        })?;
        settle(lab).context("after the first talks")?;
        Ok(Self { dialogues, listeners })
    }

    /// Has every dialogue once, with the ports in that state, and waits until no connection is left.
    ///
    /// # Errors
    /// If a connection is left, or something can't be recorded.
    pub(in crate::scenario) fn perform(&self, lab: &Lab, ports: Ports) -> anyhow::Result<Vec<Performed>> {
        let watch = Watch::start(lab.topology())?;
        let late = ports.begin(lab, &self.listeners)?;
        let talks: Vec<_> = self.dialogues.iter().zip(&self.listeners).collect();
        let seen = all(&talks, |(dialogue, listener)| {
            let (stage, began) = (Stage::on(lab, listener)?.late(late), Instant::now());
            let seen = stage.play(dialogue, None).context(dialogue.name)?;
            Ok((seen, began.elapsed()))
        })?;
        settle(lab)?;
        let watched = watch.stop()?;
        let tell = |((seen, time), listener): (_, &TcpListener)| -> anyhow::Result<Performed> {
            let server = SocketAddr::new(lab.server_address(), listener.local_addr()?.port());
            Ok(Performed {
                observation: Observation { seen, endings: watched.of(server, lab.setting().rtt) },
                time,
            })
        };
        seen.into_iter().zip(&self.listeners).map(tell).collect()
    }
}

/// Does something with everything, all at once.
fn all<T: Sync, R: Send>(
    things: &[T],
    act: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let act = &act;
    thread::scope(|scope| {
        let threads: Vec<_> = things.iter().map(|thing| scope.spawn(move || act(thing))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Waits until both hosts have no connection but those in TIME-WAIT.
///
/// # Errors
/// If a connection is left.
pub(super) fn settle(lab: &Lab) -> anyhow::Result<()> {
    let deadline = Instant::now() + LINGER + lab.setting().patience;
    for host in [&lab.topology().client, &lab.topology().server] {
        nothing_left(host, deadline)?;
    }
    Ok(())
}

fn nothing_left(host: &Host, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let left = host.enter(connections)??;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "both programs have closed, and {} still has:\n{}",
            host.name(),
            left.join("\n")
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads the connections in this namespace that are neither listening nor in TIME-WAIT; see
/// proc(5), `/proc/net/tcp`.
fn connections() -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
        lines.extend(text.lines().skip(1).filter(|line| is_alive(line)).map(str::to_owned));
    }
    Ok(lines)
}

/// Judges by the fourth column, the state in hexadecimal: 06 is TIME-WAIT, 0A is LISTEN.
fn is_alive(line: &str) -> bool {
    !matches!(line.split_whitespace().nth(3), None | Some("06" | "0A"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        let line = |state| format!("   1: 0A02010A:1F90 0A00010A:A1B2 {state} 00000000:00000000 00:0000 0");
        assert!(is_alive(&line("01")) && is_alive(&line("03")) && is_alive(&line("08")));
        assert!(!is_alive(&line("06")) && !is_alive(&line("0A")) && !is_alive(""));
    }
}

//! Dialogues under kernel forwarding and with both daemons, compared.

use super::conversation::{Dialogue, Event, Seen, Stage};
use super::lab::{Case, Lab, Setting};
use crate::host::Host;
use crate::nic::NicMode;
use anyhow::{Context, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// Ports of the dialogues: each has its own, so that one does not teach the daemons about another.
const FIRST_PORT: u16 = 9000;
/// How long connections may take to leave the server's table after both programs have closed.
const LINGER: Duration = Duration::from_secs(3);

/// Plays every dialogue once under kernel forwarding and once with both daemons, where each must
/// be 0-RTT; returns what was seen, which was the same.
///
/// # Errors
/// If something differs, a dialogue was not 0-RTT, or a connection is left at the server.
pub(super) fn verify(case: Case, dialogues: &'static [Dialogue]) -> anyhow::Result<Vec<Seen>> {
    let (kernel, paired) = thread::scope(|scope| {
        let kernel = scope.spawn(|| play(case, None, dialogues));
        let paired = play(case, Some(NicMode::Paired), dialogues);
        (kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), paired)
    });
    let kernel = kernel.context("under kernel forwarding")?;
    let paired = paired.context("with both daemons")?;
    for ((dialogue, expected), seen) in dialogues.iter().zip(&kernel).zip(&paired) {
        ensure!(
            !expected.has(|event| *event == Event::Failed(libc::EAGAIN)),
            "{case}: {}: under kernel forwarding something never happened: {expected}",
            dialogue.name
        );
        ensure!(
            expected == seen,
            "{case}: {}: as with kernel forwarding: {expected}; seen: {seen}",
            dialogue.name
        );
    }
    Ok(paired)
}

fn play(case: Case, nics: Option<NicMode>, dialogues: &[Dialogue]) -> anyhow::Result<Vec<Seen>> {
    let mut lab = Lab::raise(Setting::new(case, nics))?;
    // All at once: they spend their time waiting for packets.
    let outcomes: Vec<anyhow::Result<Seen>> = thread::scope(|scope| {
        let threads: Vec<_> = (FIRST_PORT..)
            .zip(dialogues)
            .map(|(port, dialogue)| {
                let lab = &lab;
                scope.spawn(move || {
                    Stage::raise(lab, port)?
                        .play(dialogue, None)
                        .with_context(|| format!("{case}: {}", dialogue.name))
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let seen = outcomes.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for host in [&lab.topology().client, &lab.topology().server] {
        nothing_left(host).with_context(|| case.to_string())?;
    }
    if let Some(nics) = lab.take_nics() {
        let (client, _) = nics.stop()?;
        let (spoofed, expected) = (client.of("event.spoofed_paired"), dialogues.len() as u64);
        ensure!(spoofed == expected, "{case}: {spoofed} of {expected} dialogues were 0-RTT");
    }
    Ok(seen)
}

/// Waits until the host has no connection but those in TIME-WAIT.
fn nothing_left(host: &Host) -> anyhow::Result<()> {
    let deadline = Instant::now() + LINGER;
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

//! The differential oracle: the same dialogues under kernel forwarding and with the NICs.
//!
//! ```text
//! lab without NICs ──► what both programs saw, order of FIN and RST ──┐
//!                                                                     ├─► the same, or declared
//! lab with NICs ─────► what both programs saw, order of FIN and RST ──┘
//! ```
//!
//! What may differ is in one table, [`declared`], which the documentation repeats. Anything else
//! that differs fails the scenario.

pub(super) mod declared;
mod endings;

use super::Report;
use super::conversation::{Dialogue, Event, Seen, Stage, listen};
use super::lab::{Case, Lab, Setting};
use crate::host::Host;
use crate::nic::{Counts, NicMode};
use anyhow::{Context, ensure};
use endings::{Endings, Watch};
use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Ports of the dialogues: each has its own, so that one does not teach the daemons about another.
pub(super) const FIRST_PORT: u16 = 9000;
/// How long connections may take to leave both hosts' tables after both programs have closed,
/// round trips not counted.
const LINGER: Duration = Duration::from_secs(3);

/// What one world showed of a connection to those at its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observation {
    /// What system calls returned.
    pub(super) seen: Seen,
    /// FINs and RSTs on the hosts' own links.
    pub(super) endings: Endings,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.seen, self.endings)
    }
}

/// How many of a trial's dialogues have to be answered early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    /// Every one: the daemons know the server and nothing stands in the way.
    All,
    /// It does not matter.
    Any,
}

/// Something done to a lab between two steps of a trial.
pub(super) type Change = fn(&mut Lab) -> anyhow::Result<()>;

/// Something that must hold of a lab after its dialogues.
pub(super) type Check = fn(&Lab) -> anyhow::Result<()>;

/// Dialogues to be had once under kernel forwarding and once with the NICs.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    setting: Setting,
    early: Early,
    dialogues: &'static [Dialogue],
    mode: NicMode,
    prepare: Option<Change>,
    upset: Option<Change>,
    check: Option<Check>,
    deaf: bool,
    disorderly: bool,
}

/// What one world showed of every dialogue and how long each took, and what the daemons counted
/// if there were any.
type Played = (Vec<Observation>, Vec<Duration>, Option<(Counts, Counts)>);

/// What a trial showed with the NICs, all of it as under kernel forwarding or declared.
#[derive(Debug)]
pub(super) struct Verified {
    /// ClientNIC's counters.
    pub(super) client: Counts,
    /// ServerNIC's counters.
    pub(super) server: Counts,
    /// How long each dialogue took, under kernel forwarding and with the NICs.
    pub(super) times: Vec<[Duration; 2]>,
}

impl Trial {
    /// Over 50 ms with both daemons, every dialogue 0-RTT.
    pub(super) fn new(case: Case, dialogues: &'static [Dialogue]) -> Self {
        Self {
            setting: Setting::new(case, None),
            early: Early::All,
            dialogues,
            mode: NicMode::Paired,
            prepare: None,
            upset: None,
            check: None,
            deaf: false,
            disorderly: false,
        }
    }

    /// Raises both labs in another way; the daemons of `setting` do not matter.
    pub(super) fn setting(self, setting: Setting) -> Self {
        Self { setting, ..self }
    }

    /// Says how many dialogues have to be 0-RTT.
    pub(super) fn early(self, early: Early) -> Self {
        Self { early, ..self }
    }

    /// Has the daemons run in another mode than `paired`.
    pub(super) fn mode(self, mode: NicMode) -> Self {
        Self { mode, ..self }
    }

    /// Changes either lab before the daemons learn of the dialogues' servers.
    pub(super) fn prepare(self, change: Change) -> Self {
        Self { prepare: Some(change), ..self }
    }

    /// Changes either lab after the daemons have learned of them, behind their backs.
    pub(super) fn upset(self, change: Change) -> Self {
        Self { upset: Some(change), ..self }
    }

    /// Has something looked at in either lab after the dialogues.
    pub(super) fn check(self, check: Check) -> Self {
        Self { check: Some(check), ..self }
    }

    /// Closes the servers' ports after the daemons have learned of them.
    pub(super) fn deaf(self) -> Self {
        Self { deaf: true, ..self }
    }

    /// Says that the path disturbs the order of packets by chance, so that a reset behind both FINs
    /// may or may not be seen in either world.
    pub(super) fn disorderly(self) -> Self {
        Self { disorderly: true, ..self }
    }

    /// Has all dialogues in both worlds, and compares.
    ///
    /// # Errors
    /// If something differs that is not declared, something never happened even under kernel
    /// forwarding, another number of dialogues was 0-RTT than expected, or a connection is left
    /// at a host.
    pub(super) fn verify(&self, report: &mut Report) -> anyhow::Result<Verified> {
        let case = self.setting.case;
        let (kernel, nics) = thread::scope(|scope| {
            let kernel = scope.spawn(|| self.play(None));
            let nics = self.play(Some(self.mode));
            (kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), nics)
        });
        let (kernel, kernel_times, _) = kernel.context("under kernel forwarding")?;
        let (observations, times, counts) = nics.context("with the NICs")?;
        let (client, server) = counts.context("the lab had no NICs")?;
        for ((dialogue, expected), observed) in self.dialogues.iter().zip(&kernel).zip(&observations) {
            let what = format!("{case}: {}", dialogue.name);
            ensure!(
                !expected.seen.has(|event| *event == Event::Failed(libc::EAGAIN)),
                "{what}: under kernel forwarding something never happened: {expected}"
            );
            report.compare(&what, expected, observed)?;
        }
        let early = client.of("event.spoofed_paired") + client.of("event.spoofed_solo");
        let wanted = match self.early {
            Early::All => self.dialogues.len() as u64,
            Early::Any => early,
        };
        ensure!(early == wanted, "{case}: {early} of {wanted} dialogues were 0-RTT");
        let times = kernel_times.into_iter().zip(times).map(|(kernel, nics)| [kernel, nics]).collect();
        Ok(Verified { client, server, times })
    }

    fn play(&self, nics: Option<NicMode>) -> anyhow::Result<Played> {
        let mut lab = Lab::raise(Setting { nics, ..self.setting.clone() })?;
        let case = self.setting.case;
        if let Some(change) = self.prepare {
            change(&mut lab).with_context(|| format!("{case}: preparing"))?;
        }
        // All at once, here and below: they spend their time waiting for packets.
        let ports: Vec<u16> = (FIRST_PORT..).take(self.dialogues.len()).collect();
        let listeners = all(&ports, |port| {
            let listener = listen(&lab, *port)?;
            Stage::on(&lab, &listener)?.teach()?;
            Ok(listener)
        })?;
        settle(&lab).with_context(|| format!("{case}: after the first talks"))?;
        if let Some(change) = self.upset {
            change(&mut lab).with_context(|| format!("{case}: upsetting"))?;
        }
        if self.deaf {
            for listener in &listeners {
                // Linux: a listening socket that is shut down refuses connections.
                rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?;
            }
        }
        let watch = Watch::start(lab.topology())?;
        let talks: Vec<_> = self.dialogues.iter().zip(&listeners).collect();
        let seen = all(&talks, |(dialogue, listener)| {
            let (stage, began) = (Stage::on(&lab, listener)?, Instant::now());
            let seen = stage.play(dialogue, None).with_context(|| format!("{case}: {}", dialogue.name))?;
            Ok((seen, began.elapsed()))
        })?;
        let (seen, times): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        settle(&lab).with_context(|| case.to_string())?;
        if let Some(check) = self.check {
            check(&lab).with_context(|| case.to_string())?;
        }
        let watched = watch.stop()?;
        let endings = ports.iter().map(|port| watched.of(SocketAddr::new(lab.server_address(), *port)));
        let endings = endings.map(|e| if self.disorderly { e.without_late_resets() } else { e });
        let observations =
            seen.into_iter().zip(endings).map(|(seen, endings)| Observation { seen, endings }).collect();
        let counts = lab.take_nics().map(|nics| nics.stop()).transpose()?;
        Ok((observations, times, counts))
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
fn settle(lab: &Lab) -> anyhow::Result<()> {
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

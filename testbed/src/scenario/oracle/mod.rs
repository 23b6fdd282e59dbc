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

mod company;
pub(super) mod declared;
mod endings;
mod ports;

use super::Report;
use super::conversation::{Dialogue, Event, Seen};
use super::lab::{Case, Lab, Setting};
use crate::nic::{Counts, NicMode};
use anyhow::{Context, ensure};
use endings::Endings;
use std::fmt;
use std::thread;
use std::time::Duration;

pub(super) use company::{Company, FIRST_PORT};
pub(super) use ports::Ports;

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
    ports: Ports,
    rounds: usize,
    disorderly: bool,
    expected: Option<&'static str>,
}

/// What one world showed of every dialogue in every round, and what the daemons counted if there
/// were any.
type Played = (Vec<Vec<Performed>>, Option<(Counts, Counts)>);

/// What a dialogue showed.
#[derive(Debug, Clone)]
pub(super) struct Performed {
    /// What was seen of it.
    pub(super) observation: Observation,
    /// How long it took.
    pub(super) time: Duration,
}

/// What a trial showed with the NICs, all of it as under kernel forwarding or declared.
#[derive(Debug)]
pub(super) struct Verified {
    /// ClientNIC's counters.
    pub(super) client: Counts,
    /// ServerNIC's counters.
    pub(super) server: Counts,
    /// How long each dialogue took in the last round, under kernel forwarding and with the NICs.
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
            ports: Ports::Open,
            rounds: 1,
            disorderly: false,
            expected: None,
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

    /// Says after which time something counts as never.
    pub(super) fn patience(self, patience: Duration) -> Self {
        Self { setting: Setting { patience, ..self.setting }, ..self }
    }

    /// Says what the servers' ports do once the daemons have learned of them.
    pub(super) fn ports(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// Has the dialogues so often, each time over new connections.
    pub(super) fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    /// Allows a declared difference, by its name, in the first round.
    pub(super) fn expect(self, difference: &'static str) -> Self {
        Self { expected: Some(difference), ..self }
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
        let (mut kernel, _) = kernel.context("under kernel forwarding")?;
        let (mut nics, counts) = nics.context("with the NICs")?;
        let (client, server) = counts.context("the lab had no NICs")?;
        for (round, (kernel, nics)) in kernel.iter().zip(&nics).enumerate() {
            let expected = self.expected.filter(|_| round == 0);
            let what =
                if self.rounds == 1 { case.to_string() } else { format!("{case}, round {}", round + 1) };
            compare(report, &what, self.dialogues, (kernel, nics), expected)?;
        }
        let early = client.of("event.spoofed_paired") + client.of("event.spoofed_solo");
        let wanted = match self.early {
            Early::All => (self.dialogues.len() * self.rounds) as u64,
            Early::Any => early,
        };
        ensure!(early == wanted, "{case}: {early} of {wanted} dialogues were 0-RTT");
        let last = kernel.pop().into_iter().flatten().zip(nics.pop().into_iter().flatten());
        let times = last.map(|(kernel, nics)| [kernel.time, nics.time]).collect();
        Ok(Verified { client, server, times })
    }

    fn play(&self, nics: Option<NicMode>) -> anyhow::Result<Played> {
        let mut lab = Lab::raise(Setting { nics, ..self.setting.clone() })?;
        let case = self.setting.case;
        if let Some(change) = self.prepare {
            // What taught the daemons has to be over before anything is done to its packets.
            company::settle(&lab).with_context(|| format!("{case}: before preparing"))?;
            change(&mut lab).with_context(|| format!("{case}: preparing"))?;
        }
        let company = Company::gather(&lab, self.dialogues).with_context(|| case.to_string())?;
        if let Some(change) = self.upset {
            change(&mut lab).with_context(|| format!("{case}: upsetting"))?;
        }
        let mut rounds = Vec::with_capacity(self.rounds);
        for round in 0..self.rounds {
            // The ports' state lasts.
            let ports = if round == 0 { self.ports } else { Ports::Open };
            let mut performed = company.perform(&lab, ports).with_context(|| case.to_string())?;
            if self.disorderly {
                performed.iter_mut().for_each(|p| p.observation.endings.forget_late_resets());
            }
            rounds.push(performed);
        }
        if let Some(check) = self.check {
            check(&lab).with_context(|| case.to_string())?;
        }
        let counts = lab.take_nics().map(|nics| nics.stop()).transpose()?;
        Ok((rounds, counts))
    }
}

/// Compares what two worlds showed of the same dialogues: kernel forwarding and NICs.
///
/// # Errors
/// If something differs that is neither declared for anywhere nor `expected`, or a client waited in
/// vain even under kernel forwarding.
pub(super) fn compare(
    report: &mut Report,
    what: &str,
    dialogues: &[Dialogue],
    (kernel, nics): (&[Performed], &[Performed]),
    expected: Option<&str>,
) -> anyhow::Result<()> {
    for ((dialogue, kernel), nics) in dialogues.iter().zip(kernel).zip(nics) {
        let (what, kernel) = (format!("{what}: {}", dialogue.name), &kernel.observation);
        let in_vain = |event: &Event| *event == Event::Failed(libc::EAGAIN);
        // A server to which nobody gets through has nothing to accept.
        let unmet = kernel.seen.server.as_slice() == [Event::Failed(libc::EAGAIN)];
        ensure!(
            !kernel.seen.client.iter().any(in_vain) && (unmet || !kernel.seen.server.iter().any(in_vain)),
            "{what}: under kernel forwarding something never happened: {kernel}"
        );
        report.compare(&what, kernel, &nics.observation, expected)?;
    }
    Ok(())
}

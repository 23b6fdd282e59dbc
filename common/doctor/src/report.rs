//! What the doctor says: findings by likelihood, and what it could not see.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use crate::finding::{Cause, Finding};
use crate::patient::Role;

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What.
    pub what: String,
    /// Why, and what would help.
    pub why: String,
    /// Whether a host cannot be called healthy without it.
    pub is_essential: bool,
}

/// What was looked at and found.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    unseen: Vec<Unseen>,
    facts: Vec<(String, String)>,
}

impl Report {
    /// Adds a finding. One of the same cause, layer and subject is joined with it.
    pub fn find(&mut self, finding: Finding) {
        let same = |other: &&mut Finding| {
            (other.cause.id, other.layer, &other.subject)
                == (finding.cause.id, finding.layer, &finding.subject)
        };
        match self.findings.iter_mut().find(same) {
            Some(other) => fold(other, finding),
            None => self.findings.push(finding),
        }
    }

    /// Says that something could not be looked at, without which the others still tell enough.
    pub fn cannot_see(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.unseen.push(Unseen { what: what.into(), why: why.into(), is_essential: false });
    }

    /// Says that something could not be looked at, without which nobody can call the host healthy.
    pub fn is_blind_to(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.unseen.push(Unseen { what: what.into(), why: why.into(), is_essential: true });
    }

    /// Notes what is as it should be, or is worth knowing: a name and a value.
    pub fn note(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push((name.into(), value.into()));
    }

    /// Returns the findings as they are.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns what could not be looked at.
    pub fn unseen(&self) -> &[Unseen] {
        &self.unseen
    }

    /// Folds consequences into their causes and puts the most likely first: by rank, then by the packets lost, then in the
    /// order in which a packet passes the layers.
    pub fn conclude(&mut self) {
        let all = std::mem::take(&mut self.findings);
        let roots: Vec<&'static str> = all.iter().map(|finding| root(finding.cause, &all)).collect();
        let (mut kept, mut effects) = (Vec::<Finding>::new(), Vec::new());
        for (finding, root) in all.into_iter().zip(roots) {
            if finding.cause.id == root { kept.push(finding) } else { effects.push((finding, root)) }
        }
        for (effect, root) in effects {
            // There is one: roots are taken from among the findings.
            if let Some(cause) = kept.iter_mut().find(|cause| cause.cause.id == root) {
                fold(cause, effect);
            }
        }
        let mut kept = named(kept);
        kept.sort_by(|a, b| (a.rank, b.lost, a.layer).cmp(&(b.rank, a.lost, b.layer)));
        self.findings = kept;
    }

    /// Returns 0 for a healthy host, 1 if there are findings, 2 if it could not be looked at.
    pub fn status(&self) -> u8 {
        match () {
            () if !self.findings.is_empty() => 1,
            () if self.unseen.iter().any(|unseen| unseen.is_essential) => 2,
            () => 0,
        }
    }

    /// Returns [`Report::status`] as a process's exit status.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// Writes it for machines.
    pub fn json(&self, role: Role) -> Value {
        let findings: Vec<_> = self.findings.iter().map(finding_json).collect();
        json!({
            "role": role,
            "status": self.status(),
            "findings": findings,
            "unseen": self.unseen,
            "facts": self.facts.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
        })
    }

    /// Writes it for people, with colours if `is_coloured`.
    pub fn text(&self, is_coloured: bool) -> String {
        let paint = |code: &str, text: &str| match is_coloured {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let mut out = String::new();
        for (number, finding) in self.findings.iter().enumerate() {
            let subject =
                if finding.subject.is_empty() { String::new() } else { format!(" ({})", finding.subject) };
            let title = format!("{}. {}{subject}", number + 1, finding.cause.title);
            let _ = writeln!(out, "{}", paint("1;31", &title));
            let _ = write!(out, "   {} · {} · {}", finding.layer, rank_words(finding), finding.cause.id);
            if finding.lost > 0 {
                let _ = write!(out, " · packets lost meanwhile: {}", finding.lost);
            }
            out.push('\n');
            for evidence in &finding.evidence {
                let _ = writeln!(out, "   - {evidence}");
            }
            for (name, text) in [("see", &finding.command), ("fix", &finding.fix)] {
                if !text.is_empty() {
                    let _ = writeln!(out, "   {} {text}", paint("1", &format!("{name}:")));
                }
            }
            out.push('\n');
        }
        if self.findings.is_empty() {
            let verdict = match self.status() {
                0 => paint("1;32", "nothing found: healthy, as far as was seen"),
                _ => paint("1;33", "nothing found, but too little could be looked at"),
            };
            let _ = writeln!(out, "{verdict}\n");
        }
        for (name, value) in &self.facts {
            let _ = writeln!(out, "   {name}: {value}");
        }
        for unseen in &self.unseen {
            let _ = writeln!(out, "   {} {}: {}", paint("33", "not seen:"), unseen.what, unseen.why);
        }
        out
    }
}

/// Returns the cause of which another is a consequence, over as many steps as there are, or its own.
fn root(cause: &'static Cause, all: &[Finding]) -> &'static str {
    let mut root = cause;
    // No longer than there are findings, should two explain one another.
    for _ in all {
        match all.iter().map(|finding| finding.cause).find(|other| other.explains.contains(&root.id)) {
            Some(other) => root = other,
            None => break,
        }
    }
    root.id
}

/// Joins what one account knows of all with what another has found out about a single one: of the same cause and layer, where
/// only one has a subject, there is one finding.
fn named(all: Vec<Finding>) -> Vec<Finding> {
    let is_same = |a: &Finding, b: &Finding| (a.cause.id, a.layer) == (b.cause.id, b.layer);
    let (whole, mut kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|finding| finding.subject.is_empty());
    for finding in whole {
        let mut of_these = kept.iter_mut().filter(|other| is_same(other, &finding));
        match (of_these.next(), of_these.next()) {
            (Some(single), None) => fold(single, finding),
            _ => kept.push(finding),
        }
    }
    kept
}

/// Adds what another finding has seen.
fn fold(finding: &mut Finding, other: Finding) {
    finding.rank = finding.rank.min(other.rank);
    finding.lost = finding.lost.max(other.lost);
    for evidence in other.evidence {
        if !finding.evidence.contains(&evidence) {
            finding.evidence.push(evidence);
        }
    }
}

fn rank_words(finding: &Finding) -> &'static str {
    use crate::finding::Rank;
    match finding.rank {
        Rank::Loss => "packets are lost here",
        Rank::Fault => "packets that need this are lost",
        Rank::Symptom => "packets are lost, here or elsewhere",
        Rank::Suspicion => "may lose packets",
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "cause": finding.cause.id,
        "title": finding.cause.title,
        "layer": finding.layer,
        "rank": finding.rank,
        "subject": finding.subject,
        "lost": finding.lost,
        "evidence": finding.evidence,
        "command": finding.command,
        "fix": finding.fix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Layer, Rank};

    const ROOT: Cause = Cause { id: "root", title: "the root", explains: &["effect"] };
    const EFFECT: Cause = Cause { id: "effect", title: "an effect", explains: &["far"] };
    const FAR: Cause = Cause { id: "far", title: "a far effect", explains: &[] };
    const OTHER: Cause = Cause { id: "other", title: "something else", explains: &[] };

    fn causes(report: &Report) -> Vec<&str> {
        report.findings().iter().map(|finding| finding.cause.id).collect()
    }

    #[test]
    fn effects_are_folded_into_their_cause_and_give_it_their_rank() {
        let mut report = Report::default();
        report.find(Finding::new(&OTHER, Layer::Qdisc, Rank::Fault));
        report.find(Finding::new(&EFFECT, Layer::Ip, Rank::Loss).losing(7).because("seven"));
        report.find(Finding::new(&ROOT, Layer::Ip, Rank::Suspicion).because("off"));
        report.conclude();
        assert_eq!(causes(&report), ["root", "other"]);
        let root = &report.findings()[0];
        assert_eq!((root.rank, root.lost, root.evidence.join(" ")), (Rank::Loss, 7, "off seven".to_owned()));
    }

    #[test]
    fn without_its_cause_an_effect_stands_for_itself() {
        let mut report = Report::default();
        report.find(Finding::new(&FAR, Layer::Ip, Rank::Symptom));
        report.find(Finding::new(&OTHER, Layer::Qdisc, Rank::Loss).losing(1));
        report.conclude();
        assert_eq!(causes(&report), ["other", "far"]);
    }

    #[test]
    fn an_effect_of_an_effect_goes_where_that_goes() {
        let mut report = Report::default();
        for cause in [&FAR, &ROOT, &EFFECT] {
            report.find(Finding::new(cause, Layer::Ip, Rank::Symptom).because(cause.id));
        }
        report.conclude();
        assert_eq!(causes(&report), ["root"]);
        assert_eq!(report.findings()[0].evidence, ["root", "far", "effect"]);
    }

    #[test]
    fn the_same_twice_is_one_finding() {
        let mut report = Report::default();
        for _ in 0..2 {
            report.find(Finding::new(&OTHER, Layer::Qdisc, Rank::Loss).of("eth0").because("full"));
        }
        report.find(Finding::new(&OTHER, Layer::Qdisc, Rank::Loss).of("eth1"));
        report.conclude();
        assert_eq!((report.findings().len(), report.findings()[0].evidence.len()), (2, 1));
    }

    #[test]
    fn what_is_known_of_all_goes_to_the_only_one_that_is_named() {
        let finding = |subject| Finding::new(&OTHER, Layer::Socket, Rank::Loss).of(subject).because(subject);
        let subjects = |all: &[&'static str]| {
            let mut report = Report::default();
            all.iter().for_each(|subject| report.find(finding(*subject)));
            report.conclude();
            let told = report.findings().iter();
            told.map(|finding| (finding.subject.clone(), finding.evidence.len())).collect::<Vec<_>>()
        };
        assert_eq!(subjects(&["", "port 80"]), [("port 80".to_owned(), 2)]);
        assert_eq!(subjects(&["port 80", "", "port 81"]).len(), 3);
        assert_eq!(subjects(&[""]), [(String::new(), 1)]);
    }

    #[test]
    fn blindness_is_not_health() {
        let mut report = Report::default();
        assert_eq!(report.status(), 0);
        report.cannot_see("drop reasons", "no BTF");
        assert_eq!(report.status(), 0);
        report.is_blind_to("nftables", "needs CAP_NET_ADMIN");
        assert_eq!(report.status(), 2);
        report.find(Finding::new(&OTHER, Layer::Qdisc, Rank::Loss));
        assert_eq!(report.status(), 1);
        assert!(report.text(false).contains("not seen: nftables"));
    }
}

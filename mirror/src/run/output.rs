//! What is told each second, on standard output.

use std::io::{self, Write};

use crate::config::Config;
use crate::judgement::Judgement;
use crate::observe::Report;
use crate::snapshot::Snapshot;

use super::replies::Wanted;

/// Writes a line for each snapshot.
#[derive(Debug)]
pub(super) struct Output {
    is_json: bool,
    before: Snapshot,
}

impl Output {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, before: Snapshot::default() }
    }

    /// Writes one line. Nobody may be listening any more; that is no reason to stop.
    pub(super) fn tell(&mut self, now: &Snapshot) {
        let line = match self.is_json {
            true => serde_json::to_string(now).unwrap_or_default(),
            false if now.is_final => summary(now),
            false => now.since(&self.before).to_string(),
        };
        let _ = writeln!(io::stdout(), "{line}");
        self.before = now.clone();
    }
}

/// Writes what was observed.
///
/// # Errors
/// It can't be written as JSON.
pub(super) fn conclude(report: &Report, is_json: bool) -> anyhow::Result<()> {
    let text = match is_json {
        true => serde_json::to_string(&serde_json::json!({ "report": report }))?,
        false => report.to_text(),
    };
    let _ = writeln!(io::stdout(), "{text}");
    Ok(())
}

/// Returns all that has happened, for people.
fn summary(all: &Snapshot) -> String {
    let mut text = format!(
        "{} packets captured in {:.1} s: {} sent, {} observed, {} dropped; {} lost before the capture, {} strayed",
        all.captured,
        all.seconds,
        all.sent,
        all.observed,
        all.drops(),
        all.overflow,
        all.strayed
    );
    for (label, count) in &all.dropped {
        text.push_str(&format!("\n  {label:<20} {count}"));
    }
    for rule in &all.rules {
        text.push_str(&format!("\n  rule {:<15} {} packets, {} bytes", rule.name, rule.packets, rule.bytes));
    }
    if let Some(replies) = &all.replies {
        text.push_str(&format!(
            "\n{} replies captured: {} sent, {} dropped; {} lost before the capture; of flows {} replaced, {} ambiguous",
            replies.captured,
            replies.sent,
            replies.drops(),
            replies.overflow,
            replies.replaced,
            replies.ambiguous
        ));
        for (label, count) in &replies.dropped {
            text.push_str(&format!("\n  {label:<20} {count}"));
        }
    }
    text
}

/// Says what a configuration means.
pub(super) fn explain(config: &Config, judgement: &Judgement, wanted: Option<&Wanted>) {
    let mut text = format!("mirror arrives at {}", config.interface);
    for tunnel in &config.tunnels {
        let vnis = match &*tunnel.vnis {
            [] => "any identifier".to_owned(),
            vnis => format!("identifiers {vnis:?}"),
        };
        text.push_str(&format!("\n  {:?} at UDP port {}, {vnis}", tunnel.kind, tunnel.port));
    }
    match &judgement.allowlist {
        Some(list) => {
            text.push_str(&format!(
                "\nallowed are {} prefixes of {} organisations",
                list.prefixes(),
                list.owners().len()
            ));
        }
        None => text.push_str("\neverybody is allowed: no allowlist is named"),
    }
    match &config.egress {
        Some(egress) => text.push_str(&format!("\nwhat is translated leaves by {egress} only")),
        None => text.push_str("\nnothing is forwarded: no egress is named"),
    }
    for (_, rule) in config.rules.iter() {
        let port = rule.to.1.map_or("the same port".to_owned(), |port| format!("port {port}"));
        text.push_str(&format!("\n  rule {}: to {}, {port}", rule.name, rule.to.0));
    }
    if let Some(wanted) = wanted {
        text.push_str(&format!("\nreplies are given back, {wanted}"));
    }
    for rule in config.rules.never_reached() {
        text.push_str(&format!("\n  rule {} is never reached: rules before it take all", rule.name));
    }
    let _ = writeln!(io::stdout(), "{text}");
}

//! What is told each second, on standard output.

use std::io::{self, Write};

use crate::snapshot::Snapshot;

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
    text
}

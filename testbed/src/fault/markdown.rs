//! The table for the documentation.

use super::run::{Outcome, Outcomes, Tally};

/// Renders it.
pub(super) fn render(outcomes: &[Outcome], tally: &Tally) -> String {
    let mut out = format!(
        "# What the doctor makes of faults\n\nMade by `testbed faults --markdown docs/FAULTS.md`, as root; see \
         [DOCTOR.md](DOCTOR.md). Each row is a site of its own, in network namespaces, and the verdict of a doctor that ran on \
         the sick host.\n\n**{tally}.**\n"
    );
    let groups = [("Faults", true, "injected", "named first"), ("Healthy sites", false, "site", "found")];
    for (title, is_fault, what, found) in groups {
        out += &format!("\n## {title}\n\n| case | {what} | {found} | as it should |\n|---|---|---|---|\n");
        for outcome in outcomes.iter().filter(|outcome| outcome.is_fault == is_fault) {
            out += &row(outcome);
        }
    }
    out
}

fn row(outcome: &Outcome) -> String {
    let first = outcome.findings.first().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let verdict = match outcome.result {
        Outcomes::Right => "yes".to_owned(),
        Outcomes::NotFirst => format!("no: {} came later", outcome.expected),
        Outcomes::Wrong => format!("no: {}", outcome.expected),
        Outcomes::Skipped => format!("not tried: {}", outcome.remark),
    };
    format!("| `{}` | {} | {first} | {verdict} |\n", outcome.case, outcome.about.replace('|', "\\|"))
}

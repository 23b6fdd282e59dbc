//! What came out.

use crate::Plan;
use crate::course::{Course, Result};
use crate::subject::Subject;

/// Results of all rounds.
pub(crate) struct Table {
    notes: Vec<String>,
    rows: Vec<(Subject, Vec<Result>)>,
}

impl Table {
    pub(crate) fn new(course: &Course, plan: &Plan) -> Self {
        let mut notes = vec![
            format!(
                "UDP payload of {} bytes on the mirrored side (inner payload {}), {} allowed sources; the sender alone \
                 manages {:.0} packets/s.",
                course.length,
                plan.bytes,
                course.allowed.len(),
                course.sender
            ),
            format!(
                "Medians of {} rounds in turns. Two processors, shared with all else on the machine: one for the sender, \
                 one for receiving, forwarding and sending on.",
                plan.rounds
            ),
        ];
        if !course.is_steered {
            notes.push(
                "The kernel's receive path could not be moved (unshare, sysfs): it is on the sender's processor.".to_owned(),
            );
        }
        Self { notes, rows: Vec::new() }
    }

    /// Adds what a round gave.
    pub(crate) fn add(&mut self, subject: Subject, result: Result) {
        match self.rows.iter_mut().find(|(row, _)| *row == subject) {
            Some((_, results)) => results.push(result),
            None => self.rows.push((subject, vec![result])),
        }
    }

    /// Notes that a subject could not be measured.
    pub(crate) fn lacks(&mut self, subject: Subject, why: &str) {
        self.notes.push(format!("{}: not measured: {why}", subject.label()));
    }

    /// Prints all.
    pub(crate) fn print(&self, json: bool) {
        let medians: Vec<_> =
            self.rows.iter().map(|(subject, results)| (*subject, medians(results))).collect();
        let kernel =
            medians.iter().find(|(subject, _)| *subject == Subject::Kernel).map(|(_, result)| *result);
        if json {
            let rows: Vec<_> =
                medians.iter().map(|(subject, result)| as_json(*subject, result, kernel)).collect();
            return println!("{}", serde_json::json!({ "notes": self.notes, "rows": rows }));
        }
        println!(
            "{:36} {:>11} {:>11} {:>10} {:>9} {:>9} {:>10} {:>10} {:>11} {:>7} {:>9}",
            "",
            "lossless/s",
            "flooded/s",
            "µs/packet",
            "p50 µs",
            "p99 µs",
            "added p50",
            "added p99",
            "spells' p99",
            "lost %",
            "RSS KiB"
        );
        for (subject, result) in &medians {
            let added =
                |of: fn(&Result) -> f64| kernel.as_ref().map_or(f64::NAN, |kernel| of(result) - of(kernel));
            println!(
                "{:36} {:>11.0} {:>11.0} {:>10.2} {:>9.1} {:>9.1} {:>10.1} {:>10.1} {:>11.1} {:>7.3} {:>9}",
                subject.label(),
                result.lossless,
                result.saturated,
                result.thread,
                result.p50,
                result.p99,
                added(|result| result.p50),
                added(|result| result.p99),
                added(|result| result.spell_p99),
                result.latency_loss * 100.0,
                result.resident.map_or("–".to_owned(), |resident| resident.to_string()),
            );
        }
        self.notes.iter().for_each(|note| println!("{note}"));
        println!(
            "µs/packet is processor time of the subject's threads at the last lossless rate; interrupts that meet them may be \
             in it, and the kernel's forwarding, which has no thread, has none. Latency is at 50,000 packets/s, from before \
             sending until the receiver has it; the p99 of each 20 ms, median over those, and what that adds, are the spells'."
        );
    }
}

fn as_json(subject: Subject, result: &Result, kernel: Option<Result>) -> serde_json::Value {
    serde_json::json!({
        "subject": subject.word(),
        "lossless_per_second": result.lossless,
        "flooded_per_second": result.saturated,
        "thread_microseconds_per_packet": result.thread,
        "latency_p50_microseconds": result.p50,
        "latency_p99_microseconds": result.p99,
        "added_p50_microseconds": kernel.map(|kernel| result.p50 - kernel.p50),
        "added_p99_microseconds": kernel.map(|kernel| result.p99 - kernel.p99),
        "spells_p99_microseconds": result.spell_p99,
        "added_spells_p99_microseconds": kernel.map(|kernel| result.spell_p99 - kernel.spell_p99),
        "lost_while_latency_was_measured": result.latency_loss,
        "resident_kib": result.resident,
    })
}

fn medians(results: &[Result]) -> Result {
    let of = |field: fn(&Result) -> f64| {
        let mut values: Vec<f64> = results.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Result {
        lossless: of(|result| result.lossless),
        saturated: of(|result| result.saturated),
        thread: of(|result| result.thread),
        p50: of(|result| result.p50),
        p99: of(|result| result.p99),
        spell_p99: of(|result| result.spell_p99),
        latency_loss: of(|result| result.latency_loss),
        resident: results.iter().filter_map(|result| result.resident).max(),
    }
}

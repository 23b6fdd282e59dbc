//! Judgements over the kernel's counters: what has grown while the doctor looked, and what that means.
//!
//! Where an own resource is too small (a queue, a buffer, a table) packets were lost here, and a few of many are no fault: a
//! share is asked for. Where others have sent what can't be taken, a few are strays that every host gets. Where packets were
//! lost elsewhere it is a [symptom](crate::finding::Rank::Symptom), and only a share that no sound path has is told.

mod buffers;
mod checksums;
mod conntrack;
mod devices;
mod ip;
mod listen;
mod losses;
mod memory;
mod mtu;
mod neighbours;
mod queues;
mod segments;
mod softnet;
mod udp;
mod unseen;

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::counters::Counters;
use crate::look::interval::Interval;
use crate::patient::Patient;
use crate::report::Report;

/// Fewer than these are strays: a scan, a route that changes, a host that has been restarted.
const STRAYS: u64 = 5;

/// Judges everything that the kernel counts.
pub(super) fn judge(patient: &Patient, interval: &Interval, report: &mut Report) {
    let growth = Growth::new(interval);
    listen::judge(&growth, report);
    buffers::judge(&growth, report);
    memory::judge(&growth, report);
    segments::judge(&growth, report);
    losses::judge(&growth, report);
    checksums::judge(&growth, report);
    udp::judge(&growth, report);
    ip::judge(patient, &growth, report);
    mtu::judge(&growth, report);
    neighbours::judge(&growth, report);
    conntrack::judge(&growth, report);
    let backlogged = softnet::judge(&growth, report);
    devices::judge(patient, &growth, backlogged, report);
    queues::judge(patient, &growth, report);
    unseen::judge(&growth, report);
}

/// What has grown between the two accounts of an interval.
struct Growth<'a> {
    interval: &'a Interval,
    /// Counters that were asked for and that this kernel does not keep.
    absent: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Growth<'a> {
    fn new(interval: &'a Interval) -> Self {
        Self { interval, absent: RefCell::default() }
    }

    fn before(&self) -> &'a Counters {
        &self.interval.before
    }

    fn after(&self) -> &'a Counters {
        &self.interval.after
    }

    /// Returns how long it was, in seconds.
    fn seconds(&self) -> f64 {
        self.interval.elapsed.as_secs_f64().max(0.001)
    }

    /// Returns how much something has grown; zero unless both accounts have it.
    fn of(&self, counter: impl Fn(&Counters) -> Option<u64>) -> u64 {
        match (counter(self.before()), counter(self.after())) {
            (Some(before), Some(after)) => grown(before, after),
            _ => 0,
        }
    }

    /// Returns how much one of the tables' counters has grown. One that this kernel does not keep is remembered, and told at
    /// the end.
    fn count(&self, name: &'static str) -> u64 {
        let Ok(after) = &self.after().tables else { return 0 };
        let is_of_ipv6 = ["Ip6", "Icmp6", "Udp6"].iter().any(|prefix| name.starts_with(prefix));
        if after.number(name).is_none() && (after.has_ipv6() || !is_of_ipv6) {
            self.absent.borrow_mut().insert(name);
        }
        self.of(|counters| counters.tables.as_ref().ok()?.number(name))
    }

    fn sum(&self, names: &[&'static str]) -> u64 {
        names.iter().map(|name| self.count(name)).sum()
    }

    /// Begins a finding that rests on some of the tables' counters: says how much each has grown, and how to see it.
    fn found(
        &self,
        cause: &'static Cause,
        (layer, rank): (Layer, Rank),
        lost: u64,
        names: &[&'static str],
    ) -> Finding {
        let mut finding = Finding::new(cause, layer, rank).losing(lost);
        let mut grown = Vec::new();
        for name in names {
            let count = self.count(name);
            if count > 0 {
                grown.push(*name);
                finding = finding.because(self.rate(name, count));
            }
        }
        let seen = if grown.is_empty() { names } else { &grown };
        finding.seen_by(format!("nstat -asz {}", seen.join(" ")))
    }

    /// Notes those of some counters that have grown: worth knowing, and nothing is wrong.
    fn note(&self, what: &str, names: &[&'static str], report: &mut Report) {
        let grown: Vec<_> = names
            .iter()
            .map(|name| (name, self.count(name)))
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !grown.is_empty() {
            report.note(what, format!("{} in {:.1} s", grown.join(", "), self.seconds()));
        }
    }

    /// Words how much something has grown.
    fn rate(&self, name: &str, count: u64) -> String {
        let seconds = self.seconds();
        format!("{name} grew by {count} in {seconds:.1} s ({:.1}/s)", count as f64 / seconds)
    }
}

/// What has shrunk was reset, and counts from zero.
fn grown(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

/// Tells whether `part` is at least `per_mille` thousandths of `whole`.
fn is_share(part: u64, whole: u64, per_mille: u64) -> bool {
    u128::from(part) * 1000 >= u128::from(whole) * u128::from(per_mille)
}

/// Words a share in percent.
fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::counters::tables::Tables;
    use std::time::Duration;

    /// An interval of two seconds in which the tables' counters have grown by so much, and everything else is unseen.
    pub(super) fn interval<const N: usize>(growth: [(&str, u64); N]) -> Interval {
        let before = Counters {
            tables: Ok(Tables::from(growth.map(|(name, _)| (name, 1000)))),
            ..Counters::default()
        };
        let after = Counters {
            tables: Ok(Tables::from(growth.map(|(name, count)| (name, 1000 + count)))),
            ..Counters::default()
        };
        let drops = Err("not watched".to_owned());
        Interval { before, after, elapsed: Duration::from_secs(2), drops }
    }

    /// Returns what a check finds: cause, rank and packets lost.
    pub(super) fn found(
        interval: &Interval,
        check: impl Fn(&Growth<'_>, &mut Report),
    ) -> Vec<(&'static str, Rank, u64)> {
        let mut report = Report::default();
        check(&Growth::new(interval), &mut report);
        report.findings().iter().map(|finding| (finding.cause.id, finding.rank, finding.lost)).collect()
    }

    #[test]
    fn what_was_reset_counts_from_zero_and_what_is_absent_is_told() {
        let interval = interval([("TcpInSegs", 7)]);
        let growth = Growth::new(&interval);
        assert_eq!((growth.count("TcpInSegs"), growth.count("TcpExtBeyondWindow")), (7, 0));
        // A host without IPv6 lacks nothing.
        assert_eq!(growth.count("Ip6InNoRoutes"), 0);
        assert_eq!(growth.absent.borrow().iter().copied().collect::<Vec<_>>(), ["TcpExtBeyondWindow"]);
        assert_eq!((grown(5, 7), grown(7, 5)), (2, 5));
    }

    #[test]
    fn rates_are_worded() {
        let interval = interval([("TcpInSegs", 7)]);
        assert_eq!(Growth::new(&interval).rate("TcpInSegs", 7), "TcpInSegs grew by 7 in 2.0 s (3.5/s)");
        assert_eq!(percent(1, 0), "100.0 %");
    }

    #[test]
    fn shares_have_no_remainder() {
        assert_eq!([is_share(2, 100, 20), is_share(1, 100, 20), is_share(0, 0, 20)], [true, false, true]);
        assert!(is_share(u64::MAX, u64::MAX, 1000));
    }
}

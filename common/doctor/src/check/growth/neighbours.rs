//! Neighbour tables that are too small.

use super::{Growth, grown};
use crate::causes::NEIGHBOUR_FAILED;
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::neighbours::Table;
use crate::report::Report;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let (Ok(before), Ok(after)) = (&growth.before().neighbours, &growth.after().neighbours) else { return };
    for (name, table) in after {
        let Some(was) = before.get(name) else { continue };
        let since = |counter: fn(&Table) -> u64| grown(counter(was), counter(table));
        let unanswered = since(|table| table.unanswered);
        if unanswered > 0 {
            report.note(
                format!("{name}, all network namespaces together"),
                format!("{unanswered} addresses were asked for in vain in {:.1} s", growth.seconds()),
            );
        }
        let overflows = since(|table| table.overflows);
        if overflows == 0 {
            continue;
        }
        report.find(
            Finding::new(&NEIGHBOUR_FAILED, Layer::Neighbour, Rank::Symptom)
                .of(name.clone())
                .losing(overflows)
                .because(growth.rate(&format!("the number of overflows of {name}"), overflows))
                .because("the table is one for all network namespaces together: it is full for this one too")
                .seen_by("ip -s ntable show; ip neigh | wc -l; dmesg | grep 'neighbor table overflow'")
                .mended_by(
                    "raise net.ipv4.neigh.default.gc_thresh1, 2 and 3 (net.ipv6 likewise), in the first \
                     network namespace",
                ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn a_full_table_is_told_and_unanswered_requests_are_not() {
        let mut interval = interval([]);
        let table =
            |unanswered, overflows| Ok([("arp_cache".to_owned(), Table { unanswered, overflows })].into());
        interval.before.neighbours = table(5, 1);
        interval.after.neighbours = table(9, 1);
        assert_eq!(found(&interval, judge), []);
        interval.after.neighbours = table(9, 4);
        assert_eq!(found(&interval, judge), [("neighbour-failed", Rank::Symptom, 3)]);
    }
}

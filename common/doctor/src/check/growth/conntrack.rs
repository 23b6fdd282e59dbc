//! Connection tracking: its table, and what it calls invalid.

use super::{Growth, STRAYS};
use crate::causes::{CONNTRACK_FULL, CONNTRACK_INSERT_FAILED, CONNTRACK_INVALID};
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::conntrack::Conntrack;
use crate::report::Report;

/// What shows all of it.
const COMMAND: &str =
    "cat /proc/sys/net/netfilter/nf_conntrack_{count,max}; conntrack -S   # or /proc/net/stat/nf_conntrack";

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let Ok(Some(now)) = &growth.after().conntrack else { return };
    report.note("tracked connections", format!("{} of {}", now.count, now.limit));
    let count = |name| growth.of(|counters| counters.conntrack.as_ref().ok()?.as_ref()?.number(name));
    let unentered = count("insert_failed");
    full(growth, now, (count("drop"), count("early_drop"), unentered), report);
    if unentered >= STRAYS {
        report.find(
            Finding::new(&CONNTRACK_INSERT_FAILED, Layer::Conntrack, Rank::Loss)
                .losing(unentered)
                .because(growth.rate("insert_failed of connection tracking", unentered))
                .seen_by(COMMAND)
                .mended_by(
                    "if there is NAT, its ports or addresses are used up: give it more (a wider range, \
                     more addresses); else two packets of one new connection are on their way at once: \
                     have them not tracked (nft: notrack)",
                ),
        );
    }
    invalid(growth, count("invalid"), report);
}

fn full(
    growth: &Growth<'_>,
    now: &Conntrack,
    (drops, evicted, unentered): (u64, u64, u64),
    report: &mut Report,
) {
    let is_at = |conntrack: &Conntrack, per_cent: u64| {
        conntrack.limit > 0 && conntrack.count.saturating_mul(100) >= conntrack.limit.saturating_mul(per_cent)
    };
    let was_full = matches!(&growth.before().conntrack, Ok(Some(before)) if is_at(before, 100));
    // What could not be entered is dropped too, and there is no other word for it far below the limit.
    let dropped = if is_at(now, 90) { drops } else { drops.saturating_sub(unentered) };
    let rank = match () {
        () if dropped > 0 => Rank::Loss,
        () if was_full && is_at(now, 100) => Rank::Fault,
        () if evicted > 0 || is_at(now, 95) => Rank::Suspicion,
        () => return,
    };
    let mut finding = Finding::new(&CONNTRACK_FULL, Layer::Conntrack, rank).losing(dropped).because(format!(
        "{} connections are tracked in this network namespace; at most {} may be",
        now.count, now.limit
    ));
    for (name, grown) in [("drop", dropped), ("early_drop", evicted)] {
        if grown > 0 {
            finding = finding.because(growth.rate(&format!("{name} of connection tracking"), grown));
        }
    }
    report.find(finding.seen_by(COMMAND).mended_by(
        "raise net.netfilter.nf_conntrack_max (in the first network namespace: it holds for all) and the \
         number of buckets; shorten the timeouts; do not track what needs no tracking (nft: notrack)",
    ));
}

/// Packets called invalid are lost only where a rule drops them.
fn invalid(growth: &Growth<'_>, invalid: u64, report: &mut Report) {
    if invalid == 0 {
        return;
    }
    report.note("packets that conntrack calls invalid", growth.rate("their number", invalid));
    let drops = growth.interval.drops.as_ref().map(|drops| {
        drops.iter().filter(|drop| drop.reason == "NETFILTER_DROP").map(|drop| drop.packets).sum()
    });
    if drops.is_ok_and(|drops| are_the_same(invalid, drops)) {
        report.find(
            Finding::new(&CONNTRACK_INVALID, Layer::Conntrack, Rank::Loss)
                .losing(invalid)
                .because(growth.rate("invalid of connection tracking", invalid))
                .because("as many packets were dropped by netfilter meanwhile")
                .seen_by(COMMAND)
                .mended_by(
                    "see that both directions of each connection pass this host, and that nothing before \
                     it changes sequence numbers; net.netfilter.nf_conntrack_tcp_be_liberal=1, or have \
                     these connections not tracked (nft: notrack)",
                ),
        );
    }
}

/// Tells whether so many invalid packets are those that were dropped: as many, but for a tenth.
fn are_the_same(invalid: u64, drops: u64) -> bool {
    invalid >= STRAYS && invalid.abs_diff(drops) <= invalid / 10
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;
    use crate::look::interval::Interval;

    fn tracked(count: u64, counters: &[(&str, u64)]) -> Interval {
        let mut interval = interval([]);
        let table = |counters: &[(&str, u64)], add| {
            let counters =
                counters.iter().map(|(name, value)| ((*name).to_owned(), value * add + 7)).collect();
            Ok(Some(Conntrack { count, limit: 1000, counters: Some(counters) }))
        };
        interval.before.conntrack = table(counters, 0);
        interval.after.conntrack = table(counters, 1);
        interval
    }

    #[test]
    fn a_full_table_drops_evicts_or_waits_for_packets() {
        let causes = |count, counters| found(&tracked(count, counters), judge);
        assert_eq!(causes(1000, &[("drop", 12)]), [("conntrack-full", Rank::Loss, 12)]);
        assert_eq!(causes(1000, &[]), [("conntrack-full", Rank::Fault, 0)]);
        assert_eq!(causes(990, &[("early_drop", 12)]), [("conntrack-full", Rank::Suspicion, 0)]);
        assert_eq!(causes(400, &[("invalid", 12)]), []);
    }

    #[test]
    fn what_nat_can_t_enter_is_told_apart() {
        let growth = [("drop", 12), ("insert_failed", 12)];
        assert_eq!(found(&tracked(10, &growth), judge), [("conntrack-insert-failed", Rank::Loss, 12)]);
        assert_eq!(found(&tracked(10, &[("drop", 4), ("insert_failed", 4)]), judge), []);
    }

    #[test]
    fn a_host_without_conntrack_is_healthy() {
        let mut interval = interval([]);
        interval.after.conntrack = Ok(None);
        assert_eq!(found(&interval, judge), []);
    }

    #[test]
    fn invalid_packets_are_lost_if_as_many_are_dropped() {
        assert_eq!(
            [(20, 20), (20, 19), (20, 40), (20, 0), (4, 4)]
                .map(|(invalid, drops)| are_the_same(invalid, drops)),
            [true, true, false, false, false]
        );
    }
}

//! The processors' work on received packets.

use super::{Growth, STRAYS, grown, is_share, percent};
use crate::causes::{BACKLOG_FULL, SOFTNET_SQUEEZED};
use crate::finding::{Finding, Layer, Rank};
use crate::report::Report;

/// Times a second that work is left for later which a busy host does not have.
const SQUEEZES: f64 = 1000.0;
/// A shorter time says nothing of a rate.
const WHILE: f64 = 1.0;

/// Returns the packets of this namespace's devices that were dropped because a queue was full.
pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) -> u64 {
    let (Ok(before), Ok(after)) = (&growth.before().softnet, &growth.after().softnet) else { return 0 };
    let squeezed = grown(before.squeezed, after.squeezed);
    if growth.seconds() >= WHILE && squeezed as f64 >= SQUEEZES * growth.seconds() {
        report.find(
            Finding::new(&SOFTNET_SQUEEZED, Layer::Backlog, Rank::Suspicion)
                .because(
                    growth.rate("time_squeeze of all processors and network namespaces together", squeezed),
                )
                .seen_by("cat /proc/net/softnet_stat   # third column")
                .mended_by(
                    "spread the work over more processors (irqbalance, RPS), or raise \
                     net.core.netdev_budget and netdev_budget_usecs",
                ),
        );
    }
    let dropped = grown(before.dropped, after.dropped);
    if dropped == 0 {
        return 0;
    }
    let (charged, received) = charged(growth);
    let ours = dropped.min(charged);
    if ours >= 2 * STRAYS && is_share(ours, received, 10) {
        report.find(
            Finding::new(&BACKLOG_FULL, Layer::Backlog, Rank::Loss)
                .losing(ours)
                .because(growth.rate(
                    "the number of packets dropped for full queues, in all network namespaces together,",
                    dropped,
                ))
                .because(format!(
                    "devices of this one count {charged} dropped meanwhile, {} of what they received",
                    percent(ours, received)
                ))
                .seen_by("cat /proc/net/softnet_stat   # second column; ip -s link")
                .mended_by(
                    "raise net.core.netdev_max_backlog, spread the work over more processors (RPS), and \
                     see net.core.flow_limit_cpu_bitmap",
                ),
        );
    } else {
        report
            .note("packets dropped for full queues, in all network namespaces together", dropped.to_string());
    }
    ours
}

/// Returns how many packets this namespace's devices have dropped, and how many they have received: the kernel charges a
/// full queue's drops to the packet's device.
fn charged(growth: &Growth<'_>) -> (u64, u64) {
    let (Ok(before), Ok(after)) = (&growth.before().links, &growth.after().links) else { return (0, 0) };
    let mut sums = (0, 0);
    for (name, link) in after {
        let Some(was) = before.get(name).filter(|was| was.index == link.index) else { continue };
        sums.0 += grown(was.counts.rx_dropped, link.counts.rx_dropped);
        sums.1 += grown(was.counts.rx_packets, link.counts.rx_packets);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::tests::interval;
    use super::*;
    use crate::look::counters::links::{Counts, Link};
    use crate::look::counters::per_cpu::Softnet;
    use crate::look::interval::Interval;

    fn busy(softnet: Softnet, rx_dropped: u64) -> Interval {
        let mut interval = interval([]);
        let links = |counts| Ok([("eth0".to_owned(), Link { index: 2, counts, ..Link::default() })].into());
        interval.before.links = links(Counts::default());
        interval.after.links = links(Counts { rx_packets: 1000, rx_dropped, ..Counts::default() });
        interval.before.softnet = Ok(Softnet::default());
        interval.after.softnet = Ok(softnet);
        interval
    }

    fn found(interval: &Interval) -> Vec<(&'static str, Rank, u64)> {
        super::super::tests::found(interval, |growth, report| {
            judge(growth, report);
        })
    }

    #[test]
    fn drops_are_ours_if_our_devices_say_so() {
        let full = Softnet { dropped: 50, ..Softnet::default() };
        assert_eq!(found(&busy(full, 40)), [("backlog-full", Rank::Loss, 40)]);
        assert_eq!(found(&busy(full, 0)), []);
    }

    #[test]
    fn only_lasting_squeezes_are_told() {
        let squeezed = |squeezed| Softnet { squeezed, ..Softnet::default() };
        assert_eq!(found(&busy(squeezed(1999), 0)), []);
        assert_eq!(found(&busy(squeezed(2000), 0)), [("softnet-squeezed", Rank::Suspicion, 0)]);
    }
}

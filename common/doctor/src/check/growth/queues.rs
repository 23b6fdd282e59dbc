//! Queueing disciplines: those that drop, and those in which packets stand still.

use super::{Growth, STRAYS, grown, is_share, percent};
use crate::causes::{QDISC_BLACKHOLE, QDISC_DROP};
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::queues::Queue;
use crate::patient::Patient;
use crate::report::Report;

/// A queue of fewer packets drops what a sender may send at once.
const SHORT: u32 = 16;
/// Where packets arrive: what is dropped there, filters have dropped.
const NOT_QUEUES: [&str; 2] = ["clsact", "ingress"];
/// Drops everything.
const HOLE: &str = "blackhole";
/// A queue that does not move for a shorter time may wait for its rate.
const WHILE: f64 = 1.0;

pub(super) fn judge(patient: &Patient, growth: &Growth<'_>, report: &mut Report) {
    let (Ok(before), Ok(after)) = (&growth.before().queues, &growth.after().queues) else { return };
    for name in &patient.interfaces {
        let Some(link) = growth.after().links.as_ref().ok().and_then(|links| links.get(name)) else {
            continue;
        };
        let queues: Vec<_> = after
            .iter()
            .filter(|queue| queue.interface == link.index)
            .map(|now| Grown::of(now, before))
            .collect();
        let finding = dropping(&queues, growth, name, link.queue_length)
            .or_else(|| standing(&queues, growth, name))
            .or_else(|| holes(&queues, name));
        if let Some(finding) = finding {
            report.find(finding.of(name.clone()).seen_by(format!("tc -s -d qdisc show dev {name}")));
        }
    }
}

/// A queue, and what it has done meanwhile.
struct Grown<'a> {
    now: &'a Queue,
    was: Option<&'a Queue>,
    drops: u64,
    packets: u64,
}

impl<'a> Grown<'a> {
    /// One that is new counts from zero.
    fn of(now: &'a Queue, before: &'a [Queue]) -> Self {
        let key = |queue: &Queue| (queue.interface, queue.handle, queue.parent);
        let was = before.iter().find(|was| key(was) == key(now) && was.kind == now.kind);
        let drops = now.drops.wrapping_sub(was.map_or(0, |was| was.drops));
        let packets = grown(was.map_or(0, |was| was.packets), now.packets);
        // A queue that was made anew has dropped less than the one before.
        let drops = if was.is_some_and(|was| now.packets < was.packets) { now.drops } else { drops };
        Self { now, was, drops: drops.into(), packets }
    }

    fn is_queue(&self) -> bool {
        !NOT_QUEUES.contains(&self.now.kind.as_str())
    }

    /// Tells whether it drops more than it must: a queue before a slower link is how TCP learns of that link's rate, and a
    /// flow that begins overshoots it.
    fn is_dropping(&self) -> bool {
        let is_short = self.now.limit.is_some_and(|limit| limit.packets() < SHORT);
        let share = if is_short { 20 } else { 200 };
        self.is_queue() && self.drops >= STRAYS && is_share(self.drops, self.drops + self.packets, share)
    }

    fn is_standing(&self) -> bool {
        self.is_queue()
            && self.packets == 0
            && self.now.length > 0
            && self.was.is_some_and(|was| was.length > 0)
    }

    fn told(&self) -> String {
        let place = if self.now.is_root() { "outermost" } else { "inner" };
        format!("{} {} ({place})", self.now.kind, self.now.handle_text())
    }
}

/// What one queue drops, those around it count too: the innermost is named.
fn dropping(queues: &[Grown<'_>], growth: &Growth<'_>, name: &str, length: u32) -> Option<Finding> {
    let dropping: Vec<_> = queues.iter().filter(|queue| queue.is_dropping()).collect();
    let is_around = |outer: &Grown<'_>| {
        dropping.iter().any(|inner| outer.now.handle != 0 && inner.now.parent >> 16 == outer.now.handle >> 16)
    };
    let innermost = dropping
        .iter()
        .filter(|queue| !is_around(queue))
        .max_by_key(|queue| queue.drops)
        .or_else(|| dropping.first())?;
    let (drops, sent) = (innermost.drops, innermost.packets);
    let cause = if sent == 0 { &QDISC_BLACKHOLE } else { &QDISC_DROP };
    let mut finding = Finding::new(cause, Layer::Qdisc, Rank::Loss)
        .losing(drops)
        .because(
            growth.rate(&format!("the number of packets dropped by {} of {name}", innermost.told()), drops),
        )
        .because(format!("that is {} of what it was given; it sent {sent}", percent(drops, drops + sent)));
    if let Some(limit) = &innermost.now.limit {
        finding = finding.because(format!("its limit is {limit}"));
    }
    Some(match innermost.now.kind.as_str() {
        HOLE => finding.mended_by(format!("it drops everything: tc qdisc del dev {name} root")),
        "pfifo_fast" => finding
            .because(format!("the queue of {name} holds {length} packets (txqueuelen)"))
            .mended_by(format!(
                "ip link set dev {name} txqueuelen 1000, or tc qdisc replace dev {name} root fq_codel"
            )),
        _ => finding.mended_by(format!(
            "raise its limit or its rate (tc qdisc change dev {name} …), or take one that keeps queues \
             short: tc qdisc replace dev {name} root fq_codel"
        )),
    })
}

fn standing(queues: &[Grown<'_>], growth: &Growth<'_>, name: &str) -> Option<Finding> {
    let queue = queues.iter().find(|queue| queue.is_standing()).filter(|_| growth.seconds() >= WHILE)?;
    let (length, backlog, seconds) = (queue.now.length, queue.now.backlog, growth.seconds());
    Some(
        Finding::new(&QDISC_DROP, Layer::Qdisc, Rank::Fault)
            .because(format!(
                "{length} packets ({backlog} bytes) stand in {} of {name}, and none has left for \
                 {seconds:.1} s",
                queue.told()
            ))
            .mended_by(format!(
                "raise its rate, or see why the driver takes nothing (dmesg, ethtool -S {name})"
            )),
    )
}

fn holes(queues: &[Grown<'_>], name: &str) -> Option<Finding> {
    let hole = queues.iter().find(|queue| queue.now.kind == HOLE)?;
    Some(
        Finding::new(&QDISC_DROP, Layer::Qdisc, Rank::Fault)
            .losing(hole.drops)
            .because(format!("{} of {name} drops everything that it is given", hole.told()))
            .mended_by(format!("tc qdisc del dev {name} root")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::interval;
    use super::*;
    use crate::look::counters::links::Link;
    use crate::look::counters::queues::Limit;
    use crate::look::interval::Interval;
    use crate::patient::Role;
    use rtt0_core::service::Services;

    const ROOT: u32 = u32::MAX;

    fn queue(kind: &str, (handle, parent): (u32, u32), drops: u32, packets: u64) -> Queue {
        Queue { interface: 2, kind: kind.to_owned(), handle, parent, drops, packets, ..Queue::default() }
    }

    fn with(before: Vec<Queue>, after: Vec<Queue>) -> Interval {
        let mut interval = interval([]);
        let link = Link { index: 2, is_up: true, queue_length: 1000, ..Link::default() };
        interval.after.links = Ok([("eth0".to_owned(), link)].into());
        interval.before.queues = Ok(before);
        interval.after.queues = Ok(after);
        interval
    }

    fn judged(interval: &Interval) -> Report {
        let services = Services::new(Vec::new(), Vec::new());
        let patient =
            Patient { role: Role::Host, interfaces: vec!["eth0".to_owned()], services, daemon: None };
        let mut report = Report::default();
        judge(&patient, &Growth::new(interval), &mut report);
        report
    }

    fn found(interval: &Interval) -> Vec<(Rank, u64)> {
        judged(interval).findings().iter().map(|finding| (finding.rank, finding.lost)).collect()
    }

    #[test]
    fn the_innermost_that_drops_is_named_and_old_drops_are_forgotten() {
        let tree = |drops, packets| {
            vec![
                queue("htb", (0x1_0000, ROOT), drops, packets),
                queue("pfifo", (0x2_0000, 0x1_0001), drops, packets),
            ]
        };
        let interval = with(tree(1000, 50), tree(1030, 150));
        assert_eq!(found(&interval), [(Rank::Loss, 30)]);
        let report = judged(&interval);
        let finding = &report.findings()[0];
        assert!(finding.evidence[0].contains("pfifo 2: (inner) of eth0"), "{finding:?}");
        assert_eq!(finding.subject, "eth0");
    }

    #[test]
    fn a_queue_that_is_full_at_times_is_healthy_and_a_short_one_is_not() {
        let fifo =
            |limit, drops, packets| vec![Queue { limit, ..queue("pfifo", (0x1_0000, ROOT), drops, packets) }];
        let found = |limit, drops| found(&with(fifo(limit, 0, 0), fifo(limit, drops, 1000)));
        assert_eq!(found(None, 120), []);
        assert_eq!(found(None, 300), [(Rank::Loss, 300)]);
        assert_eq!(found(Some(Limit::Packets(1000)), 120), []);
        assert_eq!(found(Some(Limit::Bytes(9000)), 70), [(Rank::Loss, 70)]);
        assert_eq!(found(Some(Limit::Packets(2)), 15), []);
    }

    #[test]
    fn filters_are_no_queues_and_holes_need_no_loss() {
        let filters = |drops| vec![queue("clsact", (0xffff_0000, 0xffff_fff1), drops, 0)];
        assert_eq!(found(&with(filters(0), filters(100))), []);
        let hole = |drops| vec![queue("blackhole", (0x1_0000, ROOT), drops, 0)];
        assert_eq!(found(&with(hole(0), hole(3))), [(Rank::Fault, 3)]);
        assert_eq!(found(&with(hole(0), hole(30))), [(Rank::Loss, 30)]);
    }

    #[test]
    fn packets_that_stand_still_are_a_fault() {
        let slow = |packets| vec![Queue { length: 9, ..queue("tbf", (0x1_0000, ROOT), 0, packets) }];
        assert_eq!(found(&with(slow(5), slow(5))), [(Rank::Fault, 0)]);
        assert_eq!(found(&with(slow(5), slow(6))), []);
    }
}

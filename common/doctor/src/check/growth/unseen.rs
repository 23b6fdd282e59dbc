//! What could not be read of the counters, and why.

use super::Growth;
use crate::look::counters::Seen;
use crate::report::Report;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    essential(growth, report);
    let after = growth.after();
    cannot("softnet's counters", &after.softnet, report);
    cannot("the memory of sockets", &after.memory, report);
    cannot("queueing disciplines", &after.queues, report);
    cannot("the neighbour tables' statistics", &after.neighbours, report);
    cannot("listening sockets", &after.listeners, report);
    cannot("UDP sockets", &after.datagrams, report);
    cannot("connection tracking", &after.conntrack, report);
    if let Ok(Some(conntrack)) = &after.conntrack
        && conntrack.counters.is_none()
    {
        report.cannot_see(
            "what connection tracking drops",
            "there is no /proc/net/stat/nf_conntrack; conntrack -S shows the same as root",
        );
    }
    for (interface, counters) in &after.drivers {
        cannot(&format!("the driver's counters of {interface}"), counters, report);
    }
    if let Ok(listeners) = &after.listeners
        && listeners.iter().any(|listener| listener.limit.is_none())
    {
        report.cannot_see(
            "the limits of listen queues",
            "this kernel has no socket diagnosis for TCP (module tcp_diag)",
        );
    }
    let absent = growth.absent.borrow();
    if !absent.is_empty() {
        let names: Vec<_> = absent.iter().copied().collect();
        report.cannot_see("some counters", format!("this kernel does not keep {}", names.join(", ")));
    }
}

/// Without these nobody knows whether packets were lost.
fn essential(growth: &Growth<'_>, report: &mut Report) {
    let (before, after) = (growth.before(), growth.after());
    if let Some(why) = before.tables.as_ref().err().or(after.tables.as_ref().err()) {
        report.is_blind_to("the counters of IP, TCP and UDP", format!("{why}; /proc must be mounted"));
    }
    if let Some(why) = before.links.as_ref().err().or(after.links.as_ref().err()) {
        report.is_blind_to("the interfaces' statistics", why.clone());
    }
}

fn cannot<T>(what: &str, seen: &Seen<T>, report: &mut Report) {
    if let Err(why) = seen {
        report.cannot_see(what, why.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::interval;
    use super::*;

    #[test]
    fn an_account_that_has_nothing_says_so() {
        let mut interval = interval([]);
        let unseen = |interval: &_| {
            let mut report = Report::default();
            judge(&Growth::new(interval), &mut report);
            (report.status(), report.unseen().len())
        };
        // The links are essential, and unseen here.
        assert_eq!(unseen(&interval), (2, 8));
        interval.before.links = Ok([].into());
        interval.after.links = Ok([].into());
        assert_eq!(unseen(&interval), (0, 7));
        interval.before.tables = Err("no /proc".to_owned());
        assert_eq!(unseen(&interval).0, 2);
    }
}

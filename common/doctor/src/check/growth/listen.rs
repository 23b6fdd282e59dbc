//! Connections that are dropped while they are made.

use super::Growth;
use crate::causes::{LISTEN_DROPS, LISTEN_OVERFLOW, SYN_FLOOD};
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::half_open::HalfOpen;
use crate::look::counters::listeners::Listener;
use crate::look::counters::{Counters, Seen};
use crate::report::Report;

/// Single drops are strays, such as of a SYN to a multicast address.
const DROPS: u64 = 3;
/// Fewer connections made by cookies are a burst.
const COOKIES: u64 = 10;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let overflows = growth.count("TcpExtListenOverflows");
    let refused = growth.count("TcpExtTCPReqQFullDrop");
    accept_queue(growth, overflows, report);
    half_open(growth, refused, report);
    let others = growth.count("TcpExtListenDrops").saturating_sub(overflows + refused);
    if others >= DROPS
        && let Ok(half_open) = &growth.after().half_open
        && half_open.is_full()
    {
        report.find(uncounted(growth, half_open, others));
    } else if others >= DROPS {
        report.find(
            growth
                .found(&LISTEN_DROPS, (Layer::Transport, Rank::Loss), others, &["TcpExtListenDrops"])
                .because(format!(
                    "{others} of them neither for a full accept queue nor for a full queue of half-open \
                     connections"
                ))
                .mended_by(
                    "look for memory that is short (dmesg), a missing route back to the clients, and too \
                     small a net.ipv4.tcp_max_syn_backlog with net.ipv4.tcp_syncookies=0",
                ),
        );
    }
}

fn accept_queue(growth: &Growth<'_>, overflows: u64, report: &mut Report) {
    let full = full(growth.after());
    // Those that were full all the time: nothing that had come for them would have been taken.
    let was_full = |listener: &Listener| {
        listeners(&growth.before().listeners).any(|was| was.inode == listener.inode && was.is_full())
    };
    let stuck: Vec<_> = full.iter().copied().filter(|listener| was_full(listener)).collect();
    match overflows {
        // A single one of a socket that has room again is a burst.
        0 | 1 if full.is_empty() => {}
        0 if stuck.is_empty() => {}
        0 => {
            let finding = Finding::new(&LISTEN_OVERFLOW, Layer::Socket, Rank::Fault);
            report.find(explained(finding, &stuck));
        }
        _ => {
            let names = ["TcpExtListenOverflows", "TcpExtListenDrops"];
            let finding = growth.found(&LISTEN_OVERFLOW, (Layer::Socket, Rank::Loss), overflows, &names);
            report.find(explained(finding, &full));
        }
    }
}

fn explained(mut finding: Finding, full: &[&Listener]) -> Finding {
    if let [only] = full {
        finding = finding.of(only.local.to_string());
    }
    for listener in full.iter().take(3) {
        let owner = listener.owner.as_deref().unwrap_or("its process is unknown");
        let limit = listener.limit.unwrap_or_default();
        finding = finding.because(format!(
            "{} ({owner}) has {} connections waiting to be accepted; its limit is {limit}",
            listener.local, listener.waiting
        ));
    }
    if full.is_empty() {
        finding = finding.because("no listening socket is full at this moment");
    }
    finding
        .seen_by("ss -ltnp   # Recv-Q: waiting, Send-Q: limit; nstat -asz TcpExtListenOverflows")
        .mended_by(
            "find out why the program accepts so slowly; raise the backlog of its listen(2), and \
             net.core.somaxconn, which bounds it",
        )
}

fn half_open(growth: &Growth<'_>, refused: u64, report: &mut Report) {
    let cookies = growth.count("TcpExtTCPReqQFullDoCookies");
    let rank = match (refused, cookies) {
        (1.., _) => Rank::Loss,
        // Those connections are made nonetheless, with fewer options.
        (0, COOKIES..) => Rank::Suspicion,
        _ => return,
    };
    let names = [
        "TcpExtTCPReqQFullDrop",
        "TcpExtTCPReqQFullDoCookies",
        "TcpExtSyncookiesSent",
        "TcpExtSyncookiesFailed",
    ];
    report.find(growth.found(&SYN_FLOOD, (Layer::Socket, rank), refused, &names).mended_by(
        "raise the backlog of listen(2), net.core.somaxconn and net.ipv4.tcp_max_syn_backlog; keep \
         net.ipv4.tcp_syncookies=1; see whether the clients answer at all (ss -tn state syn-recv)",
    ));
}

/// Without cookies the kernel does not say of a SYN that the queue was full.
fn uncounted(growth: &Growth<'_>, half_open: &HalfOpen, dropped: u64) -> Finding {
    let HalfOpen { connections, most, .. } = half_open;
    let most = most.unwrap_or_default();
    growth
        .found(&SYN_FLOOD, (Layer::Socket, Rank::Loss), dropped, &["TcpExtListenDrops"])
        .because(format!(
            "{connections} connections are half open; without SYN cookies (net.ipv4.tcp_syncookies=0) new clients get no \
             more than three quarters of net.ipv4.tcp_max_syn_backlog, which is {most}"
        ))
        .mended_by(
            "sysctl net.ipv4.tcp_syncookies=1, or a larger net.ipv4.tcp_max_syn_backlog; see whether the clients answer \
             at all (ss -tn state syn-recv)",
        )
}

fn listeners(seen: &Seen<Vec<Listener>>) -> impl Iterator<Item = &Listener> {
    seen.as_ref().into_iter().flatten()
}

fn full(counters: &Counters) -> Vec<&Listener> {
    listeners(&counters.listeners).filter(|listener| listener.is_full()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    fn listener(waiting: u32) -> Listener {
        let local = "10.1.1.1:443".parse().unwrap();
        Listener { local, waiting, limit: Some(128), inode: 7, owner: Some("nginx, process 17".to_owned()) }
    }

    #[test]
    fn an_overflow_names_the_socket_and_leaves_no_other_drops() {
        let mut interval = interval([("TcpExtListenOverflows", 12), ("TcpExtListenDrops", 12)]);
        interval.after.listeners = Ok(vec![listener(129), Listener { inode: 8, ..listener(3) }]);
        assert_eq!(found(&interval, judge), [("listen-overflow", Rank::Loss, 12)]);
        let mut report = Report::default();
        judge(&Growth::new(&interval), &mut report);
        let finding = &report.findings()[0];
        assert_eq!(finding.subject, "10.1.1.1:443");
        assert!(finding.evidence.iter().any(|text| text.contains("nginx, process 17")), "{finding:?}");
    }

    #[test]
    fn a_socket_that_stays_full_is_a_fault_without_any_loss() {
        let mut interval = interval([("TcpExtListenOverflows", 0)]);
        interval.after.listeners = Ok(vec![listener(129)]);
        interval.before.listeners = Ok(vec![listener(128)]);
        assert_eq!(found(&interval, judge), []);
        interval.before.listeners = Ok(vec![listener(129)]);
        assert_eq!(found(&interval, judge), [("listen-overflow", Rank::Fault, 0)]);
    }

    #[test]
    fn one_overflow_of_a_burst_is_nothing() {
        assert_eq!(found(&interval([("TcpExtListenOverflows", 1), ("TcpExtListenDrops", 1)]), judge), []);
    }

    #[test]
    fn full_queues_of_half_open_connections_drop_or_send_cookies() {
        let growth = [("TcpExtTCPReqQFullDrop", 4), ("TcpExtListenDrops", 4)];
        assert_eq!(found(&interval(growth), judge), [("syn-flood", Rank::Loss, 4)]);
        let growth = [("TcpExtTCPReqQFullDoCookies", 10), ("TcpExtTCPReqQFullDrop", 0)];
        assert_eq!(found(&interval(growth), judge), [("syn-flood", Rank::Suspicion, 0)]);
        assert_eq!(found(&interval([("TcpExtTCPReqQFullDoCookies", 9)]), judge), []);
    }

    #[test]
    fn drops_for_other_reasons_are_told_apart() {
        let growth = [("TcpExtListenDrops", 9), ("TcpExtListenOverflows", 2)];
        let causes = found(&interval(growth), judge);
        assert_eq!(causes, [("listen-overflow", Rank::Loss, 2), ("listen-drops", Rank::Loss, 7)]);
    }
}

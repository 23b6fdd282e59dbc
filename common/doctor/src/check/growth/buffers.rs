//! TCP's receive buffers.

use super::{Growth, STRAYS, is_share, percent};
use crate::causes::{RECEIVE_BUFFER, SOCKET_BACKLOG};
use crate::finding::{Layer, Rank};
use crate::report::Report;

/// What counts segments thrown away for want of room, each of them in either.
const THROWN: [&str; 2] = ["TcpExtRcvPruned", "TcpExtTCPRcvQDrop"];
/// What counts those that came out of order, and are thrown away first.
const OUT_OF_ORDER: [&str; 2] = ["TcpExtTCPOFODrop", "TcpExtOfoPruned"];
/// What counts data squeezed together, which slow readers see daily.
const SQUEEZED: [&str; 2] = ["TcpExtPruneCalled", "TcpExtTCPRcvCollapsed"];
/// What tells that readers are slow.
const WINDOWS: [&str; 2] = ["TcpExtTCPZeroWindowDrop", "TcpExtTCPToZeroWindowAdv"];
/// Fewer are nothing to speak of.
const MANY_SQUEEZED: u64 = 200;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let received = growth.count("TcpInSegs");
    queues(growth, received, report);
    let dropped = growth.count("TcpExtTCPBacklogDrop");
    if dropped >= STRAYS && is_share(dropped, received, 1) {
        let names = ["TcpExtTCPBacklogDrop"];
        report.find(
            growth
                .found(&SOCKET_BACKLOG, (Layer::Socket, Rank::Loss), dropped, &names)
                .because("segments came while a call held the socket, and more than its buffers may hold")
                .mended_by(
                    "leave out SO_RCVBUF and SO_SNDBUF, or raise them: together they bound this queue \
                     (else net.ipv4.tcp_rmem and tcp_wmem do)",
                ),
        );
    }
}

fn queues(growth: &Growth<'_>, received: u64, report: &mut Report) {
    let thrown = THROWN.iter().map(|name| growth.count(name)).max().unwrap_or_default();
    // On a path that loses some, a few are out of order when room is short.
    let out_of_order = Some(growth.sum(&OUT_OF_ORDER)).filter(|count| *count >= STRAYS);
    let lost = thrown + out_of_order.unwrap_or_default();
    let squeezed = growth.sum(&SQUEEZED);
    let rank = match () {
        () if lost > 0 && is_share(lost, received, 5) => Rank::Loss,
        () if squeezed >= MANY_SQUEEZED && is_share(squeezed, received, 100) => Rank::Suspicion,
        () => return,
    };
    let names = [THROWN, OUT_OF_ORDER, SQUEEZED, WINDOWS].concat();
    let share = percent(lost, received);
    report.find(
        growth
            .found(&RECEIVE_BUFFER, (Layer::Socket, rank), lost, &names)
            .because(format!("of {received} segments that arrived, {share} were thrown away"))
            .mended_by(
                "find the program that reads too slowly (ss -tmni: skmem, rb); leave out SO_RCVBUF, which \
                 ends the kernel's own tuning, and raise the third number of net.ipv4.tcp_rmem",
            ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn data_that_is_thrown_away_is_a_loss() {
        let growth = [("TcpInSegs", 900), ("TcpExtTCPRcvQDrop", 5), ("TcpExtRcvPruned", 5)];
        assert_eq!(found(&interval(growth), judge), [("receive-buffer", Rank::Loss, 5)]);
        // A few of very many.
        let growth = [("TcpInSegs", 200_000), ("TcpExtTCPRcvQDrop", 7)];
        assert_eq!(found(&interval(growth), judge), []);
        assert_eq!(found(&interval([("TcpInSegs", 90), ("TcpExtTCPOFODrop", 4)]), judge), []);
    }

    #[test]
    fn squeezing_is_suspicious_only_if_it_does_not_end() {
        let growth = [("TcpInSegs", 2000), ("TcpExtTCPRcvCollapsed", 400)];
        assert_eq!(found(&interval(growth), judge), [("receive-buffer", Rank::Suspicion, 0)]);
        let growth = [("TcpInSegs", 20_000), ("TcpExtTCPRcvCollapsed", 400)];
        assert_eq!(found(&interval(growth), judge), []);
    }

    #[test]
    fn a_full_backlog_is_a_loss() {
        let growth = [("TcpInSegs", 900), ("TcpExtTCPBacklogDrop", 5)];
        assert_eq!(found(&interval(growth), judge), [("socket-backlog", Rank::Loss, 5)]);
    }
}

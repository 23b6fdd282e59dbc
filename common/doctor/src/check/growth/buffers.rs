//! TCP's receive buffers.

use super::{Growth, STRAYS, is_share, percent};
use crate::causes::{RECEIVE_BUFFER, SOCKET_BACKLOG};
use crate::finding::{Layer, Rank};
use crate::report::Report;

/// What counts data thrown away for want of room.
const THROWN: [&str; 4] = ["TcpExtRcvPruned", "TcpExtTCPRcvQDrop", "TcpExtTCPOFODrop", "TcpExtOfoPruned"];
/// What counts data squeezed together, which slow readers see daily.
const SQUEEZED: [&str; 2] = ["TcpExtPruneCalled", "TcpExtTCPRcvCollapsed"];
/// Fewer are nothing to speak of.
const MANY_SQUEEZED: u64 = 200;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let received = growth.count("TcpInSegs");
    let thrown = growth.sum(&THROWN);
    let squeezed = growth.sum(&SQUEEZED);
    let rank = match () {
        () if thrown >= STRAYS && is_share(thrown, received, 1) => Some(Rank::Loss),
        () if squeezed >= MANY_SQUEEZED && is_share(squeezed, received, 100) => Some(Rank::Suspicion),
        () => None,
    };
    if let Some(rank) = rank {
        let names =
            [&THROWN[..], &SQUEEZED, &["TcpExtTCPZeroWindowDrop", "TcpExtTCPToZeroWindowAdv"]].concat();
        report.find(
            growth
                .found(&RECEIVE_BUFFER, (Layer::Socket, rank), thrown, &names)
                .because(format!("of {received} segments that arrived, {} were thrown away", percent(thrown, received)))
                .mended_by(
                    "find the program that reads too slowly (ss -tmni: skmem, rb); leave out SO_RCVBUF, which ends the kernel's \
                     own tuning, and raise the third number of net.ipv4.tcp_rmem",
                ),
        );
    }
    let dropped = growth.count("TcpExtTCPBacklogDrop");
    if dropped >= STRAYS && is_share(dropped, received, 1) {
        report.find(
            growth
                .found(&SOCKET_BACKLOG, (Layer::Socket, Rank::Loss), dropped, &["TcpExtTCPBacklogDrop"])
                .because("segments came while a program's call held the socket, and more than its buffers may hold")
                .mended_by("leave out SO_RCVBUF and SO_SNDBUF, or raise them: together they bound this queue (net.ipv4.tcp_rmem, tcp_wmem)"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn data_that_is_thrown_away_is_a_loss() {
        let growth =
            [("TcpInSegs", 2000), ("TcpExtTCPRcvQDrop", 4), ("TcpExtRcvPruned", 3), ("TcpExtPruneCalled", 3)];
        assert_eq!(found(&interval(growth), judge), [("receive-buffer", Rank::Loss, 7)]);
        // A few of very many.
        let growth = [("TcpInSegs", 200_000), ("TcpExtTCPRcvQDrop", 7)];
        assert_eq!(found(&interval(growth), judge), []);
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

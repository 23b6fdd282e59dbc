//! Segments that TCP rejects.

use super::{Growth, is_share, percent};
use crate::causes::{OUT_OF_WINDOW, PAWS};
use crate::finding::{Layer, Rank};
use crate::report::Report;

/// What counts segments outside their window.
const OUTSIDE: [&str; 5] = [
    "TcpExtBeyondWindow",
    "TcpExtTCPACKSkippedSeq",
    "TcpExtTCPChallengeACK",
    "TcpExtTCPSYNChallenge",
    "TcpExtTSEcrRejected",
];
/// What counts segments with old timestamps; acknowledgements that others have overtaken (PAWSOldAck) are harmless.
const OLD: [&str; 3] = ["TcpExtPAWSActive", "TcpExtPAWSEstab", "TcpExtPAWSTimewait"];
/// Fewer are repeated segments that come late.
const MANY: u64 = 10;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let received = growth.count("TcpInSegs");
    let of = |count| format!("{} of the {received} segments that arrived", percent(count, received));
    let outside = growth.sum(&OUTSIDE);
    if outside >= MANY && is_share(outside, received, 20) {
        report.find(
            growth
                .found(&OUT_OF_WINDOW, (Layer::Transport, Rank::Symptom), outside, &OUTSIDE)
                .because(format!("that is {}", of(outside)))
                .mended_by(
                    "look for something on the way that changes sequence numbers, repeats segments, or \
                     has forgotten its connections; capture a connection that stands (tcpdump -S)",
                ),
        );
    }
    // Between busy processors, segments overtake one another by more than a tick of the timestamps, and a few are rejected.
    let old = growth.sum(&OLD);
    if old >= 2 * MANY && is_share(old, received, 100) {
        report.find(
            growth
                .found(&PAWS, (Layer::Transport, Rank::Loss), old, &OLD)
                .because(format!("that is {}", of(old)))
                .mended_by(
                    "look for several hosts behind one address (NAT, load balancer) whose timestamps \
                     differ, or for a proxy that changes timestamps; net.ipv4.tcp_timestamps=0 on one \
                     side turns the check off",
                ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn many_segments_outside_their_window_are_told() {
        let growth = [("TcpInSegs", 1000), ("TcpExtBeyondWindow", 15), ("TcpExtTCPChallengeACK", 5)];
        assert_eq!(found(&interval(growth), judge), [("out-of-window", Rank::Symptom, 20)]);
        let growth = [("TcpInSegs", 1000), ("TcpExtTCPACKSkippedSeq", 19)];
        assert_eq!(found(&interval(growth), judge), []);
        let growth = [("TcpInSegs", 20), ("TcpExtTCPChallengeACK", 9)];
        assert_eq!(found(&interval(growth), judge), []);
    }

    #[test]
    fn old_timestamps_are_told_and_overtaken_acknowledgements_are_not() {
        let growth = [("TcpInSegs", 500), ("TcpExtPAWSEstab", 50)];
        assert_eq!(found(&interval(growth), judge), [("paws", Rank::Loss, 50)]);
        let growth = [("TcpInSegs", 500), ("TcpExtPAWSEstab", 40)];
        assert_eq!(found(&interval(growth), judge), []);
        let growth = [("TcpInSegs", 500), ("TcpExtPAWSOldAck", 100)];
        assert_eq!(found(&interval(growth), judge), []);
    }
}

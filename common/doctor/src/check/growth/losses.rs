//! What TCP knows of losses elsewhere: retransmissions, timeouts, reordering; and connections that are refused.

use super::{Growth, is_share, percent};
use crate::causes::{TCP_NO_PORT, TCP_REORDERING, TCP_RETRANSMISSIONS, TCP_TIMEOUTS};
use crate::finding::{Finding, Layer, Rank};
use crate::report::Report;

/// Fewer tell nothing of a path.
const MANY: u64 = 10;
/// A connection that gets nothing through for two seconds has that many timeouts.
const TIMEOUTS: u64 = 4;
/// Refused connections.
const REFUSALS: u64 = 5;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let sent = growth.count("TcpExtTCPOrigDataSent");
    let opened = growth.sum(&["TcpActiveOpens", "TcpPassiveOpens"]);
    let repeated = growth.count("TcpRetransSegs");
    // A path that loses one in a hundred has a share of up to two in short connections.
    if repeated >= MANY && is_share(repeated, sent + opened, 30) {
        report.find(retransmissions(growth, repeated, sent));
    }
    let timeouts = growth.count("TcpExtTCPTimeouts");
    if timeouts >= TIMEOUTS && is_share(timeouts, sent + opened, 50) {
        let names = ["TcpExtTCPTimeouts", "TcpExtTCPSynRetrans", "TcpExtTCPAbortOnTimeout"];
        report.find(
            growth
                .found(&TCP_TIMEOUTS, (Layer::Transport, Rank::Symptom), timeouts, &names)
                .because(format!(
                    "meanwhile {opened} connections were opened and {sent} segments with data sent"
                ))
                .mended_by(
                    "see which connections stand (ss -tino: backoff, unacked), and where their segments \
                     are lost: --probe tcp HOST:PORT",
                ),
        );
    }
    reordering(growth, sent, report);
    refusals(growth, report);
    if sent > 0 {
        let share = percent(repeated, sent);
        report.note(
            "TCP retransmissions",
            format!("{repeated} in {:.1} s, {share} of {sent} segments", growth.seconds()),
        );
    }
}

fn retransmissions(growth: &Growth<'_>, repeated: u64, sent: u64) -> Finding {
    let names = ["TcpRetransSegs", "TcpExtTCPFastRetrans", "TcpExtTCPLostRetransmit", "TcpExtTCPDSACKRecv"];
    growth
        .found(&TCP_RETRANSMISSIONS, (Layer::Transport, Rank::Symptom), repeated, &names)
        .because(format!("that is {} of the {sent} segments with data sent", percent(repeated, sent)))
        .mended_by(
            "they, or their acknowledgements, are lost here or on the path: see which connections (ss \
             -tino: retrans, lost), and compare with the other side (--peer, --probe tcp HOST:PORT)",
        )
}

/// What TCP itself calls reordering, and what came twice: segments out of order at the receiver are mostly the traces of losses.
fn reordering(growth: &Growth<'_>, sent: u64, report: &mut Report) {
    let noticed = ["TcpExtTCPSACKReorder", "TcpExtTCPRenoReorder", "TcpExtTCPTSReorder"];
    let needless = ["TcpExtTCPDSACKOldSent", "TcpExtTCPDSACKOfoSent"];
    let received = growth.count("TcpInSegs");
    let (sending, receiving) = (growth.sum(&noticed), growth.sum(&needless));
    let is_sending = sending >= MANY && is_share(sending, sent, 20);
    let is_receiving = receiving >= MANY && is_share(receiving, received, 30);
    if is_sending || is_receiving {
        report.find(
            growth
                .found(
                    &TCP_REORDERING,
                    (Layer::Transport, Rank::Symptom),
                    0,
                    &[&noticed[..], &needless].concat(),
                )
                .because(match is_sending {
                    true => "segments overtake one another on the path, so that they are repeated needlessly",
                    false => "segments arrive that are there already: overtaken and repeated, or sent twice",
                })
                .mended_by(
                    "look for several ways that packets of one connection take (bonding by packet, \
                     unequal queues); within a host, for receive queues that change (net.core.rps, \
                     irqbalance)",
                ),
        );
    }
}

/// Connections opened here that fail at once.
fn refusals(growth: &Growth<'_>, report: &mut Report) {
    let names = ["TcpAttemptFails", "TcpActiveOpens"];
    let opened = growth.count("TcpActiveOpens");
    let others = growth.sum(&["TcpExtEmbryonicRsts", "TcpExtTCPAbortOnTimeout"]);
    let refused = growth.count("TcpAttemptFails").saturating_sub(others);
    // What comes without a timeout comes as an answer.
    if refused >= REFUSALS && is_share(refused, opened, 500) && growth.count("TcpExtTCPTimeouts") < refused {
        report.find(
            growth
                .found(&TCP_NO_PORT, (Layer::Transport, Rank::Symptom), refused, &names)
                .because(format!("{refused} of {opened} connections opened from here were refused at once"))
                .mended_by(
                    "see whether the program at the other end runs and listens (there: ss -ltn), and that \
                     no firewall rejects with a reset",
                ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn a_path_that_loses_one_in_a_hundred_is_healthy() {
        let growth = [("TcpExtTCPOrigDataSent", 5000), ("TcpRetransSegs", 75), ("TcpExtTCPTimeouts", 9)];
        assert_eq!(found(&interval(growth), judge), []);
        let short = [
            ("TcpActiveOpens", 1000),
            ("TcpExtTCPOrigDataSent", 1000),
            ("TcpRetransSegs", 40),
            ("TcpExtTCPTimeouts", 30),
        ];
        assert_eq!(found(&interval(short), judge), []);
    }

    #[test]
    fn a_path_that_loses_one_in_ten_is_not() {
        let growth = [("TcpExtTCPOrigDataSent", 1000), ("TcpRetransSegs", 110), ("TcpExtTCPTimeouts", 20)];
        assert_eq!(found(&interval(growth), judge), [("tcp-retransmissions", Rank::Symptom, 110)]);
    }

    #[test]
    fn connections_that_get_nothing_through_time_out() {
        let growth = [("TcpActiveOpens", 5), ("TcpRetransSegs", 8), ("TcpExtTCPTimeouts", 8)];
        assert_eq!(found(&interval(growth), judge), [("tcp-timeouts", Rank::Symptom, 8)]);
        // A single forgotten connection of an idle host.
        assert_eq!(found(&interval([("TcpRetransSegs", 1), ("TcpExtTCPTimeouts", 1)]), judge), []);
    }

    #[test]
    fn reordering_is_what_tcp_calls_so() {
        let growth = [("TcpExtTCPOrigDataSent", 1000), ("TcpExtTCPSACKReorder", 30)];
        assert_eq!(found(&interval(growth), judge), [("tcp-reordering", Rank::Symptom, 0)]);
        let growth = [("TcpInSegs", 1000), ("TcpExtTCPOFOQueue", 600)];
        assert_eq!(found(&interval(growth), judge), []);
    }

    #[test]
    fn refusals_are_not_timeouts() {
        let growth = [("TcpActiveOpens", 8), ("TcpAttemptFails", 8)];
        assert_eq!(found(&interval(growth), judge), [("tcp-no-port", Rank::Symptom, 8)]);
        let growth = [("TcpActiveOpens", 8), ("TcpAttemptFails", 8), ("TcpExtTCPAbortOnTimeout", 8)];
        assert_eq!(found(&interval(growth), judge), []);
    }
}

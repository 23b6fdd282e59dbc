//! What the daemon has counted while the doctor looked: packets that it lost, and handshakes that it could not shorten.

use crate::causes::{
    BOUND_REACHED, CAPTURE_OVERRUN, DAEMON_NOT_ANSWERING, EMISSION_FAILED, KEY_MISMATCH, NO_ROUTE,
    PACKET_TOO_BIG, SLOW_PATH,
};
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::daemon::DaemonCounters;
use crate::report::Report;

/// Packets that count as a loss at least, and of how many that one was to be.
const SOME: u64 = 10;
const ONE_OF: u64 = 1000;
/// Super-packets cut in user space that are worth telling.
const MANY: u64 = 100;
/// Connections without a short cut, and offers without a right signature, that are no accident.
const FEW: u64 = 3;

/// Two accounts of the daemon's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Between<'a> {
    /// At the beginning.
    pub(super) before: &'a DaemonCounters,
    /// At the end.
    pub(super) after: &'a DaemonCounters,
}

impl Between<'_> {
    /// Returns how much a counter has grown; after a restart it counts from zero.
    fn growth(&self, label: &str) -> u64 {
        let (before, after) = (self.before.count(label), self.after.count(label));
        after.checked_sub(before).unwrap_or(after)
    }

    /// Tells whether `lost` packets are more than what happens to a busy daemon.
    fn is_loss(lost: u64, of: u64) -> bool {
        lost >= SOME && lost.saturating_mul(ONE_OF) >= of
    }
}

/// Judges what has happened between two accounts. `strict_filter` says that `net.ipv4.conf.all.rp_filter` is 1.
pub(super) fn judge(between: Between<'_>, has_strict_filter: bool, report: &mut Report) {
    if !between.before.is_alive && !between.after.is_alive {
        report.find(
            Finding::new(&DAEMON_NOT_ANSWERING, Layer::Daemon, Rank::Fault)
                .because("a packet thread stands still, though the daemon answers (is_alive is false)")
                .seen_by("show stats --json | grep is_alive")
                .mended_by("restart the daemon, and report its log"),
        );
    }
    judge_capture(between, report);
    judge_emission(between, report);
    judge_bounds(between, report);
    judge_keys(between, report);
    judge_super_packets(between, has_strict_filter, report);
}

fn judge_capture(between: Between<'_>, report: &mut Report) {
    let (lost, received) = (between.growth("io.received_overflow"), between.growth("io.received"));
    if Between::is_loss(lost, received + lost) {
        report.find(
            finding(&CAPTURE_OVERRUN, Layer::Daemon, Rank::Loss, lost, "io.received_overflow")
                .because(format!("{lost} packets found the capture's queue full; {received} were received meanwhile"))
                .mended_by("give it more workers (--workers, --cpus) or a faster processor; look what else runs there (top)"),
        );
    }
    let cut = between.growth("io.received_truncated");
    if Between::is_loss(cut, received) {
        report.find(
            finding(&PACKET_TOO_BIG, Layer::Daemon, Rank::Loss, cut, "io.received_truncated")
                .because(format!(
                    "{cut} packets were larger than the daemon's buffers (BIG TCP?), and were not sent on"
                ))
                .mended_by(
                    "switch BIG TCP off: ip link set dev INTERFACE gro_max_size 65536 gso_max_size 65536",
                ),
        );
    }
}

fn judge_emission(between: Between<'_>, report: &mut Report) {
    let sent = between.growth("io.sent") + between.growth("io.sent_whole");
    let kinds: [(&str, &Cause, Layer, &str, &str); 5] = [
        (
            "io.send_refused",
            &EMISSION_FAILED,
            Layer::Output,
            "the kernel refuses (EPERM, EACCES): a rule of the output hook, or a route or security policy",
            "let pass what has the mark 0x52545430 in the output hook, or find who refuses (nft list ruleset; ip rule)",
        ),
        (
            "io.send_queue_full",
            &EMISSION_FAILED,
            Layer::Qdisc,
            "the send buffer or the device's queue stays full (EAGAIN, ENOBUFS)",
            "the link takes no more: see its queueing discipline (tc -s qdisc) and speed",
        ),
        (
            "io.send_unreachable",
            &NO_ROUTE,
            Layer::Routing,
            "there is no route to where they go (ENETUNREACH, EHOSTUNREACH)",
            "add the route, to the clients as well as to the servers (ip route get ADDRESS)",
        ),
        (
            "io.send_failed",
            &EMISSION_FAILED,
            Layer::Ip,
            "the kernel gives an error of another kind",
            "run it with RUST_LOG=debug, and look what sendmmsg(2) answers; a blackhole route gives EINVAL",
        ),
        (
            "io.send_malformed",
            &EMISSION_FAILED,
            Layer::Daemon,
            "their headers contradict their length",
            "find who sends such packets (--pcap FILE tells why each was dropped)",
        ),
    ];
    for (label, cause, layer, why, fix) in kinds {
        let lost = between.growth(label);
        if Between::is_loss(lost, sent + lost) {
            report.find(
                finding(cause, layer, Rank::Loss, lost, label)
                    .because(format!("the daemon could not send {lost} packets of {}: {why}", sent + lost))
                    .mended_by(fix),
            );
        }
    }
    judge_too_big(between, sent, report);
}

/// A sender is told, and sends less; only one that does not listen goes on.
fn judge_too_big(between: Between<'_>, sent: u64, report: &mut Report) {
    let lost = between.growth("io.send_too_big");
    if lost >= 5 * SOME && lost.saturating_mul(100) >= sent {
        report.find(
            finding(&PACKET_TOO_BIG, Layer::Ip, Rank::Symptom, lost, "io.send_too_big")
                .because(format!("{lost} packets of {} were larger than the next link takes (EMSGSIZE)", sent + lost))
                .mended_by("let ICMP 'fragmentation needed' and 'packet too big' pass on the way back to the senders"),
        );
    }
}

fn judge_bounds(between: Between<'_>, report: &mut Report) {
    let bounds = [
        ("pass.flow_table_full", "connections", "--max-flows"),
        ("pass.pending_full", "handshakes under way", "--max-pending"),
        ("pass.half_open_full", "clients that have acknowledged nothing yet (a flood?)", "--max-half-open"),
        ("pass.profile_table_full", "destinations", "the number of services"),
        ("pass.no_room_to_hold", "early data that overtook its SYN", "--max-held"),
        ("drop.held_total_full", "early data of all connections", "--max-held"),
    ];
    for (label, what, option) in bounds {
        let count = between.growth(label);
        if count >= FEW {
            // What is dropped is sent again by its client; what passes goes on without a short cut.
            let rank = if label.starts_with("drop") { Rank::Loss } else { Rank::Suspicion };
            let lost = if rank == Rank::Loss { count } else { 0 };
            report.find(
                finding(&BOUND_REACHED, Layer::Daemon, rank, lost, label)
                    .because(format!("the bound of {what} was reached {count} times ({label})"))
                    .mended_by(format!("raise {option}, if there is memory for it")),
            );
        }
    }
}

fn judge_keys(between: Between<'_>, report: &mut Report) {
    let right = ["event.offer_accepted", "event.offer_repeated", "event.probe_answered", "event.confirmed"];
    let right: u64 = right.iter().map(|label| between.growth(label)).sum();
    let (forged, unknown) = (between.growth("event.offer_forged"), between.growth("event.offer_unknown"));
    // Strangers may forge a few; with the wrong key all are wrong.
    if forged + unknown >= FEW && forged + unknown > right {
        report.find(
            finding(&KEY_MISMATCH, Layer::Daemon, Rank::Fault, 0, "event.offer_forged")
                .because(format!(
                    "{forged} offers had a wrong signature, {unknown} an unknown key or version, and {right} were right"
                ))
                .mended_by("put the same key file on both NICs, and have both read it (SIGHUP, or systemctl reload)"),
        );
    }
}

fn judge_super_packets(between: Between<'_>, has_strict_filter: bool, report: &mut Report) {
    let (cut, whole) = (between.growth("io.resegmented"), between.growth("io.sent_whole"));
    if cut < MANY || whole * 10 > cut {
        return;
    }
    let why = if has_strict_filter {
        "net.ipv4.conf.all.rp_filter is 1, which refuses what the daemon hands to the kernel whole"
    } else {
        "the daemon has no device to hand them to the kernel by; its log says why at its start"
    };
    report.find(
        finding(&SLOW_PATH, Layer::Daemon, Rank::Suspicion, 0, "io.resegmented")
            .because(format!("{cut} super-packets were cut in user space, and {whole} sent on whole: {why}"))
            .mended_by(match has_strict_filter {
                true => "sysctl -w net.ipv4.conf.all.rp_filter=2 (or 0)",
                false => "make /dev/net/tun available to the daemon, and set net.ipv6.conf.all.forwarding=1",
            }),
    );
}

fn finding(cause: &'static Cause, layer: Layer, rank: Rank, lost: u64, label: &str) -> Finding {
    let command = format!("show stats --json | grep -A1 {}", label.split('.').nth(1).unwrap_or(label));
    Finding::new(cause, layer, rank).of(label).losing(lost).seen_by(command)
}

#[cfg(test)]
mod tests {
    use super::super::testing::causes;
    use super::*;

    fn judged(counts: &[(&str, u64)]) -> Vec<String> {
        let before = DaemonCounters { is_alive: true, ..DaemonCounters::default() };
        let counts = counts.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect();
        let after = DaemonCounters { counts, ..before.clone() };
        let mut report = Report::default();
        judge(Between { before: &before, after: &after }, false, &mut report);
        causes(&report)
    }

    #[test]
    fn a_busy_daemon_is_healthy() {
        let counts = [
            ("io.received", 1_000_000),
            ("io.received_overflow", 500),
            ("io.sent", 900_000),
            ("io.sent_whole", 50_000),
            ("io.resegmented", 5_000),
            ("io.send_too_big", 20),
            ("io.send_unreachable", 9),
            ("drop.held_flow_full", 800),
            ("event.offer_accepted", 1_000),
            ("event.offer_forged", 10),
            ("pass.learning", 100),
        ];
        assert!(judged(&counts).is_empty());
    }

    #[test]
    fn what_it_loses_is_told_with_its_layer() {
        assert_eq!(
            judged(&[("io.received", 1000), ("io.received_overflow", 50)])[0],
            "capture-overrun io.received_overflow"
        );
        assert_eq!(
            judged(&[("io.sent", 100), ("io.send_refused", 20)])[0],
            "emission-failed io.send_refused"
        );
        assert_eq!(judged(&[("io.send_unreachable", 20)])[0], "no-route io.send_unreachable");
        assert_eq!(
            judged(&[("io.sent", 1000), ("io.send_too_big", 60)])[0],
            "packet-too-big io.send_too_big"
        );
        assert_eq!(judged(&[("io.received_truncated", 60)])[0], "packet-too-big io.received_truncated");
    }

    #[test]
    fn bounds_and_keys_are_told() {
        assert_eq!(judged(&[("pass.flow_table_full", 7)])[0], "bound-reached pass.flow_table_full");
        assert_eq!(judged(&[("event.offer_forged", 4)])[0], "key-mismatch event.offer_forged");
        assert_eq!(judged(&[("event.offer_unknown", 4), ("event.offer_accepted", 1)]).len(), 1);
        assert_eq!(judged(&[("io.resegmented", 500)])[0], "slow-path io.resegmented");
    }

    #[test]
    fn a_thread_that_stands_still_is_told_if_it_does_so_twice() {
        let (dead, alive) =
            (DaemonCounters::default(), DaemonCounters { is_alive: true, ..DaemonCounters::default() });
        for (before, after, findings) in [(&dead, &dead, 1), (&alive, &dead, 0), (&dead, &alive, 0)] {
            let mut report = Report::default();
            judge(Between { before, after }, false, &mut report);
            assert_eq!(report.findings().len(), findings);
        }
    }

    #[test]
    fn a_restart_between_both_is_no_growth_backwards() {
        let counts = |count| DaemonCounters {
            is_alive: true,
            counts: [("io.received_overflow".to_owned(), count)].into(),
            ..DaemonCounters::default()
        };
        let (before, after) = (counts(1_000_000), counts(3));
        assert_eq!(Between { before: &before, after: &after }.growth("io.received_overflow"), 3);
    }
}

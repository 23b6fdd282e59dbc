//! Datagrams that arrive and are not delivered, or can't be sent.

use super::{Growth, STRAYS, grown, is_share, percent};
use crate::causes::{UDP_NO_PORT, UDP_RECEIVE_BUFFER, UDP_RECEIVE_ERRORS, UDP_SEND_BUFFER};
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::datagrams::Datagrams;
use crate::report::Report;

const NO_PORT: [&str; 2] = ["UdpNoPorts", "Udp6NoPorts"];
const FULL: [&str; 4] = ["UdpRcvbufErrors", "Udp6RcvbufErrors", "UdpMemErrors", "Udp6MemErrors"];
const ERRORS: [&str; 2] = ["UdpInErrors", "Udp6InErrors"];
const CHECKSUMS: [&str; 2] = ["UdpInCsumErrors", "Udp6InCsumErrors"];
const UNSENT: [&str; 2] = ["UdpSndbufErrors", "Udp6SndbufErrors"];
/// Fewer are a program that sends as fast as it may and is told to wait.
const MANY_UNSENT: u64 = 10;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let nobody = growth.sum(&NO_PORT);
    if nobody >= STRAYS {
        report.find(growth.found(&UDP_NO_PORT, (Layer::Transport, Rank::Loss), nobody, &NO_PORT).mended_by(
            "see which program should receive them, whether it runs, and at which address and port it \
             listens (ss -lunp); the ports that are asked for: tcpdump -ni any 'icmp[0] == 3 and icmp[1] \
             == 3'",
        ));
    }
    let delivered = growth.sum(&["UdpInDatagrams", "Udp6InDatagrams"]);
    let full = growth.sum(&FULL);
    if full >= STRAYS && is_share(full, delivered + full, 10) {
        report.find(too_slow(growth, full, delivered));
    }
    let others = growth.sum(&ERRORS).saturating_sub(full + growth.sum(&CHECKSUMS));
    if others >= STRAYS {
        let finding = growth.found(&UDP_RECEIVE_ERRORS, (Layer::Socket, Rank::Loss), others, &ERRORS);
        report.find(
            naming(finding, growth)
                .because(
                    "neither a full buffer nor a wrong checksum: a socket's own filter, or a \
                     decapsulation that failed",
                )
                .mended_by(
                    "see which filters sockets have (ss -uanp --bpf), and what IPsec says (cat \
                     /proc/net/xfrm_stat)",
                ),
        );
    }
    let sent = growth.sum(&["UdpOutDatagrams", "Udp6OutDatagrams"]);
    let unsent = growth.sum(&UNSENT);
    if unsent >= MANY_UNSENT && is_share(unsent, sent + unsent, 100) {
        report.find(
            growth
                .found(&UDP_SEND_BUFFER, (Layer::Socket, Rank::Symptom), unsent, &UNSENT)
                .because(format!("meanwhile {sent} datagrams were sent"))
                .mended_by(
                    "see whether the device's queue is full (tc -s qdisc); else raise SO_SNDBUF and \
                     net.core.wmem_max",
                ),
        );
    }
}

fn too_slow(growth: &Growth<'_>, full: u64, delivered: u64) -> Finding {
    let finding = growth.found(&UDP_RECEIVE_BUFFER, (Layer::Socket, Rank::Loss), full, &FULL);
    naming(finding, growth)
        .because(format!("that is {} of the datagrams that arrived", percent(full, delivered + full)))
        .mended_by(
            "let the program read faster, or give it a larger buffer (SO_RCVBUF, bounded by \
             net.core.rmem_max; without it net.core.rmem_default); if the memory of all sockets together \
             is used up, raise net.ipv4.udp_mem",
        )
}

/// Names the sockets that have dropped something meanwhile.
fn naming(mut finding: Finding, growth: &Growth<'_>) -> Finding {
    let mut dropping = dropping(growth);
    dropping.sort_by_key(|(_, drops)| std::cmp::Reverse(*drops));
    if let [(only, _)] = dropping[..] {
        finding = finding.of(only.local.to_string());
    }
    for (socket, drops) in dropping.iter().take(3) {
        let owner = socket.owner.as_deref().unwrap_or("its process is unknown");
        let waiting = socket.waiting;
        finding = finding.because(format!(
            "the socket {} ({owner}) has dropped {drops}; {waiting} bytes wait in it",
            socket.local
        ));
    }
    let command = std::mem::take(&mut finding.command);
    finding.seen_by(format!("{command}; ss -ulnpm   # skmem: d is the number of drops"))
}

fn dropping<'a>(growth: &Growth<'a>) -> Vec<(&'a Datagrams, u64)> {
    let (Ok(before), Ok(after)) = (&growth.before().datagrams, &growth.after().datagrams) else {
        return Vec::new();
    };
    let drops = |inode| before.get(inode).map_or(0, |socket: &Datagrams| socket.drops);
    after
        .iter()
        .map(|(inode, socket)| (socket, grown(drops(inode), socket.drops)))
        .filter(|(_, drops)| *drops > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn a_slow_program_is_named() {
        let mut interval = interval([("UdpInDatagrams", 100), ("UdpRcvbufErrors", 30), ("UdpInErrors", 30)]);
        let socket = |drops| {
            let local = "10.1.1.1:5000".parse().unwrap();
            Datagrams { local, waiting: 2304, drops, owner: Some("slow, process 9".to_owned()) }
        };
        interval.before.datagrams = Ok([(1, socket(3)), (2, socket(5))].into());
        interval.after.datagrams = Ok([(1, socket(33)), (2, socket(5))].into());
        assert_eq!(found(&interval, judge), [("udp-receive-buffer", Rank::Loss, 30)]);
        let mut report = Report::default();
        judge(&Growth::new(&interval), &mut report);
        let finding = &report.findings()[0];
        assert_eq!(finding.subject, "10.1.1.1:5000");
        assert!(
            finding.evidence.iter().any(|text| text.contains("slow, process 9) has dropped 30")),
            "{finding:?}"
        );
    }

    #[test]
    fn strays_and_bursts_are_nothing() {
        assert_eq!(found(&interval([("UdpNoPorts", 4)]), judge), []);
        let growth = [("UdpInDatagrams", 10_000), ("UdpRcvbufErrors", 30), ("UdpInErrors", 30)];
        assert_eq!(found(&interval(growth), judge), []);
        assert_eq!(found(&interval([("UdpOutDatagrams", 1000), ("UdpSndbufErrors", 50)]), judge), []);
    }

    #[test]
    fn ports_without_a_listener_are_told_of_both_families() {
        let growth = [("UdpNoPorts", 3), ("Udp6NoPorts", 4), ("Ip6InReceives", 9)];
        assert_eq!(found(&interval(growth), judge), [("udp-no-port", Rank::Loss, 7)]);
    }

    #[test]
    fn errors_of_no_known_kind_stand_for_themselves() {
        let growth = [("UdpInErrors", 20), ("UdpInCsumErrors", 5), ("UdpRcvbufErrors", 4)];
        assert_eq!(found(&interval(growth), judge), [("udp-receive-errors", Rank::Loss, 11)]);
    }

    #[test]
    fn what_can_t_be_sent_is_a_symptom() {
        let growth = [("UdpOutDatagrams", 100), ("UdpSndbufErrors", 50)];
        assert_eq!(found(&interval(growth), judge), [("udp-send-buffer", Rank::Symptom, 50)]);
    }
}

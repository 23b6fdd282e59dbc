//! What is counted, as Prometheus reads it.
//!
//! Names begin with `rtt0_mirror_`. The labels are `reason`, `failure`, `transport` and `rule`; rules are named by the
//! operator, and there are at most 1,024. What is counted of replies is there if any rule wants them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use prometheus::proto::{MetricFamily, MetricType};
use rtt0_daemon::http::{Answer, HttpSocket, text};
use rtt0_daemon::metrics::family::{by, counter, exposed, gauges};

use crate::replied::Replied;
use crate::snapshot::Snapshot;

/// The last snapshot, for who asks.
pub type Latest = Arc<Mutex<Snapshot>>;

/// Serves the latest snapshot to all who ask, until the runtime ends.
pub async fn serve(socket: HttpSocket, latest: Latest) {
    let answer = move |path: String| {
        let latest = Arc::clone(&latest);
        async move { answer(&path, &latest) }
    };
    socket.serve(answer).await;
}

fn answer(path: &str, latest: &Latest) -> Answer {
    match path {
        "/metrics" => exposed(&families(&latest.lock().unwrap_or_else(PoisonError::into_inner))),
        _ => text(StatusCode::NOT_FOUND, "there is /metrics\n"),
    }
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let build = [("backend", &*snapshot.backend), ("version", env!("CARGO_PKG_VERSION"))];
    let rules = |name, help, of: fn(&crate::snapshot::RuleCount) -> u64| {
        let values = snapshot.rules.iter().map(|rule| (&*rule.name, of(rule)));
        by("rule", name, help, MetricType::COUNTER, values)
    };
    let mut families = vec![
        gauges("rtt0_mirror_info", "How packets are captured; always 1.", [(&build[..], 1.0)]),
        counter("rtt0_mirror_captured_packets_total", "Packets captured.", snapshot.captured),
        counter("rtt0_mirror_captured_bytes_total", "Their IP bytes.", snapshot.captured_bytes),
        counter("rtt0_mirror_sent_packets_total", "Packets sent on.", snapshot.sent),
        counter("rtt0_mirror_sent_bytes_total", "Their IP bytes.", snapshot.sent_bytes),
        counter("rtt0_mirror_observed_packets_total", "Packets looked at.", snapshot.observed),
        counter(
            "rtt0_mirror_overflow_packets_total",
            "Packets that the kernel dropped before they were captured.",
            snapshot.overflow,
        ),
        counter(
            "rtt0_mirror_strayed_packets_total",
            "Translated packets that the guard kept from leaving by another interface.",
            snapshot.strayed,
        ),
    ];
    let more = [
        labelled(
            "reason",
            "rtt0_mirror_dropped_packets_total",
            "Packets that ended otherwise.",
            &snapshot.dropped,
        ),
        labelled(
            "failure",
            "rtt0_mirror_io_failures_total",
            "What failed around the packets.",
            &snapshot.failures,
        ),
        rules("rtt0_mirror_rule_packets_total", "Packets that a rule has translated.", |rule| rule.packets),
        rules("rtt0_mirror_rule_bytes_total", "Their IP bytes.", |rule| rule.bytes),
    ];
    families.extend(more);
    families.extend(snapshot.replies.iter().flat_map(of_replies));
    // A family without a value is none.
    families.retain(|family| !family.get_metric().is_empty());
    families
}

/// A family of counters, one for each of what a label may say.
fn labelled(label: &str, name: &str, help: &str, counts: &BTreeMap<&'static str, u64>) -> MetricFamily {
    by(label, name, help, MetricType::COUNTER, counts.iter().map(|(label, count)| (*label, *count)))
}

fn of_replies(replied: &Replied) -> Vec<MetricFamily> {
    let flows = replied.flows.iter().map(|(transport, flows)| (*transport, *flows as u64));
    vec![
        counter("rtt0_mirror_replies_captured_packets_total", "Replies captured.", replied.captured),
        counter("rtt0_mirror_replies_captured_bytes_total", "Their IP bytes.", replied.captured_bytes),
        counter(
            "rtt0_mirror_replies_sent_packets_total",
            "Replies given back to those who asked.",
            replied.sent,
        ),
        counter("rtt0_mirror_replies_sent_bytes_total", "Their IP bytes.", replied.sent_bytes),
        counter(
            "rtt0_mirror_replies_overflow_packets_total",
            "Replies that the kernel dropped before they were captured.",
            replied.overflow,
        ),
        labelled(
            "reason",
            "rtt0_mirror_replies_dropped_packets_total",
            "Replies that ended otherwise.",
            &replied.dropped,
        ),
        labelled(
            "failure",
            "rtt0_mirror_replies_io_failures_total",
            "What failed around the replies.",
            &replied.failures,
        ),
        by(
            "transport",
            "rtt0_mirror_replies_flows",
            "Flows remembered for their replies.",
            MetricType::GAUGE,
            flows,
        ),
        counter(
            "rtt0_mirror_replies_flows_replaced_total",
            "Flows that were let go before their time to make room for others.",
            replied.replaced,
        ),
        counter(
            "rtt0_mirror_replies_flows_ambiguous_total",
            "Flows whose replies may be for either of two clients.",
            replied.ambiguous,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::RuleCount;

    #[test]
    fn families_have_values_and_the_conventional_names() {
        let empty = families(&Snapshot::default());
        assert!(empty.iter().all(|family| !family.get_metric().is_empty()));
        let rules = vec![RuleCount { name: "field".to_owned(), packets: 3, bytes: 300 }];
        let snapshot = Snapshot { rules, dropped: [("vni", 7)].into(), ..Snapshot::default() };
        let full = families(&snapshot);
        assert_eq!(full.len(), empty.len() + 3);
        let replied =
            Replied { dropped: [("no_reply", 1)].into(), flows: [("udp", 2)].into(), ..Replied::default() };
        let with_replies = families(&Snapshot { replies: Some(replied), ..snapshot });
        assert_eq!(with_replies.len(), full.len() + 9);
        for family in &with_replies {
            let name = family.name();
            assert!(name.starts_with("rtt0_mirror_"), "{name}");
            assert_eq!(name.ends_with("_total"), family.get_field_type() == MetricType::COUNTER, "{name}");
        }
    }
}

//! What a daemon knows of itself, as Prometheus reads it.
//!
//! Names begin with `rtt0_`, counters end in `_total`, units are base units (seconds, bytes). The labels are `reason`,
//! `event`, `table`, `way` and those of `rtt0_build_info`; all their values are known at compile time.

use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use rtt0_netio::counters::IoCounters;

use super::family::{by, counter, family, gauge, gauges};
use crate::stats::{Count, Saved, Stats};

/// Returns all metrics.
pub(super) fn families(stats: &Stats) -> Vec<MetricFamily> {
    let flag = |set: bool| f64::from(u8::from(set));
    let io = |label: &str| stats.io.iter().find(|count| count.label == label).map_or(0, |count| count.count);
    let lost: Vec<&Count> = stats.io.iter().filter(|count| IoCounters::is_failure(&count.label)).collect();
    let build = [("program", &*stats.program), ("version", &*stats.version)];
    let mut families = vec![
        gauges("rtt0_build_info", "Which daemon this is; always 1.", [(&build[..], 1.0)]),
        gauge("rtt0_start_time_seconds", "When the daemon began to serve, since 1970.", stats.started),
        gauge("rtt0_healthy", "Whether every packet thread goes round its loop.", flag(stats.is_alive)),
        gauge("rtt0_draining", "Whether an operator has it begin no connection.", flag(stats.is_draining)),
        gauge(
            "rtt0_bypassing",
            "Whether the kernel forwards new connections by itself because of a flood of SYNs.",
            flag(&*stats.bypass != "nothing"),
        ),
        gauge(
            "rtt0_offloading",
            "Whether the kernel forwards established flows.",
            flag(stats.offload.is_some()),
        ),
        gauge(
            "rtt0_config_last_reload_successful",
            "Whether the last reload took over the configuration.",
            flag(stats.reload.has_succeeded),
        ),
        gauge(
            "rtt0_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read, since 1970.",
            stats.reload.read,
        ),
        by(
            "table",
            "rtt0_table_entries",
            "What the tables hold.",
            MetricType::GAUGE,
            stats.levels.iter().map(|level| (&*level.label, level.now)),
        ),
        by(
            "table",
            "rtt0_table_limit",
            "What they hold at most.",
            MetricType::GAUGE,
            stats.levels.iter().map(|level| (&*level.label, level.most)),
        ),
        counter("rtt0_received_packets_total", "Packets captured whole.", io("received")),
        counter("rtt0_received_bytes_total", "IP bytes captured.", io("received_bytes")),
        by(
            "way",
            "rtt0_sent_packets_total",
            "Packets handed to the kernel: single ones, and super-packets whole.",
            MetricType::COUNTER,
            [("single", io("sent")), ("whole", io("sent_whole"))],
        ),
        counter("rtt0_sent_bytes_total", "IP bytes handed to the kernel.", io("sent_bytes")),
        by(
            "reason",
            "rtt0_io_failures_total",
            "What failed between the kernel and the engine.",
            MetricType::COUNTER,
            lost.iter().map(|count| (&*count.label, count.count)),
        ),
        by(
            "reason",
            "rtt0_dropped_packets_total",
            "Packets that were not sent on.",
            MetricType::COUNTER,
            labelled(&stats.drops),
        ),
        by(
            "reason",
            "rtt0_passed_packets_total",
            "Packets that nothing was done for.",
            MetricType::COUNTER,
            labelled(&stats.passes),
        ),
        by("event", "rtt0_events_total", "What was done.", MetricType::COUNTER, labelled(&stats.events)),
        counter(
            "rtt0_unlogged_notices_total",
            "Lines about single connections that found no room.",
            io("notices_lost"),
        ),
        counter(
            "rtt0_bypassed_syns_total",
            "SYNs that the kernel has forwarded by itself in floods.",
            stats.bypassed,
        ),
        saved(&stats.saved),
    ];
    if let Some(guarded) = stats.guarded {
        families.push(counter(
            "rtt0_guarded_packets_total",
            "Packets kept from the kernel's forwarding.",
            guarded,
        ));
    }
    if let Some(kernel) = &stats.offload {
        families.extend([
            counter("rtt0_offload_packets_total", "Packets that the kernel has forwarded.", kernel.packets),
            counter("rtt0_offload_bytes_total", "IP bytes that the kernel has forwarded.", kernel.bytes),
            counter(
                "rtt0_offload_left_packets_total",
                "Packets of its flows that it has left to the engine.",
                kernel.left,
            ),
            counter(
                "rtt0_offload_forgotten_flows_total",
                "Flows that it has forgotten: something else has begun.",
                kernel.forgotten,
            ),
        ]);
    }
    families
}

fn labelled(counts: &[Count]) -> impl Iterator<Item = (&str, u64)> {
    counts.iter().map(|count| (&*count.label, count.count))
}

fn saved(saved: &Saved) -> MetricFamily {
    let bucket = |(bound, count): &(f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_sample_count(saved.count);
    histogram.set_sample_sum(saved.seconds);
    histogram.set_bucket(saved.buckets.iter().map(bucket).collect());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let help = "How much earlier clients were answered than their servers would have been heard.";
    family("rtt0_rtt_saved_seconds", help, MetricType::HISTOGRAM, vec![metric])
}

#[cfg(test)]
mod tests {
    use super::super::family::encode;
    use super::*;
    use crate::stats::{Level, Offloaded};
    use rtt0_core::reason::{Counters, DropReason, PassReason};
    use std::collections::HashSet;
    use std::time::Duration;

    fn stats() -> Stats {
        let (counters, io) = (Counters::default(), IoCounters::default());
        counters.discard(DropReason::Confirm);
        counters.saved().add(Duration::from_millis(30));
        io.received.add(7);
        let offload = Some(Offloaded { packets: 1, bytes: 2, left: 3, forgotten: 4 });
        let flows = Level { label: "flows".into(), now: 3, most: 9, meaning: "".into() };
        let mut stats = Stats {
            program: "testnic".into(),
            guarded: Some(9),
            offload,
            levels: vec![flows],
            ..Stats::default()
        };
        stats.count_engines([counters].iter());
        stats.count_io([io].iter());
        stats
    }

    /// What promtool's linter looks at, and what the format demands.
    #[test]
    fn names_and_types_follow_the_conventions() {
        let text = encode(&families(&stats())).unwrap();
        let mut names = HashSet::new();
        for family in families(&stats()) {
            let (name, kind) = (family.name(), family.get_field_type());
            assert!(names.insert(name.to_owned()), "{name} comes twice");
            assert!(name.starts_with("rtt0_") && !family.help().is_empty(), "{name}");
            assert!(
                name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'),
                "{name}"
            );
            assert_eq!(kind == MetricType::COUNTER, name.ends_with("_total"), "{name}");
            assert!(!["_ms", "_micros", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)));
            assert!(!family.get_metric().is_empty(), "{name} has no value");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        for line in [
            "rtt0_dropped_packets_total{reason=\"confirm\"} 1",
            "rtt0_rtt_saved_seconds_bucket{le=\"0.02\"} 0",
            "rtt0_rtt_saved_seconds_bucket{le=\"0.035\"} 1",
            "rtt0_rtt_saved_seconds_bucket{le=\"+Inf\"} 1",
            "rtt0_rtt_saved_seconds_sum 0.03",
            "rtt0_received_packets_total 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    /// Returns what stands between `start` and the first character that `ends`, everywhere in `text`.
    fn all_after<'a>(text: &'a str, start: &str, ends: impl Fn(char) -> bool) -> Vec<&'a str> {
        text.split(start).skip(1).map(|rest| rest.split(&ends).next().unwrap_or_default()).collect()
    }

    /// Dashboard and alerting rules ask only for what there is.
    #[test]
    fn what_is_deployed_asks_for_metrics_that_are_exported() {
        let families = families(&stats());
        let exported: HashSet<&str> = families.iter().map(|family| family.name()).collect();
        let labels = |name: &str| -> HashSet<&str> {
            let metrics = families.iter().flat_map(|family| family.get_metric());
            let pairs = metrics.flat_map(|metric| metric.get_label());
            pairs.filter(|pair| pair.name() == name).map(|pair| pair.value()).collect()
        };
        let dashboard = include_str!("../../../../deploy/grafana.json");
        let alerts = include_str!("../../../../deploy/alerts.yml");
        for text in [dashboard, alerts] {
            let asked =
                all_after(text, "rtt0_", |c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            assert!(asked.len() > 10);
            for name in asked.into_iter().map(|name| format!("rtt0_{name}")) {
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let is_there =
                    exported.contains(&*name) || family.is_some_and(|family| exported.contains(family));
                assert!(is_there, "{name} is not exported");
            }
            for label in ["reason", "event", "table", "way"] {
                for operator in ["=~", "!~", "="] {
                    // Within JSON the quotes are escaped.
                    let text = text.replace("\\\"", "\"");
                    for values in all_after(&text, &format!("{label}{operator}\""), |c| c == '"') {
                        for value in values.split('|') {
                            assert!(labels(label).contains(value), "there is no {label} {value}");
                        }
                    }
                }
            }
        }
        let untouched: Vec<&str> =
            PassReason::ALL.iter().filter(|reason| reason.is_of_syn()).map(|reason| reason.label()).collect();
        assert!(dashboard.contains(&untouched.join("|")), "new connections are: {}", untouched.join("|"));
    }

    #[test]
    fn every_counter_between_kernel_and_engine_is_exported() {
        let text = encode(&families(&stats())).unwrap();
        // How often packets were joined or cut says nothing of what went out.
        let left_out = ["joined", "resegmented", "state_written"];
        for (label, _) in IoCounters::default().iter().filter(|(label, _)| !left_out.contains(label)) {
            let name = match label {
                "notices_lost" => "rtt0_unlogged_notices_total".to_owned(),
                "received" => "rtt0_received_packets_total".to_owned(),
                "sent" => "way=\"single\"".to_owned(),
                "sent_whole" => "way=\"whole\"".to_owned(),
                "received_bytes" | "sent_bytes" => format!("rtt0_{label}_total"),
                _ => format!("rtt0_io_failures_total{{reason=\"{label}\"}}"),
            };
            assert!(text.contains(&name), "{name}");
        }
    }
}

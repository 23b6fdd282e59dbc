//! Metrics as Prometheus reads them, made of numbers.

use hyper::StatusCode;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{TEXT_FORMAT, TextEncoder};

use crate::http::{Answer, reply, text};

/// Answers with metrics, in the text format 0.0.4.
pub fn exposed(families: &[MetricFamily]) -> Answer {
    match encode(families) {
        Ok(body) => reply(StatusCode::OK, body.into(), TEXT_FORMAT),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written\n")
        }
    }
}

/// Writes metrics in the text format.
pub(super) fn encode(families: &[MetricFamily]) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(families)
}

/// Makes a family of metrics.
pub fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// Makes a metric, a counter or a gauge, with its labels.
pub fn metric(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::from_label(labels.iter().map(pair).collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

/// Makes a family of gauges with labels.
pub fn gauges<'a>(
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], f64)>,
) -> MetricFamily {
    let values = values.into_iter().map(|(labels, value)| metric(MetricType::GAUGE, labels, value));
    family(name, help, MetricType::GAUGE, values.collect())
}

/// Makes a family of one gauge.
pub fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    gauges(name, help, [(&[][..], value)])
}

/// Makes a family of one counter; by convention its name ends in `_total`.
pub fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![metric(MetricType::COUNTER, &[], value as f64)])
}

/// A family with a value for each of what a label may say.
pub fn by<'a>(
    label: &str,
    name: &str,
    help: &str,
    kind: MetricType,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> MetricFamily {
    let values = values.into_iter().map(|(of, value)| metric(kind, &[(label, of)], value as f64));
    family(name, help, kind, values.collect())
}

//! What one measurement found, as it appears in JSON.

use super::counters::Counted;
use super::plan::Step;
use super::statistics::{Summary, thousandth};
use crate::program::tcp_info::TcpInfo;
use serde::Serialize;
use std::time::Duration;

/// Times of one connection, from just before `connect(2)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When `connect(2)` returned.
    pub connect: Duration,
    /// When the first byte of the response came.
    pub first_byte: Duration,
}

/// What a measurement collected.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// One for each connection that succeeded.
    pub samples: Vec<Sample>,
    /// One for each connection that did not: why.
    pub errors: Vec<String>,
    /// The client's view of its last connection, if it was the built-in client.
    pub client_tcp: Option<TcpInfo>,
    /// The server's view of its last connection, if it was the built-in server.
    pub server_tcp: Option<TcpInfo>,
}

/// One row of the results. Times are in ms, rounded to the µs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// What was measured.
    #[serde(flatten)]
    pub step: Step,
    /// Round-trip time of the path as read back just before.
    pub measured_rtt_ms: f64,
    /// Connections tried, warm-up not included.
    pub connections: usize,
    /// Connections that failed.
    pub failed: usize,
    /// Time to first byte; none if every connection failed.
    pub ttfb_ms: Option<Summary>,
    /// Time until `connect(2)` returned; none if every connection failed.
    pub connect_ms: Option<Summary>,
    /// Median time to first byte in units of the RTT read back.
    pub ttfb_rtts: Option<f64>,
    /// What the kernels counted.
    #[serde(flatten)]
    pub counted: Counted,
    /// What the client negotiated.
    pub client_tcp: Option<Negotiated>,
    /// What the server negotiated.
    pub server_tcp: Option<Negotiated>,
    /// Distinct reasons of failed connections.
    pub errors: Vec<String>,
    /// Every time to first byte, in the order measured.
    pub samples_ttfb_ms: Vec<f64>,
}

impl Measurement {
    /// Summarises what was collected.
    pub fn new(step: Step, measured_rtt: Duration, collected: Collected, counted: Counted) -> Self {
        let ttfb: Vec<f64> = collected.samples.iter().map(|sample| millis(sample.first_byte)).collect();
        let connect: Vec<f64> = collected.samples.iter().map(|sample| millis(sample.connect)).collect();
        let ttfb_ms = Summary::of(&ttfb);
        let mut errors = collected.errors.clone();
        errors.sort();
        errors.dedup();
        Self {
            step,
            measured_rtt_ms: millis(measured_rtt),
            connections: collected.samples.len() + collected.errors.len(),
            failed: collected.errors.len(),
            ttfb_ms,
            connect_ms: Summary::of(&connect),
            ttfb_rtts: ttfb_ms.map(|summary| thousandth(summary.p50 / millis(measured_rtt))),
            counted,
            client_tcp: collected.client_tcp.map(Negotiated::from),
            server_tcp: collected.server_tcp.map(Negotiated::from),
            errors,
            samples_ttfb_ms: ttfb,
        }
    }
}

/// Returns ms, rounded to the µs.
pub fn millis(time: Duration) -> f64 {
    thousandth(time.as_secs_f64() * 1e3)
}

/// What an endpoint takes the connection to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Negotiated {
    /// Largest segment it sends, bytes.
    pub snd_mss: u32,
    /// MSS it announced, bytes.
    pub advmss: u32,
    /// Window scale of its peer.
    pub snd_wscale: u8,
    /// Its own window scale.
    pub rcv_wscale: u8,
    /// Selective acknowledgement is in use.
    pub sack: bool,
    /// Timestamps are in use.
    pub timestamps: bool,
    /// ECN is in use.
    pub ecn: bool,
    /// Smoothed RTT at the end, ms.
    pub rtt_ms: f64,
    /// Least RTT it has seen, ms.
    pub min_rtt_ms: f64,
}

impl From<TcpInfo> for Negotiated {
    fn from(info: TcpInfo) -> Self {
        Self {
            snd_mss: info.snd_mss,
            advmss: info.advmss,
            snd_wscale: info.snd_wscale,
            rcv_wscale: info.rcv_wscale,
            sack: info.sack(),
            timestamps: info.timestamps(),
            ecn: info.ecn(),
            rtt_ms: millis(info.rtt),
            min_rtt_ms: millis(info.min_rtt),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::choice::{ClientKind, IpVersion, Mode, ServerKind};

    /// A measurement whose times to first byte are spread by 1 % above `round_trips`.
    pub(crate) fn measurement(mode: Mode, rtt_ms: f64, round_trips: f64) -> Measurement {
        let step = Step {
            mode,
            client: ClientKind::Builtin,
            server: ServerKind::Builtin,
            ip: IpVersion::V4,
            rtt_ms,
        };
        let sample = |i: u32| Sample {
            connect: Duration::from_secs_f64((round_trips - 1.0).max(0.002) * rtt_ms / 1e3),
            first_byte: Duration::from_secs_f64((round_trips + f64::from(i) * 0.000_25) * rtt_ms / 1e3),
        };
        let info = TcpInfo { snd_mss: 1448, options: 7, ..TcpInfo::default() };
        let collected = Collected {
            samples: (0..40).map(sample).collect(),
            errors: Vec::new(),
            client_tcp: Some(info),
            server_tcp: Some(info),
        };
        Measurement::new(step, Duration::from_secs_f64(rtt_ms / 1e3), collected, Counted::default())
    }

    #[test]
    fn json_has_the_promised_form() {
        let json = serde_json::to_value(measurement(Mode::Paired, 50.0, 1.02)).unwrap();
        for (field, value) in [("mode", "paired"), ("client", "builtin"), ("server", "builtin")] {
            assert_eq!(json[field], value);
        }
        assert_eq!(json["ip"], 4);
        assert_eq!((json["rtt_ms"].as_f64(), json["measured_rtt_ms"].as_f64()), (Some(50.0), Some(50.0)));
        assert_eq!((json["connections"].as_u64(), json["failed"].as_u64()), (Some(40), Some(0)));
        for summary in ["ttfb_ms", "connect_ms"] {
            for statistic in ["min", "p50", "p90", "p99", "max"] {
                assert!(json[summary][statistic].is_f64(), "{summary}.{statistic}");
            }
        }
        assert_eq!(json["ttfb_rtts"], 1.025);
        for counter in ["retransmits", "resets", "synack_repeats", "forwarded"] {
            assert_eq!(json[counter], 0, "{counter}");
        }
    }

    #[test]
    fn without_a_single_success_there_are_no_times() {
        let step = measurement(Mode::Kernel, 10.0, 2.0).step;
        let collected = Collected { errors: vec!["refused".into(); 3], ..Collected::default() };
        let found = Measurement::new(step, Duration::from_millis(10), collected, Counted::default());
        assert_eq!((found.connections, found.failed, found.errors.len()), (3, 3, 1));
        assert_eq!((found.ttfb_ms, found.ttfb_rtts), (None, None));
    }
}

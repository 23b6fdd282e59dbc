//! What was seen, in figures.

use super::distribution::Quantiles;
use super::services::{DISTRIBUTIONS, Name};
use super::statistics::{Distributions, Statistics};
use super::syns::Syns;
use super::tracker::is_told;
use super::{Observer, Unused};
use rtt0_core::reason::PassReason;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::kind;
use serde::Serialize;
use std::net::IpAddr;

/// µs of a ms.
const MS: f64 = 1000.0;
/// MSS values that are told.
const TOP_MSS: usize = 5;

/// What is taken for granted, for readers of the report.
const ASSUMPTIONS: [&str; 9] = [
    "There would be a ClientNIC and a ServerNIC on the path, both working for every connection seen, and the ClientNIC \
     would begin without any knowledge: the first connection to each destination is learned from.",
    "Expected: one of the two stands where the mirror is, the other beside the far end. Then the longer of the two legs \
     is saved. At best: each stands beside its end. Then the path's whole round trip is saved. With only one of them \
     (solo) next to nothing is saved.",
    "A request that was not sent at once behind the handshake may have waited for something else than the connection. \
     Only what the round trip exceeds that wait is counted as saved.",
    "Where the server speaks first, as much is saved: its first byte waits for the client's acknowledgement, which \
     travels with the SYN just as a request does. It is told apart since nothing of the client's is held meanwhile.",
    "Times at the client are worked out: what the mirror saw, and once the leg between mirror and client.",
    "Round trips are taken only from handshakes of which all three segments were seen, once and in order (Karn's rule); \
     the third must be a bare acknowledgement. Where only the way to the server is mirrored, SYN to acknowledgement is \
     the path's round trip.",
    "The same SYN or SYN-ACK again is a mirror's copy if its timestamp is the same or, without timestamps, if it comes \
     within 150 ms; else it is a retransmission. Without timestamps a mirror's copy that comes later counts as one.",
    "Unanswered is what has had no answer 15 s after its last SYN. That the mirror did not show the answer looks the \
     same. ICMP errors are not looked at.",
    "Not judged: checksums of SYNs, the daemon's exclusions, and its bounds on connections at a time; one ClientNIC is \
     taken to see all.",
];

/// What an [`Observer`] has seen. Times are in ms, sizes in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// From the first segment to the report, in seconds.
    pub observed_s: f64,
    /// All connections.
    pub all: ServiceReport,
    /// Each service, that with the most connections first; without those to which there were none.
    pub services: Vec<ServiceReport>,
    /// What the SYNs carry.
    pub syns: SynReport,
    /// What tells nothing of a connection, or had no room.
    pub unused: Unused,
    /// What is taken for granted, in sentences.
    pub assumptions: Vec<&'static str>,
    #[serde(skip)]
    pub(super) curves: Vec<Vec<(f64, f64)>>,
}

/// Which directions of a service the mirror shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// Both.
    Both,
    /// Only what clients send.
    OnlyToServer,
    /// Only what servers send.
    OnlyToClient,
    /// Only SYNs: nobody answers, or the answers are not mirrored.
    OnlySyns,
    /// Nothing yet.
    Nothing,
}

impl Sight {
    fn of(statistics: &Statistics) -> Self {
        match (statistics.segments, statistics.carried_on) {
            ([0, 0], _) => Self::Nothing,
            ([0, _], _) => Self::OnlyToClient,
            ([_, 0], 0) => Self::OnlySyns,
            ([_, 0], _) => Self::OnlyToServer,
            _ => Self::Both,
        }
    }

    /// Says it in a sentence, if it is not both.
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::Both | Self::Nothing => None,
            Self::OnlyToServer => Some("only one direction is mirrored: to the server"),
            Self::OnlyToClient => Some("only one direction is mirrored: to the client"),
            Self::OnlySyns => Some("only SYNs are seen: nobody answers, or only one direction is mirrored"),
        }
    }
}

/// How connections began: `begun` is the sum of the four behind it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Connections {
    /// Of which a SYN or a SYN-ACK was seen.
    pub begun: u64,
    /// The server accepted.
    pub answered: u64,
    /// The server sent a reset.
    pub refused: u64,
    /// Silence.
    pub unanswered: u64,
    /// Neither, yet.
    pub pending: u64,
    /// Begun each second, over the time observed.
    pub per_second: f64,
    /// Begun in the busiest second.
    pub busiest_second: u32,
    /// SYNs sent again.
    pub syn_repeats: u64,
}

/// Round trips of handshakes, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundTrips {
    /// From the mirror to the server and back.
    pub to_server: Option<Quantiles>,
    /// From the mirror to the client and back.
    pub to_client: Option<Quantiles>,
    /// Both together.
    pub path: Option<Quantiles>,
}

/// From the SYN to the server's first byte, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FirstByteTimes {
    /// Where the mirror is.
    pub at_mirror: Option<Quantiles>,
    /// Where the client is. This and the next two are of the same connections.
    pub now: Option<Quantiles>,
    /// Where the client is, with 0-RTT and one NIC where the mirror is.
    pub expected: Option<Quantiles>,
    /// Where the client is, with 0-RTT and the NICs beside client and server.
    pub best: Option<Quantiles>,
    /// Connections whose client spoke first.
    pub client_first: u64,
    /// Connections whose server spoke first.
    pub server_first: u64,
    /// Connections of which a saving is counted.
    pub sped_up: u64,
    /// Saved in all, as expected.
    pub saved_ms: f64,
    /// Saved in all, at best.
    pub saved_at_best_ms: f64,
}

/// What clients send, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Uploads {
    /// Until the server's first byte.
    pub until_first_byte: Option<Quantiles>,
    /// In all, of connections that the client closed or either end reset.
    pub total: Option<Quantiles>,
    /// Connections that sent more than 256 KiB: a quarter of the last eight close the gate.
    pub large: u64,
}

/// A reason why a connection would not have been 0-RTT.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reason {
    /// The daemon's label.
    pub label: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Connections.
    pub count: u64,
}

/// All that is told of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceReport {
    /// Its name as a service rule is written; `all` or `others` for several.
    pub service: String,
    /// Which directions are seen.
    pub sight: Sight,
    /// How connections began.
    pub connections: Connections,
    /// Handshakes' round trips.
    pub round_trips: RoundTrips,
    /// Times to the first byte.
    pub first_byte: FirstByteTimes,
    /// Sizes.
    pub uploads: Uploads,
    /// Connections that would have been answered at once.
    pub zero_rtt: u64,
    /// Connections that would not, the most frequent reason first. With `zero_rtt` and `not_judged` the sum is
    /// `begun`.
    pub passed: Vec<Reason>,
    /// Connections whose SYN was not seen.
    pub not_judged: u64,
    /// Clients that would have been told "connected" before the server refused or stayed silent.
    pub falsely_connected: u64,
    /// Whether there was room for the times of this service.
    pub times_kept: bool,
}

/// An option and how many SYNs have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OneOption {
    /// Its number.
    pub kind: u8,
    /// Its name.
    pub name: &'static str,
    /// SYNs.
    pub count: u64,
    /// Whether a SYN with it may be answered at once.
    pub known: bool,
}

/// What the SYNs carry, each connection's first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SynReport {
    /// SYNs looked at.
    pub seen: u64,
    /// Options by how many have them, those that everybody knows first.
    pub options: Vec<OneOption>,
    /// The most frequent MSS values and how many have them.
    pub mss: Vec<(u16, u64)>,
    /// Window scales and how many have them, the most frequent first.
    pub window_scale: Vec<(u8, u64)>,
    /// That ask for classic ECN.
    pub ecn: u64,
    /// With data.
    pub payload: u64,
    /// Whose options are malformed.
    pub malformed: u64,
}

/// Makes the report of what was seen until `now`.
pub(super) fn make(observer: &Observer, now: Instant) -> Report {
    let observed_s = observer.first.map_or(0.0, |first| (now - first).as_secs_f64());
    let mut all = observer.services.all.clone();
    let mut rows: Vec<_> = observer.services.rows().cloned().collect();
    observer.overdue(now, |service, zero_rtt| {
        all.unanswered(zero_rtt);
        if let Some((_, statistics)) = rows.get_mut(service as usize) {
            statistics.unanswered(zero_rtt);
        }
    });
    let seen = rows.iter().filter(|(_, statistics)| statistics.begun > 0);
    let mut services: Vec<_> =
        seen.map(|(name, statistics)| service(name_of(name), statistics, observed_s)).collect();
    services.sort_by_key(|row| std::cmp::Reverse(row.connections.begun));
    let times = all.distributions.as_deref();
    let curve = |distribution: fn(&Distributions) -> Vec<(f64, f64)>| times.map_or(Vec::new(), distribution);
    Report {
        observed_s: (observed_s * MS).round() / MS,
        curves: vec![
            curve(|times| times.now.curve(MS)),
            curve(|times| times.expected.curve(MS)),
            curve(|times| times.best.curve(MS)),
        ],
        all: service("all".to_owned(), &all, observed_s),
        services,
        syns: syns(&observer.syns),
        unused: observer.unused,
        assumptions: ASSUMPTIONS.to_vec(),
    }
}

fn name_of(name: &Name) -> String {
    match name {
        Name::Rule(rule) => rule.to_string(),
        Name::Found((IpAddr::V4(address), port)) => format!("{address}:{port}"),
        Name::Found((IpAddr::V6(address), port)) => format!("[{address}]:{port}"),
        Name::Others => "others".to_owned(),
    }
}

fn service(service: String, of: &Statistics, observed_s: f64) -> ServiceReport {
    let times = of.distributions.as_deref();
    let ms = |pick: fn(&Distributions) -> &super::distribution::Distribution| pick(times?).quantiles(MS);
    let bytes = |pick: fn(&Distributions) -> &super::distribution::Distribution| pick(times?).quantiles(1.0);
    let mut passed: Vec<_> = PassReason::ALL
        .iter()
        .filter(|reason| is_told(**reason))
        .map(|reason| (*reason, of.passes[*reason as usize]))
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| Reason { label: reason.label(), meaning: reason.meaning(), count })
        .collect();
    passed.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    let judged = of.zero_rtt + of.passes.iter().sum::<u64>();
    ServiceReport {
        service,
        sight: Sight::of(of),
        connections: Connections {
            begun: of.begun,
            answered: of.answered,
            refused: of.refused,
            unanswered: of.unanswered,
            pending: of.begun.saturating_sub(of.answered + of.refused + of.unanswered),
            // Less than a second tells nothing of a rate.
            per_second: (of.begun as f64 / observed_s.max(1.0) * MS).round() / MS,
            busiest_second: of.busiest_second(),
            syn_repeats: of.syn_repeats,
        },
        round_trips: RoundTrips {
            to_server: ms(|times| &times.to_server),
            to_client: ms(|times| &times.to_client),
            path: ms(|times| &times.path),
        },
        first_byte: FirstByteTimes {
            at_mirror: ms(|times| &times.first_byte),
            now: ms(|times| &times.now),
            expected: ms(|times| &times.expected),
            best: ms(|times| &times.best),
            client_first: of.client_first,
            server_first: of.server_first,
            sped_up: of.sped_up,
            saved_ms: of.saved as f64 / MS,
            saved_at_best_ms: of.saved_at_best as f64 / MS,
        },
        uploads: Uploads {
            until_first_byte: bytes(|times| &times.upload_before),
            total: bytes(|times| &times.upload),
            large: of.large_uploads,
        },
        zero_rtt: of.zero_rtt,
        passed,
        not_judged: of.begun.saturating_sub(judged),
        falsely_connected: of.falsely_connected,
        times_kept: times.is_some(),
    }
}

fn syns(syns: &Syns) -> SynReport {
    let sorted = |counts: Vec<(usize, u64)>| {
        let mut counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    };
    let kinds = sorted(syns.kinds.iter().copied().enumerate().collect());
    let options = kinds.into_iter().filter(|(kind, _)| *kind != usize::from(kind::NOP));
    let mut options: Vec<_> = options
        .map(|(kind, count)| {
            let (name, known) = option_name(kind as u8);
            OneOption { kind: kind as u8, name, count, known }
        })
        .collect();
    options.sort_by_key(|option| !option.known);
    let mss = sorted(syns.mss.iter().map(|count| u64::from(*count)).enumerate().collect());
    let scales = sorted(syns.window_scale.iter().copied().enumerate().collect());
    SynReport {
        seen: syns.seen,
        options,
        mss: mss.into_iter().take(TOP_MSS).map(|(mss, count)| (mss as u16, count)).collect(),
        window_scale: scales.into_iter().map(|(shift, count)| (shift as u8, count)).collect(),
        ecn: syns.ecn,
        payload: syns.payload,
        malformed: syns.malformed,
    }
}

/// Returns an option's name, and whether a SYN with it may be answered at once (IANA "TCP Option Kind Numbers").
fn option_name(kind: u8) -> (&'static str, bool) {
    match kind {
        kind::MSS => ("MSS", true),
        kind::WINDOW_SCALE => ("window scale", true),
        kind::SACK_PERMITTED => ("SACK permitted", true),
        kind::TIMESTAMPS => ("timestamps", true),
        19 => ("MD5", false),
        29 => ("TCP-AO", false),
        30 => ("MPTCP", false),
        34 => ("Fast Open", false),
        172 | 174 => ("Accurate ECN", false),
        253 | 254 => ("experiment", false),
        _ => ("unknown", false),
    }
}

impl Report {
    /// Returns the most services whose times are kept.
    pub fn times_bound() -> usize {
        DISTRIBUTIONS
    }
}

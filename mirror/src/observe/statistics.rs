//! What is counted of a service.

use super::distribution::Distribution;
use super::flow::{Change, FirstByte, RoundTrip};
use super::judge::Verdict;
use rtt0_core::profile::ProfileLimits;
use rtt0_core::reason::PassReason;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;

/// How times (µs) and sizes (bytes) of a service are spread.
#[derive(Debug, Default, Clone)]
pub(super) struct Distributions {
    /// From SYN to SYN-ACK.
    pub(super) to_server: Distribution,
    /// From SYN-ACK to its acknowledgement.
    pub(super) to_client: Distribution,
    /// Both.
    pub(super) path: Distribution,
    /// From SYN to the server's first byte, where the mirror is.
    pub(super) first_byte: Distribution,
    /// Likewise where the client is.
    pub(super) now: Distribution,
    /// Likewise with 0-RTT, one NIC where the mirror is.
    pub(super) expected: Distribution,
    /// Likewise, the NICs beside client and server.
    pub(super) best: Distribution,
    /// Bytes from the client before the server's first.
    pub(super) upload_before: Distribution,
    /// Bytes from the client in all.
    pub(super) upload: Distribution,
}

/// Counts what begins within a second, for the busiest one.
#[derive(Debug, Default, Clone, Copy)]
struct Seconds {
    current: u64,
    count: u32,
    busiest: u32,
}

impl Seconds {
    fn add(&mut self, second: u64) {
        if second != self.current {
            (self.current, self.count) = (second, 0);
        }
        self.count = self.count.saturating_add(1);
        self.busiest = self.busiest.max(self.count);
    }
}

/// What is counted of a service, or of all.
#[derive(Debug, Default, Clone)]
pub(super) struct Statistics {
    pub(super) begun: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    pub(super) syn_repeats: u64,
    /// Segments seen each way.
    pub(super) segments: [u64; 2],
    /// Connections of which the client sent more than its SYN.
    pub(super) carried_on: u64,
    pub(super) zero_rtt: u64,
    pub(super) passes: [u64; PassReason::ALL.len()],
    /// Would have been answered at once, though the server refused or stayed silent.
    pub(super) falsely_connected: u64,
    pub(super) client_first: u64,
    pub(super) server_first: u64,
    /// Connections of which a saving is counted.
    pub(super) sped_up: u64,
    /// µs saved in all, with one NIC where the mirror is.
    pub(super) saved: u64,
    /// µs saved in all, with the NICs beside client and server.
    pub(super) saved_at_best: u64,
    pub(super) large_uploads: u64,
    seconds: Seconds,
    pub(super) distributions: Option<Box<Distributions>>,
}

impl Statistics {
    /// Returns the most connections that began within one second by the clock.
    pub(super) fn busiest_second(&self) -> u32 {
        self.seconds.busiest
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.begun += 1;
        self.seconds.add(now.as_micros() / 1_000_000);
    }

    pub(super) fn judged(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::ZeroRtt => self.zero_rtt += 1,
            Verdict::Pass(reason) => self.passes[reason as usize] += 1,
        }
    }

    pub(super) fn seen(&mut self, direction: Direction) {
        self.segments[direction as usize] += 1;
    }

    pub(super) fn unanswered(&mut self, zero_rtt: bool) {
        self.unanswered += 1;
        self.falsely_connected += u64::from(zero_rtt);
    }

    /// Adds what a segment changed. `zero_rtt` tells whether the connection would have been answered at once.
    pub(super) fn add(&mut self, change: &Change, zero_rtt: bool) {
        self.answered += u64::from(change.answered);
        self.refused += u64::from(change.refused);
        self.falsely_connected += u64::from(change.refused && zero_rtt);
        self.syn_repeats += u64::from(change.syn_repeated);
        if let Some(first) = &change.first_byte {
            self.server_first += u64::from(first.server_first);
            self.client_first += u64::from(!first.server_first);
        }
        if let Some(bytes) = change.upload {
            self.large_uploads += u64::from(bytes > ProfileLimits::default().large_upload);
        }
        let saving = change.first_byte.as_ref().and_then(|first| Times::new(first, zero_rtt));
        if let Some(times) = &saving {
            let (saved, best) = (times.now - times.expected, times.now - times.best);
            self.sped_up += u64::from(best > 0);
            self.saved += u64::from(saved);
            self.saved_at_best += u64::from(best);
        }
        let Some(distributions) = &mut self.distributions else { return };
        distributions.add(change, saving.as_ref());
    }
}

impl Distributions {
    fn add(&mut self, change: &Change, times: Option<&Times>) {
        match change.round_trip {
            Some(RoundTrip::Legs(to_server, to_client)) => {
                self.to_server.add(to_server);
                self.to_client.add(to_client);
                self.path.add(to_server.saturating_add(to_client));
            }
            Some(RoundTrip::Path(path)) => self.path.add(path),
            None => {}
        }
        if let Some(first) = &change.first_byte {
            self.first_byte.add(first.after);
            self.upload_before.add(first.upload);
        }
        if let Some(times) = times {
            self.now.add(times.now);
            self.expected.add(times.expected);
            self.best.add(times.best);
        }
        if let Some(bytes) = change.upload {
            self.upload.add(bytes);
        }
    }
}

/// Times from the client's SYN to the server's first byte as the client has them, in µs.
struct Times {
    now: u32,
    expected: u32,
    best: u32,
}

impl Times {
    /// Works them out; `None` if the legs are not known.
    ///
    /// What the mirror sees lacks the client's leg, once for the SYN's way up to the mirror and once for the first
    /// byte's way down, half of it each. A request that was not sent at once may have been waiting for something else
    /// than the connection: then only what exceeds the wait is certain to be saved.
    fn new(first: &FirstByte, zero_rtt: bool) -> Option<Self> {
        let (to_server, to_client, wait) = first.legs?;
        let now = first.after.saturating_add(to_client);
        let saved = |round_trip: u32| if zero_rtt { round_trip.saturating_sub(wait) } else { 0 };
        Some(Self {
            now,
            expected: now.saturating_sub(saved(to_server.max(to_client))),
            best: now.saturating_sub(saved(to_server.saturating_add(to_client))),
        })
    }
}

//! Figures as scenarios compare and note them.

use super::Lab;
use crate::program::client::{self, Exchange, FetchError, Request};
use crate::program::stream;
use anyhow::{Context, ensure};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

/// Returns the middle value; the upper one of two.
///
/// # Errors
/// If there is none.
pub(super) fn median(times: &[Duration]) -> anyhow::Result<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().context("nothing was measured")
}

/// What an exchange brought, whatever it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    bytes: u64,
    sha256: String,
}

impl From<&Exchange> for Answer {
    fn from(exchange: &Exchange) -> Self {
        let Exchange { status, bytes, sha256, .. } = exchange;
        Self { status: *status, bytes: *bytes, sha256: stream::hex(sha256) }
    }
}

/// Returns a time in round trips.
pub(super) fn rtts(time: Duration, rtt: Duration) -> f64 {
    time.as_secs_f64() / rtt.as_secs_f64()
}

/// Demands that a time is about so many round trips. A busy machine makes it later, and nothing makes it sooner.
pub(super) fn takes(time: Duration, rtt: Duration, trips: f64) -> anyhow::Result<()> {
    let seen = rtts(time, rtt);
    let is_right = if trips > 1.0 { seen > trips - 0.4 } else { seen < trips + 0.4 };
    ensure!(is_right, "a first byte took {seen:.2} RTT, not {trips}");
    Ok(())
}

/// Returns a time in milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Returns a rate in Mbit/s.
pub(super) fn mbit_per_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8e-6 / time.as_secs_f64()
}

/// Makes `count` exchanges from the client, all begun at once.
///
/// # Errors
/// If the client's namespace can't be entered.
///
/// # Panics
/// If a thread can't be made.
pub(super) fn fetch_at_once(
    lab: &Lab,
    request: &Request,
    count: usize,
) -> anyhow::Result<Vec<Result<Exchange, FetchError>>> {
    let start = Barrier::new(count);
    let fetch = || {
        start.wait();
        client::fetch(request)
    };
    lab.topology().client.enter(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..count).map(|_| scope.spawn(fetch)).collect();
            let join = |client: thread::ScopedJoinHandle<'_, _>| {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            clients.into_iter().map(join).collect()
        })
    })
}

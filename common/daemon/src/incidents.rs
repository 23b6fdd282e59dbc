//! Single connections that fared badly, in the log: a few lines a second, however many there are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use rtt0_core::notice::Notice;
use rtt0_core::reason::Event;

/// Notices that wait to be logged; a worker drops what finds no room, and counts it.
const QUEUE: usize = 1024;
/// Lines for each kind of event in a [`WINDOW`]; what is beyond is counted, and told at its end.
const LINES: u32 = 5;
/// How long a count lasts.
const WINDOW: Duration = Duration::from_secs(1);

/// Logs what the workers' engines note.
pub(crate) struct Incidents {
    notices: Receiver<Notice>,
    is_redacted: bool,
    limit: Limit,
}

impl Incidents {
    /// Makes it, with what the workers tell it by. With `is_redacted` addresses are cut to their networks.
    pub(crate) fn new(is_redacted: bool) -> (Self, SyncSender<Notice>) {
        let (tell, notices) = mpsc::sync_channel(QUEUE);
        (Self { notices, is_redacted, limit: Limit::new(Instant::now()) }, tell)
    }

    /// Logs what has come. To be called several times a second.
    pub(crate) fn look(&mut self) {
        for (event, count) in self.limit.end(Instant::now()) {
            tracing::warn!(reason = event.label(), count, "more connections had the same in that second");
        }
        for notice in self.notices.try_iter().take(QUEUE) {
            if self.limit.allows(notice.event) {
                self.log(&notice);
            }
        }
    }

    fn log(&self, notice: &Notice) {
        let shown = |end| Shown { end: SocketAddr::from(end), is_redacted: self.is_redacted };
        let (src, dst) = (shown(notice.key.client()), shown(notice.key.server()));
        let (state, reason, meaning) = (notice.state, notice.event.label(), notice.event.meaning());
        let flow_id = format_args!("{:08x}", notice.key.id());
        match notice.event {
            Event::FellBackToSolo | Event::OldConnectionReset => {
                tracing::info!(flow_id, %src, %dst, state, reason, "{meaning}");
            }
            _ => tracing::warn!(flow_id, %src, %dst, state, reason, "{meaning}"),
        }
    }
}

/// An end of a connection as it is written into the log.
struct Shown {
    end: SocketAddr,
    is_redacted: bool,
}

impl fmt::Display for Shown {
    /// Redacted: the network (24 or 48 bits) and the port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.end.port();
        match self.end.ip() {
            _ if !self.is_redacted => write!(f, "{}", self.end),
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                write!(f, "{a}.{b}.{c}.x:{port}")
            }
            IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                write!(f, "[{a:x}:{b:x}:{c:x}:x]:{port}")
            }
        }
    }
}

/// Counts lines for each kind of event.
#[derive(Debug)]
struct Limit {
    began: Instant,
    counts: [u32; Event::ALL.len()],
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { began: now, counts: [0; Event::ALL.len()] }
    }

    fn allows(&mut self, event: Event) -> bool {
        let count = &mut self.counts[event as usize];
        *count = count.saturating_add(1);
        *count <= LINES
    }

    /// If the window is over begins another, and returns how many lines of each kind were not written.
    fn end(&mut self, now: Instant) -> Vec<(Event, u32)> {
        if now.duration_since(self.began) < WINDOW {
            return Vec::new();
        }
        let ended = std::mem::replace(self, Self::new(now));
        let left = Event::ALL.iter().map(|event| (*event, ended.counts[*event as usize]));
        left.filter(|(_, count)| *count > LINES).map(|(event, count)| (event, count - LINES)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_the_rest_is_told() {
        let now = Instant::now();
        let mut limit = Limit::new(now);
        let allowed = (0..100).filter(|_| limit.allows(Event::Refused)).count();
        assert_eq!(allowed, LINES as usize);
        assert!(limit.allows(Event::TimedOut), "another kind");
        assert_eq!(limit.end(now), []);
        assert_eq!(limit.end(now + WINDOW), [(Event::Refused, 100 - LINES)]);
        assert!(limit.allows(Event::Refused));
        assert_eq!(limit.end(now + 2 * WINDOW), []);
    }

    #[test]
    fn redacted_ends_tell_no_host() {
        let shown = |end: &str, is_redacted| Shown { end: end.parse().unwrap(), is_redacted }.to_string();
        assert_eq!(shown("10.1.2.3:443", false), "10.1.2.3:443");
        assert_eq!(shown("10.1.2.3:443", true), "10.1.2.x:443");
        assert_eq!(shown("[fd00:1:2:3::9]:443", true), "[fd00:1:2:x]:443");
    }
}

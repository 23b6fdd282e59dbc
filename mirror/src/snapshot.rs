//! All that is counted, at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rtt0_netio::counters::IoCounters;
use serde::Serialize;

use crate::counts::Counts;
use crate::reason::DropReason;
use crate::replied::Replied;

/// What one rule has translated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule's name.
    pub name: String,
    /// Packets that it matched.
    pub packets: u64,
    /// Their IP bytes.
    pub bytes: u64,
}

/// All that is counted since the start. Once the workers have ended, `captured` is `sent`, `observed` and all of
/// `dropped` together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Since the start, in seconds.
    pub seconds: f64,
    /// How packets are captured.
    pub backend: String,
    /// Packets captured.
    pub captured: u64,
    /// Their IP bytes, tunnel included.
    pub captured_bytes: u64,
    /// Packets handed to the kernel for the egress.
    pub sent: u64,
    /// Their IP bytes.
    pub sent_bytes: u64,
    /// Packets that were looked at, by who observes only.
    pub observed: u64,
    /// Packets that ended otherwise, by [`DropReason::label`]; those that count none are left out.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Why packets were not sent, and what else failed around the packets ([`IoCounters`]); zeros are left out.
    pub failures: BTreeMap<&'static str, u64>,
    /// Packets that the kernel dropped before they were captured, for want of room.
    pub overflow: u64,
    /// Translated packets that would have left by another interface and were dropped by the guard.
    pub strayed: u64,
    /// What each rule has translated.
    pub rules: Vec<RuleCount>,
    /// What is counted of replies, if any rule wants them: a book of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replies: Option<Replied>,
    /// Whether this is the last.
    #[serde(rename = "final")]
    pub is_final: bool,
}

impl Snapshot {
    /// Adds the counters of one worker.
    pub fn add(&mut self, counts: &Counts, io: &IoCounters) {
        self.captured += io.received.value();
        self.captured_bytes += io.received_bytes.value();
        self.sent += io.sent.value();
        self.sent_bytes += io.sent_bytes.value();
        self.observed += counts.observed();
        self.overflow += io.received_overflow.value();
        add_endings(&mut self.dropped, &mut self.failures, counts, io);
    }

    /// Returns all that was captured and not sent on.
    pub fn drops(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Returns what has happened since `before`, in one line for people.
    pub fn since<'a>(&'a self, before: &'a Self) -> Rates<'a> {
        Rates { before, now: self }
    }
}

/// Adds where a worker's packets ended that were not sent, by [`DropReason::label`], and what failed around them.
pub(crate) fn add_endings(
    dropped: &mut BTreeMap<&'static str, u64>,
    failures: &mut BTreeMap<&'static str, u64>,
    counts: &Counts,
    io: &IoCounters,
) {
    let mut add = |label, count: u64| {
        if count > 0 {
            *dropped.entry(label).or_default() += count;
        }
    };
    for reason in DropReason::ALL {
        add(reason.label(), counts.dropped(*reason));
    }
    let not_sent = io.iter().filter(|(label, _)| label.starts_with("send_")).map(|(_, count)| count).sum();
    add(DropReason::NotSent.label(), not_sent);
    for (label, count) in io.iter().filter(|(label, count)| *count > 0 && IoCounters::is_failure(label)) {
        *failures.entry(label).or_default() += count;
    }
}

/// What has happened between two moments.
#[derive(Debug)]
pub struct Rates<'a> {
    before: &'a Snapshot,
    now: &'a Snapshot,
}

impl fmt::Display for Rates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, now } = self;
        let span = Duration::from_secs_f64((now.seconds - before.seconds).max(1e-3)).as_secs_f64();
        let rate = |of: fn(&Snapshot) -> u64| of(now).saturating_sub(of(before)) as f64 / span;
        write!(
            f,
            "[PERF] {:.0} packets/s, {:.1} Mbit/s, {:.0} sent/s, {:.0} dropped/s, {:.0} overflow/s",
            rate(|snapshot| snapshot.captured),
            rate(|snapshot| snapshot.captured_bytes) * 8e-6,
            rate(|snapshot| snapshot.sent + snapshot.observed),
            rate(Snapshot::drops),
            rate(|snapshot| snapshot.overflow),
        )?;
        write_more(f, &before.dropped, &now.dropped)?;
        if let Some(now) = &now.replies {
            let none = Replied::default();
            let before = before.replies.as_ref().unwrap_or(&none);
            let rate = |of: fn(&Replied) -> u64| of(now).saturating_sub(of(before)) as f64 / span;
            write!(
                f,
                " | replies: {:.0} captured/s, {:.0} sent/s, {} flows",
                rate(|replied| replied.captured),
                rate(|replied| replied.sent),
                now.remembered(),
            )?;
            write_more(f, &before.dropped, &now.dropped)?;
        }
        Ok(())
    }
}

/// Writes which of the counts have grown, and by how much.
fn write_more(
    f: &mut fmt::Formatter<'_>,
    before: &BTreeMap<&'static str, u64>,
    now: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    for (label, count) in now {
        let more = count - before.get(label).copied().unwrap_or(0).min(*count);
        if more > 0 {
            write!(f, "; {label} {more}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_somewhere() {
        let (counts, io) = (Counts::default(), IoCounters::default());
        io.received.add(10);
        io.sent.add(4);
        io.send_queue_full.add(1);
        io.send_too_big.add(1);
        counts.discard(DropReason::Vni);
        counts.discard(DropReason::NotAllowed);
        counts.observe();
        counts.observe();
        let mut snapshot = Snapshot::default();
        snapshot.add(&counts, &io);
        assert_eq!(snapshot.captured, snapshot.sent + snapshot.observed + snapshot.drops());
        assert_eq!(snapshot.dropped["not_sent"], 2);
        assert_eq!(snapshot.failures, BTreeMap::from([("send_queue_full", 1), ("send_too_big", 1)]));
        let mut later = snapshot.clone();
        later.seconds = 2.0;
        later.captured += 20;
        *later.dropped.entry("vni").or_default() += 20;
        let line = later.since(&snapshot).to_string();
        assert_eq!(line, "[PERF] 10 packets/s, 0.0 Mbit/s, 0 sent/s, 10 dropped/s, 0 overflow/s; vni 20");
        let replied = Replied {
            captured: 8,
            sent: 6,
            dropped: [("no_reply", 2)].into(),
            flows: [("udp", 3)].into(),
            ..Replied::default()
        };
        later.replies = Some(replied);
        let with_replies = later.since(&snapshot).to_string();
        assert_eq!(with_replies, format!("{line} | replies: 4 captured/s, 3 sent/s, 3 flows; no_reply 2"));
    }
}

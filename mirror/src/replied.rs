//! What is counted of replies, at one moment.

use std::collections::BTreeMap;

use rtt0_netio::counters::IoCounters;
use serde::Serialize;

use crate::counts::Counts;
use crate::nat::SharedReplies;
use crate::snapshot::add_endings;

/// What became of replies since the start. Once their worker has ended, `captured` is `sent` and all of `dropped`
/// together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Replied {
    /// Replies captured.
    pub captured: u64,
    /// Their IP bytes.
    pub captured_bytes: u64,
    /// Replies given back to those who asked, handed to the kernel.
    pub sent: u64,
    /// Their IP bytes.
    pub sent_bytes: u64,
    /// Replies that ended otherwise, by [`DropReason::label`](crate::reason::DropReason::label).
    pub dropped: BTreeMap<&'static str, u64>,
    /// Why replies were not sent, and what else failed around them ([`IoCounters`]); zeros are left out.
    pub failures: BTreeMap<&'static str, u64>,
    /// Replies that the kernel dropped before they were captured, for want of room.
    pub overflow: u64,
    /// Flows that are remembered now, by transport; the most is [`MOST_FLOWS`](crate::nat::MOST_FLOWS) of each.
    pub flows: BTreeMap<&'static str, usize>,
    /// Flows that were let go before their time to make room for others.
    pub replaced: u64,
    /// Flows whose replies may be for either of two clients, and are not sent.
    pub ambiguous: u64,
}

impl Replied {
    /// Reads the counters of the worker that restores replies, and looks at what it goes by.
    pub fn new(counts: &Counts, io: &IoCounters, flows: &SharedReplies) -> Self {
        let ([tcp, udp, icmp], count) = flows.look();
        let mut replied = Self {
            captured: io.received.value(),
            captured_bytes: io.received_bytes.value(),
            sent: io.sent.value(),
            sent_bytes: io.sent_bytes.value(),
            overflow: io.received_overflow.value(),
            flows: [("tcp", tcp), ("udp", udp), ("icmp", icmp)].into(),
            replaced: count.replaced,
            ambiguous: count.ambiguous,
            ..Self::default()
        };
        add_endings(&mut replied.dropped, &mut replied.failures, counts, io);
        replied
    }

    /// Returns all that was captured and not sent.
    pub fn drops(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Returns how many flows are remembered now.
    pub fn remembered(&self) -> usize {
        self.flows.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::DropReason;

    #[test]
    fn every_reply_is_somewhere() {
        let (counts, io) = (Counts::default(), IoCounters::default());
        io.received.add(6);
        io.sent.add(3);
        io.send_unreachable.add(1);
        counts.discard(DropReason::NoReply);
        counts.discard(DropReason::NoReply);
        let replied = Replied::new(&counts, &io, &SharedReplies::default());
        assert_eq!(replied.captured, replied.sent + replied.drops());
        assert_eq!((replied.dropped["no_reply"], replied.dropped["not_sent"]), (2, 1));
        assert_eq!(replied.failures, BTreeMap::from([("send_unreachable", 1)]));
        assert_eq!(replied.remembered(), 0);
    }
}

//! From segments to connections, and from what they change to the statistics.

use super::Observer;
use super::flow::{Change, Flow, RoundTrip, Stage};
use super::judge::Verdict;
use crate::inner::Inner;
use rtt0_core::flow::{Entry, FlowKey};
use rtt0_core::handshake::read_syn_ack;
use rtt0_core::limits::Limits;
use rtt0_core::reason::PassReason;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::{Flags, Tcp};
use std::time::Duration;

/// A connection is forgotten after so long without a segment. What is told of it is known by then, but for its upload.
const IDLE: Duration = Duration::from_secs(300);
/// An ended connection is kept for what may still be repeated of it.
const ENDED: Duration = Duration::from_secs(10);
/// Connections that are forgotten with one segment, so that none has to wait for many.
const FORGOTTEN: usize = 32;

/// Returns how long a SYN, from its last repetition on, may wait for its answer: as long as the daemon waits.
pub(super) fn patience() -> Duration {
    Limits::default().handshake
}

impl Observer {
    pub(super) fn track(&mut self, tcp: &Tcp<'_>, length: u32, inner: &Inner) {
        let source = (inner.source, tcp.source_port());
        let destination = (inner.destination, tcp.destination_port());
        let forth = FlowKey::new(source, destination, Direction::ToServer);
        let back = FlowKey::new(source, destination, Direction::ToClient);
        let flags = tcp.flags();
        if flags.is_syn() {
            return self.syn(forth, tcp, length);
        }
        if flags.is_syn_ack() {
            return self.syn_ack(back, tcp);
        }
        if flags.contains(Flags::SYN) {
            self.unused.malformed += 1;
            return;
        }
        let now = self.now;
        if let Some(entry) = self.flows.get_mut(&forth) {
            let begins = entry.value.stage == Stage::Pending;
            let change = entry.value.client(now, tcp, length);
            self.services.change(entry.value.service, |statistics| {
                statistics.seen(Direction::ToServer);
                statistics.carried_on += u64::from(begins && change.answered);
            });
            self.changed(&forth, &change);
        } else if let Some(entry) = self.flows.get_mut(&back) {
            let change = entry.value.server(now, tcp, length);
            self.services.change(entry.value.service, |statistics| statistics.seen(Direction::ToClient));
            self.changed(&back, &change);
        } else {
            self.unused.no_flow += 1;
        }
    }

    fn syn(&mut self, key: FlowKey, tcp: &Tcp<'_>, length: u32) {
        let now = self.now;
        match self.flows.get_mut(&key) {
            Some(entry) if entry.value.is_of(tcp) => {
                let judges = !entry.value.syn_seen;
                let change = entry.value.syn(now, tcp);
                if change.syn_repeated && entry.value.stage == Stage::Pending {
                    entry.postpone(now + patience());
                }
                if judges {
                    self.judge_syn(&key, tcp, length);
                }
                self.changed(&key, &change);
            }
            Some(_) => {
                self.forget(&key);
                self.begin(key, tcp, length);
            }
            None => self.begin(key, tcp, length),
        }
        self.seen(&key, Direction::ToServer);
    }

    fn begin(&mut self, key: FlowKey, tcp: &Tcp<'_>, length: u32) {
        let now = self.now;
        if self.put(key, patience(), |service| Flow::new(now, service, tcp)) {
            self.judge_syn(&key, tcp, length);
        }
    }

    /// Puts a connection in that begins now. Returns false if it is not observed.
    fn put(&mut self, key: FlowKey, patience: Duration, flow: impl FnOnce(u32) -> Flow) -> bool {
        if self.flows.is_full() {
            // Whose first byte has come has told what it has to tell.
            match self.flows.longest_at_rest(self.now + IDLE + ENDED) {
                Some(told) => {
                    self.unused.flows_let_go += 1;
                    self.forget(&told);
                }
                None => {
                    self.unused.flows_not_tracked += 1;
                    return false;
                }
            }
        }
        let Some(service) = self.services.find(key.client(), key.server()) else {
            self.unused.other_services += 1;
            return false;
        };
        if self.flows.insert(key, flow(service), self.now + patience).is_err() {
            self.unused.flows_not_tracked += 1;
            return false;
        }
        let now = self.now;
        self.services.change(service, |statistics| statistics.begin(now));
        true
    }

    fn judge_syn(&mut self, key: &FlowKey, tcp: &Tcp<'_>, length: u32) {
        let Some(Entry { value: flow, .. }) = self.flows.get_mut(key) else { return };
        let judged = self.judge.judge(self.now, &key.server(), tcp, length);
        (flow.teaches, flow.followed) = (judged.teaches, judged.followed);
        flow.zero_rtt = judged.verdict == Verdict::ZeroRtt;
        self.services.change(flow.service, |statistics| statistics.judged(judged.verdict));
        self.syns.add(tcp, length);
    }

    fn syn_ack(&mut self, key: FlowKey, tcp: &Tcp<'_>) {
        let now = self.now;
        let known = self.flows.get_mut(&key).map(|entry| entry.value.syn_ack(now, tcp));
        let change = match known {
            Some(Some(change)) => Some(change),
            // A connection that lives is not given up for the answer to a SYN that was not seen.
            Some(None) if self.flows.get(&key).is_some_and(|entry| entry.value.stage != Stage::Ended) => None,
            Some(None) => {
                self.forget(&key);
                self.begin_answered(key, tcp)
            }
            None => self.begin_answered(key, tcp),
        };
        let Some(change) = change else { return };
        self.seen(&key, Direction::ToClient);
        if change.answered {
            self.learn(&key, tcp);
        }
        self.changed(&key, &change);
    }

    /// Begins with the answer to a SYN that was not seen.
    fn begin_answered(&mut self, key: FlowKey, tcp: &Tcp<'_>) -> Option<Change> {
        let (now, isn) = (self.now, Seq::new(tcp.acknowledgement()).minus(1));
        if !self.put(key, IDLE, |service| Flow::unseen(now, service, isn)) {
            return None;
        }
        self.flows.get_mut(&key)?.value.syn_ack(now, tcp)
    }

    fn learn(&mut self, key: &FlowKey, tcp: &Tcp<'_>) {
        let offered = self.flows.get(key).and_then(|entry| entry.value.teaches);
        let (Some(offered), Some(answer)) = (offered, read_syn_ack(tcp)) else { return };
        if !self.judge.learn(self.now, key.server(), offered, &answer) {
            self.unused.profile_table_full += 1;
        }
    }

    fn seen(&mut self, key: &FlowKey, direction: Direction) {
        if let Some(entry) = self.flows.get(key) {
            self.services.change(entry.value.service, |statistics| statistics.seen(direction));
        }
    }

    /// Takes what a segment changed into the statistics, and moves the connection's deadline.
    fn changed(&mut self, key: &FlowKey, change: &Change) {
        let now = self.now;
        let Some(entry) = self.flows.get_mut(key) else { return };
        let Flow { service, zero_rtt, followed, stage, .. } = entry.value;
        if stage == Stage::Open {
            entry.postpone(now + IDLE);
        }
        if *change == Change::default() {
            return;
        }
        if change.round_trip.is_some() || change.first_byte.is_some() || change.upload.is_some() {
            self.services.keep_times(service);
        }
        self.services.change(service, |statistics| statistics.add(change, zero_rtt));
        if change.refused && followed {
            self.judge.refused(now, &key.server());
        }
        if let Some(bytes) = change.upload.filter(|_| followed) {
            self.judge.uploaded(&key.server(), bytes);
        }
        if change.ended || change.refused {
            self.flows.rest(key, now + ENDED);
        } else if change.first_byte.is_some()
            || change.upload.is_some()
            || matches!(change.round_trip, Some(RoundTrip::Path(_)))
        {
            // It has told what it has to tell; with one direction mirrored that is less.
            self.flows.rest(key, now + IDLE);
        }
    }

    /// Forgets connections whose time has come, a few at a time.
    pub(super) fn expire(&mut self) {
        for _ in 0..FORGOTTEN {
            let Some(key) = self.flows.pop_due(self.now) else { return };
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &FlowKey) {
        let Some(flow) = self.flows.remove(key) else { return };
        if flow.stage != Stage::Pending {
            return;
        }
        self.services.change(flow.service, |statistics| statistics.unanswered(flow.zero_rtt));
        if flow.zero_rtt {
            // Nobody but a client that was answered waits for a server in vain.
            self.judge.refused(self.now, &key.server());
        }
    }

    /// Counts, for each service, the connections that wait in vain but have not been forgotten yet: `add` is told
    /// the service, and whether they would have been answered at once.
    pub(super) fn overdue(&self, now: Instant, mut add: impl FnMut(u32, bool)) {
        let (flows, _) = self.flows.survey(0, u32::MAX);
        for (_, entry) in flows {
            if entry.value.stage == Stage::Pending && entry.deadline() <= now {
                add(entry.value.service, entry.value.zero_rtt);
            }
        }
    }
}

/// Tells whether a reason is one that the observer can find.
pub(super) const fn is_told(reason: PassReason) -> bool {
    matches!(
        reason,
        PassReason::Learning
            | PassReason::NoOptionSpace
            | PassReason::UnknownOption
            | PassReason::SynPayload
            | PassReason::OddSyn
            | PassReason::AccurateEcn
            | PassReason::MalformedTcp
            | PassReason::RefusedLately
            | PassReason::LargeUploads
    )
}

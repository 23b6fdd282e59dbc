//! What to make of a reply: which ends the packet had that it answers.

use super::Rule;
use super::index::place;
use super::rewrite::readdress;
use crate::inner::Inner;
use crate::reason::DropReason;
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Endpoint;
use std::time::Duration;

/// The most flows of TCP that are remembered at once, and as many of UDP and of ICMP: a flood of one leaves the others
/// alone.
pub const MOST_FLOWS: usize = 65_536;
/// For how long a flow without a packet in either direction is remembered.
pub const IDLE: Duration = Duration::from_secs(120);
/// Flows of a transport that one call of [`Replies::expire`] lets go of at most.
const EXPIRED_AT_ONCE: usize = 64;

/// Remembers translated flows whose replies are wanted. A full table lets go of the flow that was used longest ago.
///
/// A flow is known by what its reply will say: translated source and destination, and transport. If two clients come to
/// have the same (a rule that gives all packets one source can do that), no reply can be told whose it is, and none is
/// translated until both have been idle. One client that has two destinations translated to one is answered as if by
/// the destination it has used last.
#[derive(Debug)]
pub struct Replies {
    /// By transport.
    flows: [FlowTable<Kept>; 3],
    count: RepliesCount,
}

/// What became of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepliesCount {
    /// Flows that were let go before their time to make room for others.
    pub replaced: u64,
    /// Flows whose replies may be for either of two clients.
    pub ambiguous: u64,
}

/// The ends before translation.
#[derive(Debug, Clone, Copy)]
struct Kept {
    client: Endpoint,
    server: Endpoint,
    is_ambiguous: bool,
}

impl Default for Replies {
    fn default() -> Self {
        Self::new(MOST_FLOWS)
    }
}

impl Replies {
    /// Makes an empty table for `bound` flows of each transport. It takes memory as flows come.
    pub fn new(bound: usize) -> Self {
        Self { flows: std::array::from_fn(|_| FlowTable::new(bound)), count: RepliesCount::default() }
    }

    /// Remembers a packet that `rule` is about to translate, if its replies are wanted. `before` is the packet as it
    /// came.
    pub fn note(&mut self, now: Instant, before: &Inner, rule: &Rule) {
        if !rule.replies {
            return;
        }
        let (source, destination) = rule.translated(before);
        let kept = Kept {
            client: (before.source, before.source_port),
            server: (before.destination, before.destination_port),
            is_ambiguous: false,
        };
        let key = FlowKey::new(source, destination, Direction::ToServer);
        let deadline = now + IDLE;
        let flows = &mut self.flows[place(before.transport)];
        if let Some(flow) = flows.get_mut(&key) {
            let known = flow.value;
            if flow.deadline() > now && (known.is_ambiguous || known.client != kept.client) {
                self.count.ambiguous += u64::from(!known.is_ambiguous);
                flow.value.is_ambiguous = true;
            } else {
                flow.value = kept;
            }
            flows.rest(&key, deadline);
            return;
        }
        // All are at rest, in the order of their use, which is that of their deadlines.
        if flows.is_full()
            && let Some(oldest) = flows.longest_at_rest(deadline)
        {
            self.count.replaced += u64::from(flows.get(&oldest).is_some_and(|flow| flow.deadline() > now));
            flows.remove(&oldest);
        }
        if flows.insert(key, kept, deadline).is_ok() {
            flows.rest(&key, deadline);
        }
    }

    /// Gives a reply the ends that the packet had which it answers, turned round, and takes one from its hop limit.
    /// `bytes`, `inner` and `partial` are as for [`rewrite`](super::rewrite).
    ///
    /// # Errors
    /// [`DropReason::NoReply`] if no flow is remembered that it could answer, or two clients' are; else those of
    /// `rewrite`. The packet is unchanged then.
    pub fn restore(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        inner: &Inner,
        partial: bool,
    ) -> Result<(), DropReason> {
        let source = (inner.source, inner.source_port);
        let destination = (inner.destination, inner.destination_port);
        let key = FlowKey::new(source, destination, Direction::ToClient);
        let flows = &mut self.flows[place(inner.transport)];
        let flow = flows.get(&key).filter(|flow| flow.deadline() > now && !flow.value.is_ambiguous);
        let Kept { client, server, .. } = flow.ok_or(DropReason::NoReply)?.value;
        // The table takes IPv4-mapped IPv6 for IPv4.
        if client.0.is_ipv4() != inner.source.is_ipv4() {
            return Err(DropReason::NoReply);
        }
        readdress(bytes, inner, server, client, partial)?;
        flows.rest(&key, now + IDLE);
        Ok(())
    }

    /// Lets go of a few flows that have been idle; to be called now and then. What it leaves for the next call is not taken
    /// for remembered meanwhile.
    pub fn expire(&mut self, now: Instant) {
        for flows in &mut self.flows {
            for _ in 0..EXPIRED_AT_ONCE {
                let Some(key) = flows.pop_due(now) else { break };
                flows.remove(&key);
            }
        }
    }

    /// Returns how many flows of TCP, of UDP and of ICMP take room.
    pub fn flows(&self) -> [usize; 3] {
        [0, 1, 2].map(|place| self.flows[place].len())
    }

    /// Returns how many flows take room.
    pub fn len(&self) -> usize {
        self.flows().iter().sum()
    }

    /// Tells whether no flow takes room.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what became of flows since the start.
    pub fn count(&self) -> RepliesCount {
        self.count
    }
}

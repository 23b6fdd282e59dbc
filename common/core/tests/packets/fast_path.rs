//! A fast path for tests: it keeps what it is given and says what it was told to.

use super::packets::{Seg, ms};
use rtt0_core::accept::Opened;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{Applied, Begun, FastPath, Offloaded, Progress, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Every copy is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<State>>);

/// What it has.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its flows.
    pub(crate) flows: HashMap<FlowKey, Offloaded>,
    /// Of which directions something may be queued, for each flow that it was ever given.
    pub(crate) queued: Vec<Queued>,
    /// Those that have been closed, and of which the engine has still to hear.
    pub(crate) closed: Vec<(FlowKey, Seq<Client>)>,
    /// It has no room.
    pub(crate) is_full: bool,
    /// It can begin handshakes by itself.
    pub(crate) can_begin: bool,
    /// Until when it may.
    pub(crate) allowed: Option<Instant>,
    /// What it has begun by itself, and the engine has still to hear of.
    pub(crate) begun: VecDeque<Begun>,
    /// Likewise, with servers.
    pub(crate) opened: VecDeque<Opened>,
}

impl Kept {
    /// Looks inside.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Hands a segment to its only flow at `at` ms, as the kernel would while there is an engine.
    pub(crate) fn forward(&self, seg: &Seg, to: Direction, at: u64) -> Applied {
        let mut bytes = seg.bytes();
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let mut segment = Segment::parse(&mut packet).unwrap();
        let mut state = self.state();
        let flow = state.flows.values_mut().next().unwrap();
        let (key, client_end) = (flow.key, flow.client_end(to, &segment.tcp()));
        let applied = flow.apply(ms(at), to, &mut segment, true);
        state.closed.extend((applied == Applied::Closed).then_some((key, client_end)));
        applied
    }
}

impl FastPath for Kept {
    fn hand(&mut self, flow: &Offloaded, queued: Queued) -> bool {
        let mut state = self.state();
        if !state.is_full {
            state.flows.insert(flow.key, *flow);
            state.queued.push(queued);
        }
        !state.is_full
    }

    fn look(&mut self, key: &FlowKey) -> Option<Progress> {
        self.state().flows.get(key).map(|flow| flow.progress)
    }

    fn recall(&mut self, key: &FlowKey) -> Option<Progress> {
        self.state().flows.remove(key).map(|flow| flow.progress)
    }

    fn closed(&mut self) -> Option<(FlowKey, Seq<Client>)> {
        self.state().closed.pop()
    }

    fn allow(&mut self, until: Option<Instant>) -> bool {
        self.state().allowed = until;
        self.state().can_begin
    }

    fn begun(&mut self) -> Option<Begun> {
        self.state().begun.pop_front()
    }

    fn opened(&mut self) -> Option<Opened> {
        self.state().opened.pop_front()
    }
}

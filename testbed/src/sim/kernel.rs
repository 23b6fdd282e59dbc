//! The kernel of a NIC that takes established flows: what its BPF program does, by the words of
//! [`Offloaded::apply`].

use super::wire::{Addresses, Wire, ports, tcp};
use rtt0_core::engine::Engine;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{Applied, FastPath, Offloaded, Progress, Queued};
use rtt0_core::packet::Packet;
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every copy is the same kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    flows: HashMap<FlowKey, Offloaded>,
    /// Closed, and the engine has still to hear of it.
    closed: VecDeque<(FlowKey, Seq<Client>)>,
}

impl Kernel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many flows it has.
    pub(super) fn flows_held(&self) -> usize {
        self.state().flows.len()
    }

    /// Does what it does with a packet; `None` if that is of no flow that it has. `is_attended` tells whether there is
    /// an engine.
    pub(super) fn forward(
        &self,
        now: Instant,
        wire: &mut Wire,
        to: Direction,
        addresses: &Addresses,
        is_attended: bool,
    ) -> Option<Applied> {
        let key = key(wire, to, addresses)?;
        let mut state = self.state();
        let flow = state.flows.get_mut(&key)?;
        let mut packet = Packet { bytes: &mut wire.bytes, offload: wire.offload };
        let mut segment = Segment::parse(&mut packet).ok()?;
        let client_end = flow.client_end(to, &segment.tcp());
        let applied = flow.apply(now, to, &mut segment, is_attended);
        match applied {
            Applied::Closed => state.closed.push_back((key, client_end)),
            Applied::Forgotten => drop(state.flows.remove(&key)),
            Applied::Forwarded | Applied::Copied | Applied::ToEngine => {}
        }
        Some(applied)
    }

    /// Has an engine go on with its flows, and forgets those that the engine does not know.
    pub(super) fn adopt(&self, now: Instant, engine: &mut dyn Engine) {
        let flows: Vec<Offloaded> = self.state().flows.values().copied().collect();
        self.state().closed.clear();
        for flow in flows {
            if !engine.adopt(now, &flow) {
                self.state().flows.remove(&flow.key);
            }
        }
    }
}

impl FastPath for Kernel {
    fn hand(&mut self, flow: &Offloaded, _: Queued) -> bool {
        self.state().flows.insert(flow.key, *flow);
        true
    }

    fn look(&mut self, key: &FlowKey) -> Option<Progress> {
        self.state().flows.get(key).map(|flow| flow.progress)
    }

    fn recall(&mut self, key: &FlowKey) -> Option<Progress> {
        self.state().flows.remove(key).map(|flow| flow.progress)
    }

    fn closed(&mut self) -> Option<(FlowKey, Seq<Client>)> {
        self.state().closed.pop_front()
    }
}

fn key(wire: &Wire, to: Direction, addresses: &Addresses) -> Option<FlowKey> {
    let (client, server) = ports(&tcp(&wire.bytes)?, to);
    Some(addresses.flow(client, server))
}

//! The kernel of a NIC that takes established flows: what its BPF program does, by the words of
//! [`Offloaded::apply`].

use super::wire::{Addresses, Wire, ports, tcp};
use rtt0_core::engine::Engine;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{Applied, FastPath, Offloaded, Progress};
use rtt0_core::packet::Packet;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Its flows; every copy is the same kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<HashMap<FlowKey, Offloaded>>>);

impl Kernel {
    fn flows(&self) -> MutexGuard<'_, HashMap<FlowKey, Offloaded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many it has.
    pub(super) fn flows_held(&self) -> usize {
        self.flows().len()
    }

    /// Forwards a packet if it is one of a flow it has; returns whether it has. `is_attended` tells
    /// whether there is an engine.
    pub(super) fn forward(
        &self,
        now: Instant,
        wire: &mut Wire,
        to: Direction,
        addresses: &Addresses,
        is_attended: bool,
    ) -> bool {
        let Some(key) = key(wire, to, addresses) else { return false };
        let mut flows = self.flows();
        let Some(flow) = flows.get_mut(&key) else { return false };
        let mut packet = Packet { bytes: &mut wire.bytes, offload: wire.offload };
        let Ok(mut segment) = Segment::parse(&mut packet) else { return false };
        match flow.apply(now, to, &mut segment, is_attended) {
            Applied::Forwarded => true,
            Applied::ToEngine => false,
            Applied::Forgotten => {
                flows.remove(&key);
                false
            }
        }
    }

    /// Has an engine go on with its flows, and forgets those that the engine does not know.
    pub(super) fn adopt(&self, now: Instant, engine: &mut dyn Engine) {
        let flows: Vec<Offloaded> = self.flows().values().copied().collect();
        for flow in flows {
            if !engine.adopt(now, &flow) {
                self.flows().remove(&flow.key);
            }
        }
    }
}

impl FastPath for Kernel {
    fn hand(&mut self, flow: &Offloaded) -> bool {
        self.flows().insert(flow.key, *flow);
        true
    }

    fn look(&mut self, key: &FlowKey) -> Option<Progress> {
        self.flows().get(key).map(|flow| flow.progress)
    }

    fn recall(&mut self, key: &FlowKey) -> Option<Progress> {
        self.flows().remove(key).map(|flow| flow.progress)
    }
}

fn key(wire: &Wire, to: Direction, addresses: &Addresses) -> Option<FlowKey> {
    let (client, server) = ports(&tcp(&wire.bytes)?, to);
    Some(addresses.flow(client, server))
}

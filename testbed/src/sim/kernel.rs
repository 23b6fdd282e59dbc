//! The kernel of a NIC that takes established flows: what its BPF program does, by the words of
//! [`Offloaded::apply`].

use super::wire::{Addresses, Wire, ports, tcp};
use rtt0_core::accept::{AtOnce, Heard, Opened};
use rtt0_core::engine::Engine;
use rtt0_core::flow::FlowKey;
use rtt0_core::gateway::age;
use rtt0_core::offer::{Keys, LENGTH};
use rtt0_core::offload::{Applied, Begun, FastPath, MOST_BEGUN, Offloaded, Progress, Queued};
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::profile::{Board, Posted};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::spoof::spoof_at_once;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::{Endpoint, Segment};
use rtt0_core::wire::tcp::{Flags, MAX_OPTIONS};
use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When an engine hears at the latest of what its kernel has begun.
const LATEST: Duration = Duration::from_millis(100);
/// What both IP versions of the network carry.
const MSS_CLAMP: u16 = 1440;

/// Every copy is the same kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    flows: HashMap<FlowKey, Offloaded>,
    /// Closed, and the engine has still to hear of it.
    closed: VecDeque<(FlowKey, Seq<Client>)>,
    /// What it may promise.
    posted: HashMap<Endpoint, Posted>,
    /// Until when it may answer SYNs.
    allowed: Option<Instant>,
    /// Answered, and the engine has still to hear of it.
    begun: VecDeque<Begun>,
    /// Handshakes with servers that are not over.
    openings: HashMap<FlowKey, AtOnce>,
    /// Handshakes with servers that it has begun, and the engine has still to hear of them.
    opened: VecDeque<(FlowKey, Opened)>,
    /// Of which a SYN was left to the engine.
    left: HashSet<FlowKey>,
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
        let flags = segment.tcp().flags();
        let applied = flow.apply(now, to, &mut segment, is_attended);
        if is_attended && (flags.contains(Flags::RST) || (to == Direction::ToServer && flags.is_syn())) {
            // The next connection of these ports is the engine's.
            state.left.insert(key);
        }
        match applied {
            Applied::Closed => state.closed.push_back((key, client_end)),
            Applied::Forgotten => drop(state.flows.remove(&key)),
            Applied::Forwarded | Applied::Copied | Applied::ToEngine => {}
        }
        Some(applied)
    }

    /// Forgets what it knows of an engine that is no more.
    pub(super) fn detach(&self) {
        let mut state = self.state();
        let flows = std::mem::take(&mut state.flows);
        *state = State { flows, ..State::default() };
    }

    /// Answers a SYN by itself, as far as it may: returns the SYN-ACK, and the SYN that goes on.
    pub(super) fn answer(
        &self,
        now: Instant,
        wire: &Wire,
        to: Direction,
        addresses: &Addresses,
        keys: &Keys,
    ) -> Option<[Vec<u8>; 2]> {
        let is_syn = to == Direction::ToServer && tcp(&wire.bytes)?.flags().is_syn();
        let key = key(wire, to, addresses).filter(|_| is_syn)?;
        let mut state = self.state();
        if state.flows.contains_key(&key) {
            return None;
        }
        let answer = state.try_answer(now, wire, key, keys);
        if answer.is_none() {
            state.left.insert(key);
        }
        answer
    }

    /// Makes a handshake with a server by itself, as far as it may: returns what goes on to the server, or `None` if the packet is
    /// the engine's.
    pub(super) fn accept(
        &self,
        now: Instant,
        wire: &Wire,
        to: Direction,
        addresses: &Addresses,
        keys: &Keys,
    ) -> Option<Vec<Vec<u8>>> {
        let flags = tcp(&wire.bytes)?.flags();
        let key = key(wire, to, addresses)?;
        let is_syn = to == Direction::ToServer && flags.is_syn();
        let mut state = self.state();
        if state.flows.contains_key(&key) {
            return None;
        }
        let mut bytes = wire.bytes.clone();
        let mut packet = Packet { bytes: &mut bytes, offload: wire.offload };
        let segment = Segment::parse(&mut packet).ok()?;
        let taken = if let Some(opening) = state.openings.remove(&key) {
            state.go_on(now, opening, key, &segment, to).then(Vec::new)
        } else if is_syn {
            state.begin(now, key, &segment, keys)
        } else {
            return None;
        };
        if taken.is_none() {
            state.left.insert(key);
        }
        taken
    }

    /// Tells when the engine is to hear of what has begun, if it does not sooner.
    pub(super) fn hear_at(&self) -> Option<Instant> {
        let state = self.state();
        let begun = state.begun.front().map(|begun| begun.at);
        let opened = state.opened.front().map(|(_, opened)| opened.at);
        Some([begun, opened].into_iter().flatten().min()? + LATEST)
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

impl State {
    fn may_begin(&self, now: Instant, key: &FlowKey) -> bool {
        // At a NIC there are only those of one kind.
        let unheard = self.begun.len() + self.opened.len();
        self.allowed.is_some_and(|until| now < until) && unheard < MOST_BEGUN && !self.left.contains(key)
    }

    fn try_answer(&mut self, now: Instant, wire: &Wire, key: FlowKey, keys: &Keys) -> Option<[Vec<u8>; 2]> {
        let posted = self.posted.get(&key.server()).filter(|posted| now < posted.expires)?;
        if wire.spoiled || !self.may_begin(now, &key) {
            return None;
        }
        let mut bytes = wire.bytes.clone();
        let mut packet = Packet { bytes: &mut bytes, offload: wire.offload };
        let segment = Segment::parse(&mut packet).ok()?;
        let made = spoof_at_once(key, &segment, posted, keys, MSS_CLAMP)?;
        let (start, mut syn) = (&made.start, made.start.syn.clone());
        let offer = syn.len() - MAX_OPTIONS;
        let offer = syn[offer..offer + LENGTH].try_into().ok()?;
        if !age(&mut syn) {
            return None;
        }
        self.flows.insert(key, Offloaded::opening(key, start.client_isn, start.promised_isn));
        self.begun.push_back(Begun { syn: wire.bytes.clone(), offer, at: now });
        Some([made.syn_ack, syn])
    }

    fn begin(
        &mut self,
        now: Instant,
        key: FlowKey,
        segment: &Segment<'_>,
        keys: &Keys,
    ) -> Option<Vec<Vec<u8>>> {
        if !self.may_begin(now, &key) {
            return None;
        }
        let mut out = Outbox::new();
        let opening = AtOnce::begin(key, segment, keys, &mut out)?;
        let mut syns: Vec<_> = out.iter().map(|(bytes, _)| bytes.to_vec()).collect();
        if !syns.iter_mut().all(|syn| age(syn)) {
            return None;
        }
        let opened = Opened { syn: segment.bytes().to_vec(), answer: None, is_made: false, at: now };
        self.openings.insert(key, opening);
        self.opened.push_back((key, opened));
        Some(syns)
    }

    /// Returns whether it has taken a segment of such a handshake.
    fn go_on(
        &mut self,
        now: Instant,
        mut opening: AtOnce,
        key: FlowKey,
        segment: &Segment<'_>,
        to: Direction,
    ) -> bool {
        let heard = if to == Direction::ToClient { opening.hear(segment) } else { Heard::Other };
        let Some((_, opened)) = self.opened.iter_mut().rev().find(|(other, _)| *other == key) else {
            return false;
        };
        match heard {
            Heard::First => {
                opened.answer = Some(segment.bytes().to_vec());
                self.openings.insert(key, opening);
            }
            Heard::Made(flow) => {
                *opened = Opened {
                    answer: Some(segment.bytes().to_vec()),
                    is_made: true,
                    at: now,
                    syn: mem::take(&mut opened.syn),
                };
                self.flows.insert(key, *flow);
            }
            Heard::Other => return false,
        }
        true
    }
}

impl Board for Kernel {
    fn post(&self, destination: &Endpoint, posted: Option<&Posted>) -> bool {
        let mut state = self.state();
        match posted {
            Some(posted) => state.posted.insert(*destination, *posted),
            None => state.posted.remove(destination),
        };
        true
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

    fn allow(&mut self, until: Option<Instant>) -> bool {
        // For as long as the engine does not change its mind: without that it would never come to rest.
        self.state().allowed = until.map(|until| until + Duration::from_secs(3600));
        false
    }

    fn begun(&mut self) -> Option<Begun> {
        self.state().begun.pop_front()
    }

    fn opened(&mut self) -> Option<Opened> {
        let mut state = self.state();
        let (key, opened) = state.opened.pop_front()?;
        if state.openings.remove(&key).is_some() {
            // From now on it is the engine's.
            state.left.insert(key);
        }
        Some(opened)
    }
}

fn key(wire: &Wire, to: Direction, addresses: &Addresses) -> Option<FlowKey> {
    let (client, server) = ports(&tcp(&wire.bytes)?, to);
    Some(addresses.flow(client, server))
}

//! A NIC: an engine, its clock, and what must be true of everything it does with a packet.

use super::kernel::Kernel;
use super::matrix::{ClientEvent, Matrix, ServerEvent, classify_at_client_nic, classify_at_server_nic};
use super::wire::{Addresses, Wire, direction, is_right, ports, tcp};
use clientnic::engine::ClientNic;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::flow::FlowKey;
use rtt0_core::gauges::Gauges;
use rtt0_core::journal::Slot;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Keys;
use rtt0_core::offload::Applied;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::Counters;
use rtt0_core::record::Record;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::ipv6::Ipv6;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::emit::segment::{Cut, MAX_HEADERS};
use servernic::engine::ServerNic;
use std::time::Duration;

/// Either engine.
#[derive(Debug)]
pub(super) enum Brain {
    Client(Box<ClientNic>),
    Server(Box<ServerNic>),
}

impl Brain {
    fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Self::Client(engine) => &mut **engine,
            Self::Server(engine) => &mut **engine,
        }
    }

    /// How full its tables are.
    pub(super) fn gauges(&self) -> Gauges {
        match self {
            Self::Client(nic) => nic.gauges(),
            Self::Server(nic) => nic.gauges(),
        }
    }

    /// Its counters.
    pub(super) fn counters(&self) -> &Counters {
        match self {
            Self::Client(nic) => Engine::counters(&**nic),
            Self::Server(nic) => Engine::counters(&**nic),
        }
    }
}

/// A NIC on the path.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) brain: Brain,
    pub(super) keys: Keys,
    limits: Limits,
    /// How far its clock is ahead of the world's.
    pub(super) skew: Duration,
    outbox: Outbox,
    /// A packet with a wrong checksum may lie in its memory.
    tainted: bool,
    /// What it has noted, by slot.
    journal: Vec<Option<Record>>,
    /// Takes established flows, if it does.
    pub(super) kernel: Option<Kernel>,
}

impl Nic {
    /// Puts an engine on the path.
    pub(super) fn new(
        mut brain: Brain,
        keys: Keys,
        limits: Limits,
        skew: Duration,
        kernel: Option<Kernel>,
    ) -> Self {
        if let Some(kernel) = &kernel {
            brain.engine().accelerate(Box::new(kernel.clone()));
        }
        if let Some(journal) = brain.engine().journal() {
            journal.open();
        }
        let (outbox, journal) = (Outbox::new(), Vec::new());
        Self { brain, keys, limits, skew, outbox, tainted: false, journal, kernel }
    }

    /// Goes on with what another has noted.
    pub(super) fn restore(&mut self, now: Instant, other: Self) {
        self.journal = other.journal;
        for (number, entry) in self.journal.iter_mut().enumerate() {
            let slot = u32::try_from(number).ok().and_then(Slot::new);
            if let (Some(slot), Some(record)) = (slot, &*entry)
                && !self.brain.engine().restore(now + self.skew, slot, record)
            {
                *entry = None;
            }
        }
        if let Some(kernel) = &self.kernel {
            kernel.adopt(now + self.skew, self.brain.engine());
        }
    }

    /// Reads its key file again.
    pub(super) fn rekey(&mut self, keys: Keys) {
        self.brain.engine().rekey(keys.clone());
        self.keys = keys;
    }

    /// Writes down what is to be remembered, as the daemon does before it emits.
    fn write_journal(&mut self) {
        let Some(journal) = self.brain.engine().journal() else { return };
        for change in journal.drain() {
            let number = change.slot.number() as usize;
            if self.journal.len() <= number {
                self.journal.resize(number + 1, None);
            }
            self.journal[number] = change.record;
        }
    }

    /// Hands a packet in and appends what comes out, as the emission sends it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        mut wire: Wire,
        to: Direction,
        addresses: &Addresses,
        out: &mut Vec<(Direction, Wire)>,
    ) -> Result<(), String> {
        self.tainted |= wire.spoiled;
        let kernel = self.kernel.clone();
        let applied =
            kernel.and_then(|kernel| kernel.forward(now + self.skew, &mut wire, to, addresses, true));
        match applied {
            Some(Applied::Forwarded | Applied::Closed) => return forwarded(&wire, to, out),
            Some(Applied::Copied) => {
                forwarded(&wire, to, out)?;
                expire(&mut wire.bytes);
            }
            Some(Applied::ToEngine | Applied::Forgotten) | None => {}
        }
        if self.begins(now, &wire, to, addresses, out)? {
            return Ok(());
        }
        self.brain.engine().hear(now + self.skew, &mut self.outbox);
        self.flush(addresses, false, out)?;
        let mut packet = Packet { bytes: &mut wire.bytes, offload: wire.offload };
        let verdict = self.brain.engine().handle(now + self.skew, &mut packet, &mut self.outbox);
        wire.offload = packet.offload;
        if applied == Some(Applied::Copied) && verdict == Verdict::Forward {
            return Err("the engine forwards what the kernel has forwarded".to_owned());
        }
        if verdict == Verdict::Forward {
            forwarded(&wire, to, out)?;
        }
        self.flush(addresses, wire.spoiled, out)?;
        self.brain.engine().settle();
        Ok(())
    }

    /// Has the kernel begin or go on with a handshake by itself; returns whether that has taken the packet.
    fn begins(
        &self,
        now: Instant,
        wire: &Wire,
        to: Direction,
        addresses: &Addresses,
        out: &mut Vec<(Direction, Wire)>,
    ) -> Result<bool, String> {
        let Some(kernel) = &self.kernel else { return Ok(false) };
        let (now, keys) = (now + self.skew, &self.keys);
        let made = match self.brain {
            Brain::Client(_) => kernel.answer(now, wire, to, addresses, keys).map(Vec::from),
            Brain::Server(_) => kernel.accept(now, wire, to, addresses, keys),
        };
        for bytes in made.iter().flatten() {
            let to = direction(bytes, addresses).ok_or("the kernel sends to nobody")?;
            emit(bytes, Offload::default(), false, to, out)?;
        }
        Ok(made.is_some())
    }

    /// Counts what a packet is to the flow it meets, whoever forwards it.
    pub(super) fn observe(&self, wire: &Wire, to: Direction, addresses: &Addresses, matrix: &mut Matrix) {
        let Some(view) = tcp(&wire.bytes).filter(|_| !wire.spoiled) else { return };
        let (client, server) = ports(&view, to);
        let key = addresses.flow(client, server);
        match &self.brain {
            Brain::Client(nic) => {
                let flow = nic.view(&key);
                matrix.hit_client(flow.phase, classify_at_client_nic(&flow, &key, &self.keys, &view, to));
            }
            Brain::Server(nic) => {
                let flow = nic.view(&key);
                matrix.hit_server(flow.phase, classify_at_server_nic(&flow, &key, &self.keys, &view, to));
            }
        }
    }

    /// Does what is due and appends what comes out. `flows` are all there can be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn on_timer(
        &mut self,
        now: Instant,
        addresses: &Addresses,
        flows: impl Iterator<Item = FlowKey> + Clone,
        matrix: &mut Matrix,
        out: &mut Vec<(Direction, Wire)>,
    ) -> Result<(), String> {
        let repeated = |outbox: &Outbox, key: &FlowKey| {
            outbox.iter().any(|(bytes, _)| {
                let syn = tcp(bytes).filter(|view| view.flags().is_syn());
                syn.is_some_and(|view| {
                    (view.source_port(), view.destination_port()) == (key.client().1, key.server().1)
                })
            })
        };
        let now = now + self.skew;
        self.brain.engine().hear(now, &mut self.outbox);
        match &mut self.brain {
            Brain::Client(nic) => {
                let before: Vec<_> = flows.map(|key| (key, nic.view(&key))).collect();
                nic.handle_timeout(now, &mut self.outbox);
                for (key, view) in before {
                    if repeated(&self.outbox, &key) {
                        matrix.hit_client(view.phase, ClientEvent::Repeat);
                    } else if nic.view(&key) != view {
                        matrix.hit_client(view.phase, ClientEvent::Silence);
                    }
                }
            }
            Brain::Server(nic) => {
                let before: Vec<_> = flows.map(|key| (key, nic.view(&key))).collect();
                nic.handle_timeout(now, &mut self.outbox);
                for (key, view) in before {
                    if repeated(&self.outbox, &key) {
                        matrix.hit_server(view.phase, ServerEvent::Repeat);
                    } else if nic.view(&key) != view {
                        matrix.hit_server(view.phase, ServerEvent::Silence);
                    }
                }
            }
        }
        self.flush(addresses, false, out)
    }

    /// Tells when [`Nic::on_timer`] wants to be called, on the world's clock.
    pub(super) fn next(&mut self) -> Option<Instant> {
        let heard = self.kernel.as_ref().and_then(Kernel::hear_at);
        let at = [self.brain.engine().next_timeout(), heard].into_iter().flatten().min()?;
        Some(Instant::ZERO + (at - (Instant::ZERO + self.skew)))
    }

    fn flush(
        &mut self,
        addresses: &Addresses,
        from_spoiled: bool,
        out: &mut Vec<(Direction, Wire)>,
    ) -> Result<(), String> {
        self.write_journal();
        let mut result = self.check_bounds();
        for (bytes, offload) in self.outbox.iter() {
            let right = is_right(bytes, offload);
            if !right && !self.tainted {
                result = Err(format!("made a wrong checksum: {}", super::wire::describe(bytes, offload)));
            }
            // Early data proves by a number nobody can guess that its client is there, whatever else
            // of it is wrong: it may be told that it was refused.
            let tells = tcp(bytes).is_some_and(|view| view.flags().contains(Flags::RST));
            if right && from_spoiled && !tells {
                result = Err(format!(
                    "acted upon a packet with a wrong checksum: {}",
                    super::wire::describe(bytes, offload)
                ));
            }
            if let Some(to) = direction(bytes, addresses) {
                emit(bytes, offload, !right, to, out)?;
            }
        }
        self.outbox.clear();
        result
    }

    /// Every table and every hold stays within its bound.
    fn check_bounds(&self) -> Result<(), String> {
        let Gauges { flows, pending, half_open, held, .. } = self.brain.gauges();
        let limits = &self.limits;
        if half_open > limits.half_open {
            return Err(format!("beyond its bounds: {half_open} half-open clients"));
        }
        if flows > limits.flows || pending > limits.pending || held > limits.held_total {
            return Err(format!("beyond its bounds: {flows} flows, {pending} pending, {held} bytes held"));
        }
        Ok(())
    }
}

/// Sends a packet on whose checksum must be as right or wrong as it was.
fn forwarded(wire: &Wire, to: Direction, out: &mut Vec<(Direction, Wire)>) -> Result<(), String> {
    if is_right(&wire.bytes, wire.offload) == wire.spoiled {
        let how = if wire.spoiled { "a wrong checksum became right" } else { "a checksum became wrong" };
        return Err(format!("{how}: {}", super::wire::describe(&wire.bytes, wire.offload)));
    }
    emit(&wire.bytes, wire.offload, wire.spoiled, to, out)
}

/// Sends as the emission does: full checksums, and cut to `gso_size`.
fn emit(
    bytes: &[u8],
    offload: Offload,
    spoiled: bool,
    to: Direction,
    out: &mut Vec<(Direction, Wire)>,
) -> Result<(), String> {
    let plain = |bytes: Vec<u8>| Wire { bytes, offload: Offload::default(), spoiled };
    if offload == Offload::default() {
        out.push((to, plain(bytes.to_vec())));
        return Ok(());
    }
    let cut = Cut::new(bytes, offload).map_err(|error| format!("emits what can't be cut: {error}"))?;
    if cut.segments() == 1 && !offload.needs_csum {
        out.push((to, plain(bytes.to_vec())));
        return Ok(());
    }
    let mut headers = [0; MAX_HEADERS];
    for index in 0..cut.segments() {
        let (length, payload) = cut.write(index, &mut headers);
        let piece = [&headers[..length], payload].concat();
        if spoiled && is_right(&piece, Offload::default()) {
            return Err("cutting a packet with a wrong checksum made right ones of it".to_owned());
        }
        out.push((to, plain(piece)));
    }
    Ok(())
}

/// Makes the kernel's copy of a packet that goes on.
fn expire(bytes: &mut [u8]) {
    match Ipv4::unverified(&mut *bytes) {
        Ok(mut ip) => ip.set_ttl(0),
        Err(_) => {
            if let Ok(mut ip) = Ipv6::unverified(bytes) {
                ip.set_hop_limit(0);
            }
        }
    }
}

/// Forwards as the kernel does where there is no engine.
pub(super) fn forward(wire: Wire, to: Direction, out: &mut Vec<(Direction, Wire)>) -> Result<(), String> {
    emit(&wire.bytes, wire.offload, wire.spoiled, to, out)
}

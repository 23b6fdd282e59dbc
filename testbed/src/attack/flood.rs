//! A flood of SYNs from random sources, at a given rate.
//!
//! The sources are of `PREFIX`, which is routed to the client's host as if it were a whole network
//! behind it; nobody there answers, so that no SYN-ACK of the server is ever acknowledged.

use super::dice::Dice;
use crate::address::{CLIENT, CLIENT_NIC_WAN};
use crate::host::Host;
use crate::program::realtime;
use crate::topology::Topology;
use anyhow::Context;
use rtt0_core::packet::{Offload, Outbox};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use rtt0_netio::links::Links;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where the flood's sources lie: address and bits.
const PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
/// Time between two bursts.
const TICK: Duration = Duration::from_millis(1);
/// Bursts that are made up for if the thread was kept from running; more would be a burst of its own.
const CATCH_UP: u32 = 10;
/// Real-time priority, above the daemons' and the delay line's: a real flood needs none of their
/// processor time.
const PRIORITY: i32 = 50;

/// Routes the flood's sources to the client, so that answers travel the whole way back.
///
/// # Errors
/// A route can't be set.
pub fn route_sources(topology: &Topology) -> anyhow::Result<()> {
    let (network, bits) = (PREFIX.0.into(), PREFIX.1);
    for (host, gateway) in [(&topology.client_nic, CLIENT), (&topology.server_nic, CLIENT_NIC_WAN)] {
        Links::open(host.namespace())?
            .add_route(network, bits, gateway.v4.into())
            .with_context(|| format!("can't route the flood's sources on {}", host.name()))?;
    }
    Ok(())
}

/// A running flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    counters: Arc<IoCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends `rate` SYNs a second from `host` to `target` (IPv4), until dropped.
    ///
    /// # Errors
    /// The sockets or the thread can't be had.
    pub fn start(host: &Host, target: SocketAddr, rate: u32) -> anyhow::Result<Self> {
        let emitter = host.enter(Emitter::open)?.context("the flood's sockets can't be had")?;
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(IoCounters::default()));
        let thread = thread::Builder::new().name("syn-flood".into()).spawn({
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            move || send(emitter, target, rate, &stop, &counters)
        })?;
        Ok(Self { stop, counters, thread: Some(thread) })
    }

    /// Returns how many SYNs the kernel has taken so far.
    pub fn sent(&self) -> u64 {
        self.counters.sent.value()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn send(mut emitter: Emitter, target: SocketAddr, rate: u32, stop: &AtomicBool, counters: &IoCounters) {
    realtime::run_at(PRIORITY);
    let (mut dice, mut out) = (Dice::new(u64::from(rate)), Outbox::new());
    let burst = rate / (Duration::from_secs(1).as_millis() / TICK.as_millis()) as u32;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        (0..burst).for_each(|_| push_syn(&mut dice, target, &mut out));
        emitter.send(out.iter(), counters, |_, _| {});
        out.clear();
        let now = Instant::now();
        due = (due + TICK).max(now - TICK * CATCH_UP);
        thread::sleep(due.saturating_duration_since(now));
    }
}

/// Appends a SYN as Linux sends it.
fn push_syn(dice: &mut Dice, target: SocketAddr, out: &mut Outbox) {
    let source = Ipv4Addr::from(u32::from(PREFIX.0) | dice.word() >> PREFIX.1);
    let syn = Control {
        source: (source.into(), dice.word() as u16 | 1024),
        destination: (target.ip(), target.port()),
        sequence: dice.word(),
        acknowledgement: 0,
        flags: Flags::SYN,
        window: 64_240,
    };
    out.build(Offload::default(), |bytes| syn.write(&syn_options(dice.word()), bytes));
}

/// The options of a SYN as Linux sends it.
pub(super) fn syn_options(tsval: u32) -> Vec<u8> {
    let mut options = Vec::with_capacity(20);
    SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: tsval, echo: 0 }),
    }
    .write(&mut options);
    options
}

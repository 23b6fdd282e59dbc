//! Memory per flow and cost per packet of both engines with ever more flows.
//!
//! `cargo run --release -p servernic --example engine_scale [-- FLOWS…]`, by default 1,000 to 1,000,000. All
//! flows are made by real handshakes; packets belong to flows in random order and come in batches of
//! 64, as a worker receives them. Times are medians over rounds, with the fastest and slowest.
#![allow(clippy::unwrap_used, reason = "an example may panic")]

#[path = "../tests/load/mod.rs"]
mod load;

use clientnic::engine::Mode;
use load::{Connection, Extras, World, mix};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::service::Direction;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Packets handed over together.
const BATCH: usize = 64;
/// Rounds of which the median is taken.
const ROUNDS: usize = 7;
/// Packets of a round.
const PACKETS: usize = 128_000;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn main() {
    let mut scales: Vec<u32> = std::env::args().skip(1).filter_map(|n| n.parse().ok()).collect();
    if scales.is_empty() {
        scales = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    for mode in [Mode::Auto, Mode::Solo] {
        for flows in &scales {
            measure(mode, *flows);
        }
    }
}

fn measure(mode: Mode, flows: u32) {
    let mut world = World::new(mode, Limits::default(), allocated);
    let fixed = world.allocated;
    let began = Instant::now();
    for n in 0..flows {
        world.connect(n);
        if n % 800 == 0 {
            world.advance(Duration::from_millis(8));
        }
    }
    world.advance(Duration::from_secs(16));
    let [client, server] = world.flows();
    assert!(
        client == flows as usize && (server == flows as usize || mode == Mode::Solo),
        "{client} {server}"
    );
    println!(
        "{mode:?}, {flows} flows, made in {:.2} s; bytes a flow (and before the first): ClientNIC {:.1} ({}), ServerNIC {:.1} ({})",
        began.elapsed().as_secs_f64(),
        world.allocated[0] as f64 / f64::from(flows),
        fixed[0],
        world.allocated[1] as f64 / f64::from(flows),
        fixed[1],
    );
    let World { mut client_nic, server_nic, now, .. } = world;
    match server_nic {
        Some(mut nic) => {
            costs("ServerNIC", &mut nic, now, flows);
            costs("ClientNIC, watching", &mut client_nic, now, flows);
        }
        None => costs("ClientNIC solo", &mut client_nic, now, flows),
    }
}

fn costs(name: &str, engine: &mut impl Engine, now: rtt0_core::time::Instant, flows: u32) {
    for ahead in [false, true] {
        let mut rounds: Vec<f64> =
            (0..ROUNDS).map(|round| self::round(engine, now, flows, round, ahead)).collect();
        rounds.sort_by(f64::total_cmp);
        println!(
            "  {name}, {}: {:.0} ns a packet ({:.0}–{:.0})",
            if ahead { "batch looked at ahead" } else { "packet by packet" },
            rounds[ROUNDS / 2],
            rounds[0],
            rounds[ROUNDS - 1],
        );
    }
}

/// Returns the ns that a packet takes: the median over batches, since this thread has no processor of
/// its own.
fn round(
    engine: &mut impl Engine,
    now: rtt0_core::time::Instant,
    flows: u32,
    round: usize,
    ahead: bool,
) -> f64 {
    let mut out = Outbox::new();
    let mut batch: Vec<Vec<u8>> = vec![Vec::new(); BATCH];
    let mut taken = Vec::with_capacity(PACKETS / BATCH);
    for number in 0..PACKETS / BATCH {
        for (index, bytes) in batch.iter_mut().enumerate() {
            let random = mix(((round * PACKETS) + number * BATCH + index) as u64 ^ u64::from(ahead) << 40);
            let to = if random >> 63 == 0 { Direction::ToServer } else { Direction::ToClient };
            Connection::new((random % u64::from(flows)) as u32).data(to, Extras::Timestamps, 64, bytes);
        }
        let began = Instant::now();
        if ahead {
            engine.look_ahead(&mut batch.iter().map(Vec::as_slice));
        }
        for bytes in &mut batch {
            let verdict = engine.handle(now, &mut Packet { bytes, offload: Offload::default() }, &mut out);
            assert_eq!(verdict, Verdict::Forward);
        }
        taken.push(began.elapsed());
    }
    assert!(out.is_empty());
    taken.sort_unstable();
    taken[taken.len() / 2].as_nanos() as f64 / BATCH as f64
}

//! `cargo bench -p servernic --bench engine`: ns for each stage of a packet's way through the engines. See
//! docs/performance/engine.md.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

mod stages;

use clientnic::engine::Mode;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use stages::load::Extras;
use stages::{KINDS, WAYS};
use std::hint::black_box;

const NOW: Instant = Instant::from_micros(30_000_000);

fn parse(c: &mut Criterion) {
    let (mut door, mut out) = (stages::door(), Outbox::new());
    let bytes = stages::packet(0, Direction::ToServer, Extras::Timestamps, 64);
    c.bench_function("parse", |b| {
        b.iter_batched_ref(
            || bytes.clone(),
            |bytes| stages::parse(&mut door, NOW, bytes, &mut out),
            BatchSize::SmallInput,
        );
    });
}

fn translate(c: &mut Criterion) {
    let limits = Limits::default();
    for (extras, kind) in KINDS {
        for (to, way) in WAYS {
            let mut flow = stages::flow(NOW);
            let bytes = stages::packet(0, to, extras, 64);
            c.bench_function(&format!("read and translate {way}, {kind}"), |b| {
                b.iter_batched_ref(
                    || bytes.clone(),
                    |bytes| {
                        let mut packet = Packet { bytes, offload: Offload::default() };
                        let Ok(mut segment) = Segment::parse(&mut packet) else { return };
                        let _ = black_box(match to {
                            Direction::ToServer => {
                                stages::translate_to_server(&mut flow, &mut segment, &limits)
                            }
                            Direction::ToClient => {
                                stages::translate_to_client(&mut flow, &mut segment, &limits, NOW)
                            }
                        });
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn checksum(c: &mut Criterion) {
    let mut bytes = stages::packet(0, Direction::ToServer, Extras::None, 1_400);
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let Ok(mut segment) = Segment::parse(&mut packet) else { return };
    c.bench_function("checksum in full, 1,420 bytes", |b| {
        b.iter(|| stages::checksum_in_full(black_box(&segment)));
    });
    let mut sequence = 0;
    c.bench_function("checksum incrementally, one number", |b| {
        b.iter(|| {
            sequence += 1;
            stages::checksum_incrementally(black_box(&mut segment), sequence);
        });
    });
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("look up 64 flows in random order");
    group.throughput(Throughput::Elements(64));
    for flows in [1_000, 10_000, 100_000, 1_000_000] {
        let (mut table, keys) = stages::table(flows);
        for (ahead, name) in [(false, "one by one"), (true, "after looking ahead")] {
            let mut batches = keys.chunks_exact(64).cycle();
            group.bench_function(format!("{name}, {flows}"), |b| {
                b.iter(|| {
                    let batch = batches.next().unwrap_or_default();
                    if ahead {
                        table.look_ahead(batch.iter().copied(), |value| (value[6] ^ value[12]) as u32);
                    }
                    batch.iter().map(|key| stages::look_up(&mut table, key)).sum::<u64>()
                });
            });
        }
    }
}

fn engines(c: &mut Criterion) {
    for mode in [Mode::Auto, Mode::Solo] {
        let mut world = stages::world(mode, 1_000);
        let now = world.now;
        let name = if mode == Mode::Auto { "ServerNIC" } else { "ClientNIC solo" };
        let nic: &mut dyn Engine = match &mut world.server_nic {
            Some(nic) => nic,
            None => &mut world.client_nic,
        };
        let mut out = Outbox::new();
        for (extras, kind) in KINDS {
            for (to, way) in WAYS {
                let bytes = stages::packet(0, to, extras, 64);
                c.bench_function(&format!("{name} {way}, {kind}"), |b| {
                    b.iter_batched_ref(
                        || bytes.clone(),
                        |bytes| stages::engine(nic, now, bytes, &mut out),
                        BatchSize::SmallInput,
                    );
                });
            }
        }
    }
}

criterion_group!(benches, parse, translate, checksum, look_up, engines);
criterion_main!(benches);

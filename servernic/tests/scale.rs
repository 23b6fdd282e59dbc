//! A hundred thousand flows through both engines: what they take, how they end, and what a packet of an
//! established flow allocates.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod load;

use clientnic::engine::Mode;
use load::packets::{ACK, FIN, SYN, linux};
use load::{Connection, Extras, World, mix};
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::reason::{Event, PassReason};
use rtt0_core::service::Direction;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::sync::Mutex;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process, so that one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Makes `flows` connections at 100,000 a second.
fn established(mode: Mode, flows: u32, limits: Limits) -> World {
    let mut world = World::new(mode, limits, allocated);
    for n in 0..flows {
        world.connect(n);
        if n % 800 == 0 {
            world.advance(Duration::from_millis(8));
        }
    }
    world
}

/// All that a flow takes: its slot, its part of the index with all slack, its timer.
fn check_memory_and_expiry(mode: Mode, flows: u32) {
    let mut world = established(mode, flows, Limits::default());
    world.advance(Duration::from_secs(16));
    let known = world.flows();
    for (nic, name) in [(0, "ClientNIC"), (1, "ServerNIC")] {
        if mode == Mode::Solo && nic == 1 {
            continue;
        }
        assert_eq!(known[nic], flows as usize, "{name}: nothing but the established flows");
        let bytes = world.allocated[nic] / flows as isize;
        println!("{name} ({mode:?}): {bytes} bytes a flow");
        assert!((100..256).contains(&bytes), "{name}: {bytes} bytes a flow");
    }
    // Not even one is left when all have been idle for too long, and one day before all still are.
    world.advance(Limits::default().idle - Duration::from_secs(24 * 3600));
    assert_eq!(world.flows(), known);
    world.advance(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(world.flows(), [0, 0]);
    assert_eq!(world.client_nic.next_timeout(), None);
    assert_eq!(world.server_nic.and_then(|nic| nic.next_timeout()), None);
}

#[test]
fn a_hundred_thousand_flows_take_less_than_256_bytes_each_and_all_expire() {
    let _alone = ALONE.lock();
    check_memory_and_expiry(Mode::Auto, 100_000);
}

#[test]
fn so_do_flows_of_clientnic_alone() {
    let _alone = ALONE.lock();
    check_memory_and_expiry(Mode::Solo, 50_000);
}

/// `cargo test --release -p servernic --test scale -- --ignored`
#[test]
#[ignore = "takes a minute unless optimised"]
fn so_do_a_million() {
    let _alone = ALONE.lock();
    check_memory_and_expiry(Mode::Auto, 1_000_000);
    check_memory_and_expiry(Mode::Solo, 1_000_000);
}

/// 10,000 connections a second, each closed by both ends, scaled down by a thousand, table included:
/// for ten minutes none finds the table full, although no flow goes before its minute.
#[test]
fn closed_flows_leave_room_for_ten_thousand_connections_a_second() {
    let _alone = ALONE.lock();
    let limits = Limits { flows: 1_000, ..Limits::default() };
    for mode in [Mode::Auto, Mode::Solo] {
        let mut world = World::new(mode, limits, allocated);
        for n in 0..6_000 {
            world.connect(n);
            world.close(n);
            world.advance(Duration::from_millis(100));
        }
        let most = world.flows().into_iter().max();
        assert!(most <= Some(620), "{most:?}");
        assert_eq!(world.client_nic.counters().happened(Event::MadeRoom), 0);
    }
}

/// Beyond that rate those that have rested for longest go first, and the living never.
#[test]
fn resting_flows_make_room_and_living_ones_do_not() {
    let _alone = ALONE.lock();
    let limits = Limits { flows: 100, ..Limits::default() };
    for mode in [Mode::Auto, Mode::Solo] {
        let mut world = World::new(mode, limits, allocated);
        let nic = usize::from(mode == Mode::Auto);
        for n in 0..50 {
            world.connect(n);
        }
        for n in 50..1_000 {
            world.connect(n);
            world.close(n);
            // There is room for 50 s of these, and each would rest for 60.
            world.advance(Duration::from_secs(1));
        }
        assert_eq!(world.flows()[nic], 100);
        let engine: &dyn Engine = world.server_nic.as_ref().map_or(&world.client_nic, |nic| nic);
        assert_eq!(engine.counters().happened(Event::MadeRoom), 900);
        let (mut bytes, mut out) = (Vec::new(), Outbox::new());
        for n in 0..50 {
            Connection::new(n).data(Direction::ToServer, Extras::None, 9, &mut bytes);
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            let engine: &mut dyn Engine = match &mut world.server_nic {
                Some(nic) => nic,
                None => &mut world.client_nic,
            };
            let before = engine.counters().happened(Event::Translated);
            engine.handle(world.now, &mut packet, &mut out);
            assert_eq!(engine.counters().happened(Event::Translated), before + 1, "{n} lives on");
        }
    }
}

/// Who has rested for less than half a minute may have a FIN to repeat: the newcomer passes unspoofed.
#[test]
fn what_has_just_closed_makes_no_room() {
    let _alone = ALONE.lock();
    let mut world = World::new(Mode::Solo, Limits { flows: 10, ..Limits::default() }, allocated);
    for n in 0..10 {
        world.connect(n);
        world.close(n);
    }
    let mut syn = Vec::new();
    for (n, wait, room, full) in [(10, 29, 0, 1), (11, 2, 1, 1)] {
        world.advance(Duration::from_secs(wait));
        let mut options = Vec::new();
        linux(1, 0).write(&mut options);
        Connection::new(n).segment(Direction::ToServer, SYN, (0, 0), (&options, 0), &mut syn);
        let mut packet = Packet { bytes: &mut syn, offload: Offload::default() };
        let verdict = world.client_nic.handle(world.now, &mut packet, &mut world.out);
        assert_eq!(verdict, if room == 0 { Verdict::Forward } else { Verdict::Taken });
        let counters = world.client_nic.counters();
        assert_eq!(counters.happened(Event::MadeRoom), room);
        assert_eq!(counters.passed(PassReason::FlowTableFull), full);
    }
}

/// A FIN whose acknowledgement got lost behind the NIC is repeated, and the answer still translated.
#[test]
fn a_repeated_fin_is_still_translated_while_its_flow_rests() {
    let _alone = ALONE.lock();
    let mut world = established(Mode::Auto, 1, Limits::default());
    world.close(0);
    let nic = world.server_nic.as_mut().unwrap();
    let connection = Connection::new(0);
    let mut out = Outbox::new();
    for _ in 0..5 {
        world.now = world.now + Duration::from_secs(50);
        while nic.next_timeout().is_some_and(|at| at <= world.now) {
            nic.handle_timeout(world.now, &mut out);
        }
        let before = nic.counters().happened(Event::Translated);
        for (to, flags, numbers) in
            [(Direction::ToClient, FIN | ACK, (201, 102)), (Direction::ToServer, ACK, (102, 202))]
        {
            let mut bytes = Vec::new();
            connection.segment(to, flags, numbers, (&[], 0), &mut bytes);
            let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
            assert_eq!(nic.handle(world.now, &mut packet, &mut out), Verdict::Forward);
        }
        assert_eq!(nic.counters().happened(Event::Translated), before + 2);
    }
}

/// Every kind of segment, both ways, super-packets too; with timers running.
#[test]
fn packets_of_established_flows_allocate_nothing() {
    let _alone = ALONE.lock();
    const FLOWS: u32 = 6_000;
    for mode in [Mode::Auto, Mode::Solo] {
        let mut world = established(mode, FLOWS, Limits::default());
        world.advance(Duration::from_secs(16));
        let offloads = [(0, false), (1_400, true), (1_400, false), (0, true)];
        let mut packets = Vec::new();
        for extras in [Extras::None, Extras::Timestamps, Extras::Sack] {
            for to in [Direction::ToServer, Direction::ToClient] {
                for (gso_size, needs_csum) in offloads {
                    for number in 0..40 {
                        let n = mix(number) as u32 % FLOWS;
                        let mut bytes = Vec::new();
                        let payload = if gso_size == 0 { 600 } else { 9_000 };
                        Connection::new(n).data(to, extras, payload, &mut bytes);
                        packets.push((bytes, Offload { needs_csum, gso_size }));
                    }
                }
            }
        }
        let mut out = Outbox::new();
        let (client_nic, server_nic) = (&mut world.client_nic, &mut world.server_nic);
        let mut engines: Vec<&mut dyn Engine> = vec![client_nic];
        engines.extend(server_nic.as_mut().map(|nic| nic as &mut dyn Engine));
        for engine in engines {
            let translated = engine.counters().happened(Event::Translated);
            let before = ALLOCATOR.stats();
            let mut now = world.now;
            engine.look_ahead(&mut packets.iter().map(|(bytes, _)| bytes.as_slice()));
            for (bytes, offload) in &mut packets {
                now = now + Duration::from_millis(100);
                let verdict = engine.handle(now, &mut Packet { bytes, offload: *offload }, &mut out);
                assert_eq!(verdict, Verdict::Forward);
                if engine.next_timeout().is_some_and(|at| at <= now) {
                    engine.handle_timeout(now, &mut out);
                }
            }
            let after = ALLOCATOR.stats();
            assert_eq!(after.allocations - before.allocations, 0, "allocations");
            assert_eq!(after.reallocations - before.reallocations, 0, "reallocations");
            // ClientNIC watches what ServerNIC translates.
            let is_watched = mode == Mode::Auto && engine.counters().happened(Event::SpoofedPaired) > 0;
            let expected = if is_watched { 0 } else { packets.len() as u64 };
            assert_eq!(engine.counters().happened(Event::Translated) - translated, expected);
        }
    }
}

//! The observer's memory: bounded, and none taken per packet once its tables have their size.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mirror::inner::{Inner, Transport};
use mirror::observe::{Observer, Options};
use rtt0_core::time::Instant;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::SynOptions;
use rtt0_core::wire::segment::Endpoint;
use rtt0_core::wire::tcp::Flags;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::net::Ipv4Addr;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Shows an observer segments without allocating for them.
struct Mirror {
    observer: Observer,
    packet: Vec<u8>,
    options: Vec<u8>,
    micros: u64,
    segments: u64,
}

impl Mirror {
    fn new() -> Self {
        let mut options = Vec::new();
        let all =
            SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps: None };
        all.write(&mut options);
        Self {
            observer: Observer::new(Options::default()),
            packet: Vec::with_capacity(99),
            options,
            micros: 1,
            segments: 0,
        }
    }

    fn show(
        &mut self,
        source: Endpoint,
        destination: Endpoint,
        flags: Flags,
        numbers: (u32, u32),
        length: usize,
    ) {
        self.micros += 10;
        self.segments += 1;
        let (sequence, acknowledgement) = numbers;
        let control = Control { source, destination, sequence, acknowledgement, flags, window: 9 };
        let options = if flags.contains(Flags::SYN) { &self.options[..] } else { &[] };
        self.packet.clear();
        control.write(options, &mut self.packet);
        let inner = Inner {
            source: source.0,
            destination: destination.0,
            transport: Transport::Tcp,
            source_port: source.1,
            destination_port: destination.1,
            upper: 20,
            length: self.packet.len() + length,
            hop_limit: 64,
        };
        self.observer.segment(Instant::from_micros(self.micros), &self.packet, &inner);
    }

    /// A connection with a request and a response, that is then closed or left open.
    fn connection(&mut self, client: Endpoint, server: Endpoint, closes: bool) {
        self.show(client, server, Flags::SYN, (0, 0), 0);
        self.show(server, client, Flags::SYN | Flags::ACK, (0, 1), 0);
        self.show(client, server, Flags::ACK, (1, 1), 0);
        self.show(client, server, Flags::ACK, (1, 1), 100);
        self.show(server, client, Flags::ACK, (1, 101), 100);
        if closes {
            self.show(client, server, Flags::ACK | Flags::FIN, (101, 101), 0);
            self.show(server, client, Flags::ACK | Flags::FIN, (101, 102), 0);
        }
    }
}

fn end(number: u32, port: u16) -> Endpoint {
    (Ipv4Addr::from_bits(0x0a00_0000 + number).into(), port)
}

/// One test, for allocations are counted over all threads.
#[test]
fn memory_is_bounded_and_none_is_taken_per_packet() {
    let region = Region::new(ALLOCATOR);
    let mut mirror = Mirror::new();
    // More connections, services and destinations than are kept; then the same again, closed.
    for number in 0..100_000u32 {
        mirror.connection(end(number, 40_000), end((1 << 20) + number % 20_000, 443), false);
    }
    let held = region.change();
    let megabytes = (held.bytes_allocated - held.bytes_deallocated) as f64 / 1e6;
    println!("{megabytes:.1} MB for full tables");
    assert!(megabytes < 20.0, "{megabytes} MB");
    let report = mirror.observer.report(Instant::from_micros(mirror.micros));
    assert_eq!(report.all.connections.answered, 100_000);
    assert!(report.unused.flows_let_go > 30_000 && report.services.len() == 4_097);
    drop(report);

    for number in 0..100_000u32 {
        mirror.connection(end(number, 40_001), end((1 << 20) + number % 20_000, 443), true);
    }
    let (steady, segments, began) = (Region::new(ALLOCATOR), mirror.segments, std::time::Instant::now());
    for number in 0..100_000u32 {
        mirror.connection(end(number, 40_002), end((1 << 20) + number % 20_000, 443), true);
    }
    let each = began.elapsed().as_nanos() as f64 / (mirror.segments - segments) as f64;
    println!("{each:.0} ns a segment, of seven of a connection, in full tables");
    assert_eq!(steady.change().allocations, 0);
}

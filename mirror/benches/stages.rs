//! `cargo bench -p mirror --bench stages`: ns for each stage of a mirrored packet's way.
#![allow(missing_docs, reason = "criterion's macros write functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use mirror::inner::{self, Inner};
use mirror::reason::DropReason;
use mirror::tunnel::{Kind, Listening, Tunnels, decapsulate};
use rtt0_core::packet::Offload;
use std::hint::black_box;

/// An inner UDP packet of `length` bytes in an Ethernet frame in VXLAN over IPv4.
fn mirrored(length: usize, has_checksum: bool) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0];
    let frame = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 8, 7], [10, 1, 1, 1], 64);
    frame.udp(40_000, 31_765).write(&mut payload, &vec![7; length - 28]).unwrap();
    let mut bytes = Vec::new();
    let outer = PacketBuilder::ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64).udp(51_234, 4789);
    outer.write(&mut bytes, &payload).unwrap();
    if !has_checksum {
        bytes[26..28].fill(0);
    }
    bytes
}

fn read(packet: &[u8], tunnels: &Tunnels) -> Result<Inner, DropReason> {
    let found = decapsulate(packet, tunnels, Offload::default())?;
    inner::parse(packet.get(found.inner).unwrap_or_default())
}

fn decapsulate_and_parse(c: &mut Criterion) {
    let listening = Listening { kind: Kind::Vxlan, port: 4789, vnis: vec![1] };
    let tunnels = Tunnels::new(&[listening]).unwrap();
    let mut group = c.benchmark_group("decapsulate and parse");
    group.throughput(Throughput::Elements(1));
    for length in [100, 1_400] {
        for (has_checksum, name) in [(false, "no outer checksum"), (true, "outer checksum verified")] {
            let packet = mirrored(length, has_checksum);
            assert!(read(&packet, &tunnels).is_ok());
            group.bench_function(format!("{length} bytes, {name}"), |b| {
                b.iter(|| read(black_box(&packet), black_box(&tunnels)));
            });
        }
    }
}

criterion_group!(benches, decapsulate_and_parse);
criterion_main!(benches);

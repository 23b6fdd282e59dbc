//! `cargo bench -p mirror --bench judge`: ns for what is decided about one packet, and for its rewrite.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mirror::allowlist::Allowlist;
use mirror::inner::{self, Inner, Transport};
use mirror::nat::{self, Matching, Replies, Rule, Rules};
use rtt0_core::time::Instant;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

/// The list of the system in the field, and one that is far larger.
const LISTS: [u32; 2] = [324, 100_000];
/// More look-ups than the processor's predictors learn by heart.
const ASKED: u32 = 65_536;

/// Spreads numbers over all of 32 bits, each another.
fn spread(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b)
}

fn list(prefixes: u32) -> Allowlist {
    let addresses: Vec<_> = (0..prefixes).map(|n| format!("\"{}\"", Ipv4Addr::from(spread(n)))).collect();
    let six: Vec<_> = (0..prefixes).map(|n| format!("\"2001:db8:{:x}::/48\"", n % 0xffff)).collect();
    let parts = addresses.chunks(addresses.len().div_ceil(16));
    let mut listed: Vec<_> = parts.enumerate().map(|(n, part)| (n, part.join(","))).collect();
    listed.push((99, six[..six.len().min(0xffff)].join(",")));
    let listed: Vec<_> =
        listed.iter().map(|(n, part)| format!(r#"{{"name":"{n}","addresses":[{part}]}}"#)).collect();
    Allowlist::parse(&format!(r#"{{"organisations":[{}]}}"#, listed.join(","))).expect("a right list")
}

fn allowlist(c: &mut Criterion) {
    for prefixes in LISTS {
        let list = list(prefixes);
        // Every other one is on the list.
        let on = |n: u32| spread(if n.is_multiple_of(2) { spread(n) % prefixes } else { !n });
        let four: Vec<IpAddr> = (0..ASKED).map(|n| Ipv4Addr::from(on(n)).into()).collect();
        let six = |n: u32| [0x2001, 0xdb8, (spread(n) >> 16) as u16, 0, 0, 0, 0, 1].into();
        let six: Vec<IpAddr> = (0..ASKED).map(six).collect();
        for (version, asked) in [("IPv4", &four), ("IPv6", &six)] {
            let mut next = asked.iter().cycle();
            c.bench_function(&format!("owner, {version}, {prefixes} prefixes"), |b| {
                b.iter(|| list.owner(*next.next().expect("a cycle")));
            });
        }
    }
}

fn rule(number: usize, ports: u16) -> Rule {
    let matching =
        Matching { transport: Some(Transport::Udp), ports: Some(ports..=ports), ..Matching::default() };
    let to = (Ipv4Addr::new(192, 0, 2, 95).into(), Some(8081));
    Rule { name: number.to_string(), matching, to, from: None, replies: true }
}

fn packet(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = etherparse::PacketBuilder::ipv4([198, 51, 100, 7], [203, 0, 113, 5], 255);
    ip.udp(40_000, 31_765).write(&mut bytes, &vec![7; length]).expect("into memory");
    bytes
}

fn translate(c: &mut Criterion) {
    let mut bytes = packet(1_000);
    let inner = inner::parse(&bytes).expect("a right packet");
    for count in [1, 1_024] {
        let rules = (0..count).map(|n| rule(n, 31_765 - n as u16)).collect();
        let rules = Rules::new(rules).expect("right rules");
        let find = |inner: &Inner| rules.find(inner).and_then(|id| rules.rule(id));
        c.bench_with_input(BenchmarkId::new("find", count), &inner, |b, inner| {
            b.iter(|| find(black_box(inner)).is_some());
        });
        c.bench_with_input(BenchmarkId::new("find and rewrite", count), &inner, |b, inner| {
            b.iter(|| {
                // The hop limit is put back, so that the packet can go round.
                bytes[8] = 255;
                let rule = find(black_box(inner)).expect("it matches");
                nat::rewrite(&mut bytes, inner, rule, false).expect("it is right");
            });
        });
    }
    let one = rule(0, 31_765);
    let mut replies = Replies::default();
    let clients: Vec<Inner> =
        (0..50_000u32).map(|n| Inner { source: Ipv4Addr::from(spread(n)).into(), ..inner }).collect();
    let (mut next, mut now) = (clients.iter().cycle(), Instant::ZERO);
    c.bench_function("note, 50,000 flows", |b| {
        b.iter(|| {
            now = now + std::time::Duration::from_micros(1);
            replies.note(now, next.next().expect("a cycle"), &one);
        });
    });
}

criterion_group!(benches, allowlist, translate);
criterion_main!(benches);

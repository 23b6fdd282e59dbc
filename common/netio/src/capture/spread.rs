//! Which worker serves a flow: one function, twice.
//!
//! The kernel runs it as a classic-BPF program over every packet (PACKET_FANOUT_CBPF, packet(7)) and
//! this process over flows it restores ([`place`]); both must agree. It depends on the addresses and
//! ports of both ends and not on which of them is the sender, so that both directions of a flow
//! meet in one worker, and so do ICMP errors, of which it takes the ends of the quoted packet.
//!
//! With e(address, port) a hash of one end, the flow's is `mix(e(source) + e(destination))`; the kernel
//! takes it modulo the number of workers. Nobody gains much by choosing ports for one worker: each has
//! its share of every bound, and a client's own connections suffer first.

use std::net::IpAddr;

use libc::sock_filter;
use rtt0_core::wire::segment::Endpoint;

use super::filter::{
    AD_PROTOCOL, AND, EXTENSION_HEADERS, ICMP, ICMPV6, IPV4, IPV6, JUMP, JUMP_IF_EQUAL, LOAD_BYTE,
    LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_WORD, LOAD_WORD_INDEXED, LOAD_X, RETURN, TCP, jump,
    load,
};

// More opcodes (linux/bpf_common.h).
pub(super) const LOAD_CONSTANT: u16 = 0x00;
pub(super) const LOAD_MEMORY: u16 = 0x60;
pub(super) const LOAD_X_MEMORY: u16 = 0x61;
pub(super) const STORE: u16 = 0x02;
pub(super) const STORE_X: u16 = 0x03;
pub(super) const ADD: u16 = 0x04;
pub(super) const ADD_X: u16 = 0x0c;
pub(super) const MULTIPLY: u16 = 0x24;
pub(super) const SHIFT_LEFT: u16 = 0x64;
pub(super) const SHIFT_RIGHT: u16 = 0x74;
pub(super) const XOR_X: u16 = 0xac;
pub(super) const COPY_TO_X: u16 = 0x07;
pub(super) const RETURN_A: u16 = 0x16;

// Odd constants of well-known integer hashes.
pub(super) const OF_PORT: u32 = 0x9e37_79b1;
const OF_WORD: u32 = 0x27d4_eb2f;
const OF_END: u32 = 0x85eb_ca6b;
const OF_FLOW: u32 = 0xc2b2_ae35;

/// Offsets from here on count from the IP header (linux/filter.h).
pub(super) const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
/// IPv6 extension headers that are walked; behind more of them a packet is for the first worker.
const HEADERS: usize = 6;

/// Cells of the program's memory: the sum over the ends so far, where the upper layer begins, and
/// two for a moment.
const SUM: u32 = 0;
const UPPER: u32 = 1;
const SCRATCH: u32 = 2;
const FOLDED: u32 = 3;

/// Returns which of `workers` (1 or more) serves the flow between two ends, in whatever order.
pub fn place(one: Endpoint, other: Endpoint, workers: usize) -> usize {
    let sum = end(one).wrapping_add(end(other)).wrapping_mul(OF_FLOW);
    (sum ^ sum >> 16) as usize % workers.max(1)
}

fn end((address, port): Endpoint) -> u32 {
    let folded = match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let words = u128::from(address);
            [96, 64, 32, 0]
                .map(|shift| (words >> shift) as u32)
                .into_iter()
                .fold(0u32, |folded, word| folded.wrapping_mul(OF_WORD).wrapping_add(word))
        }
    };
    let mut hash = folded.wrapping_add(u32::from(port).wrapping_mul(OF_PORT));
    hash = (hash ^ hash >> 15).wrapping_mul(OF_END);
    hash ^ hash >> 13
}

/// Returns the same as a program for a fanout group. What is no TCP, nor an error about it, is for
/// the first worker.
pub(super) fn program() -> Vec<sock_filter> {
    let mut program = vec![load(LOAD_CONSTANT, 0), load(STORE, SUM)];
    program.push(load(LOAD_HALF, AD_PROTOCOL));
    section(&mut program, IPV4, ipv4());
    section(&mut program, IPV6, ipv6());
    program.push(load(RETURN, 0));
    program
}

/// Appends `body`, which never falls through, for when the accumulator is `value`.
fn section(program: &mut Vec<sock_filter>, value: u32, body: Vec<sock_filter>) {
    program.push(jump(JUMP_IF_EQUAL, value, 1, 0));
    program.push(load(JUMP, body.len() as u32));
    program.extend(body);
}

fn ipv4() -> Vec<sock_filter> {
    let mut program = vec![
        load(LOAD_BYTE, NETWORK),
        load(AND, 0xf),
        load(SHIFT_LEFT, 2),
        load(COPY_TO_X, 0),
        load(STORE_X, UPPER),
        load(LOAD_BYTE, NETWORK + 9),
    ];
    section(&mut program, TCP, ends(LOAD_WORD, NETWORK + 12, 1, NETWORK));
    section(&mut program, ICMP, ends(LOAD_WORD_INDEXED, NETWORK + 20, 1, NETWORK + 28));
    program.push(load(RETURN, 0));
    program
}

fn ipv6() -> Vec<sock_filter> {
    let mut program = vec![load(LOAD_X, 40), load(LOAD_BYTE, NETWORK + 6)];
    let [hop_by_hop, routing, _, destination] = EXTENSION_HEADERS;
    for _ in 0..HEADERS {
        program.extend([
            jump(JUMP_IF_EQUAL, hop_by_hop, 2, 0),
            jump(JUMP_IF_EQUAL, routing, 1, 0),
            jump(JUMP_IF_EQUAL, destination, 0, 8),
            load(LOAD_BYTE_INDEXED, NETWORK),
            load(STORE, SCRATCH),
            load(LOAD_BYTE_INDEXED, NETWORK + 1),
            load(ADD, 1),
            load(SHIFT_LEFT, 3),
            load(ADD_X, 0),
            load(COPY_TO_X, 0),
            load(LOAD_MEMORY, SCRATCH),
        ]);
    }
    program.push(load(STORE_X, UPPER));
    section(&mut program, TCP, ends(LOAD_WORD, NETWORK + 8, 4, NETWORK));
    section(&mut program, ICMPV6, ends(LOAD_WORD_INDEXED, NETWORK + 16, 4, NETWORK + 48));
    program.push(load(RETURN, 0));
    program
}

/// Hashes both ends and returns: addresses of `words` words, one behind the other from `addresses` on,
/// loaded by `code`; ports from `ports` on behind the IP header.
fn ends(code: u16, addresses: u32, words: u32, ports: u32) -> Vec<sock_filter> {
    let mut program = Vec::new();
    let mix = |shift| [load(COPY_TO_X, 0), load(SHIFT_RIGHT, shift), load(XOR_X, 0)];
    for end in 0..2 {
        program.extend([
            load(LOAD_X_MEMORY, UPPER),
            load(LOAD_HALF_INDEXED, ports + 2 * end),
            load(MULTIPLY, OF_PORT),
            load(STORE, SCRATCH),
            load(LOAD_CONSTANT, 0),
        ]);
        for word in 0..words {
            program.extend([
                load(MULTIPLY, OF_WORD),
                load(STORE, FOLDED),
                load(LOAD_X_MEMORY, UPPER),
                load(code, addresses + 4 * (end * words + word)),
                load(LOAD_X_MEMORY, FOLDED),
                load(ADD_X, 0),
            ]);
        }
        program.extend([load(LOAD_X_MEMORY, SCRATCH), load(ADD_X, 0)]);
        program.extend(mix(15));
        program.push(load(MULTIPLY, OF_END));
        program.extend(mix(13));
        program.extend([load(LOAD_X_MEMORY, SUM), load(ADD_X, 0), load(STORE, SUM)]);
    }
    program.push(load(MULTIPLY, OF_FLOW));
    program.extend(mix(16));
    program.push(load(RETURN_A, 0));
    program
}

#[cfg(test)]
#[path = "spread_tests.rs"]
mod tests;

//! The filter of a traffic mirror's replies, made of the clauses of which the guard's rules are made too.
//!
//! A program may be refused a load behind the end of the packet, and the packet then. So it is seen first that the packet
//! is as long as its header says, as nf_tables does before it finds the transport; where the transport is too short for
//! what is asked of it, it is so for every clause.

use std::net::IpAddr;

use libc::sock_filter;

use super::filter::{
    AND, ELSEWHERE, JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_NOT_LESS, KEEP_ALL, LOAD_BYTE, LOAD_BYTE_INDEXED,
    LOAD_HALF, LOAD_HALF_INDEXED, LOAD_LENGTH, LOAD_WORD, LOAD_X, LOAD_X_HEADER_LENGTH, PACKET_HOST, Program,
    RETURN, TooManyRules, jump, leave_to_end, load,
};
use super::spread::{ADD, COPY_TO_X};
use crate::guard::ruleset::{Base, Field};
use crate::replies::{Clause, Condition, Ports};

// Comparisons with X (linux/bpf_common.h).
const JUMP_IF_GREATER_X: u16 = 0x2d;
const JUMP_IF_NOT_LESS_X: u16 = 0x3d;

const REJECT: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 };
const ACCEPT: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: KEEP_ALL };

impl Program {
    /// Makes the program that takes what clauses claim, by IP version. The first clause that holds decides; what none
    /// holds for is not taken.
    ///
    /// # Errors
    /// More clauses than fit into one program.
    pub(crate) fn of_clauses(v4: &[Clause], v6: &[Clause], link_header: u32) -> Result<Self, TooManyRules> {
        let body = |mut instructions: Vec<sock_filter>, clauses: &[Clause]| {
            clauses.iter().for_each(|clause| instructions.extend(block(clause, link_header)));
            instructions.push(REJECT);
            Self::of(instructions)
        };
        let (whole_v4, whole_v6) = (whole_v4(link_header), whole_v6(link_header));
        Self::of_versions(PACKET_HOST, body(whole_v4, v4), body(whole_v6, v6), v4.len() + v6.len())
    }
}

/// Refuses what is no IPv4 packet of the length that it says; X is its header's length then.
fn whole_v4(link_header: u32) -> Vec<sock_filter> {
    vec![
        load(LOAD_BYTE, link_header),
        jump(JUMP_IF_NOT_LESS, 0x45, 1, 0),
        REJECT,
        jump(JUMP_IF_GREATER, 0x4f, 0, 1),
        REJECT,
        load(LOAD_LENGTH, 0),
        load(COPY_TO_X, 0),
        load(LOAD_HALF, link_header + 2),
        load(ADD, link_header),
        jump(JUMP_IF_GREATER_X, 0, 0, 1),
        REJECT,
        load(LOAD_X_HEADER_LENGTH, link_header),
        load(LOAD_HALF, link_header + 2),
        jump(JUMP_IF_NOT_LESS_X, 0, 1, 0),
        REJECT,
    ]
}

/// Refuses what is no IPv6 packet of the length that it says; X is its header's length then.
fn whole_v6(link_header: u32) -> Vec<sock_filter> {
    const HEADER: u32 = 40;
    vec![
        load(LOAD_BYTE, link_header),
        load(AND, 0xf0),
        jump(JUMP_IF_EQUAL, 0x60, 1, 0),
        REJECT,
        load(LOAD_LENGTH, 0),
        load(COPY_TO_X, 0),
        load(LOAD_HALF, link_header + 4),
        load(ADD, link_header + HEADER),
        jump(JUMP_IF_GREATER_X, 0, 0, 1),
        REJECT,
        load(LOAD_X, HEADER),
    ]
}

/// Returns what ends the program if the clause holds; else it is run through.
fn block(clause: &Clause, link_header: u32) -> Vec<sock_filter> {
    let mut block = Vec::new();
    for condition in &clause.conditions {
        match condition {
            Condition::Masked(field, mask, value) => {
                let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                block.push(load_field(field, link_header));
                block.push(load(AND, number(mask)));
                block.push(jump(JUMP_IF_EQUAL, number(value), 0, ELSEWHERE));
            }
            Condition::Is(field, address) => {
                for (at, word) in (link_header + u32::from(field.offset)..).step_by(4).zip(words(*address)) {
                    block.push(load(LOAD_WORD, at));
                    block.push(jump(JUMP_IF_EQUAL, word, 0, ELSEWHERE));
                }
            }
            Condition::Among(field, Ports { low, high }) => {
                block.push(load_field(field, link_header));
                block.push(jump(JUMP_IF_NOT_LESS, (*low).into(), 0, ELSEWHERE));
                block.push(jump(JUMP_IF_GREATER, (*high).into(), ELSEWHERE, 0));
            }
        }
    }
    block.push(if clause.is_claimed { ACCEPT } else { REJECT });
    leave_to_end(&mut block);
    block
}

/// Loads one or two bytes; X says where the transport begins.
fn load_field(field: &Field, link_header: u32) -> sock_filter {
    let code = match (field.base, field.length) {
        (Base::Network, 1) => LOAD_BYTE,
        (Base::Network, _) => LOAD_HALF,
        (Base::Transport, 1) => LOAD_BYTE_INDEXED,
        (Base::Transport, _) => LOAD_HALF_INDEXED,
    };
    load(code, link_header + u32::from(field.offset))
}

/// Returns an address in words, most significant first.
fn words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => [96, 64, 32, 0].map(|shift| (address.to_bits() >> shift) as u32).to_vec(),
    }
}

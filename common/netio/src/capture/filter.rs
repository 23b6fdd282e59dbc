//! The classic-BPF program that spares user space what it does not serve.
//!
//! The program accepts a superset of what [`rtt0_core::claim`] claims: it knows prefixes and
//! ports, but neither the NIC's own addresses nor flows whose both ends are served. The engine
//! decides exactly. Accepted are frames addressed to this host that carry
//!
//! - IPv4 TCP from or to a service, unless it is a fragment behind the first;
//! - IPv4 ICMP destination unreachable (type 3), which may quote a translated segment;
//! - IPv6 TCP from or to a service;
//! - ICMPv6 destination unreachable and packet too big (types 1 and 2);
//! - IPv6 with hop-by-hop options, routing, fragment or destination options header, since a
//!   program without loops can't walk to the TCP header.
//!
//! Frames to other hosts (bridged or seen by a promiscuous neighbour) are refused by their
//! packet type: the kernel would not forward them, so neither must the middlebox. (Where what is
//! sent is captured, all else is refused.)
//!
//! Every check is a block that ends in a `RET` of its own or falls through to the next block, so
//! that no jump spans more than a block and the 8-bit jump offsets always suffice.

use std::net::IpAddr;

use libc::sock_filter;
use rtt0_core::claim::{self, Bypass};
use rtt0_core::offer;
use rtt0_core::service::{Service, Services};

/// Largest program the kernel takes, in instructions (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Accepted packets are kept whole: more bytes than any super-packet has.
pub(super) const KEEP_ALL: u32 = 0x40000;

// Ancillary loads: offsets the kernel answers from packet metadata (linux/filter.h).
pub(crate) const AD_PROTOCOL: u32 = ancillary(libc::SKF_AD_PROTOCOL);
pub(crate) const AD_PKTTYPE: u32 = ancillary(libc::SKF_AD_PKTTYPE);
// Packet types: the frame is addressed to this host, or it leaves (linux/if_packet.h).
pub(super) const PACKET_HOST: u32 = 0;
const PACKET_OUTGOING: u32 = 4;

// Opcodes (linux/bpf_common.h).
pub(crate) const LOAD_WORD: u16 = 0x20;
pub(crate) const LOAD_HALF: u16 = 0x28;
pub(crate) const LOAD_BYTE: u16 = 0x30;
pub(crate) const LOAD_HALF_INDEXED: u16 = 0x48;
pub(crate) const LOAD_BYTE_INDEXED: u16 = 0x50;
pub(crate) const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JUMP_IF_EQUAL: u16 = 0x15;
pub(crate) const JUMP_IF_GREATER: u16 = 0x25;
pub(crate) const JUMP_IF_NOT_LESS: u16 = 0x35;
pub(crate) const JUMP_IF_ANY_BIT: u16 = 0x45;
pub(super) const JUMP: u16 = 0x05;
pub(crate) const LOAD_WORD_INDEXED: u16 = 0x40;
pub(super) const LOAD_LENGTH: u16 = 0x80;
const SUBTRACT_X: u16 = 0x1c;
pub(crate) const LOAD_X: u16 = 0x01;
pub(crate) const RETURN: u16 = 0x06;

pub(crate) const IPV4: u32 = libc::ETH_P_IP as u32;
pub(crate) const IPV6: u32 = libc::ETH_P_IPV6 as u32;
pub(super) const TCP: u32 = libc::IPPROTO_TCP as u32;
pub(super) const ICMP: u32 = libc::IPPROTO_ICMP as u32;
pub(super) const ICMPV6: u32 = libc::IPPROTO_ICMPV6 as u32;
/// Hop-by-hop options, routing, fragment, destination options (RFC 8200 §4).
pub(super) const EXTENSION_HEADERS: [u32; 4] = [0, 43, 44, 60];
pub(crate) const FRAGMENT_OFFSET: u32 = 0x1fff;

const fn ancillary(field: libc::c_int) -> u32 {
    // The kernel's offsets are negative numbers in an unsigned field.
    (libc::SKF_AD_OFF + field).cast_unsigned()
}

/// The rules don't fit into one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{rules} rules need a packet filter of {instructions} instructions, and the kernel takes \
     {MAX_INSTRUCTIONS}; join prefixes or port ranges"
)]
pub struct TooManyRules {
    rules: usize,
    instructions: usize,
}

/// A classic-BPF program for one kind of link.
#[derive(Debug, Clone)]
pub struct Program {
    instructions: Vec<sock_filter>,
}

/// Where the fields of a flow's one end lie, counted from the start of the frame.
#[derive(Clone, Copy)]
struct End {
    address: u32,
    port: Port,
}

#[derive(Clone, Copy)]
enum Port {
    /// Behind a header of variable length held in X.
    Indexed(u32),
    Absolute(u32),
}

impl Program {
    /// Makes the program that selects what `services` may claim, for packets that begin with a
    /// link header of `link_header` bytes (14 for Ethernet, 0 for a TUN device).
    ///
    /// # Errors
    /// The rules need more instructions than the kernel takes (about 290 IPv4 rules or 120 rules
    /// with full IPv6 addresses).
    pub fn new(services: &Services, link_header: u32) -> Result<Self, TooManyRules> {
        Self::without(services, link_header, Bypass::Nothing)
    }

    /// As [`Program::new`], for what this host sends and not for what it receives.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn of_sent(services: &Services, link_header: u32) -> Result<Self, TooManyRules> {
        Self::of_type(PACKET_OUTGOING, services, link_header, Bypass::Nothing)
    }

    /// Makes the program that refuses every packet.
    pub(super) fn closed() -> Self {
        let mut program = Self { instructions: Vec::new() };
        program.reject();
        program
    }

    /// Makes the program that leaves out what the kernel is to forward by itself.
    ///
    /// # Errors
    /// As [`Program::new`], at half of the rules.
    pub fn without(services: &Services, link_header: u32, bypass: Bypass) -> Result<Self, TooManyRules> {
        Self::of_type(PACKET_HOST, services, link_header, bypass)
    }

    fn of_type(
        packet_type: u32,
        services: &Services,
        link_header: u32,
        bypass: Bypass,
    ) -> Result<Self, TooManyRules> {
        let of_version =
            |v4: bool| services.rules().iter().filter(move |s| s.prefix.address().is_ipv4() == v4);
        let v6 = ipv6(of_version(false), link_header, bypass);
        let v4 = ipv4(of_version(true), link_header, bypass);
        Self::of_versions(packet_type, v4, v6, services.rules().len())
    }

    /// Joins what is to be done with packets of either IP version, made of so many rules.
    pub(super) fn of_versions(
        packet_type: u32,
        v4: Self,
        v6: Self,
        rules: usize,
    ) -> Result<Self, TooManyRules> {
        let mut program = Self { instructions: Vec::new() };
        program.instructions.push(load(LOAD_BYTE, AD_PKTTYPE));
        program.require_equal(packet_type);
        program.section(IPV4, v4);
        program.section(IPV6, v6);
        program.reject();

        let instructions = program.instructions.len();
        if instructions > MAX_INSTRUCTIONS {
            return Err(TooManyRules { rules, instructions });
        }
        Ok(program)
    }

    /// Makes a program of these instructions.
    pub(super) fn of(instructions: Vec<sock_filter>) -> Self {
        Self { instructions }
    }

    /// Returns the instructions, to be attached with `SO_ATTACH_FILTER`; at most 4096.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.instructions
    }

    /// Appends `body`, skipped unless the packet's network protocol is `protocol`.
    fn section(&mut self, protocol: u32, body: Self) {
        self.instructions.push(load(LOAD_HALF, AD_PROTOCOL));
        self.instructions.push(jump(JUMP_IF_EQUAL, protocol, 1, 0));
        self.skippable(body);
    }

    /// Appends a jump over `body`, and `body`.
    fn skippable(&mut self, body: Self) {
        // It may be longer than a conditional jump can span; this one has 32 bits.
        let length = u32::try_from(body.instructions.len()).unwrap_or(u32::MAX);
        self.instructions.push(sock_filter { code: JUMP, jt: 0, jf: 0, k: length });
        self.instructions.extend(body.instructions);
    }

    /// Appends what refuses the packets of `bypass`. `header` says where the TCP header begins, and X
    /// how much further; `ends` are the destination and the source.
    fn bypass<'a>(
        &mut self,
        bypass: Bypass,
        header: u32,
        services: impl Iterator<Item = &'a Service> + Clone,
        ends: [End; 2],
    ) {
        let (syn, syn_ack) = ((claim::SYN, ends[1]), (claim::SYN_ACK, ends[0]));
        let kinds = match bypass {
            Bypass::Nothing => vec![],
            Bypass::Syns => vec![syn],
            Bypass::Handshakes => vec![syn, syn_ack],
        };
        for (flags, other_end) in kinds {
            // A SYN from a service, or a SYN-ACK towards one, is served as ever.
            let mut body = Self { instructions: Vec::new() };
            services.clone().for_each(|service| body.accept_if_served(service, other_end));
            body.reject();
            self.unsigned_section(flags, header, body);
        }
    }

    /// Appends `body`, skipped unless the packet has these flags and no signature.
    fn unsigned_section(&mut self, flags: u8, header: u32, body: Self) {
        let signature = u32::from_be_bytes(offer::PREFIX);
        let block = [
            load(LOAD_BYTE_INDEXED, header + 13),
            load(AND, claim::SYN_AND_KIN.into()),
            jump(JUMP_IF_EQUAL, flags.into(), 0, ELSEWHERE),
            load(LOAD_BYTE_INDEXED, header + 12),
            load(AND, 0xf0),
            // No options: nothing signs it. On to the last instruction of this block.
            jump(JUMP_IF_EQUAL, 0x50, 5, 0),
            // A load behind the end would refuse the packet.
            load(LOAD_LENGTH, 0),
            load(SUBTRACT_X, 0),
            jump(JUMP_IF_NOT_LESS, header + 24, 0, ELSEWHERE),
            load(LOAD_WORD_INDEXED, header + 20),
            jump(JUMP_IF_EQUAL, signature, ELSEWHERE, 0),
            load(JUMP, 1),
        ];
        let mut block = block.to_vec();
        leave_to_end(&mut block);
        self.instructions.extend(block);
        // Whoever left the block comes here; who did not has jumped over this.
        self.skippable(body);
    }

    fn accept(&mut self) {
        self.instructions.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: KEEP_ALL });
    }

    fn reject(&mut self) {
        self.instructions.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 });
    }

    /// Rejects the packet unless the accumulator is `value`.
    fn require_equal(&mut self, value: u32) {
        self.instructions.push(jump(JUMP_IF_EQUAL, value, 1, 0));
        self.reject();
    }

    /// Accepts the packet if the accumulator is one of `values`.
    fn accept_if_any(&mut self, values: &[u32]) {
        for &value in values {
            self.instructions.push(jump(JUMP_IF_EQUAL, value, 0, 1));
            self.accept();
        }
    }

    /// Accepts the packet if `end` belongs to `service`; else falls through.
    fn accept_if_served(&mut self, service: &Service, end: End) {
        let mut block = Vec::new();
        for (index, (net, mask)) in words(service).into_iter().enumerate() {
            if mask == 0 {
                break;
            }
            block.push(load(LOAD_WORD, end.address + 4 * index as u32));
            if mask != u32::MAX {
                block.push(load(AND, mask));
            }
            block.push(jump(JUMP_IF_EQUAL, net, 0, ELSEWHERE));
        }
        block.push(match end.port {
            Port::Indexed(offset) => load(LOAD_HALF_INDEXED, offset),
            Port::Absolute(offset) => load(LOAD_HALF, offset),
        });
        let (low, high) = (u32::from(*service.ports.start()), u32::from(*service.ports.end()));
        if low == high {
            block.push(jump(JUMP_IF_EQUAL, low, 0, ELSEWHERE));
        } else {
            block.push(jump(JUMP_IF_NOT_LESS, low, 0, ELSEWHERE));
            block.push(jump(JUMP_IF_GREATER, high, ELSEWHERE, 0));
        }
        block.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: KEEP_ALL });
        leave_to_end(&mut block);
        self.instructions.extend(block);
    }
}

/// Stands for a jump out of the block until the block's length is known.
pub(super) const ELSEWHERE: u8 = u8::MAX;

/// Points every [`ELSEWHERE`] just behind `block`, which is shorter than 255 instructions.
pub(super) fn leave_to_end(block: &mut [sock_filter]) {
    let length = block.len();
    for (index, instruction) in block.iter_mut().enumerate() {
        let distance = (length - index - 1) as u8;
        for target in [&mut instruction.jt, &mut instruction.jf] {
            if *target == ELSEWHERE {
                *target = distance;
            }
        }
    }
}

fn ipv4<'a>(
    services: impl Iterator<Item = &'a Service> + Clone,
    link_header: u32,
    bypass: Bypass,
) -> Program {
    let at = |offset| link_header + offset;
    let destination = End { address: at(16), port: Port::Indexed(at(2)) };
    let source = End { address: at(12), port: Port::Indexed(at(0)) };
    let mut program = Program { instructions: Vec::new() };
    // A fragment behind the first has no ports; the kernel forwards it as it is.
    program.instructions.push(load(LOAD_HALF, at(6)));
    program.instructions.push(jump(JUMP_IF_ANY_BIT, FRAGMENT_OFFSET, 0, 1));
    program.reject();
    program.instructions.push(load(LOAD_X_HEADER_LENGTH, at(0)));
    program.instructions.push(load(LOAD_BYTE, at(9)));
    program.instructions.push(jump(JUMP_IF_EQUAL, ICMP, 0, 4));
    program.instructions.push(load(LOAD_BYTE_INDEXED, at(0)));
    program.accept_if_any(&[3]);
    program.reject();
    program.require_equal(TCP);
    program.bypass(bypass, at(0), services.clone(), [destination, source]);
    for service in services {
        program.accept_if_served(service, destination);
        program.accept_if_served(service, source);
    }
    program.reject();
    program
}

fn ipv6<'a>(
    services: impl Iterator<Item = &'a Service> + Clone,
    link_header: u32,
    bypass: Bypass,
) -> Program {
    let at = |offset| link_header + offset;
    let destination = End { address: at(24), port: Port::Absolute(at(42)) };
    let source = End { address: at(8), port: Port::Absolute(at(40)) };
    let mut program = Program { instructions: Vec::new() };
    program.instructions.push(load(LOAD_BYTE, at(6)));
    program.accept_if_any(&EXTENSION_HEADERS);
    program.instructions.push(jump(JUMP_IF_EQUAL, ICMPV6, 0, 6));
    program.instructions.push(load(LOAD_BYTE, at(40)));
    program.accept_if_any(&[1, 2]);
    program.reject();
    program.require_equal(TCP);
    program.instructions.push(load(LOAD_X, 0));
    program.bypass(bypass, at(40), services.clone(), [destination, source]);
    for service in services {
        program.accept_if_served(service, destination);
        program.accept_if_served(service, source);
    }
    program.reject();
    program
}

/// Returns the address words of a service's prefix, each with its mask.
fn words(service: &Service) -> Vec<(u32, u32)> {
    let octets = match service.prefix.address() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u32::from(service.prefix.length());
    let word = |(index, chunk): (usize, &[u8])| {
        let net = chunk.iter().fold(0, |word, &octet| word << 8 | u32::from(octet));
        let bits = length.saturating_sub(32 * index as u32).min(32);
        (net, u32::MAX.checked_shl(32 - bits).unwrap_or(0))
    };
    octets.chunks(4).enumerate().map(word).collect()
}

pub(super) fn load(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;

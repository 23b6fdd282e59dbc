//! The filter of a traffic mirror's tunnels: UDP at a few ports.

use libc::sock_filter;

use super::filter::{
    AD_PROTOCOL, AND, EXTENSION_HEADERS, FRAGMENT_OFFSET, IPV4, JUMP_IF_ANY_BIT, JUMP_IF_EQUAL, LOAD_BYTE,
    LOAD_HALF, LOAD_HALF_INDEXED, LOAD_X_HEADER_LENGTH, PACKET_HOST, Program, RETURN, TooManyRules, jump,
    load,
};

use super::spread::{COPY_TO_X, MULTIPLY, NETWORK, OF_PORT, RETURN_A, SHIFT_LEFT, SHIFT_RIGHT};

const UDP: u32 = libc::IPPROTO_UDP as u32;
const ACCEPT: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: 0x40000 };
const REJECT: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 };

impl Program {
    /// Makes the program that takes UDP to one of `ports`, or all UDP if there are none, that is addressed to this host, and
    /// fragments of UDP, whose port is not known. IPv6 with extension headers is taken too, whatever follows: a program
    /// without loops can't walk past them.
    ///
    /// # Errors
    /// More ports than fit into one program, about 2,000.
    pub(super) fn of_tunnels(ports: &[u16], link_header: u32) -> Result<Self, TooManyRules> {
        let at = |offset| link_header + offset;
        let mut v4 = vec![load(LOAD_BYTE, at(9)), jump(JUMP_IF_EQUAL, UDP, 1, 0), REJECT];
        v4.extend([load(LOAD_HALF, at(6)), jump(JUMP_IF_ANY_BIT, FRAGMENT_OFFSET, 0, 1), ACCEPT]);
        v4.extend([load(LOAD_X_HEADER_LENGTH, at(0)), load(LOAD_HALF_INDEXED, at(2))]);
        accept_any(&mut v4, ports);
        let mut v6 = vec![load(LOAD_BYTE, at(6))];
        for header in EXTENSION_HEADERS {
            v6.extend([jump(JUMP_IF_EQUAL, header, 0, 1), ACCEPT]);
        }
        v6.extend([jump(JUMP_IF_EQUAL, UDP, 1, 0), REJECT, load(LOAD_HALF, at(42))]);
        accept_any(&mut v6, ports);
        Self::of_versions(PACKET_HOST, Self::of(v4), Self::of(v6), ports.len())
    }
}

/// Ends a program: accepts if the accumulator is one of `ports`, or if there are none.
fn accept_any(instructions: &mut Vec<sock_filter>, ports: &[u16]) {
    for port in ports {
        instructions.extend([jump(JUMP_IF_EQUAL, (*port).into(), 0, 1), ACCEPT]);
    }
    instructions.push(if ports.is_empty() { ACCEPT } else { REJECT });
}

/// Makes the program of a fanout group: who gets a packet depends on its UDP source port alone.
pub(super) fn spread() -> Vec<sock_filter> {
    let hash = [load(MULTIPLY, OF_PORT), load(SHIFT_RIGHT, 16), load(RETURN_A, 0)];
    let v4 = [
        load(LOAD_BYTE, NETWORK),
        load(AND, 0xf),
        load(SHIFT_LEFT, 2),
        load(COPY_TO_X, 0),
        load(LOAD_HALF_INDEXED, NETWORK),
    ];
    let mut program = vec![load(LOAD_HALF, AD_PROTOCOL), jump(JUMP_IF_EQUAL, IPV4, 0, 8)];
    program.extend(v4.into_iter().chain(hash));
    program.push(load(LOAD_HALF, NETWORK + 40));
    program.extend(hash);
    program
}

//! Runs the program in an interpreter written from the kernel's documentation
//! (Documentation/networking/filter.rst), and compares with the function.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
    TcpHeader, icmpv4, icmpv6,
};
use proptest::prelude::*;

use super::*;

/// Interprets the program over an IP packet; a load outside of it ends it with 0, as in the kernel.
fn run(packet: &[u8]) -> u32 {
    let program = program();
    let protocol = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    let read = |offset: u32, size: usize| -> Option<u32> {
        if offset == AD_PROTOCOL {
            return Some(protocol);
        }
        let at = offset.checked_sub(NETWORK).expect("all loads count from the IP header") as usize;
        let bytes = packet.get(at..at + size)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    let (mut a, mut x, mut pc, mut memory) = (0u32, 0u32, 0, [None; 16]);
    loop {
        let sock_filter { code, jt, jf, k } = program[pc];
        pc += 1;
        let load = match code {
            LOAD_BYTE => Some((k, 1)),
            LOAD_HALF => Some((k, 2)),
            LOAD_WORD => Some((k, 4)),
            LOAD_BYTE_INDEXED => Some((k.wrapping_add(x), 1)),
            LOAD_HALF_INDEXED => Some((k.wrapping_add(x), 2)),
            LOAD_WORD_INDEXED => Some((k.wrapping_add(x), 4)),
            _ => None,
        };
        if let Some((offset, size)) = load {
            let Some(value) = read(offset, size) else { return 0 };
            a = value;
            continue;
        }
        let stored = || memory[k as usize].expect("the kernel refuses to load what was never stored");
        match code {
            LOAD_CONSTANT => a = k,
            LOAD_X => x = k,
            LOAD_MEMORY => a = stored(),
            LOAD_X_MEMORY => x = stored(),
            STORE => memory[k as usize] = Some(a),
            STORE_X => memory[k as usize] = Some(x),
            ADD => a = a.wrapping_add(k),
            ADD_X => a = a.wrapping_add(x),
            AND => a &= k,
            MULTIPLY => a = a.wrapping_mul(k),
            SHIFT_LEFT => a <<= k,
            SHIFT_RIGHT => a >>= k,
            XOR_X => a ^= x,
            COPY_TO_X => x = a,
            JUMP => pc += k as usize,
            JUMP_IF_EQUAL => pc += usize::from(if a == k { jt } else { jf }),
            RETURN => return k,
            RETURN_A => return a,
            other => panic!("unknown opcode {other:#x}"),
        }
    }
}

fn segment(source: Endpoint, destination: Endpoint, extensions: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let tcp = TcpHeader::new(source.1, destination.1, 7, 9);
    match (source.0, destination.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 9).tcp_header(tcp);
            builder.write(&mut bytes, b"data").unwrap();
            let options = extensions.min(10) * 4;
            bytes.splice(20..20, vec![1; options]);
            bytes[0] += extensions.min(10) as u8;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = |next: u8, length: usize| {
                Ipv6RawExtHeader::new_raw(IpNumber(next), &vec![0; 6 + 8 * length]).unwrap()
            };
            let chain = Ipv6Extensions {
                hop_by_hop_options: (extensions > 0).then(|| header(if extensions > 1 { 60 } else { 6 }, 1)),
                destination_options: (extensions > 1).then(|| header(6, 0)),
                ..Ipv6Extensions::default()
            };
            let ip = Ipv6Header {
                payload_length: (chain.header_len() + tcp.header_len()) as u16,
                next_header: IpNumber(if extensions > 0 { 0 } else { 6 }),
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, chain).write(&mut bytes).unwrap();
            tcp.write(&mut bytes).unwrap();
        }
        _ => unreachable!("both ends are of one version"),
    }
    bytes
}

/// An error about `quoted`, from a router that has nothing to do with it.
fn error(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if quoted[0] >> 4 == 4 {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host);
        let builder = PacketBuilder::ipv4([9, 9, 9, 9], [8, 8, 8, 8], 9).icmpv4(kind);
        builder.write(&mut bytes, quoted).unwrap();
    } else {
        let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address);
        let builder = PacketBuilder::ipv6([9; 16], [8; 16], 9).icmpv6(kind);
        builder.write(&mut bytes, quoted).unwrap();
    }
    bytes
}

fn ends() -> impl Strategy<Value = (Endpoint, Endpoint)> {
    let v4 = || any::<(u32, u16)>().prop_map(|(a, port)| (IpAddr::from(Ipv4Addr::from(a)), port));
    let v6 = || any::<(u128, u16)>().prop_map(|(a, port)| (IpAddr::from(Ipv6Addr::from(a)), port));
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

proptest! {
    #[test]
    fn both_agree_whichever_way_a_packet_goes((one, other) in ends(), extensions in 0usize..3, workers in 1usize..64) {
        let place = place(one, other, workers);
        prop_assert_eq!(super::place(other, one, workers), place);
        let of = |packet: &[u8]| run(packet) as usize % workers;
        for (from, to) in [(one, other), (other, one)] {
            prop_assert_eq!(of(&segment(from, to, extensions)), place);
            prop_assert_eq!(of(&error(&segment(from, to, 0))), place);
        }
    }

    #[test]
    fn whatever_comes_has_a_place(mut bytes in proptest::collection::vec(any::<u8>(), 1..200), v6: bool) {
        bytes[0] = if v6 { 0x60 } else { 0x40 | bytes[0] & 15 };
        run(&bytes);
    }
}

#[test]
fn the_kernel_takes_it_and_flows_are_spread_evenly() {
    assert!(program().len() < 4096);
    let mut shares = [0; 4];
    for port in 0..4000 {
        shares[place(([10, 1, 0, 10].into(), 32_768 + port), ([10, 1, 2, 10].into(), 443), 4)] += 1;
    }
    assert!(shares.iter().all(|share| (800..1200).contains(share)), "{shares:?}");
}

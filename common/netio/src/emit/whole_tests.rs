//! What is written before a packet, and which packets may enter at all.

use etherparse::PacketBuilder;

use super::*;

const BOTH: Usable = Usable { v4: true, v6: true };

fn packet(v6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload = vec![1; payload];
    match v6 {
        false => PacketBuilder::ipv4([10, 1, 1, 1], [10, 1, 2, 2], 63)
            .tcp(50_000, 443, 7, 100)
            .write(&mut bytes, &payload),
        true => PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 63)
            .tcp(50_000, 443, 7, 100)
            .write(&mut bytes, &payload),
    }
    .unwrap();
    bytes
}

fn prelude(packet: &[u8], offload: Offload, cut: bool, link_header: &[u8]) -> Vec<u8> {
    let mut out = [0; PRELUDE + MAX_IP_HEADER];
    let parts = Parts::of(packet, BOTH).unwrap();
    let length = parts.write_prelude(packet, offload, cut, link_header, &mut out);
    out[..length].to_vec()
}

#[test]
fn the_prelude_says_where_to_cut_and_gives_the_hop_back() {
    let offload = Offload { needs_csum: true, gso_size: 1448 };
    let number = |bytes: &[u8], at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
    for (v6, ip, kind) in [(false, 20, 1), (true, 40, 4)] {
        for link_header in [&[][..], &[9; 14]] {
            let packet = packet(v6, 5000);
            let written = prelude(&packet, offload, true, link_header);
            let link = link_header.len();
            assert_eq!(written.len(), 10 + link + ip);
            assert_eq!(written[..2], [1, kind]);
            assert_eq!(number(&written, 2), link + ip + 20);
            assert_eq!(number(&written, 4), 1448);
            assert_eq!((number(&written, 6), number(&written, 8)), (link + ip, 16));
            let header = &written[10 + link..];
            match v6 {
                true => assert_eq!(header[7], 64),
                false => {
                    let whole = [header, &packet[20..]].concat();
                    assert_eq!(Ipv4::new(&whole[..]).unwrap().ttl(), 64, "and the checksum is right");
                }
            }
            if link > 0 {
                assert_eq!(written[22..24], if v6 { [0x86, 0xdd] } else { [9, 9] });
            }
        }
    }
}

#[test]
fn a_whole_checksum_is_left_alone_and_a_congestion_mark_is_told() {
    let mut packet = packet(false, 5000);
    assert_eq!(prelude(&packet, Offload::default(), false, &[])[..10], [0; 10]);
    packet[33] |= 0x80;
    let offload = Offload { needs_csum: true, gso_size: 1000 };
    assert_eq!(prelude(&packet, offload, true, &[])[1], 0x81);
}

#[test]
fn only_plain_segments_enter() {
    let v4 = packet(false, 10);
    let enters = |bytes: &[u8], usable| Parts::of(bytes, usable).is_some();
    let changed = |at: usize, value: u8| {
        let mut bytes = v4.clone();
        bytes[at] = value;
        enters(&bytes, BOTH)
    };
    assert!(enters(&v4, BOTH) && enters(&packet(true, 10), BOTH));
    assert!(changed(6, 0x40), "don't fragment");
    assert!(!changed(0, 0x46), "IP options");
    assert!(!changed(6, 0x20), "more fragments");
    assert!(!changed(7, 1), "a later fragment");
    assert!(!changed(9, 17), "UDP");
    assert!(!changed(32, 0xf0), "a TCP header beyond the end");
    assert!(!changed(32, 0x40), "a TCP header too short");
    assert!(!enters(&v4, Usable { v4: false, v6: true }));
    assert!(!enters(&packet(true, 10), Usable { v4: true, v6: false }));
    (0..v4.len()).for_each(|length| assert!(!enters(&v4[..length.min(39)], BOTH)));
}

#[test]
fn the_two_directions_of_a_flow_are_two() {
    let there = packet(false, 10);
    let mut back = Vec::new();
    let builder = PacketBuilder::ipv4([10, 1, 2, 2], [10, 1, 1, 1], 63).tcp(443, 50_000, 7, 100);
    builder.write(&mut back, &[]).unwrap();
    let flow = |bytes: &[u8]| Parts::of(bytes, BOTH).unwrap().flow;
    let mut flows = Flows::default();
    assert!(flows.is_empty() && !flows.contains(flow(&there)));
    flows.insert(flow(&there));
    assert!(flows.contains(flow(&there)) && !flows.contains(flow(&back)));
}

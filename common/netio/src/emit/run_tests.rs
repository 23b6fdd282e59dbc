//! What is joined comes apart again to the same bytes, by the crate's own cutter; what differs in
//! anything else is not joined.

use etherparse::{PacketBuilder, TcpHeader};
use proptest::prelude::*;

use super::super::segment::{Cut, MAX_HEADERS};
use super::*;

const PLAIN: Offload = Offload { needs_csum: false, gso_size: 0 };

/// Segment `index` of a stream of `size` bytes each.
fn segment(v6: bool, index: usize, size: usize, length: usize, psh: bool) -> Vec<u8> {
    let mut tcp = TcpHeader::new(50_000, 443, 0xffff_f000u32.wrapping_add((index * size) as u32), 500);
    tcp.ack = true;
    tcp.acknowledgment_number = 77;
    tcp.psh = psh;
    tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
    let payload: Vec<u8> = (0..length).map(|at| (at * 31 + index) as u8).collect();
    let mut bytes = Vec::new();
    match v6 {
        false => {
            let builder = PacketBuilder::ipv4([10, 1, 1, 1], [10, 1, 2, 2], 63).tcp_header(tcp);
            builder.write(&mut bytes, &payload).unwrap();
            bytes[4..6].copy_from_slice(&0xfffe_u16.wrapping_add(index as u16).to_be_bytes());
            bytes[6..8].copy_from_slice(&[0x40, 0]);
            rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..20]).unwrap().fill_checksum();
        }
        true => PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 63)
            .tcp_header(tcp)
            .write(&mut bytes, &payload)
            .unwrap(),
    }
    bytes
}

/// Joins as many as will, and cuts that again; returns the pieces.
fn there_and_back(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut run = Run::begin(&packets[0], PLAIN, 0).unwrap();
    let joined = 1 + packets[1..].iter().take_while(|packet| run.join(packet, PLAIN)).count();
    assert_eq!(run.len(), joined);
    assert!(run.packets().map(|(_, bytes)| bytes).eq(packets[..joined].iter().map(Vec::as_slice)));
    let mut headers = [0; 120];
    let (length, offload) = run.write_headers(&mut headers);
    let mut whole = headers[..length].to_vec();
    run.payloads().for_each(|payload| whole.extend(payload));
    assert_eq!(whole.len(), run.length());
    let cut = Cut::new(&whole, offload).unwrap();
    let piece = |index| {
        let mut headers = [0; MAX_HEADERS];
        let (length, payload) = cut.write(index, &mut headers);
        [&headers[..length], payload].concat()
    };
    (0..cut.segments()).map(piece).collect()
}

proptest! {
    #[test]
    fn what_is_joined_comes_apart_again(
        v6: bool, size in SHORTEST..1460, count in 2usize..60, last in 1usize..1460, psh: bool
    ) {
        let packets: Vec<_> = (0..count)
            .map(|index| {
                let is_last = index + 1 == count;
                segment(v6, index, size, if is_last { last.min(size) } else { size }, is_last && psh)
            })
            .collect();
        let pieces = there_and_back(&packets);
        let room = (65_535 - 72) / size;
        prop_assert!(pieces.len() >= count.min(MOST).min(room));
        prop_assert_eq!(&pieces[..], &packets[..pieces.len()]);
    }

    /// One changed byte anywhere: either it is not joined, or it comes out as it went in.
    #[test]
    fn nothing_is_lost_on_the_way(v6: bool, at in 0usize..400, change in 1u8..) {
        let mut packets: Vec<_> = (0..3).map(|index| segment(v6, index, 300, 300, false)).collect();
        let at = at % packets[1].len();
        // Only right ones are ever emitted, and a raw socket would write a right one too.
        prop_assume!(v6 || !(10..12).contains(&at));
        packets[1][at] ^= change;
        if packets[1].len() == super::super::segment::ip_length(&packets[1]).unwrap_or(0) {
            let pieces = there_and_back(&packets);
            prop_assert_eq!(&pieces[..], &packets[..pieces.len()]);
        }
    }
}

#[test]
fn a_wrong_checksum_stays_alone() {
    for v6 in [false, true] {
        for wrong in 0..2 {
            let mut packets: Vec<_> = (0..2).map(|index| segment(v6, index, 300, 300, false)).collect();
            *packets[wrong].last_mut().unwrap() ^= 1;
            assert_eq!(there_and_back(&packets).len(), 1, "packet {wrong}");
        }
    }
}

#[test]
fn a_push_or_a_shorter_segment_is_the_last() {
    let long = |index, psh| segment(false, index, 300, 300, psh);
    assert_eq!(there_and_back(&[long(0, true), long(1, false)]).len(), 1);
    assert_eq!(there_and_back(&[long(0, false), long(1, true), long(2, false)]).len(), 2);
    let short = segment(false, 1, 300, 299, false);
    assert_eq!(there_and_back(&[long(0, false), short, long(2, false)]).len(), 2);
}

#[test]
fn only_plain_segments_of_some_size_begin_a_run() {
    let begins = |bytes: &[u8], offload| Run::begin(bytes, offload, 0).is_some();
    let packet = segment(false, 0, 300, 300, false);
    assert!(begins(&packet, PLAIN));
    assert!(!begins(&packet, Offload { needs_csum: true, gso_size: 1000 }), "a super-packet");
    assert!(!begins(&segment(false, 0, 300, SHORTEST - 1, false), PLAIN), "small");
    for flag in [0x01, 0x02, 0x04, 0x20, 0x80] {
        let mut bytes = packet.clone();
        bytes[33] |= flag;
        assert!(!begins(&bytes, PLAIN), "flag {flag:#x}");
    }
    let mut may_be_fragmented = packet.clone();
    may_be_fragmented[6] = 0;
    assert!(!begins(&may_be_fragmented, PLAIN));
    assert!((0..packet.len()).all(|length| !begins(&packet[..length], PLAIN) || length >= 52 + SHORTEST));
}

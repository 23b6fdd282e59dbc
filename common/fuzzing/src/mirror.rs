//! Mirrored packets: whatever comes, what is found lies within it, and more or fewer bytes behind it change nothing
//! but whether it is whole.

use mirror::inner::{self, Inner};
use mirror::reason::DropReason;
use mirror::tunnel::{Decapsulated, Kind, Listening, Tunnels, decapsulate};
use rtt0_core::packet::Offload;
use std::net::IpAddr;

/// Bytes of an inner packet whose every cut is looked at.
const LONGEST: usize = 200;

/// Takes a byte that says what the kernel said (bit 0: partial checksum, bit 1: merged), and an IP packet.
pub fn run(data: &[u8]) {
    let Some((&said, packet)) = data.split_first() else { return };
    let offload = Offload { needs_csum: said & 1 != 0, gso_size: u16::from(said & 2) };
    let listening = [(Kind::Vxlan, 4789, vec![]), (Kind::Geneve, 6081, vec![]), (Kind::Vxlan, 9, vec![1])];
    let listening = listening.map(|(kind, port, vnis)| Listening { kind, port, vnis });
    let tunnels = Tunnels::new(&listening).unwrap();
    let found = decapsulate(packet, &tunnels, offload);
    let padded = [packet, &[0xff; 9]].concat();
    if found != Err(DropReason::OuterMalformed) {
        assert_eq!(decapsulate(&padded, &tunnels, offload), found, "link padding");
    }
    // As if the tunnel had been well-formed.
    headers(packet);
    let Ok(Decapsulated { vni, inner, .. }) = found else { return };
    assert!(vni < 1 << 24);
    assert!(inner.start >= 20 + 8 + 8 && inner.start < inner.end && inner.end <= packet.len());
    for length in 0..inner.end {
        assert!(decapsulate(&packet[..length], &tunnels, offload).is_err(), "cut at {length}");
    }
    headers(&packet[inner]);
}

/// Inner headers are the same in every cut of a packet that they are read of.
fn headers(bytes: &[u8]) {
    let found = inner::parse_cut(bytes);
    for length in (0..bytes.len()).take(LONGEST) {
        let Ok((cut, is_cut)) = inner::parse_cut(&bytes[..length]) else { continue };
        assert_eq!(found.map(|(whole, _)| whole), Ok(cut), "cut at {length}");
        assert_eq!(is_cut, length < cut.length);
    }
    let Ok((read, is_cut)) = found else { return };
    assert_eq!(is_cut, read.length > bytes.len());
    let parsed = inner::parse(bytes);
    assert_eq!(parsed, if is_cut { Err(DropReason::Truncated) } else { Ok(read) });
    plainly(bytes, &read);
}

/// Fields by their offsets (RFC 791 §3.1, RFC 8200 §3).
fn plainly(bytes: &[u8], read: &Inner) {
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let is_v4 = bytes[0] >> 4 == 4;
    let (source, destination, hop_limit): (IpAddr, IpAddr, u8) = if is_v4 {
        let four = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        assert_eq!(read.upper, usize::from(bytes[0] & 15) * 4);
        assert_eq!(read.length, usize::from(number(2)));
        assert_eq!(number(6) & 0x3fff, 0, "a fragment");
        (four(12).into(), four(16).into(), bytes[8])
    } else {
        let sixteen = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        assert!(read.upper >= 40 && read.upper.is_multiple_of(8));
        assert_eq!(read.length, 40 + usize::from(number(4)));
        (sixteen(8).into(), sixteen(24).into(), bytes[7])
    };
    assert_eq!((read.source, read.destination, read.hop_limit), (source, destination, hop_limit));
    assert!(read.upper + 8 <= read.length.min(bytes.len()));
    let ports = match read.transport {
        inner::Transport::Icmp => (0, 0),
        inner::Transport::Tcp | inner::Transport::Udp => (number(read.upper), number(read.upper + 2)),
    };
    assert_eq!((read.source_port, read.destination_port), ports);
}

//! Cuts random super-packets and compares with what a naive sender would have sent.

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, NetHeaders, PacketHeaders,
    TcpHeader, TransportHeader,
};
use proptest::prelude::*;

use super::*;

/// What a super-packet is made from.
#[derive(Debug, Clone)]
struct Original {
    v6: bool,
    /// IPv4 options or an IPv6 hop-by-hop header.
    extended: bool,
    id: u16,
    sequence: u32,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn original() -> impl Strategy<Value = Original> {
    let header = (any::<bool>(), any::<bool>(), any::<u16>(), any::<u32>(), any::<u8>());
    // NOPs and a timestamp-like tail: whole words, as in any header.
    let options = (0usize..=10).prop_flat_map(|words| proptest::collection::vec(Just(1u8), words * 4));
    let payload = (0usize..9000).prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    (header, options, payload).prop_map(|((v6, extended, id, sequence, flags), options, payload)| Original {
        v6,
        extended,
        id,
        sequence,
        flags,
        options,
        payload,
    })
}

impl Original {
    fn ip(&self, upper: usize) -> IpHeaders {
        if self.v6 {
            let extensions = Ipv6Extensions {
                hop_by_hop_options: self
                    .extended
                    .then(|| Ipv6RawExtHeader::new_raw(6.into(), &[1, 4, 0, 0, 0, 0]).unwrap()),
                ..Ipv6Extensions::default()
            };
            let ip = Ipv6Header {
                payload_length: (upper + extensions.header_len()) as u16,
                next_header: if self.extended { 0.into() } else { 6.into() },
                hop_limit: 63,
                source: [0xfd; 16],
                destination: [0x20; 16],
                ..Ipv6Header::default()
            };
            return IpHeaders::Ipv6(ip, extensions);
        }
        let mut ip = Ipv4Header::new(0, 63, 6.into(), [10, 1, 0, 10], [10, 1, 2, 10]).unwrap();
        if self.extended {
            ip.options = [1u8; 8].as_slice().try_into().unwrap();
        }
        ip.identification = self.id;
        ip.dont_fragment = true;
        ip.total_len = (ip.header_len() + upper) as u16;
        ip.header_checksum = ip.calc_header_checksum();
        IpHeaders::Ipv4(ip, Default::default())
    }

    /// Returns one packet of this flow with a full checksum; `flags` are CWR … FIN.
    fn segment(&self, index: usize, offset: usize, data: &[u8], flags: u8) -> Vec<u8> {
        let mut tcp = TcpHeader::new(50_000, 443, self.sequence.wrapping_add(offset as u32), 1234);
        tcp.acknowledgment_number = 99;
        tcp.cwr = flags & 0x80 != 0;
        tcp.ece = flags & 0x40 != 0;
        tcp.urg = flags & 0x20 != 0;
        tcp.ack = flags & 0x10 != 0;
        tcp.psh = flags & 0x08 != 0;
        tcp.rst = flags & 0x04 != 0;
        tcp.syn = flags & 0x02 != 0;
        tcp.fin = flags & 0x01 != 0;
        tcp.set_options_raw(&self.options).unwrap();
        let mut shifted = self.clone();
        shifted.id = self.id.wrapping_add(index as u16);
        let ip = shifted.ip(tcp.header_len() + data.len());
        tcp.checksum = match &ip {
            IpHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, data).unwrap(),
            IpHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, data).unwrap(),
        };
        let mut bytes = Vec::new();
        ip.write(&mut bytes).unwrap();
        tcp.write(&mut bytes).unwrap();
        bytes.extend_from_slice(data);
        bytes
    }

    /// What a sender with a maximum segment size of `size` would have sent.
    fn naive(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> =
            if self.payload.is_empty() { vec![&[]] } else { self.payload.chunks(size).collect() };
        let segment = |(index, chunk): (usize, &&[u8])| {
            let mut flags = self.flags;
            if index + 1 != chunks.len() {
                flags &= !0x09;
            }
            if index != 0 {
                flags &= !0x80;
            }
            self.segment(index, index * size, chunk, flags)
        };
        chunks.iter().enumerate().map(segment).collect()
    }

    /// The super-packet with a checksum field that holds anything but the checksum.
    fn super_packet(&self) -> Vec<u8> {
        let mut bytes = self.segment(0, 0, &self.payload, self.flags);
        let tcp = bytes.len() - self.payload.len() - 20 - self.options.len();
        bytes[tcp + 16] ^= 0x5a;
        bytes
    }
}

fn cut(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let cut = Cut::new(packet, offload).unwrap();
    let mut headers = [0xee; MAX_HEADERS];
    let write = |index| {
        let (length, payload) = cut.write(index, &mut headers);
        [&headers[..length], payload].concat()
    };
    (0..cut.segments()).map(write).collect()
}

/// Verifies every checksum with etherparse, independently of how the oracle was made.
fn verify(packet: &[u8]) -> Vec<u8> {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else { panic!("not TCP: {headers:?}") };
    let payload = headers.payload.slice();
    match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), packet.len());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap());
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(usize::from(ip.payload_length) + 40, packet.len());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap());
        }
        other => panic!("not IP: {other:?}"),
    }
    payload.to_vec()
}

proptest! {
    #[test]
    fn cuts_as_a_naive_sender_would(original in original(), size in 1u16..3000) {
        let offload = Offload { needs_csum: true, gso_size: size };
        let segments = cut(&original.super_packet(), offload);
        prop_assert_eq!(&segments, &original.naive(size.into()));
        let payload: Vec<u8> = segments.iter().flat_map(|segment| verify(segment)).collect();
        prop_assert_eq!(payload, original.payload);
    }

    #[test]
    fn completes_a_partial_checksum(original in original()) {
        let offload = Offload { needs_csum: true, gso_size: 0 };
        let whole = original.segment(0, 0, &original.payload, original.flags);
        prop_assert_eq!(cut(&original.super_packet(), offload), vec![whole]);
    }

    #[test]
    fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool, gso_size: u16) {
        if let Some(first) = bytes.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 + (*first & 3) };
        }
        if let Some(protocol) = bytes.get_mut(if v6 { 6 } else { 9 }) {
            *protocol = 6;
        }
        let Ok(length) = ip_length(&bytes) else { return Ok(()) };
        let packet = &bytes[..length];
        if let Ok(cut) = Cut::new(packet, Offload { needs_csum: true, gso_size }) {
            let mut headers = [0; MAX_HEADERS];
            let written = |index| cut.write(index, &mut headers).1.len();
            let sent: usize = (0..cut.segments()).map(written).sum();
            prop_assert!(sent < length);
        }
    }
}

#[test]
fn link_padding_is_no_part_of_the_packet() {
    let original = Original {
        v6: false,
        extended: false,
        id: 7,
        sequence: 1,
        flags: 0x10,
        options: Vec::new(),
        payload: Vec::new(),
    };
    for v6 in [false, true] {
        let mut packet = Original { v6, ..original.clone() }.super_packet();
        let length = packet.len();
        packet.extend([0; 6]);
        assert_eq!(ip_length(&packet), Ok(length));
        assert_eq!(ip_length(&packet[..length - 1]), Err(Malformed::Length));
    }
    assert_eq!(ip_length(&[]), Err(Malformed::Truncated));
    assert_eq!(ip_length(&[0x45; 20]), Err(Malformed::Length));
}

#[test]
fn refuses_what_is_no_whole_segment() {
    let offload = Offload { needs_csum: true, gso_size: 0 };
    let original = Original {
        v6: false,
        extended: false,
        id: 7,
        sequence: 1,
        flags: 0x10,
        options: Vec::new(),
        payload: vec![1; 10],
    };
    let packet = original.super_packet();
    let change = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        Cut::new(&packet, offload).map(|cut| cut.segments())
    };
    assert_eq!(change(1, 0), Ok(1));
    assert_eq!(change(9, 17), Err(Malformed::Length), "UDP");
    assert_eq!(change(6, 0x20), Err(Malformed::Length), "more fragments");
    assert_eq!(change(7, 1), Err(Malformed::Length), "a later fragment");
    assert_eq!(change(32, 0x40), Err(Malformed::Length), "data offset 4");
    assert_eq!(change(32, 0xf0), Err(Malformed::Length), "data offset beyond the end");
}

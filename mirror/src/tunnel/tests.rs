//! Each reason is provoked by one change to a packet that passes without it.

use super::*;
use crate::inner::{Transport, parse};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};

const FROM: [u8; 4] = [172, 16, 0, 1];
const TO: [u8; 4] = [172, 16, 0, 2];
/// Where things begin in a packet made by `datagram`: its header has 20 bytes.
const UDP: usize = 20;
const TUNNEL: usize = 28;
const FRAME: usize = 36;
const INNER: usize = 50;

/// The inner packet, 20 + 8 + 5 bytes.
fn inner() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 9, 8, 7], [10, 1, 1, 1], 33)
        .udp(40_000, 31_765)
        .write(&mut bytes, b"hello")
        .unwrap();
    bytes
}

/// An IP packet of `headers` with a UDP datagram.
fn udp(headers: IpHeaders, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ip(headers).udp(51_234, port).write(&mut bytes, payload).unwrap();
    bytes
}

fn v4(change: impl FnOnce(&mut Ipv4Header)) -> IpHeaders {
    let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, FROM, TO).unwrap();
    change(&mut header);
    IpHeaders::Ipv4(header, Ipv4Extensions::default())
}

fn v6(mut extensions: Ipv6Extensions) -> IpHeaders {
    let mut header =
        Ipv6Header { hop_limit: 64, source: [1; 16], destination: [2; 16], ..Default::default() };
    header.next_header = extensions.set_next_headers(IpNumber::UDP);
    IpHeaders::Ipv6(header, extensions)
}

fn ethernet(kinds: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    for (index, kind) in kinds.iter().enumerate() {
        // A tag's own number is of no interest.
        bytes.extend(if index == 0 { &[][..] } else { &[0xff, 0xff] });
        bytes.extend(kind.to_be_bytes());
    }
    [&bytes[..], packet].concat()
}

fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

fn geneve(flags: u8, protocol: u16, options: &[u8], carried: &[u8]) -> Vec<u8> {
    let header = [&[options.len() as u8 / 4, flags][..], &protocol.to_be_bytes(), &[0, 0, 7, 0]];
    [&header.concat()[..], options, carried].concat()
}

/// What is expected: VXLAN at 4789 with VNIs 1 and 5, GENEVE at 6081 with any.
fn tunnels() -> Tunnels {
    let vxlan = Listening { kind: Kind::Vxlan, port: 4789, vnis: vec![1, 5] };
    let geneve = Listening { kind: Kind::Geneve, port: 6081, vnis: vec![] };
    Tunnels::new(&[vxlan, geneve]).unwrap()
}

fn read(packet: &[u8]) -> Result<(Kind, u32, &[u8]), DropReason> {
    let Decapsulated { kind, vni, inner } = decapsulate(packet, &tunnels(), Offload::default())?;
    Ok((kind, vni, &packet[inner]))
}

/// The mirrored packet, in VXLAN.
fn mirrored() -> Vec<u8> {
    udp(v4(|_| ()), 4789, &vxlan(1, &ethernet(&[0x0800], &inner())))
}

/// The same with bytes overwritten and the outer checksum left out.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = mirrored();
    packet[UDP + 6..UDP + 8].fill(0);
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

fn in_geneve(flags: u8, protocol: u16, options: &[u8]) -> Result<(Kind, u32, usize), DropReason> {
    let carried = if protocol == 0x6558 { ethernet(&[0x0800], &inner()) } else { inner() };
    let packet = udp(v4(|_| ()), 6081, &geneve(flags, protocol, options, &carried));
    read(&packet).map(|(kind, vni, found)| {
        assert_eq!(found, inner());
        (kind, vni, found.len())
    })
}

#[test]
fn what_was_mirrored_comes_out() {
    assert_eq!(read(&mirrored()), Ok((Kind::Vxlan, 1, &inner()[..])));
    assert_eq!(read(&changed(0, &[])), Ok((Kind::Vxlan, 1, &inner()[..])), "no checksum");
    let padded = [mirrored(), vec![0; 9]].concat();
    assert_eq!(read(&padded), Ok((Kind::Vxlan, 1, &inner()[..])), "link padding");
    assert_eq!(in_geneve(0, 0x0800, &[]), Ok((Kind::Geneve, 7, 33)));
}

#[test]
fn outer_malformed() {
    let malformed = Err(DropReason::OuterMalformed);
    let whole = mirrored();
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), malformed, "{length}");
    }
    assert_eq!(read(&changed(8, &[0])), malformed, "the IP header's checksum");
    assert_eq!(read(&changed(0, &[0x55])), malformed, "version 5");
    for wrong in [0u16, 7, 256] {
        assert_eq!(read(&changed(UDP + 4, &wrong.to_be_bytes())), malformed, "UDP length {wrong}");
    }
    let exact = (whole.len() - UDP) as u16;
    assert_eq!(read(&changed(UDP + 4, &(exact + 1).to_be_bytes())), malformed);
    let shorter = changed(UDP + 4, &(exact - 1).to_be_bytes());
    assert_eq!(read(&shorter), Ok((Kind::Vxlan, 1, &inner()[..32])), "what follows a datagram is not of it");
    let mut chain = udp(v6(Ipv6Extensions::default()), 4789, &[]);
    // Destination options of 16 bytes, of which 8 are there, before what would be no tunnel.
    (chain[6], chain[40], chain[41]) = (60, 59, 1);
    assert_eq!(read(&[chain, vec![0; 99]].concat()), malformed, "extension headers in link padding");
}

#[test]
fn outer_fragments() {
    let payload = vxlan(1, &ethernet(&[0x0800], &inner()));
    let more = udp(v4(|ip| ip.more_fragments = true), 4789, &payload);
    let later = udp(v4(|ip| ip.fragment_offset = IpFragOffset::try_new(1).unwrap()), 4789, &payload);
    let fragment = |offset, more| {
        let offset = IpFragOffset::try_new(offset).unwrap();
        let fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 7));
        udp(v6(Ipv6Extensions { fragment, ..Default::default() }), 4789, &payload)
    };
    for packet in [more, later, fragment(0, true), fragment(1, true), fragment(9, false)] {
        assert_eq!(read(&packet), Err(DropReason::OuterFragment));
    }
    let whole = udp(v4(|ip| ip.dont_fragment = true), 4789, &payload);
    for packet in [whole, fragment(0, false)] {
        assert_eq!(read(&packet), Ok((Kind::Vxlan, 1, &inner()[..])));
    }
}

#[test]
fn no_tunnel() {
    let mut packet = changed(UDP + 2, &4790u16.to_be_bytes());
    assert_eq!(read(&packet), Err(DropReason::NoTunnel), "VXLAN-GPE's port");
    packet[UDP + 2..UDP + 4].copy_from_slice(&4789u16.to_be_bytes());
    assert!(read(&packet).is_ok());
    let mut tcp = Vec::new();
    PacketBuilder::ipv4(FROM, TO, 64).tcp(1, 4789, 1, 1).write(&mut tcp, &[]).unwrap();
    assert_eq!(read(&tcp), Err(DropReason::NoTunnel));
    tcp.clear();
    PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(1, 4789, 1, 1).write(&mut tcp, &[]).unwrap();
    assert_eq!(read(&tcp), Err(DropReason::NoTunnel));
}

#[test]
fn outer_checksum() {
    let hop = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[0; 6]).unwrap();
    let extensions = Ipv6Extensions { hop_by_hop_options: Some(hop), ..Default::default() };
    let payload = vxlan(1, &ethernet(&[0x0800], &inner()));
    for mut packet in [mirrored(), udp(v6(extensions), 4789, &payload)] {
        assert!(read(&packet).is_ok());
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(read(&packet), Err(DropReason::OuterChecksum));
        for offload in
            [Offload { needs_csum: true, gso_size: 0 }, Offload { needs_csum: false, gso_size: 1400 }]
        {
            assert!(decapsulate(&packet, &tunnels(), offload).is_ok(), "can't be right: {offload:?}");
        }
        let udp = packet.len() - payload.len() - 8;
        packet[udp + 6..udp + 8].fill(0);
        assert!(read(&packet).is_ok(), "no checksum");
    }
}

#[test]
fn tunnel_malformed() {
    let malformed = DropReason::TunnelMalformed;
    assert_eq!(read(&changed(TUNNEL, &[0xf7])), Err(malformed), "no I flag");
    assert!(read(&changed(TUNNEL, &[0xff, 1, 2, 3])).is_ok(), "other flags");
    assert_eq!(read(&udp(v4(|_| ()), 4789, &[8, 0, 0, 0, 0, 0, 1])), Err(malformed), "seven bytes");
    assert_eq!(read(&udp(v4(|_| ()), 6081, &[0, 0, 8, 0, 0, 0, 1])), Err(malformed), "seven bytes");
    let with = |at: usize, byte| {
        let mut header = geneve(0, 0x0800, &[1, 2, 3, 1, 0, 0, 0, 0], &inner());
        header[at] = byte;
        read(&udp(v4(|_| ()), 6081, &header)).map(|(_, _, inner)| inner.len())
    };
    assert_eq!(with(0, 2), Ok(33));
    assert_eq!(with(0, 0x42), Err(malformed), "version 1");
    assert_eq!(with(0, 1), Err(malformed), "an option longer than all options");
    assert_eq!(with(0, 63), Err(malformed), "options longer than the packet");
    assert_eq!(with(11, 2), Err(malformed));
    assert_eq!(with(11, 0xe1), Ok(33), "an option's reserved bits");
    assert_eq!(with(1, 0x3f), Ok(33), "reserved bits");
}

#[test]
fn critical_options() {
    let option = |kind| [1, 8, kind, 1, 9, 9, 9, 9];
    for flags in [0, 0x40] {
        assert!(in_geneve(flags, 0x0800, &option(0x7f)).is_ok());
        assert_eq!(in_geneve(flags, 0x0800, &option(0x80)), Err(DropReason::CriticalOption));
        let second = [option(1), option(0xff)].concat();
        assert_eq!(in_geneve(flags, 0x0800, &second), Err(DropReason::CriticalOption));
    }
    let most = [0, 1, 2, 0].repeat(63);
    assert!(in_geneve(0, 0x6558, &most).is_ok());
}

#[test]
fn tunnel_protocol() {
    for protocol in [0x0800, 0x6558] {
        assert!(in_geneve(0, protocol, &[]).is_ok());
        assert_eq!(in_geneve(0x80, protocol, &[]), Err(DropReason::TunnelProtocol), "a control packet");
    }
    for protocol in [0, 0x0806, 0x8847, 0x894f] {
        assert_eq!(in_geneve(0, protocol, &[]), Err(DropReason::TunnelProtocol), "{protocol:#x}");
    }
}

#[test]
fn vni() {
    let with = |vni: u32| {
        let packet = changed(TUNNEL + 4, &(vni << 8 | 0xee).to_be_bytes());
        read(&packet).map(|(_, vni, _)| vni)
    };
    assert_eq!(with(5), Ok(5));
    for other in [0, 2, 0x10001, 0xff_ffff] {
        assert_eq!(with(other), Err(DropReason::Vni));
    }
}

#[test]
fn frame_malformed() {
    for kinds in [&[0x0800][..], &[0x8100, 0x0800], &[0x88a8, 0x8100, 0x0800]] {
        let frame = ethernet(kinds, &inner());
        let header = frame.len() - inner().len();
        for length in 0..header {
            let packet = udp(v4(|_| ()), 4789, &vxlan(1, &frame[..length]));
            assert_eq!(read(&packet), Err(DropReason::FrameMalformed), "{length} of {header}");
        }
        let packet = udp(v4(|_| ()), 4789, &vxlan(1, &frame[..=header]));
        assert_eq!(read(&packet), Ok((Kind::Vxlan, 1, &inner()[..1])));
    }
}

#[test]
fn not_ip() {
    // ARP, a length (IEEE 802.3), a third tag.
    for kinds in [&[0x0806][..], &[0x8100, 0x0026], &[0x88a8, 0x8100, 0x8100, 0x0800]] {
        let packet = udp(v4(|_| ()), 4789, &vxlan(1, &ethernet(kinds, &inner())));
        assert_eq!(read(&packet), Err(DropReason::NotIp));
    }
}

#[test]
fn the_version_is_what_the_header_before_says() {
    let malformed = Err(DropReason::InnerMalformed);
    assert_eq!(read(&changed(FRAME + 12, &[0x86, 0xdd])), malformed);
    assert_eq!(read(&changed(INNER, &[0x60])), malformed);
    assert!(read(&changed(INNER, &[0x4f])).is_ok(), "no more than that is looked at here");
    assert_eq!(in_geneve(0, 0x86dd, &[]).unwrap_err(), DropReason::InnerMalformed);
    let nothing = udp(v4(|_| ()), 4789, &vxlan(1, &ethernet(&[0x0800], &[])));
    assert_eq!(read(&nothing), malformed);
}

#[test]
fn a_mirror_behind_a_gateway_load_balancer_is_taken_out_twice() {
    let id = [0, 1, 2, 3, 4, 5, 6, 7];
    let options = [&[1, 8, 1, 2][..], &id, &[1, 8, 2, 2], &id, &[1, 8, 3, 1, 5, 5, 5, 5]].concat();
    let packet = udp(v4(|_| ()), 6081, &geneve(0, 0x0800, &options, &mirrored()));
    let (kind, _, outer) = read(&packet).unwrap();
    assert_eq!((kind, outer), (Kind::Geneve, &mirrored()[..]));
    let (kind, vni, bytes) = read(outer).unwrap();
    assert_eq!((kind, vni, bytes), (Kind::Vxlan, 1, &inner()[..]));
    let inner = parse(bytes).unwrap();
    assert_eq!((inner.transport, inner.destination_port), (Transport::Udp, 31_765));
}

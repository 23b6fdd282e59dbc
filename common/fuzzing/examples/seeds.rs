//! Makes the corpus from captures of real handshakes:
//!
//! ```sh
//! testbed run zero-rtt fall-back too-big closed-port --pcap /tmp/captures
//! cargo run -p rtt0-fuzzing --example seeds -- /tmp/captures fuzz/corpus
//! ```
//!
//! Of packets that look alike (direction, flags, option kinds, length class, IP version) the first is
//! taken. Scripts for the engines are the ways a handshake can go, written out here.

use anyhow::{Context, bail};
use pcap_file::pcapng::{Block, PcapNgReader};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// An Ethernet header.
const LINK: usize = 14;
/// Longest packet worth keeping.
const LONGEST: usize = 160;
/// Inputs of a target at most.
const MOST: usize = 40;

fn main() -> anyhow::Result<()> {
    let [_, captures, corpus] = &std::env::args().collect::<Vec<_>>()[..] else {
        bail!("usage: seeds CAPTURES CORPUS");
    };
    let mut packets = BTreeMap::new();
    collect(Path::new(captures), &mut packets)?;
    let corpus = Path::new(corpus);
    let (mut wire, mut options, mut offers) = (Vec::new(), Vec::new(), Vec::new());
    for packet in packets.values() {
        wire.push([&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0], &packet[..]].concat());
        let Some(list) = option_list(packet).filter(|list| !list.is_empty()) else { continue };
        if !options.contains(&list) {
            offers.push([&[7; 4], &[0x18, 7, 0, 0, 1, 2, 5, 0xb4, 3][..], &list].concat());
            options.push(list);
        }
    }
    let udp = [&ipv4(13)[..], &datagram(31_765, b"hello")].concat();
    let mirrored: Vec<_> = [&udp].into_iter().chain(packets.values()).enumerate().map(mirrored).collect();
    let targets = [
        ("wire", wire),
        ("options", options),
        ("offer", offers),
        ("engine", scripts()),
        ("mirror", mirrored),
    ];
    for (target, inputs) in targets {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (index, input) in inputs.iter().take(MOST).enumerate() {
            fs::write(folder.join(format!("{index:02}")), input)?;
        }
        println!("{target}: {} of {}", inputs.len().min(MOST), inputs.len());
    }
    Ok(())
}

/// Reads every capture below `folder`.
fn collect(folder: &Path, packets: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, packets)?;
            continue;
        }
        let mut reader = PcapNgReader::new(File::open(&path)?)?;
        while let Some(block) = reader.next_block() {
            let (Block::EnhancedPacket(block), _) = block? else { continue };
            let Some(packet) = block.data.get(LINK..) else { continue };
            let packet = &packet[..packet.len().min(LONGEST)];
            packets.entry(looks(packet)).or_insert_with(|| packet.to_vec());
        }
    }
    Ok(())
}

/// What makes packets differ for a reader.
fn looks(packet: &[u8]) -> Vec<u8> {
    let mut looks = vec![packet.first().copied().unwrap_or(0), packet.len().ilog2() as u8];
    let Some(tcp) = tcp_of(packet) else {
        looks.extend(packet.get(9..10).unwrap_or_default());
        return looks;
    };
    looks.extend([tcp[13], u8::from(tcp[0] > tcp[2])]);
    let list = option_list(packet).unwrap_or_default();
    let mut at = 0;
    while at < list.len() {
        looks.push(list[at]);
        at +=
            if list[at] < 2 { 1 } else { list.get(at + 1).map_or(40, |length| usize::from(*length).max(1)) };
    }
    looks
}

fn tcp_of(packet: &[u8]) -> Option<&[u8]> {
    let (protocol, at) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4),
        _ => (*packet.get(6)?, 40),
    };
    packet.get(at..).filter(|tcp| protocol == 6 && tcp.len() >= 20)
}

fn option_list(packet: &[u8]) -> Option<Vec<u8>> {
    let tcp = tcp_of(packet)?;
    tcp.get(20..usize::from(tcp[12] >> 4) * 4).map(<[u8]>::to_vec)
}

/// What a mirror sends of a packet: of two in VXLAN one has a VLAN tag, of two in GENEVE one is no Ethernet frame. No
/// checksum but that of an IPv4 header.
fn mirrored((index, packet): (usize, &Vec<u8>)) -> Vec<u8> {
    let kind: u16 = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    let kind = kind.to_be_bytes();
    let addresses = [2; 12];
    let (port, tunnelled) = match index % 4 {
        0 => (4789, [&[8, 0, 0, 0, 0, 0, 1, 0][..], &addresses, &kind, packet].concat()),
        1 => (4789, [&[8, 0, 0, 0, 0, 0, 1, 0][..], &addresses, &[0x81, 0, 0, 7], &kind, packet].concat()),
        2 => {
            let option = [1, 8, 3, 1, 9, 9, 9, 9];
            (6081, [&[2, 0, kind[0], kind[1], 0, 0, 7, 0][..], &option, packet].concat())
        }
        _ => (6081, [&[0, 0, 0x65, 0x58, 0, 0, 7, 0][..], &addresses, &kind, packet].concat()),
    };
    let udp = datagram(port, &tunnelled);
    let length = udp.len() as u16;
    let [high, low] = length.to_be_bytes();
    let ip = if index.is_multiple_of(3) {
        [&[0x60, 0, 0, 0, high, low, 17, 64][..], &[0xfd; 32]].concat()
    } else {
        ipv4(length)
    };
    // The first byte: nothing that the kernel said.
    [&[0], &ip[..], &udp].concat()
}

/// The header of an IPv4 packet with a UDP datagram of `length` bytes.
fn ipv4(length: u16) -> Vec<u8> {
    let [high, low] = (20 + length).to_be_bytes();
    let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 172, 16, 0, 1, 172, 16, 0, 2];
    let sum = rtt0_core::wire::checksum::sum(&ip);
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    ip
}

/// A UDP datagram to `port`.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [[0xc8, 0x22], port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    [&header, payload].concat()
}

/// The steps of a script that move a flow on (see `script`), as (what, pause).
fn script(which: u8, steps: &[(u8, u8)]) -> Vec<u8> {
    let step = |&(what, pause): &(u8, u8)| [what, 0, pause, 0, 0, 0, 0, 0, 255, 0, 255, 1];
    [which].into_iter().chain(steps.iter().flat_map(step)).collect()
}

fn scripts() -> Vec<Vec<u8>> {
    const SYN: u8 = 0;
    const OFFER: u8 = 1;
    const PROBE: u8 = 2;
    const ANSWER: u8 = 3;
    const CONFIRM: u8 = 4;
    const DATA: u8 = 5;
    const FIN: u8 = 6;
    const CLOSED: u8 = 7;
    let ways: &[&[(u8, u8)]] = &[
        // Learned from, then 0-RTT to the end.
        &[
            (SYN, 1),
            (CONFIRM, 50),
            (DATA, 1),
            (FIN, 50),
            (CLOSED, 1),
            (SYN, 255),
            (DATA, 1),
            (CONFIRM, 50),
            (FIN, 9),
        ],
        // Learned that there is no ServerNIC.
        &[
            (SYN, 1),
            (ANSWER, 50),
            (DATA, 1),
            (SYN, 255),
            (DATA, 1),
            (ANSWER, 50),
            (DATA, 9),
            (FIN, 9),
            (CLOSED, 1),
        ],
        // A pair that is gone.
        &[(SYN, 1), (CONFIRM, 50), (SYN, 255), (DATA, 1), (ANSWER, 50), (ANSWER, 1), (DATA, 1), (CLOSED, 60)],
        // Silence.
        &[(SYN, 1), (CONFIRM, 50), (SYN, 255), (DATA, 1), (SYN, 255), (DATA, 255)],
        &[(SYN, 1), (SYN, 240), (SYN, 250), (ANSWER, 255)],
        // Offers.
        &[(OFFER, 1), (DATA, 1), (ANSWER, 1), (ANSWER, 1), (DATA, 60), (FIN, 1), (CLOSED, 1)],
        &[(DATA, 1), (OFFER, 1), (ANSWER, 1), (DATA, 3), (OFFER, 200), (FIN, 1), (CLOSED, 1)],
        &[(OFFER, 1), (OFFER, 1), (OFFER, 255), (ANSWER, 1), (SYN, 9), (ANSWER, 1)],
        &[(PROBE, 1), (ANSWER, 1), (DATA, 60), (FIN, 60), (CLOSED, 1), (OFFER, 1), (DATA, 1), (ANSWER, 9)],
        &[(OFFER, 1), (PROBE, 1), (ANSWER, 1), (OFFER, 1), (DATA, 1), (ANSWER, 1)],
    ];
    let modes = [0, 1, 2, 3, 4];
    ways.iter().flat_map(|way| modes.map(|mode| script(mode, way))).step_by(2).collect()
}

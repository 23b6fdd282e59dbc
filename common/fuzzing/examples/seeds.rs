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
    for (target, inputs) in [("wire", wire), ("options", options), ("offer", offers), ("engine", scripts())] {
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

//! Packets with something wrong, made of good ones by a seeded generator.

use std::net::IpAddr;

use fastrand::Rng;

use super::crafted::{self, FIELD_PORT};

/// Bytes of the largest payload that is sent: inside an MTU of 1600.
const LARGEST: usize = 1_500;
/// Values that lengths and types go wrong at.
const EDGES: [u8; 8] = [0, 1, 0x0f, 0x3f, 0x40, 0x7f, 0x80, 0xff];

/// Good UDP payloads for the VXLAN port and for the GENEVE port, of all kinds of packets.
pub struct Spoiler {
    random: Rng,
    vxlan: Vec<Vec<u8>>,
    geneve: Vec<Vec<u8>>,
}

impl Spoiler {
    /// The same seed makes the same packets, from these sources.
    pub fn new(seed: u64, v4: [u8; 4], v6: IpAddr) -> Self {
        let source = IpAddr::from(v4);
        let long = [0x5a; 1_200];
        let frames = [
            crafted::udp(source, FIELD_PORT, b"short"),
            crafted::udp(source, FIELD_PORT, &long),
            crafted::udp(source, FIELD_PORT, b""),
            crafted::tagged_udp(v4, FIELD_PORT, b"tagged"),
            crafted::udp(v6, FIELD_PORT, b"six"),
            crafted::tcp(source, 443, b"GET /"),
            crafted::tcp(v6, 443, b""),
            crafted::ping(source, b"ping"),
            crafted::ping(v6, b"ping"),
        ];
        let option = [0xff, 0xff, 0x01, 0x02, 1, 2, 3, 4, 5, 6, 7, 8];
        let vxlan = frames.iter().map(|frame| crafted::vxlan(1, frame)).collect();
        let bare = frames.iter().map(|frame| crafted::geneve(1, &[], frame));
        let geneve = bare.chain(frames.iter().map(|frame| crafted::geneve(2, &option, frame))).collect();
        Self { random: Rng::with_seed(seed), vxlan, geneve }
    }

    /// Makes the next one; the second says whether it is for the GENEVE port.
    pub fn next(&mut self) -> (Vec<u8>, bool) {
        let is_geneve = self.random.bool();
        let good = if is_geneve { &self.geneve } else { &self.vxlan };
        let mut bytes = good[self.random.usize(..good.len())].clone();
        for _ in 0..self.random.usize(1..=3) {
            self.spoil(&mut bytes, 0);
        }
        (bytes, is_geneve)
    }

    /// Spoils bytes from `start` on, in one of several ways. Headers, at the front, are what it mostly meets.
    pub fn spoil(&mut self, bytes: &mut Vec<u8>, start: usize) {
        let random = &mut self.random;
        if bytes.len() <= start {
            return;
        }
        let near = bytes.len().min(start + 80);
        let at =
            if random.u8(..4) > 0 { random.usize(start..near) } else { random.usize(start..bytes.len()) };
        match random.u8(..8) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes[at] = EDGES[random.usize(..EDGES.len())],
            3 => bytes.truncate(at),
            4 => {
                let count = random.usize(1..64);
                let more: Vec<u8> = (0..count).map(|_| random.u8(..)).collect();
                bytes.splice(at..at, more);
            }
            5 => {
                let end = (at + random.usize(1..32)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + random.usize(1..16)).min(bytes.len());
                bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
            _ => {
                let half = random.u16(..).to_be_bytes();
                for (byte, value) in bytes[at..].iter_mut().zip(half) {
                    *byte = value;
                }
            }
        }
        bytes.truncate(LARGEST);
    }
}

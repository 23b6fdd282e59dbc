//! Packets that no host should send: cut, contradicting themselves, or of shapes that few expect.

use super::dice::Dice;
use super::flood::syn_options;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::icmp::{Complaint, write_error};
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_core::wire::tcp::Flags;
use std::net::SocketAddr;

/// Makes `count` of them from `source` to `destination`, of one IP version, each with a header
/// that routes it there. The same seed makes the same ones.
pub fn packets(source: SocketAddr, destination: SocketAddr, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(seed);
    (0..count).map(|number| packet(&mut dice, source, destination, number)).collect()
}

fn packet(dice: &mut Dice, source: SocketAddr, destination: SocketAddr, number: usize) -> Vec<u8> {
    let mut bytes = segment(dice, source, destination);
    let v4 = source.is_ipv4();
    let tcp = if v4 { 20 } else { 40 };
    match number % 8 {
        // Cut at every length behind the IP header, which says so.
        0 => {
            bytes.truncate(tcp + number / 8 % (bytes.len() - tcp));
            say_length(&mut bytes);
        }
        // A data offset that reaches anywhere.
        1 => bytes[tcp + 12] = (dice.word() as u8) << 4,
        // Options: lengths of nothing, of everything, without end.
        2 => (0..20).for_each(|at| bytes[tcp + 20 + at] = dice.pick(&[0, 1, 2, 3, 8, 253, 255, 20, 0x5a])),
        // Checksums, and flags that do not go together.
        3 => bytes[tcp + 16] ^= 0x55,
        4 => bytes[tcp + 13] = dice.word() as u8,
        // Fragments of all shapes, or the same behind an extension header.
        5 if v4 => {
            let word: u16 = dice.pick(&[0x2000, 0x2001, 0x0001, 0x1fff, 0x3fff, 0x6000]);
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
        }
        5 => extend(dice, &mut bytes),
        // An error that quotes nonsense.
        6 => {
            let quoted = segment(dice, destination, source);
            let quoted = &quoted[..quoted.len().min(1 + dice.below(60) + tcp)];
            let mut error = Vec::new();
            write_error(Complaint::TooBig(dice.word() as u16), source.ip(), quoted, &mut error);
            if !error.is_empty() {
                let at = tcp + 8 + dice.below(error.len() - tcp - 8);
                error[at] ^= dice.word() as u8;
                bytes = error;
            }
        }
        // Noise behind the IP header.
        _ => bytes[tcp + 4..].iter_mut().for_each(|byte| *byte = dice.word() as u8),
    }
    if let Ok(mut ip) = Ipv4::unverified(&mut bytes[..]) {
        ip.fill_checksum();
    }
    bytes
}

fn segment(dice: &mut Dice, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let syn_ack = Flags::SYN | Flags::ACK;
    let control = Control {
        source: (source.ip(), source.port()),
        destination: (destination.ip(), destination.port()),
        sequence: dice.word(),
        acknowledgement: dice.word(),
        flags: dice.pick(&[Flags::SYN, syn_ack, Flags::ACK, Flags::RST, Flags::FIN | Flags::ACK]),
        window: dice.word() as u16,
    };
    let mut bytes = Vec::new();
    control.write(&syn_options(dice.word()), &mut bytes);
    bytes
}

fn say_length(bytes: &mut [u8]) {
    let length = bytes.len() as u16;
    if bytes[0] >> 4 == 4 {
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
}

/// Puts an IPv6 extension header, right or wrong, before the segment.
fn extend(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let kind = dice.pick(&[0, 43, 44, 60]);
    let mut header = [bytes[6], 0, dice.word() as u8, dice.word() as u8, 0, 0, 0, 1];
    if kind != 44 && dice.below(3) == 0 {
        header[1] = dice.word() as u8;
    }
    bytes[6] = kind;
    bytes.splice(40..40, header);
    say_length(bytes);
}

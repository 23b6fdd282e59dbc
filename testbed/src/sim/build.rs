//! Segments as the scripted peer writes them.

use super::wire::{Addresses, Wire};
use rtt0_core::packet::Offload;
use rtt0_core::service::Direction;
use rtt0_core::wire::tcp::Flags;
use rtt0_core::wire::{PROTOCOL_TCP, checksum};
use std::net::IpAddr;

/// The fields of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) to: Direction,
    pub(super) client_port: u16,
    pub(super) server_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    /// A whole number of 32-bit words, at most 40 bytes.
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// Writes a segment with full checksums.
pub(super) fn segment(addresses: &Addresses, fields: &Fields<'_>) -> Wire {
    let Fields { options, payload, .. } = *fields;
    let (source, destination, ports) = match fields.to {
        Direction::ToServer => (addresses.client, addresses.server, (fields.client_port, fields.server_port)),
        Direction::ToClient => (addresses.server, addresses.client, (fields.server_port, fields.client_port)),
    };
    let header = 20 + options.len();
    let mut bytes = Vec::with_capacity(40 + header + payload.len());
    write_ip(source, destination, header + payload.len(), &mut bytes);
    let tcp = bytes.len();
    bytes.extend_from_slice(&ports.0.to_be_bytes());
    bytes.extend_from_slice(&ports.1.to_be_bytes());
    bytes.extend_from_slice(&fields.seq.to_be_bytes());
    bytes.extend_from_slice(&fields.ack.to_be_bytes());
    bytes.extend_from_slice(&((header as u16 / 4) << 12 | fields.flags.bits()).to_be_bytes());
    bytes.extend_from_slice(&fields.window.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(options);
    bytes.extend_from_slice(payload);
    let pseudo = checksum::pseudo_header(source, destination, PROTOCOL_TCP, bytes.len() - tcp);
    let sum = !checksum::add(pseudo, checksum::sum(&bytes[tcp..]));
    bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    Wire { bytes, offload: Offload::default(), spoiled: false }
}

fn write_ip(source: IpAddr, destination: IpAddr, length: usize, bytes: &mut Vec<u8>) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&(20 + length as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
            let sum = !checksum::sum(bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (source, destination) => {
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
            bytes.extend_from_slice(&[PROTOCOL_TCP, 64]);
            for address in [source, destination] {
                if let IpAddr::V6(address) = address {
                    bytes.extend_from_slice(&address.octets());
                }
            }
        }
    }
}

//! What a saboteur does to single packets of the long leg, or of another leg that has a line.

use std::time::Duration;

use rtt0_core::packet::{Offload, Packet};

use super::ETHERNET_HEADER;
use super::port::VNET_HEADER;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of `<linux/virtio_net.h>`.
const NEEDS_CSUM: u8 = 1;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, as it is now: the saboteur may have changed its bytes.
    Keep,
    /// It is lost.
    Lose,
    /// It is so much longer on its way; later packets overtake it.
    Late(Duration),
    /// These IP packets go on in its place. Their checksums have to be full.
    Instead(Vec<Vec<u8>>),
}

/// Decides on the fate of packets, one after the other. It may patch their bytes.
pub type Saboteur = Box<dyn FnMut(&mut Packet<'_>) -> Fate + Send>;

/// Asks a saboteur about a frame: a vnet header, an Ethernet header and an IP packet. A frame that
/// is none is kept.
pub(super) fn decide(saboteur: &mut Saboteur, frame: &mut [u8]) -> Fate {
    let Some((headers, bytes)) = frame.split_at_mut_checked(VNET_HEADER + ETHERNET_HEADER) else {
        return Fate::Keep;
    };
    if !matches!(headers[VNET_HEADER + 12..], [0x08, 0x00] | [0x86, 0xdd]) {
        return Fate::Keep;
    }
    // The vnet header is in the host's byte order: flags, type, header length, size.
    let offload = Offload {
        needs_csum: headers[0] & NEEDS_CSUM != 0,
        gso_size: u16::from_ne_bytes([headers[4], headers[5]]),
    };
    saboteur(&mut Packet { bytes, offload })
}

/// Puts an IP packet with full checksums behind the Ethernet header of `frame`.
pub(super) fn substitute(frame: &[u8], packet: &[u8]) -> Vec<u8> {
    let mut new = vec![0; VNET_HEADER];
    new.extend_from_slice(&frame[VNET_HEADER..VNET_HEADER + ETHERNET_HEADER]);
    new.extend_from_slice(packet);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![NEEDS_CSUM, 1, 0, 0];
        frame.extend(1400_u16.to_ne_bytes());
        frame.extend([0; 4]);
        frame.extend([7; 12]);
        frame.extend(kind);
        frame.extend(packet);
        frame
    }

    #[test]
    fn a_saboteur_sees_ip_packets_and_may_patch_them() {
        let mut saboteur: Saboteur = Box::new(|packet| {
            assert_eq!(packet.offload, Offload { needs_csum: true, gso_size: 1400 });
            packet.bytes[0] += 1;
            Fate::Lose
        });
        let mut ip = frame([8, 0], &[0x45]);
        assert_eq!(decide(&mut saboteur, &mut ip), Fate::Lose);
        assert_eq!(ip.last(), Some(&0x46));
        for mut other in [frame([8, 6], &[0x45]), vec![0; 5]] {
            assert_eq!(decide(&mut saboteur, &mut other), Fate::Keep);
        }
    }

    #[test]
    fn a_substitute_has_the_ethernet_header_and_no_offload() {
        let new = substitute(&frame([8, 0], &[1, 2, 3]), &[4, 5]);
        assert_eq!(new[..VNET_HEADER], [0; VNET_HEADER]);
        assert_eq!(new[VNET_HEADER..], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 0, 4, 5]);
    }
}

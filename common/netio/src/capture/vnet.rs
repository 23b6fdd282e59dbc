//! The virtio-net header that the kernel puts before the link header: what a packet's bytes do not tell.

use rtt0_core::packet::Offload;

/// Length of `struct virtio_net_hdr` in bytes.
pub(super) const VNET_HEADER: usize = 10;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM in the flags byte.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN in the type byte: set besides the type proper.
const GSO_ECN: u8 = 0x80;
/// VIRTIO_NET_HDR_GSO_NONE in the type byte.
const GSO_NONE: u8 = 0;

/// Reads a virtio-net header; its numbers are in host byte order.
pub(super) fn offload(header: [u8; VNET_HEADER]) -> Offload {
    let needs_csum = header[0] & NEEDS_CSUM != 0;
    let gso_size = match header[1] & !GSO_ECN {
        GSO_NONE => 0,
        _ => u16::from_ne_bytes([header[4], header[5]]),
    };
    Offload { needs_csum, gso_size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_virtio_net_header() {
        let header = |flags, kind, size: u16| {
            let mut bytes = [0u8; VNET_HEADER];
            bytes[0] = flags;
            bytes[1] = kind;
            bytes[4..6].copy_from_slice(&size.to_ne_bytes());
            offload(bytes)
        };
        assert_eq!(header(0, 0, 0), Offload::default());
        // DATA_VALID says that the checksum is right, not that it is partial.
        assert_eq!(header(2, 0, 0), Offload::default());
        assert_eq!(header(1, 0, 0), Offload { needs_csum: true, gso_size: 0 });
        assert_eq!(header(1, 1, 1448), Offload { needs_csum: true, gso_size: 1448 });
        assert_eq!(header(1, 0x84, 1428), Offload { needs_csum: true, gso_size: 1428 });
        assert_eq!(header(0, 0x80, 9), Offload::default());
    }
}

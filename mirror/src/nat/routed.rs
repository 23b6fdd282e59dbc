//! Packets that name the routers they are to pass.

use rtt0_core::wire::{PROTOCOL_ICMPV6, PROTOCOL_TCP};

/// Routing header and IPv4's two source route options.
const ROUTING: u8 = 43;
const LOOSE_ROUTE: u8 = 0x83;
const STRICT_ROUTE: u8 = 0x89;

/// Tells whether the destination in the IP header is only the next of several: checksums then cover the last one, which
/// stands elsewhere (RFC 8200 §8.1, RFC 1122 §4.1.3.5), and a new destination would be no more than a detour.
///
/// `header` is the IP header with options or extension headers, and nothing behind.
pub(super) fn is_routed(header: &[u8]) -> bool {
    match header.first().map(|first| first >> 4) {
        Some(4) => has_route_option(header.get(20..).unwrap_or_default()),
        _ => has_segments_left(header),
    }
}

fn has_route_option(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        match (*kind, rest.first()) {
            (0, _) => return false,
            (1, _) => options = rest,
            (LOOSE_ROUTE | STRICT_ROUTE, _) => return true,
            // A length below 2 ends the walk: what follows can't be told.
            (_, Some(length @ 2..)) => options = options.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        }
    }
    false
}

fn has_segments_left(header: &[u8]) -> bool {
    let (mut next, mut at) = (header.get(6).copied(), 40);
    // Every step is of 8 bytes or more.
    while let (Some(kind), Some([following, length, _, left, ..])) = (next, header.get(at..)) {
        match kind {
            PROTOCOL_TCP | 17 | PROTOCOL_ICMPV6 => return false,
            ROUTING if *left > 0 => return true,
            // A fragment header has no length.
            44 => at += 8,
            _ => at += usize::from(*length) * 8 + 8,
        }
        next = Some(*following);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_routes_are_found_behind_other_options() {
        let header = |options: &[u8]| [&[0x46; 20], options].concat();
        for (options, routed) in [
            (&[][..], false),
            (&[1, 1, 0x83, 7, 4, 0, 0, 0, 0], true),
            (&[0x94, 4, 0, 0, 0x89, 3, 4, 0], true),
            (&[0, 0x83, 3, 4], false),
            (&[0x94, 0, 0x83, 3], false),
            (&[0x94, 40, 0x83, 3], false),
            (&[0x94], false),
        ] {
            assert_eq!(is_routed(&header(options)), routed, "{options:?}");
        }
    }

    #[test]
    fn a_routing_header_counts_while_segments_are_left() {
        let header = |first: u8, extensions: &[u8]| {
            let mut bytes = vec![0x60, 0, 0, 0, 0, 0, first, 64];
            bytes.resize(40, 0);
            bytes.extend_from_slice(extensions);
            bytes
        };
        for (first, extensions, routed) in [
            (6, &[][..], false),
            (43, &[6, 0, 4, 1, 0, 0, 0, 0], true),
            (43, &[6, 0, 4, 0, 0, 0, 0, 0], false),
            (0, &[43, 0, 1, 4, 0, 0, 0, 0, 6, 0, 4, 2, 0, 0, 0, 0], true),
            (44, &[43, 9, 0, 0, 0, 0, 0, 0, 6, 0, 4, 2, 0, 0, 0, 0], true),
            (60, &[6, 0, 1, 4, 0, 0, 0, 0], false),
            (60, &[43, 200, 1, 4, 0, 0, 0, 0], false),
            (43, &[6, 0], false),
        ] {
            assert_eq!(is_routed(&header(first, extensions)), routed, "{first} {extensions:?}");
        }
    }
}

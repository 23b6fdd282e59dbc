//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums here are *not* complemented unless the name says `checksum`: 16-bit ones' complement
//! sums of big-endian words, in which 0x0000 and 0xffff both stand for zero.

use std::net::IpAddr;

/// Returns the ones' complement sum of `bytes` as big-endian 16-bit words; an odd last byte is
/// the high half of a word padded with zero.
///
/// ```
/// use rtt0_core::wire::checksum::sum;
/// // The example of RFC 1071 §3.
/// assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
/// ```
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on byte order (RFC 1071 §2): native words are summed and the
    // result swapped once, so that the loop vectorises.
    let mut total = 0u64;
    let chunks = bytes.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        total += u64::from(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let mut tail = [0u8; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(tail));
    fold(total).to_be()
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

/// Returns the sum of a number's four bytes: what [`sum`] says of them in network order.
pub fn sum_number(number: u32) -> u16 {
    add((number >> 16) as u16, number as u16)
}

/// Adds two sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (s, carry) = a.overflowing_add(b);
    s + u16::from(carry)
}

/// Returns the sum over the pseudo-header of RFC 9293 §3.1 or RFC 8200 §8.1. `length` is that of
/// the upper layer's header and data in bytes. Addresses of different versions give the sum of
/// both as they are; views never mix them.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let length = length as u32;
    let fixed = fold(u64::from(length >> 16) + u64::from(length & 0xffff) + u64::from(protocol));
    add(fixed, add(address(source), address(destination)))
}

fn address(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    }
}

/// Returns the checksum field after a 16-bit-aligned part of the covered bytes, whose sum was
/// `old`, now sums to `new` (RFC 1624 eqn. 3). A wrong checksum stays wrong by the same amount.
///
/// ```
/// use rtt0_core::wire::checksum::update;
/// // The example of RFC 1624 §4: the older equation gave 0xffff here.
/// assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
/// ```
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071's definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for word in bytes.chunks(2) {
            total += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            total = (total >> 16) + (total & 0xffff);
        }
        total as u16
    }

    /// 0x0000 and 0xffff are the same number.
    fn canonical(s: u16) -> u16 {
        if s == 0xffff { 0 } else { s }
    }

    proptest! {
        #[test]
        fn sum_equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(canonical(sum(&bytes)), canonical(naive(&bytes)));
        }

        #[test]
        fn a_numbers_sum_is_that_of_its_bytes(number in any::<u32>()) {
            for number in [number, number | 0xffff, number << 16, 0, u32::MAX] {
                prop_assert_eq!(sum_number(number), sum(&number.to_be_bytes()), "{}", number);
            }
        }

        #[test]
        fn update_equals_recomputing(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64),
            at in 0usize..3, new in any::<u32>(), error in any::<u16>(),
        ) {
            // `error` stands for a corruption: the difference must survive the update.
            let at = at * 2;
            let before = add(!naive(&bytes), error);
            let old = sum(&bytes[at..at + 4]);
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            let after = update(before, old, sum(&new.to_be_bytes()));
            prop_assert_eq!(canonical(after), canonical(add(!naive(&bytes), error)));
        }
    }
}

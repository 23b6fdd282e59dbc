//! The signalling option: what was signed is read back, what was not is never authentic.

use crate::number;
use crate::packets::{flow, keys};
use rtt0_core::offer::{Found, Kind, LENGTH, Offer, Promise, strip};
use rtt0_core::seq::Seq;
use rtt0_core::wire::options::Options;
use rtt0_core::wire::tcp::Tcp;

/// Takes a client's ISN (4 bytes), a promise (8 bytes), a bit to flip (1 byte) and an option list.
pub fn run(data: &[u8]) {
    let isn = Seq::new(u32::from_be_bytes(number(data)));
    let rest = data.get(4..).unwrap_or_default();
    let offer = signed(rest);
    let bytes = offer.encode(&keys(), &flow(), isn).unwrap();
    let find = |options: &[u8], isn| Offer::find(Options::new(options), &keys(), &flow(), isn);
    assert_eq!(find(&bytes, isn), Found::Authentic(offer));
    assert_ne!(find(&bytes, isn.plus(1)), Found::Authentic(offer));

    let bit = usize::from(rest.get(8).copied().unwrap_or(0)) % (8 * (LENGTH - 4));
    let mut flipped = bytes;
    flipped[4 + bit / 8] ^= 1 << (bit % 8);
    assert!(matches!(find(&flipped, isn), Found::Forged | Found::Unknown));

    let list = rest.get(9..).unwrap_or_default();
    let list = &list[..list.len().min(40) / 4 * 4];
    // Nobody but the holder of the key makes one: whatever is found was made from its promise.
    if let Found::Authentic(found) = find(list, isn) {
        let made = found.encode(&keys(), &flow(), isn).unwrap();
        assert!(list.windows(LENGTH).any(|window| window == made));
    }
    strip_leaves_none([list, &bytes].concat());
    strip_leaves_none([&bytes, list].concat());
}

/// Strips a segment with these options, as far as they fit.
fn strip_leaves_none(options: Vec<u8>) {
    let options = &options[..options.len().min(40)];
    let mut segment = vec![0; 20];
    segment[12] = ((20 + options.len()) as u8 / 4) << 4;
    segment.extend_from_slice(options);
    let kept = strip(&Tcp::new(&segment).unwrap());
    assert!(kept.len() <= options.len().next_multiple_of(4) && kept.len().is_multiple_of(4));
    let left = Offer::find(Options::new(&kept), &keys(), &flow(), Seq::new(0));
    assert_eq!(left, Found::Nothing, "{options:02x?} became {kept:02x?}");
}

fn signed(data: &[u8]) -> Offer {
    let [what, scale, tsval @ .., high, low]: [u8; 8] = number(data);
    let late = Kind::LateConfirm(u32::from_be_bytes(tsval));
    let kind = [Kind::Spoofed, Kind::Probe, Kind::Confirm, late][usize::from(what % 4)];
    let promise = Promise {
        mss: u16::from_be_bytes([high, low]),
        window_scale: (scale < 15).then_some(scale),
        sack: what & 8 != 0,
        tsval: (what & 16 != 0).then(|| u32::from_be_bytes(tsval)),
        ecn: what & 32 != 0,
    };
    Offer { kind, key: 1, promise }
}

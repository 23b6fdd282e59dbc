//! The signalling option between the NICs: offer and probe on a SYN, confirm on a SYN-ACK.
//!
//! ```text
//!  byte 0    1    2-3    4                       5                      6-7   8-11   12-19
//!      kind len  ExID   version:4 key:2 type:2  scale:4 sack ts ecn 0   MSS   TSval  MAC
//!      253  20   0x5A52
//! ```
//!
//! Kind 253 with an experiment identifier (RFC 6994), 20 bytes: with MSS, SACK-permitted,
//! timestamps and window scale it just fills the 40 bytes there are. The MAC is SipHash-2-4 over
//! the 4-tuple, the client's ISN and the 12 bytes before it. A late confirm has µs for the TSval.

use crate::flow::FlowKey;
use crate::seq::{Client, Promised, Seq};
use crate::wire::options::{Options, TcpOption, kind};
use crate::wire::tcp::{MAX_OPTIONS, Tcp};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Length of the option in bytes.
pub const LENGTH: usize = 20;
const EXPERIMENT_ID: [u8; 2] = [0x5a, 0x52];
/// What the option begins with. NICs put it in front of all other options.
pub const PREFIX: [u8; 4] = [kind::EXPERIMENT, LENGTH as u8, EXPERIMENT_ID[0], EXPERIMENT_ID[1]];
const VERSION: u8 = 1;
const NO_WINDOW_SCALE: u8 = 15;
const MAC_AT: usize = 12;

/// A secret and the id by which packets name it.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: u8,
    secret: [u8; 16],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key {{ id: {}, secret: hidden }}", self.id)
    }
}

/// The secrets both NICs share: the one that signs, and during rotation the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
}

/// Two keys with the same id, or an id above 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key ids must differ and lie between 0 and 3")]
pub struct KeyIdError;

/// Names a key of [`Keys`]: 0–3.
pub type KeyId = u8;

impl Keys {
    /// Takes the signing key and the one that is still accepted, each an id (0–3) and 16 bytes.
    ///
    /// # Errors
    /// [`KeyIdError`] if an id is above 3 or both are the same.
    pub fn new(current: (KeyId, [u8; 16]), previous: Option<(KeyId, [u8; 16])>) -> Result<Self, KeyIdError> {
        if current.0 > 3 || previous.is_some_and(|(id, _)| id > 3 || id == current.0) {
            return Err(KeyIdError);
        }
        let key = |(id, secret)| Key { id, secret };
        Ok(Self { current: key(current), previous: previous.map(key) })
    }

    /// Returns the id of the key that signs.
    pub fn signing(&self) -> KeyId {
        self.current.id
    }

    /// Returns the secret that signs, for a fast path that does so itself.
    pub fn signing_secret(&self) -> [u8; 16] {
        self.current.secret
    }

    /// Returns the ids of all keys that are accepted, the signing one first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        std::iter::once(&self.current).chain(&self.previous).map(|key| key.id)
    }

    /// Returns the ISN `S` promised to a client: a keyed hash of 4-tuple and client ISN, so that
    /// it can be repeated and recognised without state. `None` if there is no key of that id.
    pub fn promised_isn(&self, id: KeyId, flow: &FlowKey, client: Seq<Client>) -> Option<Seq<Promised>> {
        Some(Seq::new(self.hash(id, b'S', flow, client, &[])? as u32))
    }

    /// Returns the TSval promised to a client, likewise; never 0, which would mean "none".
    pub fn promised_tsval(&self, id: KeyId, flow: &FlowKey, client: Seq<Client>) -> Option<u32> {
        Some((self.hash(id, b'T', flow, client, &[])? as u32).max(1))
    }

    fn mac(&self, id: KeyId, flow: &FlowKey, client: Seq<Client>, option: &[u8]) -> Option<[u8; 8]> {
        Some(self.hash(id, b'M', flow, client, option)?.to_be_bytes())
    }

    /// `domain` keeps the three uses of one secret apart.
    fn hash(&self, id: KeyId, domain: u8, flow: &FlowKey, client: Seq<Client>, more: &[u8]) -> Option<u64> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.find(|key| key.id == id)?;
        let mut hasher = SipHasher24::new_with_key(&key.secret);
        hasher.write(&[domain]);
        hasher.write(&flow.to_bytes());
        hasher.write(&client.get().to_be_bytes());
        hasher.write(more);
        Some(hasher.finish())
    }
}

/// What the option says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On a SYN: the client has been answered, this is what it was promised.
    Spoofed,
    /// On a SYN: the client has not been answered; is there a ServerNIC?
    Probe,
    /// On a SYN-ACK: there is, and it has taken over.
    Confirm,
    /// Likewise, so many µs after it has: less than the time since says how far away it is.
    LateConfirm(u32),
}

/// What the spoofed SYN-ACK promised the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promise {
    /// The server's MSS in bytes.
    pub mss: u16,
    /// The server's window scale shift, if the option was promised.
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// The server's first TSval, if timestamps were promised.
    pub tsval: Option<u32>,
    /// Classic ECN (RFC 3168).
    pub ecn: bool,
}

/// The signalling option, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// What it says.
    pub kind: Kind,
    /// The key that signs it.
    pub key: KeyId,
    /// What was promised; all zero in a probe.
    pub promise: Promise,
}

/// What was found where the option may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No such option.
    Nothing,
    /// One with a right MAC.
    Authentic(Offer),
    /// One with a wrong MAC: treat as absent, strip, count.
    Forged,
    /// One of another version or key: treat as absent, strip, count.
    Unknown,
}

impl Offer {
    /// Writes the option.
    ///
    /// Returns `None` if `keys` has no key of id [`Offer::key`].
    pub fn encode(&self, keys: &Keys, flow: &FlowKey, client: Seq<Client>) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&[kind::EXPERIMENT, LENGTH as u8]);
        bytes[2..4].copy_from_slice(&EXPERIMENT_ID);
        let kind = match self.kind {
            Kind::Spoofed => 0,
            Kind::Probe => 1,
            Kind::Confirm => 2,
            Kind::LateConfirm(_) => 3,
        };
        bytes[4] = VERSION << 4 | self.key << 2 | kind;
        let promise = &self.promise;
        bytes[5] = promise.window_scale.unwrap_or(NO_WINDOW_SCALE) << 4
            | u8::from(promise.sack) << 3
            | u8::from(promise.tsval.is_some()) << 2
            | u8::from(promise.ecn) << 1;
        bytes[6..8].copy_from_slice(&promise.mss.to_be_bytes());
        let number =
            if let Kind::LateConfirm(micros) = self.kind { micros } else { promise.tsval.unwrap_or(0) };
        bytes[8..12].copy_from_slice(&number.to_be_bytes());
        let mac = self_mac(keys, self.key, flow, client, &bytes)?;
        bytes[MAC_AT..].copy_from_slice(&mac);
        Some(bytes)
    }

    /// Reads and verifies the option among `options`. `client` is the client's ISN: SEG.SEQ of
    /// a SYN, SEG.ACK − 1 of a SYN-ACK.
    pub fn find(options: Options<'_>, keys: &Keys, flow: &FlowKey, client: Seq<Client>) -> Found {
        let Some(option) = options.map_while(Result::ok).find(is_offer) else { return Found::Nothing };
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&[kind::EXPERIMENT, LENGTH as u8]);
        bytes[2..].copy_from_slice(option.value);
        if bytes[4] >> 4 != VERSION {
            return Found::Unknown;
        }
        let key = bytes[4] >> 2 & 3;
        let Some(mac) = self_mac(keys, key, flow, client, &bytes) else { return Found::Unknown };
        // Comparing all bytes before deciding gives a forger no timing to learn from.
        let difference = mac.iter().zip(&bytes[MAC_AT..]).fold(0, |d, (a, b)| d | (a ^ b));
        if difference != 0 {
            return Found::Forged;
        }
        let number = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let kind = match bytes[4] & 3 {
            0 => Kind::Spoofed,
            1 => Kind::Probe,
            2 => Kind::Confirm,
            _ => Kind::LateConfirm(number),
        };
        let scale = bytes[5] >> 4;
        let promise = Promise {
            mss: u16::from_be_bytes([bytes[6], bytes[7]]),
            window_scale: (scale != NO_WINDOW_SCALE).then_some(scale),
            sack: bytes[5] & 8 != 0,
            tsval: (bytes[5] & 4 != 0).then_some(number),
            ecn: bytes[5] & 2 != 0,
        };
        Found::Authentic(Self { kind, key, promise })
    }
}

fn self_mac(
    keys: &Keys,
    id: KeyId,
    flow: &FlowKey,
    client: Seq<Client>,
    option: &[u8; LENGTH],
) -> Option<[u8; 8]> {
    keys.mac(id, flow, client, &option[..MAC_AT])
}

/// Tells whether `option` has the signalling option's kind, length and experiment id.
pub fn is_offer(option: &TcpOption<'_>) -> bool {
    option.kind == kind::EXPERIMENT && option.value.len() == LENGTH - 2 && option.value[..2] == EXPERIMENT_ID
}

/// Returns the options of a SYN or SYN-ACK without the signalling option, padded to whole words:
/// 0–40 bytes.
pub fn strip(tcp: &Tcp<'_>) -> Vec<u8> {
    let mut kept = Vec::with_capacity(MAX_OPTIONS);
    for option in tcp.options().map_while(Result::ok).filter(|option| !is_offer(option)) {
        kept.extend_from_slice(&tcp.option_bytes()[option.offset..option.offset + option.length()]);
    }
    kept.resize(kept.len().next_multiple_of(4), kind::END);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Direction;
    use proptest::prelude::*;

    fn flow() -> FlowKey {
        FlowKey::new(([10, 1, 0, 10].into(), 40_000), ([10, 1, 2, 10].into(), 80), Direction::ToServer)
    }

    fn keys() -> Keys {
        Keys::new((2, [7; 16]), Some((1, [9; 16]))).unwrap()
    }

    prop_compose! {
        fn promise()(
            mss in any::<u16>(), window_scale in proptest::option::of(0u8..=14), sack in any::<bool>(),
            tsval in proptest::option::of(any::<u32>()), ecn in any::<bool>(),
        ) -> Promise {
            Promise { mss, window_scale, sack, tsval, ecn }
        }
    }

    proptest! {
        #[test]
        fn reads_back_and_any_flipped_bit_is_noticed(
            promise in promise(), which in 0usize..4, isn in any::<u32>(), late in any::<u32>(),
            byte in 4usize..LENGTH, bit in 0u32..8, key in 1u8..=2,
        ) {
            let kind = [Kind::Spoofed, Kind::Probe, Kind::Confirm, Kind::LateConfirm(late)][which];
            let promise = if which == 3 { Promise { tsval: None, ..promise } } else { promise };
            let offer = Offer { kind, key, promise };
            let mut bytes = offer.encode(&keys(), &flow(), Seq::new(isn)).unwrap();
            let find = |bytes: &[u8], isn| {
                Offer::find(Options::new(bytes), &keys(), &flow(), Seq::new(isn))
            };
            prop_assert_eq!(find(&bytes, isn), Found::Authentic(offer));
            prop_assert_eq!(find(&bytes, isn ^ 1), Found::Forged);
            bytes[byte] ^= 1 << bit;
            prop_assert!(matches!(find(&bytes, isn), Found::Forged | Found::Unknown));
        }
    }

    #[test]
    fn the_three_hashes_differ_and_depend_on_the_key() {
        let isn = Seq::new(5);
        let keys = keys();
        let s = keys.promised_isn(2, &flow(), isn).unwrap().get();
        assert_ne!(s, keys.promised_tsval(2, &flow(), isn).unwrap());
        assert_ne!(s, keys.promised_isn(1, &flow(), isn).unwrap().get());
        assert_eq!(keys.promised_isn(0, &flow(), isn), None);
    }

    #[test]
    fn ids_must_differ() {
        assert!(Keys::new((1, [0; 16]), Some((1, [1; 16]))).is_err());
        assert!(Keys::new((4, [0; 16]), None).is_err());
        assert_eq!(keys().ids().collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn another_experiment_is_not_ours() {
        let tfo = [kind::EXPERIMENT, 4, 0xf9, 0x89];
        assert_eq!(Offer::find(Options::new(&tfo), &keys(), &flow(), Seq::new(1)), Found::Nothing);
    }
}

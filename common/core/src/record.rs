//! An established flow in 128 bytes, so that it outlives the process that translates it.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | format version |
//! | 1 | how far the flow has ended: [`Stage`] |
//! | 2 | which of the optional fields below are there, and other flags |
//! | 3, 4 | left shift of the client's and the server's window field, signed |
//! | 5 | SYN-ACK: window scale |
//! | 6–7 | the server's MSS if it is smaller than promised, else 0 |
//! | 8–43 | client address, server address, client port, server port: [`FlowKey::to_bytes`] |
//! | 44–47, 48–51, 52–55 | promised ISN `S`, real ISN `Y`, client ISN |
//! | 56–59 | τ |
//! | 60–61, 62–63 | SYN-ACK: MSS, window |
//! | 64–67, 68–71 | SYN-ACK: TSval, TSecr |
//! | 72 | the client's window scale, 0 unless both ends scale |
//! | 73–119 | 0 |
//! | 120–127 | SipHash-2-4 of the bytes before, under a key of zeros |
//!
//! Numbers are little-endian, addresses and ports as in the key. The hash finds damage; who may write
//! the record is the file system's business. What changes with every segment (how far each end has
//! come) is not in it: [`Translated::restore`](crate::translated::Translated::restore) learns it anew.

use crate::flow::FlowKey;
use crate::profile::SynAck;
use crate::seq::{Client, Seq};
use crate::translate::{Parts, Translation};
use crate::translated::Stage;
use crate::wire::options::{MAX_WINDOW_SCALE, SynOptions, Timestamps};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Length in bytes. A power of two: no record lies across two pages, so that the kernel writes it
/// whole or not at all, also if the writer is killed.
pub const LENGTH: usize = 128;
/// Format version; to be raised with any change of the layout.
pub const VERSION: u8 = 2;

const HASH_AT: usize = LENGTH - 8;

/// Flags of byte 2.
mod flag {
    pub(super) const TIMESTAMPS: u8 = 1;
    pub(super) const ERASE_SACK: u8 = 1 << 1;
    pub(super) const HIDE_ECHO: u8 = 1 << 2;
    pub(super) const ANSWER_MSS: u8 = 1 << 3;
    pub(super) const ANSWER_WINDOW_SCALE: u8 = 1 << 4;
    pub(super) const ANSWER_SACK: u8 = 1 << 5;
    pub(super) const ANSWER_TIMESTAMPS: u8 = 1 << 6;
    pub(super) const ANSWER_ECN: u8 = 1 << 7;
}

/// What has to be known of an established flow to translate on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The flow.
    pub key: FlowKey,
    /// How its numbers are translated.
    pub translation: Translation,
    /// The client's ISN.
    pub client_isn: Seq<Client>,
    /// Left shift of the client's window field, 0–14; 0 unless both ends scale (RFC 7323 §2.2).
    pub client_window_scale: u8,
    /// The real SYN-ACK's contents, with which a repeated offer is confirmed.
    pub answer: SynAck,
    /// How far it has ended.
    pub stage: Stage,
}

/// Why 128 bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARecord {
    /// Written by another version.
    #[error("written in format {0}, not {VERSION}")]
    Version(u8),
    /// Damaged.
    #[error("its checksum is wrong")]
    Checksum,
    /// Whole, but no flow can be like this.
    #[error("it describes no possible flow")]
    Impossible,
}

impl Record {
    /// Writes it down.
    pub fn encode(&self) -> [u8; LENGTH] {
        let (parts, options) = (self.translation.parts(), &self.answer.options);
        let timestamps = options.timestamps.unwrap_or(Timestamps { value: 0, echo: 0 });
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1] = self.stage.bits();
        bytes[2] = [
            (parts.tsval_offset.is_some(), flag::TIMESTAMPS),
            (parts.erase_sack, flag::ERASE_SACK),
            (parts.hide_echo, flag::HIDE_ECHO),
            (options.mss.is_some(), flag::ANSWER_MSS),
            (options.window_scale.is_some(), flag::ANSWER_WINDOW_SCALE),
            (options.sack_permitted, flag::ANSWER_SACK),
            (options.timestamps.is_some(), flag::ANSWER_TIMESTAMPS),
            (self.answer.ecn, flag::ANSWER_ECN),
        ]
        .into_iter()
        .fold(0, |flags, (set, flag)| if set { flags | flag } else { flags });
        bytes[3] = parts.client_window_shift.cast_unsigned();
        bytes[4] = parts.server_window_shift.cast_unsigned();
        bytes[5] = options.window_scale.unwrap_or(0);
        bytes[6..8].copy_from_slice(&parts.mss_limit.to_le_bytes());
        bytes[72] = self.client_window_scale;
        bytes[8..44].copy_from_slice(&self.key.to_bytes());
        bytes[60..62].copy_from_slice(&options.mss.unwrap_or(0).to_le_bytes());
        bytes[62..64].copy_from_slice(&self.answer.window.to_le_bytes());
        for (at, number) in [
            (44, parts.promised_isn.get()),
            (48, parts.real_isn.get()),
            (52, self.client_isn.get()),
            (56, parts.tsval_offset.unwrap_or(0)),
            (64, timestamps.value),
            (68, timestamps.echo),
        ] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let hash = hash(&bytes).to_le_bytes();
        bytes[HASH_AT..].copy_from_slice(&hash);
        bytes
    }

    /// Reads it back; `None` if nothing is there: all bytes are 0.
    ///
    /// # Errors
    /// [`NotARecord`].
    pub fn decode(bytes: &[u8; LENGTH]) -> Result<Option<Self>, NotARecord> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let number = |at| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let short = |at| u16::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        if hash(bytes) != u64::from(number(HASH_AT)) | u64::from(number(HASH_AT + 4)) << 32 {
            return Err(NotARecord::Checksum);
        }
        if bytes[0] != VERSION {
            return Err(NotARecord::Version(bytes[0]));
        }
        let has = |flag| bytes[2] & flag != 0;
        let options = SynOptions {
            mss: has(flag::ANSWER_MSS).then(|| short(60)),
            window_scale: has(flag::ANSWER_WINDOW_SCALE).then_some(bytes[5]),
            sack_permitted: has(flag::ANSWER_SACK),
            timestamps: has(flag::ANSWER_TIMESTAMPS)
                .then(|| Timestamps { value: number(64), echo: number(68) }),
        };
        let parts = Parts {
            promised_isn: Seq::new(number(44)),
            real_isn: Seq::new(number(48)),
            tsval_offset: has(flag::TIMESTAMPS).then(|| number(56)),
            client_window_shift: bytes[3].cast_signed(),
            server_window_shift: bytes[4].cast_signed(),
            mss_limit: short(6),
            erase_sack: has(flag::ERASE_SACK),
            hide_echo: has(flag::HIDE_ECHO),
            syn_ack_tsval: options.timestamps.map_or(0, |timestamps| timestamps.value),
        };
        let scales_are_possible = options.window_scale.unwrap_or(0).max(bytes[72]) <= MAX_WINDOW_SCALE;
        let translation = Translation::from_parts(parts).filter(|_| scales_are_possible);
        Ok(Some(Self {
            key: FlowKey::from_bytes(std::array::from_fn(|index| bytes[8 + index])),
            translation: translation.ok_or(NotARecord::Impossible)?,
            client_isn: Seq::new(number(52)),
            client_window_scale: bytes[72],
            answer: SynAck { options, window: short(62), ecn: has(flag::ANSWER_ECN) },
            stage: Stage::from_bits(bytes[1]).ok_or(NotARecord::Impossible)?,
        }))
    }
}

fn hash(bytes: &[u8; LENGTH]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(&bytes[..HASH_AT]);
    hasher.finish()
}

#[cfg(test)]
mod tests;

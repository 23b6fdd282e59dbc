//! The ledger's own reading of a segment.

use super::End;
use rtt0_core::wire::options::kind;
use rtt0_core::wire::tcp::{Flags, Tcp};

/// What a segment says, as far as the ledger cares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) flags: Flags,
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) window: u16,
    /// Bytes of payload, and with those of the options.
    pub(super) payload: usize,
    pub(super) with_options: usize,
    pub(super) sequence_length: u32,
    /// TSval and TSecr.
    pub(super) timestamps: Option<(u32, u32)>,
    /// Edges of SACK blocks.
    pub(super) sack: [Option<u32>; 8],
    /// MSS and window scale of a SYN or SYN-ACK; MSS 0 if it has none.
    pub(super) syn: Option<(u16, Option<u8>)>,
}

impl Said {
    /// Tells whether every SACK edge lies in what `end` has sent.
    pub(super) fn sack_within(&self, end: &End) -> bool {
        self.sack.iter().flatten().all(|edge| edge.wrapping_sub(end.isn) <= end.sent)
    }

    /// Reads a segment.
    pub(super) fn read(view: &Tcp<'_>) -> Self {
        let flags = view.flags();
        let number = |value: &[u8], at: usize| {
            value.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
        };
        let mut said = Self {
            flags,
            seq: view.sequence(),
            ack: flags.contains(Flags::ACK).then(|| view.acknowledgement()),
            window: view.window(),
            payload: view.payload().len(),
            with_options: view.payload().len() + view.option_bytes().len(),
            sequence_length: view.sequence_length(),
            timestamps: None,
            sack: [None; 8],
            syn: flags.contains(Flags::SYN).then_some((0, None)),
        };
        for option in view.options().map_while(Result::ok) {
            match option.kind {
                kind::TIMESTAMPS => {
                    said.timestamps = Some((number(option.value, 0), number(option.value, 4)))
                }
                kind::SACK => {
                    for (slot, edge) in said.sack.iter_mut().zip(option.value.chunks_exact(4)) {
                        *slot = Some(number(edge, 0));
                    }
                }
                kind::MSS if option.value.len() == 2 => {
                    if let Some((mss, _)) = &mut said.syn {
                        *mss = u16::from_be_bytes([option.value[0], option.value[1]]);
                    }
                }
                kind::WINDOW_SCALE if option.value.len() == 1 => {
                    if let Some((_, scale)) = &mut said.syn {
                        *scale = Some(option.value[0].min(14));
                    }
                }
                _ => {}
            }
        }
        said
    }
}

//! A translation taken apart and put together again, for those who write it down.

use super::Translation;
use crate::seq::{Delta, Promised, Real, Seq};
use crate::wire::options::MAX_WINDOW_SCALE;

/// Everything a translation consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    /// ISN `S`.
    pub(crate) promised_isn: Seq<Promised>,
    /// ISN `Y`.
    pub(crate) real_isn: Seq<Real>,
    /// τ, if timestamps are in use.
    pub(crate) tsval_offset: Option<u32>,
    /// Left shift of the client's window field.
    pub(crate) client_window_shift: i8,
    /// Left shift of the server's window field.
    pub(crate) server_window_shift: i8,
    /// The server's MSS in bytes if it is smaller than promised, else 0.
    pub(crate) mss_limit: u16,
    /// The client's SACK blocks become NOPs.
    pub(crate) erase_sack: bool,
    /// Echoes of the SYN-ACK are hidden until the client acknowledges something.
    pub(crate) hide_echo: bool,
    /// The TSval of the server's SYN-ACK, 0 without timestamps.
    pub(crate) syn_ack_tsval: u32,
}

impl Translation {
    /// Takes it apart.
    pub(crate) fn parts(&self) -> Parts {
        Parts {
            promised_isn: self.promised_isn(),
            real_isn: self.real_isn,
            tsval_offset: self.tsval_offset,
            client_window_shift: self.client_window_shift,
            server_window_shift: self.server_window_shift,
            mss_limit: self.mss_limit,
            erase_sack: self.erase_sack,
            hide_echo: self.hide_echo,
            syn_ack_tsval: self.syn_ack_tsval,
        }
    }

    /// Puts it together; `None` if a window is shifted further than any option asks for.
    pub(crate) fn from_parts(parts: Parts) -> Option<Self> {
        let possible = |shift: i8| shift.unsigned_abs() <= MAX_WINDOW_SCALE;
        let translation = Self {
            delta: Delta::between(parts.promised_isn, parts.real_isn),
            tsval_offset: parts.tsval_offset,
            real_isn: parts.real_isn,
            client_window_shift: parts.client_window_shift,
            server_window_shift: parts.server_window_shift,
            mss_limit: parts.mss_limit,
            erase_sack: parts.erase_sack,
            hide_echo: parts.hide_echo,
            syn_ack_tsval: parts.syn_ack_tsval,
        };
        (possible(parts.client_window_shift) && possible(parts.server_window_shift)).then_some(translation)
    }
}

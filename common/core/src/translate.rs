//! The rewrite checklist: the only user of δ and τ.
//!
//! With δ = S − Y (promised minus real ISN) and τ = promised minus real TSval:
//!
//! | packet | change |
//! |---|---|
//! | server → client | SEQ += δ; TSval += τ; window shifted if the scales differ |
//! | client → server | ACK −= δ if ACK is set; SACK edges −= δ; TSecr −= τ; window likewise |
//! | ICMP error | the quoted SEQ or ACK, back into the space of whoever receives the error |
//!
//! RST, FIN, challenge ACKs, keepalives and zero-window probes follow the same rules. Client SEQ
//! and server ACK are real on both sides and never touched.

mod parts;

pub(crate) use parts::Parts;

use crate::offer::Promise;
use crate::profile::SynAck;
use crate::seq::{Delta, Promised, Real, Seq};
use crate::service::Direction;
use crate::translated::Sent;
use crate::wire::icmp::Quote;
use crate::wire::options::kind;
use crate::wire::segment::Segment;
use crate::wire::tcp::{Flags, Tcp};
use crate::wire::{read_u32, tcp};

/// The server refused timestamps that the client was promised: nothing can repair that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server refused the timestamps that were promised")]
pub struct BrokenTimestamps;

/// Which promises need repair, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repairs {
    /// The window field is shifted.
    pub window_scale: bool,
    /// Client segments are cut to the server's smaller MSS.
    pub mss: bool,
    /// The client's SACK blocks are replaced by NOPs.
    pub sack: bool,
}

/// The constant difference between what a client was promised and what its server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    delta: Delta,
    /// τ, if timestamps are in use.
    tsval_offset: Option<u32>,
    real_isn: Seq<Real>,
    /// Left shift of the client's window field (negative: right).
    client_window_shift: i8,
    /// Left shift of the server's window field (negative: right).
    server_window_shift: i8,
    /// The server's MSS in bytes if it is smaller than promised, else 0.
    mss_limit: u16,
    erase_sack: bool,
    /// No RTT sample may be taken from the handshake: TSecr is 0 until the client acknowledges
    /// something beyond the SYN-ACK.
    hide_echo: bool,
    /// The TSval of the server's SYN-ACK, 0 without timestamps.
    syn_ack_tsval: u32,
}

/// Both ends of a promise: what a client was told and what its server answered.
#[derive(Debug, Clone, Copy)]
pub struct Agreement<'a> {
    /// ISN `S`.
    pub promised_isn: Seq<Promised>,
    /// ISN `Y`.
    pub real_isn: Seq<Real>,
    /// What the spoofed SYN-ACK said.
    pub promise: &'a Promise,
    /// What the real one said.
    pub answer: &'a SynAck,
    /// The window scale the client offered, 0 if none.
    pub client_window_scale: u8,
}

impl Translation {
    /// Works out how to keep the promise. `hide_echo` asks for RTT honesty: see
    /// [`Translation::client_to_server`].
    ///
    /// # Errors
    /// [`BrokenTimestamps`]: both sides must be reset.
    pub fn new(agreement: Agreement<'_>, hide_echo: bool) -> Result<(Self, Repairs), BrokenTimestamps> {
        let Agreement { promised_isn, real_isn, promise, answer, client_window_scale } = agreement;
        let real = &answer.options;
        let tsval_offset = match (promise.tsval, real.timestamps) {
            (Some(promised), Some(timestamps)) => Some(promised.wrapping_sub(timestamps.value)),
            (Some(_), None) => return Err(BrokenTimestamps),
            (None, _) => None,
        };
        let scale = |shift: Option<u8>| shift.map_or(0, |s| s as i8);
        // RFC 7323 §2.2: scaling is in effect for both directions or for none.
        let in_effect = |own: Option<u8>| if own.is_some() { client_window_scale as i8 } else { 0 };
        let server_window_shift = scale(real.window_scale) - scale(promise.window_scale);
        let client_window_shift = in_effect(promise.window_scale) - in_effect(real.window_scale);
        let real_mss = real.mss.unwrap_or(promise.mss);
        let mss_limit = if real_mss < promise.mss { real_mss } else { 0 };
        let erase_sack = promise.sack && !real.sack_permitted;
        let repairs = Repairs {
            window_scale: server_window_shift != 0 || client_window_shift != 0,
            mss: mss_limit != 0,
            sack: erase_sack,
        };
        let delta = Delta::between(promised_isn, real_isn);
        let translation = Self {
            delta,
            tsval_offset,
            real_isn,
            client_window_shift,
            server_window_shift,
            mss_limit,
            erase_sack,
            hide_echo,
            syn_ack_tsval: real.timestamps.map_or(0, |timestamps| timestamps.value),
        };
        Ok((translation, repairs))
    }

    /// Returns the server's ISN `Y`.
    pub fn real_isn(&self) -> Seq<Real> {
        self.real_isn
    }

    /// Returns the ISN `S` the client was promised.
    pub fn promised_isn(&self) -> Seq<Promised> {
        self.delta.to_promised(self.real_isn)
    }

    /// Tells whether echoes are hidden still: the client has acknowledged nothing that the server
    /// sent after its SYN-ACK.
    pub(crate) fn hides_echo(&self) -> bool {
        self.hide_echo
    }

    /// Turns what the client acknowledges into the server's number.
    pub fn to_real(&self, promised: Seq<Promised>) -> Seq<Real> {
        self.delta.to_real(promised)
    }

    /// Returns the largest payload in bytes that the server takes of a client segment with
    /// `option_bytes` bytes of options, if that is less than the client was told.
    pub fn payload_limit(&self, option_bytes: usize) -> Option<u16> {
        // RFC 6691: the MSS counts no options, so those in use come off it.
        (self.mss_limit != 0).then(|| self.mss_limit.saturating_sub(option_bytes as u16).max(1))
    }

    /// Returns what a segment from the client will say of it once it is rewritten.
    pub(crate) fn client_sends(&self, tcp: &Tcp<'_>) -> Sent {
        let sent = Sent::of(tcp);
        let acknowledgement = match sent.flags.contains(Flags::ACK) {
            true => self.delta.to_real(Seq::new(sent.acknowledgement)).get(),
            false => sent.acknowledgement,
        };
        let shift = if sent.flags.contains(Flags::SYN) { 0 } else { self.client_window_shift };
        Sent { acknowledgement, window: shifted(sent.window, shift), ..sent }
    }

    /// Rewrites a segment from the client.
    ///
    /// While the segment acknowledges nothing beyond the SYN-ACK, an echo of its TSval becomes 0 if
    /// echoes are hidden: the server completes its handshake with a NIC nearby, and the echo would
    /// tell it an RTT far below the path's. (An older TSecr is rejected by Linux ≥ 6.15.) Later
    /// echoes stay, or the server could not size its window to an upload.
    pub fn client_to_server(&mut self, segment: &mut Segment<'_>) {
        let flags = segment.tcp().flags();
        let mut hide_echo = false;
        if flags.contains(Flags::ACK) {
            let real = self.delta.to_real(Seq::new(segment.tcp().acknowledgement()));
            segment.set_acknowledgement(real.get());
            let beyond = real.beyond(self.real_isn.plus(1));
            if beyond > 0 {
                self.hide_echo = false;
            }
            hide_echo = self.hide_echo && beyond == 0;
        }
        shift_window(segment, flags, self.client_window_shift);
        self.client_options(segment, hide_echo);
    }

    /// Rewrites a segment from the server.
    pub fn server_to_client(&self, segment: &mut Segment<'_>) {
        let real = Seq::new(segment.tcp().sequence());
        segment.set_sequence(self.delta.to_promised(real).get());
        shift_window(segment, segment.tcp().flags(), self.server_window_shift);
        let Some(offset) = self.tsval_offset else { return };
        let timestamps = segment
            .tcp()
            .options()
            .map_while(Result::ok)
            .find(|option| option.kind == kind::TIMESTAMPS && option.value.len() == 8)
            .map(|option| (option.offset, read_u32(option.value, 0)));
        if let Some((at, value)) = timestamps {
            segment.patch_option_number(at + 2, value.wrapping_add(offset));
        }
    }

    /// Rewrites what an ICMP error quotes of a segment that travelled in `quoted` direction, as
    /// it looked on the far side of this translation, into what its sender sent.
    pub fn quote(&self, quote: &mut Quote<'_>, quoted: Direction) {
        match quoted {
            Direction::ToClient => {
                let promised = Seq::new(quote.sequence());
                quote.set_sequence(self.delta.to_real(promised).get());
            }
            Direction::ToServer => {
                if let Some(real) = quote.acknowledgement() {
                    quote.set_acknowledgement(self.delta.to_promised(Seq::new(real)).get());
                }
            }
        }
    }

    fn client_options(&self, segment: &mut Segment<'_>, hide_echo: bool) {
        // The options are copied out (40 bytes at most), so that they can be patched while
        // they are walked.
        let mut copy = [0u8; tcp::MAX_OPTIONS];
        let length = segment.tcp().option_bytes().len();
        copy[..length].copy_from_slice(segment.tcp().option_bytes());
        for option in crate::wire::options::Options::new(&copy[..length]).map_while(Result::ok) {
            match option.kind {
                kind::TIMESTAMPS if option.value.len() == 8 => {
                    let Some(offset) = self.tsval_offset else { continue };
                    let echo = read_u32(option.value, 4);
                    let real = echo.wrapping_sub(offset);
                    let hidden = echo == 0 || (hide_echo && real == self.syn_ack_tsval);
                    let real = if hidden { 0 } else { real };
                    segment.patch_option_number(option.offset + 6, real);
                }
                kind::SACK if self.erase_sack => {
                    let nops = [kind::NOP; tcp::MAX_OPTIONS];
                    segment.patch_options(option.offset, &nops[..option.length()]);
                }
                kind::SACK => {
                    for (index, edge) in option.value.chunks_exact(4).enumerate() {
                        let real = self.delta.to_real(Seq::new(read_u32(edge, 0)));
                        segment.patch_option_number(option.offset + 2 + index * 4, real.get());
                    }
                }
                _ => {}
            }
        }
    }
}

/// The window of a SYN is never scaled (RFC 7323 §2.2).
fn shift_window(segment: &mut Segment<'_>, flags: Flags, left: i8) {
    if left == 0 || flags.contains(Flags::SYN) {
        return;
    }
    segment.set_window(shifted(segment.tcp().window(), left));
}

fn shifted(window: u16, left: i8) -> u16 {
    let window = u32::from(window);
    let shifted = if left > 0 { window << left } else { window >> -left };
    u16::try_from(shifted).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;

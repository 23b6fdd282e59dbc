//! TCP options (RFC 9293 §3.2, RFC 2018, RFC 7323), iterated without losing any.

use super::{Malformed, read_u16, read_u32};

/// Option kinds that this code knows (IANA "TCP Option Kind Numbers").
pub mod kind {
    /// End of option list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted.
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK blocks.
    pub const SACK: u8 = 5;
    /// Timestamps.
    pub const TIMESTAMPS: u8 = 8;
    /// RFC 3692-style experiment 1, shared by experiment id (RFC 6994).
    pub const EXPERIMENT: u8 = 253;
}

/// RFC 7323 §2.3: a larger shift is taken as this.
pub const MAX_WINDOW_SCALE: u8 = 14;

/// Bytes of options of a SYN that asks for all that current systems ask for.
const USUAL: usize = 20;

/// One option as it stands in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Its kind.
    pub kind: u8,
    /// Where its kind byte stands, in bytes from the start of the options.
    pub offset: usize,
    /// Its value: what follows kind and length; empty for NOP.
    pub value: &'a [u8],
}

impl TcpOption<'_> {
    /// Returns the bytes it takes, kind and length included.
    pub fn length(&self) -> usize {
        if self.kind == kind::NOP { 1 } else { self.value.len() + 2 }
    }
}

/// Iterator over all options up to the end of the list. NOPs are yielded, END is not. After a
/// malformed option it yields one error and then ends.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// Iterates over `bytes`, the option part of a TCP header.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<TcpOption<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let kind = *self.bytes.get(offset)?;
        match kind {
            kind::END => {
                self.at = self.bytes.len();
                None
            }
            kind::NOP => {
                self.at += 1;
                Some(Ok(TcpOption { kind, offset, value: &[] }))
            }
            _ => {
                let length = self.bytes.get(offset + 1).copied().map_or(0, usize::from);
                match self.bytes.get(offset + 2..offset + length) {
                    Some(value) if length >= 2 => {
                        self.at = offset + length;
                        Some(Ok(TcpOption { kind, offset, value }))
                    }
                    _ => {
                        self.at = self.bytes.len();
                        Some(Err(Malformed::Length))
                    }
                }
            }
        }
    }
}

/// The timestamps option (RFC 7323 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the echoed clock of the receiver; 0 means none.
    pub echo: u32,
}

/// The options of a SYN or SYN-ACK that a middlebox can answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SynOptions {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Window scale shift, 0–14.
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
}

/// Why a SYN's options can't be answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SynOptionsError {
    /// An option of this kind is outside the known set.
    #[error("TCP option kind {0} is not understood")]
    Unknown(u8),
    /// A length is wrong or the list is cut short.
    #[error("malformed TCP options")]
    Malformed,
}

impl SynOptions {
    /// Reads the options of a SYN or SYN-ACK; those that `skip` accepts are passed over.
    ///
    /// # Errors
    /// [`SynOptionsError`]: anything but MSS, window scale, SACK-permitted, timestamps, NOP and
    /// END, or one of those with a wrong length.
    pub fn parse(
        options: Options<'_>,
        skip: impl Fn(&TcpOption<'_>) -> bool,
    ) -> Result<Self, SynOptionsError> {
        let mut found = Self::default();
        for option in options {
            let option = option.map_err(|_| SynOptionsError::Malformed)?;
            if skip(&option) {
                continue;
            }
            match (option.kind, option.value.len()) {
                (kind::NOP, _) => {}
                (kind::MSS, 2) => found.mss = Some(read_u16(option.value, 0)),
                (kind::WINDOW_SCALE, 1) => found.window_scale = Some(option.value[0].min(MAX_WINDOW_SCALE)),
                (kind::SACK_PERMITTED, 0) => found.sack_permitted = true,
                (kind::TIMESTAMPS, 8) => {
                    let value = read_u32(option.value, 0);
                    found.timestamps = Some(Timestamps { value, echo: read_u32(option.value, 4) });
                }
                (kind::MSS | kind::WINDOW_SCALE | kind::SACK_PERMITTED | kind::TIMESTAMPS, _) => {
                    return Err(SynOptionsError::Malformed);
                }
                (other, _) => return Err(SynOptionsError::Unknown(other)),
            }
        }
        Ok(found)
    }

    /// Reads the options of a SYN or SYN-ACK that asks for all that current systems ask for, in the order Linux uses: MSS, SACK, timestamps,
    /// window scale. `None` if they are others, or in another order.
    pub fn usual(bytes: &[u8]) -> Option<Self> {
        let options = Self::parse(Options::new(bytes), |_| false).ok()?;
        let mut usual = Vec::with_capacity(USUAL);
        options.write(&mut usual);
        (usual.len() == USUAL && usual == bytes).then_some(options)
    }

    /// Appends the options in the order Linux uses, padded with NOPs to whole words: 20 bytes
    /// when all are present.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(mss) = self.mss {
            out.extend_from_slice(&[kind::MSS, 4]);
            out.extend_from_slice(&mss.to_be_bytes());
        }
        match (self.sack_permitted, self.timestamps) {
            (true, Some(_)) => out.extend_from_slice(&[kind::SACK_PERMITTED, 2]),
            (true, None) => out.extend_from_slice(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]),
            (false, Some(_)) => out.extend_from_slice(&[kind::NOP, kind::NOP]),
            (false, None) => {}
        }
        if let Some(ts) = self.timestamps {
            out.extend_from_slice(&[kind::TIMESTAMPS, 10]);
            out.extend_from_slice(&ts.value.to_be_bytes());
            out.extend_from_slice(&ts.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            out.extend_from_slice(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{TcpOptionElement, TcpOptions};
    use proptest::prelude::*;

    fn none(_: &TcpOption<'_>) -> bool {
        false
    }

    #[test]
    fn linux_syn_reads_back() {
        let all = SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 0xdead_beef, echo: 0 }),
        };
        let mut bytes = Vec::new();
        all.write(&mut bytes);
        assert_eq!(bytes.len(), 20);
        assert_eq!(SynOptions::parse(Options::new(&bytes), none), Ok(all));
        let theirs = TcpOptions::try_from_slice(&bytes).unwrap();
        let elements: Vec<_> =
            theirs.elements_iter().map(Result::unwrap).filter(|e| *e != TcpOptionElement::Noop).collect();
        assert_eq!(
            elements,
            [
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Timestamp(0xdead_beef, 0),
                TcpOptionElement::WindowScale(7)
            ]
        );
    }

    #[test]
    fn unknown_kinds_are_yielded_and_named() {
        let bytes = [kind::NOP, 34, 4, 0xaa, 0xbb, kind::MSS, 4, 5, 0xb4];
        let kinds: Vec<_> = Options::new(&bytes).map(|o| o.unwrap().kind).collect();
        assert_eq!(kinds, [kind::NOP, 34, kind::MSS]);
        assert_eq!(SynOptions::parse(Options::new(&bytes), none), Err(SynOptionsError::Unknown(34)));
        let mss = SynOptions::parse(Options::new(&bytes), |o| o.kind == 34).unwrap().mss;
        assert_eq!(mss, Some(1460));
    }

    #[test]
    fn nothing_behind_the_end_is_read() {
        let bytes = [kind::SACK_PERMITTED, 2, kind::END, kind::MSS];
        assert_eq!(Options::new(&bytes).count(), 1);
    }

    #[test]
    fn bad_lengths_are_errors() {
        for bytes in [&[2u8][..], &[2, 0], &[2, 1], &[2, 5, 0, 0], &[8, 10, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(SynOptions::parse(Options::new(bytes), none), Err(SynOptionsError::Malformed));
        }
        // Right framing, wrong length for the kind.
        assert_eq!(SynOptions::parse(Options::new(&[2, 3, 0]), none), Err(SynOptionsError::Malformed));
    }

    #[test]
    fn window_scale_is_clamped_as_rfc_7323_asks() {
        let parsed = SynOptions::parse(Options::new(&[3, 3, 200]), none).unwrap();
        assert_eq!(parsed.window_scale, Some(14));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic_and_lengths_add_up(
            bytes in proptest::collection::vec(any::<u8>(), 0..=40),
        ) {
            let mut next = 0;
            for option in Options::new(&bytes).map_while(Result::ok) {
                prop_assert_eq!(option.offset, next);
                next += option.length();
                prop_assert!(next <= bytes.len());
            }
        }

        #[test]
        fn written_options_read_back(
            mss in proptest::option::of(any::<u16>()),
            window_scale in proptest::option::of(0u8..=14),
            sack_permitted in any::<bool>(),
            ts in proptest::option::of((any::<u32>(), any::<u32>())),
        ) {
            let timestamps = ts.map(|(value, echo)| Timestamps { value, echo });
            let options = SynOptions { mss, window_scale, sack_permitted, timestamps };
            let mut bytes = Vec::new();
            options.write(&mut bytes);
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert!(bytes.len() <= 20);
            prop_assert_eq!(SynOptions::parse(Options::new(&bytes), none), Ok(options));
        }
    }
}

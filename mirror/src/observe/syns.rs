//! What the SYNs carry.

use rtt0_core::wire::options::kind;
use rtt0_core::wire::tcp::{Flags, Tcp};

/// The largest MSS, window scale or kind, plus one.
const MSS_VALUES: usize = 1 << 16;
const KINDS: usize = 1 << 8;

/// Counts options of SYNs, each connection's first only.
#[derive(Debug)]
pub(super) struct Syns {
    pub(super) seen: u64,
    /// SYNs by their MSS: exact, for any of 65,536 may be the most frequent.
    pub(super) mss: Vec<u32>,
    /// SYNs by their window scale, as it stands there.
    pub(super) window_scale: [u64; KINDS],
    /// SYNs that have an option of this kind, however often.
    pub(super) kinds: [u64; KINDS],
    pub(super) malformed: u64,
    pub(super) ecn: u64,
    pub(super) payload: u64,
}

impl Syns {
    pub(super) fn new() -> Self {
        Self {
            seen: 0,
            mss: vec![0; MSS_VALUES],
            window_scale: [0; KINDS],
            kinds: [0; KINDS],
            malformed: 0,
            ecn: 0,
            payload: 0,
        }
    }

    pub(super) fn add(&mut self, tcp: &Tcp<'_>, payload: u32) {
        self.seen += 1;
        self.payload += u64::from(payload > 0);
        self.ecn += u64::from(tcp.flags().contains(Flags::ECE | Flags::CWR));
        let mut met = [0u64; KINDS / 64];
        for option in tcp.options() {
            let Ok(option) = option else {
                self.malformed += 1;
                return;
            };
            let (word, bit) = (usize::from(option.kind / 64), 1 << (option.kind % 64));
            if met[word] & bit != 0 {
                continue;
            }
            met[word] |= bit;
            self.kinds[usize::from(option.kind)] += 1;
            match (option.kind, option.value) {
                (kind::MSS, [high, low]) => {
                    let cell = &mut self.mss[usize::from(u16::from_be_bytes([*high, *low]))];
                    *cell = cell.saturating_add(1);
                }
                (kind::WINDOW_SCALE, [shift]) => self.window_scale[usize::from(*shift)] += 1,
                _ => {}
            }
        }
    }
}

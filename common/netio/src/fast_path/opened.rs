//! Handshakes with servers that the kernel has begun, as one worker hears of them.

use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Pod;
use aya::maps::{HashMap, MapData};
use rtt0_core::accept::Opened;
use rtt0_core::flow::FlowKey;
use rtt0_core::offload::{KERNEL_KEY, KernelKey};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;

use super::queue::Queue;

/// Bytes of the longest SYN with an offer and of the longest SYN-ACK: an IPv6 header, and a TCP header with 40 and 20 bytes of options.
const LONGEST_SYN: usize = 100;
const LONGEST_ANSWER: usize = 80;
/// What has become of a handshake.
const BEGUN: u32 = 0;
const LEFT: u32 = 1;
const MADE: u32 = 2;
/// How often a place is looked at whose handshake the program has just taken: it says at once what has become of it.
const LOOKS: usize = 1000;

/// What `opened` has in a place.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    syn: [u8; LONGEST_SYN],
    answer: [u8; LONGEST_ANSWER],
    syn_length: u32,
    answer_length: u32,
    state: u32,
    /// Of the monotonic clock, ns.
    at: u64,
}

/// `struct opening`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    numbers: [u32; 6],
    promised: [u16; 2],
    client_is_lower: u8,
    has_answer: u8,
    zero: [u8; 2],
    answer: [u8; LONGEST_ANSWER],
    answer_length: u32,
}

// SAFETY: both consist of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Place {}
// SAFETY: as above.
unsafe impl Pod for Opening {}

/// A worker's queue of them, and those that are not made.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) queue: Queue<Place>,
    pub(super) openings: HashMap<MapData, [u8; KERNEL_KEY], Opening>,
    /// Whose SYNs are the engine's.
    pub(super) left: HashMap<MapData, [u8; KERNEL_KEY], u32>,
}

impl Accepted {
    /// Returns the next one. One that is not made is taken from the program.
    pub(super) fn pop(&mut self) -> Option<Opened> {
        loop {
            let (place, state) = self.front()?;
            if state != BEGUN {
                self.queue.pop();
                if state == LEFT || state == MADE {
                    return opened(&place, state == MADE);
                }
                continue;
            }
            let begun = opened(&place, false).and_then(|mut begun| Some((key(&mut begun.syn)?, begun)));
            let Some((key, mut opened)) = begun else {
                self.queue.pop();
                continue;
            };
            let opening = self.openings.get(&key, 0).ok();
            if self.openings.remove(&key).is_ok() {
                self.queue.pop();
                opened.answer = opening
                    .filter(|opening| opening.has_answer != 0)
                    .and_then(|opening| Some(opening.answer.get(..opening.answer_length as usize)?.to_vec()));
                let _ = self.left.insert(key, 0, 0);
                return Some(opened);
            }
            // The program has it. If that takes longer it is for the next call.
            (0..LOOKS).find(|_| {
                hint::spin_loop();
                self.front().is_none_or(|(_, state)| state != BEGUN)
            })?;
        }
    }

    /// Looks at what comes next, and its state. Unless that is [`BEGUN`] all of it is complete.
    fn front(&self) -> Option<(Place, u32)> {
        let place = self.queue.front()?;
        // SAFETY: it is mapped for as long as the queue lives, and the program writes to it only atomically.
        let state = unsafe { AtomicU32::from_ptr(&raw mut (*place.as_ptr()).state) }.load(Ordering::Acquire);
        // SAFETY: as above, and any bytes are a `Place`. While it is `BEGUN` its answer may be being written, and is not used.
        let content = unsafe { ptr::read_volatile(place.as_ptr()) };
        Some((content, state))
    }
}

fn opened(place: &Place, is_made: bool) -> Option<Opened> {
    let answer = place.answer.get(..place.answer_length as usize).filter(|answer| !answer.is_empty());
    Some(Opened {
        syn: place.syn.get(..place.syn_length as usize)?.to_vec(),
        answer: answer.map(<[u8]>::to_vec),
        is_made,
        at: Instant::from_micros(place.at / 1000),
    })
}

/// Reads the ends of a SYN.
fn key(syn: &mut [u8]) -> Option<[u8; KERNEL_KEY]> {
    let mut packet = Packet { bytes: syn, offload: Offload { needs_csum: true, ..Offload::default() } };
    let segment = Segment::parse(&mut packet).ok()?;
    let key = FlowKey::new(segment.source(), segment.destination(), Direction::ToServer);
    Some(KernelKey::from(&key).bytes)
}

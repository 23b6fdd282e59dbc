//! A capture of what an engine was handed and of what it made of it, with the reasons: for Wireshark.
//!
//! ```text
//!  in   10.1.0.10:40000 > 10.1.2.10:443 [SYN]        taken: event spoofed_paired
//!  out  10.1.2.10:443 > 10.1.0.10:40000 [SYN, ACK]   made of the packet before
//!  in   10.1.0.10:40000 > 10.1.2.10:443 [ACK]        sent on, changed (ack 7 → 9): event translated
//!  out  10.1.0.10:40000 > 10.1.2.10:443 [ACK]        as it was sent on
//! ```
//!
//! The reasons are the counters that the engine has moved for the packet. What the kernel forwards by itself, or drops
//! before the engine, is not in it.

mod file;

pub use file::{TraceError, TraceFile};

use std::fmt::Write as _;
use std::sync::mpsc::SyncSender;

use rtt0_core::engine::Verdict;
use rtt0_core::reason::Counters;
use rtt0_core::wire::PROTOCOL_TCP;
use rtt0_core::wire::tcp::Tcp;

/// Bytes of a packet that are kept, from the IP header on: all headers, and no more of the payload than a glimpse.
const KEPT: usize = 160;

/// Which way a packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the engine.
    In,
    /// From it.
    Out,
}

/// A packet on its way to the file.
#[derive(Debug)]
struct Entry {
    way: Way,
    bytes: Vec<u8>,
    length: usize,
    comment: String,
}

/// Where workers send what they see. What finds no room is left out: packets go first.
#[derive(Debug, Clone)]
pub struct Trace(SyncSender<Entry>);

/// What a worker has to remember of the packet that its engine judges.
#[derive(Debug)]
pub(crate) struct Tracer {
    to: Trace,
    counts: Vec<u64>,
    bytes: Vec<u8>,
    length: usize,
}

impl Tracer {
    pub(crate) fn new(to: Trace) -> Self {
        Self { to, counts: Vec::new(), bytes: Vec::with_capacity(KEPT), length: 0 }
    }

    /// To be called before the engine sees the packet.
    pub(crate) fn before(&mut self, packet: &[u8], counters: &Counters) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&packet[..packet.len().min(KEPT)]);
        self.length = packet.len();
        self.begin(counters);
    }

    /// To be called before the engine handles what is due.
    pub(crate) fn begin(&mut self, counters: &Counters) {
        self.counts.clear();
        self.counts.extend(counters.iter().map(|(_, _, count)| count));
    }

    /// To be called when the engine has judged the packet of [`Tracer::before`]; `made` is what it has made besides.
    pub(crate) fn after<'a>(
        &self,
        verdict: Verdict,
        packet: &[u8],
        made: impl Iterator<Item = &'a [u8]>,
        counters: &Counters,
    ) {
        let reasons = self.reasons(counters);
        let change = change(&self.bytes, packet);
        let (what, goes) = match verdict {
            Verdict::Forward if change.is_empty() => ("sent on as it came".to_owned(), true),
            Verdict::Forward => (format!("sent on, changed ({change})"), true),
            Verdict::Taken => ("taken: answered, or held for later".to_owned(), false),
            Verdict::Drop(_) => ("dropped".to_owned(), false),
        };
        self.tell(Way::In, &self.bytes, self.length, format!("{what}: {reasons}"));
        if goes && !change.is_empty() {
            self.tell(Way::Out, packet, packet.len(), format!("as it was sent on ({change})"));
        }
        self.made(made, &format!("made of the packet before: {reasons}"));
    }

    /// To be called when the engine has handled what was due since [`Tracer::begin`].
    pub(crate) fn due<'a>(&self, made: impl Iterator<Item = &'a [u8]>, counters: &Counters) {
        self.made(made, &format!("it was time: {}", self.reasons(counters)));
    }

    fn made<'a>(&self, made: impl Iterator<Item = &'a [u8]>, comment: &str) {
        made.for_each(|packet| self.tell(Way::Out, packet, packet.len(), comment.to_owned()));
    }

    fn reasons(&self, counters: &Counters) -> String {
        let moved = counters.iter().zip(&self.counts).filter(|((_, _, now), before)| now != *before);
        let named: Vec<String> = moved.map(|((kind, label, _), _)| format!("{kind} {label}")).collect();
        if named.is_empty() { "nothing counted".to_owned() } else { named.join(", ") }
    }

    fn tell(&self, way: Way, bytes: &[u8], length: usize, comment: String) {
        let bytes = bytes[..bytes.len().min(KEPT)].to_vec();
        // A full queue, or a file that is full: packets don't wait for it.
        let _ = self.to.0.try_send(Entry { way, bytes, length, comment });
    }
}

/// Says which numbers of a segment are others than before; empty if none is.
fn change(before: &[u8], after: &[u8]) -> String {
    let (Some(before), Some(after)) = (tcp_of(before), tcp_of(after)) else { return String::new() };
    let mut text = String::new();
    for (name, old, new) in [
        ("seq", before.sequence(), after.sequence()),
        ("ack", before.acknowledgement(), after.acknowledgement()),
        ("window", before.window().into(), after.window().into()),
    ] {
        if old != new {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{name} {old} → {new}");
        }
    }
    if text.is_empty() && before.option_bytes() != after.option_bytes() {
        text.push_str("options");
    }
    text
}

/// Returns the segment of an IP packet without extension headers, as far as it was kept.
fn tcp_of(packet: &[u8]) -> Option<Tcp<'_>> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet[0] & 0x0f) * 4),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    Tcp::new(packet.get(header..)?).ok().filter(|_| protocol == PROTOCOL_TCP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use rtt0_core::reason::{DropReason, Event};

    fn packet(sequence: u32, acknowledgement: u32) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 1, 0, 10], [10, 1, 2, 10], 64);
        builder.tcp(40_000, 443, sequence, 1000).ack(acknowledgement).write(&mut packet, b"hello").unwrap();
        packet
    }

    fn told(verdict: Verdict, after: &[u8], made: &[&[u8]], act: impl Fn(&Counters)) -> Vec<(Way, String)> {
        let (to, entries) = std::sync::mpsc::sync_channel(9);
        let (mut tracer, counters) = (Tracer::new(Trace(to)), Counters::default());
        tracer.before(&packet(5, 7), &counters);
        act(&counters);
        tracer.after(verdict, after, made.iter().copied(), &counters);
        entries.try_iter().map(|entry| (entry.way, entry.comment)).collect()
    }

    #[test]
    fn a_packet_is_told_with_what_was_done_and_why() {
        let translated = |counters: &Counters| counters.event(Event::Translated);
        let changed = told(Verdict::Forward, &packet(5, 9), &[], translated);
        assert_eq!(
            changed,
            [
                (Way::In, "sent on, changed (ack 7 → 9): event translated".to_owned()),
                (Way::Out, "as it was sent on (ack 7 → 9)".to_owned()),
            ]
        );
        let untouched = told(Verdict::Forward, &packet(5, 7), &[], |_| {});
        assert_eq!(untouched, [(Way::In, "sent on as it came: nothing counted".to_owned())]);
        let dropped = |counters: &Counters| counters.discard(DropReason::Confirm);
        let answered = told(Verdict::Drop(DropReason::Confirm), &packet(5, 7), &[&packet(1, 6)], dropped);
        assert_eq!(answered[0].1, "dropped: drop confirm");
        assert_eq!(answered[1], (Way::Out, "made of the packet before: drop confirm".to_owned()));
    }

    #[test]
    fn what_is_no_segment_has_no_numbers() {
        for odd in [&[][..], &[0x45; 8], &[0x60; 39], &[0; 60]] {
            assert_eq!(change(odd, odd), "");
        }
    }
}

//! Why a packet was dropped, passed untouched or acted upon. Every variant is a counter.

use crate::histogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes an enum whose variants are counters: each has a doc comment, which operators are told, and a label.
///
/// ```
/// rtt0_core::reasons! {
///     /// What became of a letter.
///     Fate {
///         /// It arrived.
///         Arrived => "arrived",
///     }
/// }
/// assert_eq!(Fate::ALL.len(), 1);
/// assert_eq!((Fate::Arrived.label(), Fate::Arrived.meaning()), ("arrived", "It arrived."));
/// ```
#[macro_export]
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the metric label: lower case, words joined by `_`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// Says what it means, for operators: one sentence or a few.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was not sent on.
    DropReason {
        /// Claimed by no service: the kernel forwards it itself.
        Unclaimed => "unclaimed",
        /// The IP header contradicts itself or the captured length.
        MalformedIp => "malformed_ip",
        /// TTL or hop limit ran out; an ICMP time exceeded was sent.
        HopLimit => "hop_limit",
        /// Early data beyond the per-flow bound; the client retransmits it.
        HeldFlowFull => "held_flow_full",
        /// Early data beyond the bound of all flows together; the client retransmits it.
        HeldTotalFull => "held_total_full",
        /// A repeated SYN of a handshake already under way.
        DuplicateSyn => "duplicate_syn",
        /// An offer of another connection while its client still wants the handshake under way.
        /// ClientNIC repeats it.
        OfferTooEarly => "offer_too_early",
        /// The SYN-ACK that answers our own second SYN.
        RepeatedSynAck => "repeated_syn_ack",
        /// A segment from the server that fits no state of the handshake (RFC 9293 §3.10.7.3).
        StraySegment => "stray_segment",
        /// A reset the server sent against early data it saw before its own handshake: its
        /// sequence number is from the promised space, so it can't be the connection's.
        ResetOfEarlyData => "reset_of_early_data",
        /// The confirm of the other NIC: consumed, it was meant for us.
        Confirm => "confirm",
    }
}

reasons! {
    /// Why a packet went on without the middlebox doing anything for it.
    PassReason {
        /// Mode `off`.
        ModeOff => "mode_off",
        /// A connection that the configuration excludes.
        Excluded => "excluded",
        /// A TCP header that contradicts itself: not ours to judge.
        MalformedTcp => "malformed_tcp",
        /// An IP fragment that carries no whole TCP header.
        Fragment => "fragment",
        /// A segment of a flow that nobody translates here.
        NoFlow => "no_flow",
        /// A segment that the other NIC has translated already.
        AlreadyTranslated => "already_translated",
        /// SYN of a destination not known yet: it is learned from the real SYN-ACK.
        Learning => "learning",
        /// SYN with an option outside MSS, window scale, SACK-permitted, timestamps.
        UnknownOption => "unknown_option",
        /// SYN with data or a TCP Fast Open cookie.
        SynPayload => "syn_payload",
        /// SYN together with FIN, RST or URG, or one whose checksum is wrong.
        OddSyn => "odd_syn",
        /// SYN that asks for Accurate ECN: its answer depends on how the SYN arrives.
        AccurateEcn => "accurate_ecn",
        /// SYN whose option space has no room for the offer.
        NoOptionSpace => "no_option_space",
        /// Destination refused or timed out a moment ago.
        RefusedLately => "refused_lately",
        /// The mode is `paired` and no ServerNIC is known for the destination.
        Unpaired => "unpaired",
        /// Uploads to the destination are large: a spoofed handshake would mislead the client's RTT.
        LargeUploads => "large_uploads",
        /// The flow table is full.
        FlowTableFull => "flow_table_full",
        /// Too many handshakes are pending.
        PendingFull => "pending_full",
        /// Data that overtook its SYN and found no room to wait for it.
        NoRoomToHold => "no_room_to_hold",
        /// Too many clients have been answered and have not acknowledged it: a flood of SYNs.
        HalfOpenFull => "half_open_full",
        /// No handshake is begun for now: there is a flood of SYNs, or the operator drains.
        StandingBack => "standing_back",
        /// The profile table is full.
        ProfileTableFull => "profile_table_full",
        /// A SYN that reuses the 4-tuple of a flow that is still translated.
        RivalSyn => "rival_syn",
        /// ICMP whose quoted packet belongs to no translated flow.
        IcmpNoFlow => "icmp_no_flow",
        /// ICMP whose quote is too short or malformed.
        IcmpMalformed => "icmp_malformed",
    }
}

reasons! {
    /// What the middlebox did.
    Event {
        /// SYN answered by a spoofed SYN-ACK, ServerNIC expected to translate.
        SpoofedPaired => "spoofed_paired",
        /// One of these that the kernel has answered by itself.
        SpoofedAtOnce => "spoofed_at_once",
        /// One that the kernel has answered, of which this engine can't take charge: ServerNIC does without it.
        Disowned => "disowned",
        /// The fast path has begun a handshake with the server by itself; as many count as `offer_accepted`, too.
        OpenedAtOnce => "opened_at_once",
        /// SYN answered by a spoofed SYN-ACK, translated by ClientNIC itself.
        SpoofedSolo => "spoofed_solo",
        /// A repeated SYN answered by the same spoofed SYN-ACK again.
        SpoofRepeated => "spoof_repeated",
        /// A confirm arrived and ended a pending handshake.
        Confirmed => "confirmed",
        /// A SYN-ACK without confirm turned a paired handshake into solo.
        FellBackToSolo => "fell_back_to_solo",
        /// A profile was learned or refreshed.
        Learned => "learned",
        /// An authentic offer started a handshake.
        OfferAccepted => "offer_accepted",
        /// An authentic offer of a flow already established: confirmed again.
        OfferRepeated => "offer_repeated",
        /// An authentic probe was answered.
        ProbeAnswered => "probe_answered",
        /// An offer or confirm whose MAC is wrong: stripped.
        OfferForged => "offer_forged",
        /// An offer or confirm of an unknown version or key: stripped.
        OfferUnknown => "offer_unknown",
        /// A handshake with the server completed.
        Established => "established",
        /// Held packets released.
        Released => "released",
        /// Packets translated.
        Translated => "translated",
        /// SYN sent again because no answer came.
        SynResent => "syn_resent",
        /// The server refused a spoofed flow; the client got a reset.
        Refused => "refused",
        /// The server stayed silent; the client got a reset.
        TimedOut => "timed_out",
        /// An old connection in the way was reset, and the SYN sent again.
        OldConnectionReset => "old_connection_reset",
        /// A flow was replaced by a newer one of the same 4-tuple.
        FlowReplaced => "flow_replaced",
        /// Promise kept by shifting the window field.
        RepairedWindowScale => "repaired_window_scale",
        /// Promise kept by re-segmenting to a smaller MSS.
        RepairedMss => "repaired_mss",
        /// Promise kept by replacing SACK blocks with NOPs.
        RepairedSack => "repaired_sack",
        /// Promise of timestamps broken: both sides reset, profile forgotten.
        BrokenTimestamps => "broken_timestamps",
        /// ICMP error whose quoted segment was translated back.
        IcmpTranslated => "icmp_translated",
        /// ICMP packet too big or time exceeded sent by us.
        IcmpSent => "icmp_sent",
        /// Data of a flow whose offer has not come yet, held for it.
        HeldForOffer => "held_for_offer",
        /// A flow ended and left the table.
        Expired => "expired",
        /// A flow that both ends had closed left a full table before its time, to make room.
        MadeRoom => "made_room",
        /// A flow that an engine before this one established is translated on.
        Restored => "restored",
        /// An established flow was handed to the kernel.
        Handed => "handed",
        /// The kernel did not take a flow that was handed to it.
        HandRefused => "hand_refused",
        /// A flow was taken back from the kernel, to judge what begins or ends a connection.
        Recalled => "recalled",
        /// A flow that the kernel went on with while no daemon ran was found again.
        Adopted => "adopted",
        /// A restored flow, or a handshake whose answer did not come by, turned out to be translated
        /// by the other NIC, or by nobody: let go.
        TranslatedElsewhere => "translated_elsewhere",
    }
}

impl PassReason {
    /// Tells whether it says of a SYN that nothing was done for it.
    pub const fn is_of_syn(self) -> bool {
        match self {
            Self::ModeOff
            | Self::Excluded
            | Self::Learning
            | Self::UnknownOption
            | Self::SynPayload
            | Self::OddSyn
            | Self::AccurateEcn
            | Self::NoOptionSpace
            | Self::RefusedLately
            | Self::Unpaired
            | Self::LargeUploads
            | Self::FlowTableFull
            | Self::PendingFull
            | Self::HalfOpenFull
            | Self::StandingBack
            | Self::RivalSyn => true,
            Self::MalformedTcp
            | Self::Fragment
            | Self::NoFlow
            | Self::AlreadyTranslated
            | Self::NoRoomToHold
            | Self::ProfileTableFull
            | Self::IcmpNoFlow
            | Self::IcmpMalformed => false,
        }
    }
}

/// Counters of one engine. Its thread alone adds, so that no addition needs the processor's lock; readers
/// may read at any time from any thread.
#[derive(Debug)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    passes: [AtomicU64; PassReason::ALL.len()],
    events: [AtomicU64; Event::ALL.len()],
    saved: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self { drops: zeros(), passes: zeros(), events: zeros(), saved: Histogram::default() }
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Counters {
    /// Counts a dropped packet.
    pub fn discard(&self, reason: DropReason) {
        add_one(&self.drops[reason as usize]);
    }

    /// Counts a packet passed untouched.
    pub fn pass(&self, reason: PassReason) {
        add_one(&self.passes[reason as usize]);
    }

    /// Counts something done.
    pub fn event(&self, event: Event) {
        add_one(&self.events[event as usize]);
    }

    /// Returns how much earlier clients were answered than their servers would have been heard, per
    /// connection: from the early SYN-ACK to the real one, on ClientNIC. A SYN that had to be repeated is not
    /// in it, since nobody knows which one was answered (Karn).
    pub fn saved(&self) -> &Histogram {
        &self.saved
    }

    /// Returns how many packets were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns how many packets were passed for `reason`.
    pub fn passed(&self, reason: PassReason) -> u64 {
        self.passes[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns how often `event` happened.
    pub fn happened(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    /// Iterates over `(kind, label, count)` of every counter; kinds are `drop`, `pass`, `event`.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let drops = DropReason::ALL.iter().map(|r| ("drop", r.label(), self.dropped(*r)));
        let passes = PassReason::ALL.iter().map(|r| ("pass", r.label(), self.passed(*r)));
        let events = Event::ALL.iter().map(|e| ("event", e.label(), self.happened(*e)));
        drops.chain(passes).chain(events)
    }
}

fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

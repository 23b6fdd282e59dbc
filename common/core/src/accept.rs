//! What a ServerNIC makes of an offer: its handshake with the server, and which of these a fast path makes by itself.

use crate::flow::FlowKey;
use crate::handshake::{Start, read_syn_ack};
use crate::limits::Limits;
use crate::offer::{Found, Keys, Kind, LENGTH, Offer, is_offer, strip};
use crate::offload::Offloaded;
use crate::packet::{Offload, Outbox};
use crate::profile::{Offered, SynAck};
use crate::seq::{Client, Real, Seq};
use crate::time::Instant;
use crate::translate::{Agreement, Translation};
use crate::translated::Translated;
use crate::twins::Twins;
use crate::wire::options::{Options, SynOptions};
use crate::wire::segment::Segment;
use crate::wire::tcp::{Flags, MAX_OPTIONS};
use std::time::Duration;

/// First repeat of the SYN on the server's leg: the shortest RTO Linux uses.
const SYN_REPEAT: Duration = Duration::from_millis(200);
/// SYNs sent at once; two hide the short leg's RTT from the server (RTT honesty).
const SYN_COPIES: u8 = 2;

/// Makes of a SYN with an authentic `offer` what the handshake with the server begins with. `None` if its options are malformed
/// or none of a SYN's.
pub fn accept(
    flow: FlowKey,
    isn: Seq<Client>,
    offer: Offer,
    segment: &Segment<'_>,
    keys: &Keys,
) -> Option<Start> {
    let tcp = segment.tcp();
    let options = SynOptions::parse(tcp.options(), is_offer).ok()?;
    let ecn = tcp.flags().contains(Flags::ECE | Flags::CWR);
    let mut syn = Vec::with_capacity(segment.bytes().len());
    segment.write_with_options(&strip(&tcp), tcp.flags(), &mut syn);
    Some(Start {
        flow,
        client_isn: isn,
        promised_isn: keys.promised_isn(offer.key, &flow, isn)?,
        promise: offer.promise,
        client_window_scale: options.window_scale.unwrap_or(0),
        offered: Offered::new(&options, ecn),
        key: offer.key,
        syn,
        copies: SYN_COPIES,
        repeat_after: SYN_REPEAT,
    })
}

/// A handshake that a fast path has begun by itself, and may have made ([`FastPath::opened`](crate::offload::FastPath::opened)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The client's SYN with the offer, an IP packet as it came; its checksum may be partial.
    pub syn: Vec<u8>,
    /// The server's SYN-ACK that was heard last, likewise, if any was.
    pub answer: Option<Vec<u8>>,
    /// Whether the handshake is made, and its flow with the fast path. If not it is the engine's from now on.
    pub is_made: bool,
    /// When the handshake was made or, if it is not, begun.
    pub at: Instant,
}

/// A handshake with a server, as a fast path makes it: if all of it is as Linux does it at both ends.
///
/// It leaves anything else to the engine, with what was heard until then ([`Opened`]). Nothing is sent twice: whatever gets lost is the
/// engine's, too.
#[derive(Debug)]
pub struct AtOnce {
    start: Start,
    elder: u32,
    first: Option<(Seq<Real>, SynAck)>,
}

/// What the server's answer is to such a handshake.
#[derive(Debug)]
pub enum Heard {
    /// The first of two that are alike. Nobody else gets to see it.
    First,
    /// The second: the handshake is made, and this is its flow. Nobody else gets to see it.
    Made(Box<Offloaded>),
    /// The engine's to judge.
    Other,
}

impl AtOnce {
    /// Begins with a SYN, and sends the two for the server. `None` for a SYN that is left to the engine: without an authentic
    /// offer, signed with the key that signs now, of all that current systems ask for; or whose options are not that offer and those that
    /// Linux sends, in this order.
    pub fn begin(flow: FlowKey, segment: &Segment<'_>, keys: &Keys, out: &mut Outbox) -> Option<Self> {
        let tcp = segment.tcp();
        let isn = Seq::new(tcp.sequence());
        let Found::Authentic(offer) = Offer::find(tcp.options(), keys, &flow, isn) else { return None };
        let promise = &offer.promise;
        let is_usual =
            promise.window_scale.is_some() && promise.sack && promise.tsval.is_some() && !promise.ecn;
        if !is_usual || offer.kind != Kind::Spoofed || offer.key != keys.signing() {
            return None;
        }
        let (first, rest) = tcp.option_bytes().split_at_checked(LENGTH)?;
        let is_first = Options::new(first).next().is_some_and(|option| option.as_ref().is_ok_and(is_offer));
        if tcp.flags() != Flags::SYN
            || !is_sound(segment)
            || !is_first
            || tcp.option_bytes().len() != MAX_OPTIONS
        {
            return None;
        }
        let options = SynOptions::usual(rest)?;
        let start = accept(flow, isn, offer, segment, keys)?;
        out.push(&Twins::new(&start.syn, start.copies).elder(&start.syn), Offload::default());
        out.push(&start.syn, Offload::default());
        Some(Self { elder: options.timestamps?.value.wrapping_sub(1), start, first: None })
    }

    /// Takes a segment from the server.
    pub fn hear(&mut self, segment: &Segment<'_>) -> Heard {
        match self.judge(segment) {
            Some((isn, answer)) => match self.first {
                None => {
                    self.first = Some((isn, answer));
                    Heard::First
                }
                Some(first) if is_alike(first, (isn, answer)) => {
                    self.make(isn, answer).map_or(Heard::Other, |flow| Heard::Made(Box::new(flow)))
                }
                Some(_) => Heard::Other,
            },
            None => Heard::Other,
        }
    }

    /// Reads a SYN-ACK of a server that keeps state ([`Twins`]) and takes segments as large as were promised.
    fn judge(&self, segment: &Segment<'_>) -> Option<(Seq<Real>, SynAck)> {
        let tcp = segment.tcp();
        let is_answer = tcp.flags() == Flags::SYN | Flags::ACK
            && tcp.acknowledgement() == self.start.client_isn.plus(1).get()
            && is_sound(segment);
        let options = SynOptions::usual(tcp.option_bytes()).filter(|_| is_answer)?;
        let is_kept = options.timestamps?.echo == self.elder && options.mss? >= self.start.promise.mss;
        let answer = read_syn_ack(&tcp).filter(|_| is_kept)?;
        Some((Seq::new(tcp.sequence()), answer))
    }

    fn make(&self, isn: Seq<Real>, answer: SynAck) -> Option<Offloaded> {
        let Start { flow, client_isn, promised_isn, promise, client_window_scale, .. } = &self.start;
        let agreement = Agreement {
            promised_isn: *promised_isn,
            real_isn: isn,
            promise,
            answer: &answer,
            client_window_scale: *client_window_scale,
        };
        let (translation, _) = Translation::new(agreement, true).ok()?;
        let (limits, now) = (Limits::default(), Instant::ZERO);
        let flow_made =
            Translated::new(translation, *client_isn, *client_window_scale, answer, 0, &limits, now);
        Some(flow_made.offloaded(*flow)?.until_proven())
    }
}

/// Tells whether two SYN-ACKs say the same; the server's clock may have gone on.
fn is_alike((isn, mut answer): (Seq<Real>, SynAck), (other_isn, other): (Seq<Real>, SynAck)) -> bool {
    answer.options.timestamps = other.options.timestamps;
    isn == other_isn && answer == other
}

fn is_sound(segment: &Segment<'_>) -> bool {
    !segment.is_fragment() && segment.payload_length() == 0 && segment.checksum_ok()
}

//! Which SYNs may be answered early, and the packets that doing so takes.

use crate::flow::FlowKey;
use crate::handshake::Start;
use crate::offer::{Found, KeyId, Keys, Kind, LENGTH, Offer, Promise};
use crate::profile::{Knowledge, Offered, Posted, UnknownAnswer};
use crate::reason::PassReason;
use crate::seq::{Client, Seq};
use crate::wire::build::Control;
use crate::wire::options::{Options, SynOptions, SynOptionsError, Timestamps};
use crate::wire::segment::Segment;
use crate::wire::tcp::{self, Flags, MAX_OPTIONS};
use crate::wire::{ipv4, ipv6};
use std::time::Duration;

/// The largest MSS for (IPv4, IPv6) that packets of `mtu` bytes carry (RFC 6691 §2).
pub fn mss_clamp(mtu: u16) -> (u16, u16) {
    let without = |header: usize| mtu.saturating_sub((header + tcp::MIN_HEADER) as u16);
    (without(ipv4::MIN_HEADER), without(ipv6::HEADER))
}

/// A SYN that a middlebox can answer for: nothing in it is beyond its understanding.
#[derive(Debug, Clone, Copy)]
pub struct PlainSyn {
    /// The client's ISN.
    pub isn: Seq<Client>,
    /// Its options.
    pub options: SynOptions,
    /// What it offers the server.
    pub offered: Offered,
}

impl PlainSyn {
    /// Reads a SYN.
    ///
    /// # Errors
    /// Why it has to pass untouched.
    pub fn read(segment: &Segment<'_>) -> Result<Self, PassReason> {
        let tcp = segment.tcp();
        let flags = tcp.flags();
        let ecn = flags.contains(Flags::ECE | Flags::CWR);
        if segment.is_fragment() || flags.intersects(Flags::URG | Flags::PSH) || !segment.checksum_ok() {
            return Err(PassReason::OddSyn);
        }
        if flags.contains(Flags::AE) {
            return Err(PassReason::AccurateEcn);
        }
        if segment.payload_length() > 0 {
            return Err(PassReason::SynPayload);
        }
        let options = SynOptions::parse(tcp.options(), |_| false).map_err(|error| match error {
            SynOptionsError::Unknown(_) => PassReason::UnknownOption,
            SynOptionsError::Malformed => PassReason::MalformedTcp,
        })?;
        Ok(Self { isn: Seq::new(tcp.sequence()), options, offered: Offered::new(&options, ecn) })
    }
}

/// Everything a spoofed connection begins with.
#[derive(Debug)]
pub struct Spoof {
    /// The SYN-ACK for the client.
    pub syn_ack: Vec<u8>,
    /// The handshake with the server or ServerNIC.
    pub start: Start,
}

/// How a flow is to be spoofed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What the SYN tells the ServerNIC; nothing in mode `solo`.
    pub signal: Option<Kind>,
    /// Largest MSS to promise, in bytes.
    pub mss_clamp: u16,
    /// When the SYN is repeated first.
    pub repeat_after: Duration,
}

/// Makes the SYN-ACK that answers `syn` and the SYN that goes on. The SYN offers exactly what
/// the SYN-ACK promises, no more: an option that was not promised is removed.
///
/// # Errors
/// [`UnknownAnswer`] if the client offers something the server has never been asked.
pub fn spoof(
    flow: FlowKey,
    syn: &PlainSyn,
    segment: &Segment<'_>,
    knowledge: &Knowledge,
    keys: &Keys,
    plan: Plan,
) -> Result<Spoof, UnknownAnswer> {
    let key = keys.signing();
    let tsval = keys.promised_tsval(key, &flow, syn.isn).ok_or(UnknownAnswer)?;
    let promise = knowledge.promise(syn.offered, plan.mss_clamp, tsval)?;
    make(flow, syn, segment, (key, promise), knowledge.window, keys, plan).ok_or(UnknownAnswer)
}

/// Makes the same of what a fast path has promised on its own: `offer` is the option that it sent. `None` if that is not
/// authentic (any more).
pub fn respoof(
    flow: FlowKey,
    syn: &PlainSyn,
    segment: &Segment<'_>,
    offer: &[u8; LENGTH],
    window: u16,
    keys: &Keys,
    plan: Plan,
) -> Option<Spoof> {
    let Found::Authentic(offer) = Offer::find(Options::new(offer), keys, &flow, syn.isn) else { return None };
    make(flow, syn, segment, (offer.key, offer.promise), window, keys, plan)
}

/// Makes what a fast path sends that answers by itself ([`FastPath::begun`](crate::offload::FastPath::begun)): the SYN-ACK, and
/// the SYN with the offer as its first option. `None` for a SYN that it leaves to the engine: whose options are not those that Linux sends,
/// in that order.
pub fn spoof_at_once(
    flow: FlowKey,
    segment: &Segment<'_>,
    known: &Posted,
    keys: &Keys,
    mss_clamp: u16,
) -> Option<Spoof> {
    let syn = PlainSyn::read(segment).ok()?;
    if SynOptions::usual(segment.tcp().option_bytes()).is_none() || segment.tcp().flags() != Flags::SYN {
        return None;
    }
    let key = keys.signing();
    let promise = Promise {
        mss: known.mss.min(mss_clamp),
        window_scale: Some(known.window_scale),
        sack: true,
        tsval: keys.promised_tsval(key, &flow, syn.isn),
        ecn: false,
    };
    // Who repeats the SYN is the engine.
    let plan = Plan { signal: Some(Kind::Spoofed), mss_clamp, repeat_after: Duration::ZERO };
    make(flow, &syn, segment, (key, promise), known.window, keys, plan)
}

fn make(
    flow: FlowKey,
    syn: &PlainSyn,
    segment: &Segment<'_>,
    (key, promise): (KeyId, Promise),
    window: u16,
    keys: &Keys,
    plan: Plan,
) -> Option<Spoof> {
    let promised_isn = keys.promised_isn(key, &flow, syn.isn)?;
    let kept = SynOptions {
        mss: syn.options.mss,
        window_scale: syn.options.window_scale.filter(|_| promise.window_scale.is_some()),
        sack_permitted: promise.sack,
        timestamps: syn.options.timestamps.filter(|_| promise.tsval.is_some()),
    };
    let mut options = Vec::with_capacity(MAX_OPTIONS);
    if let Some(kind) = plan.signal {
        let promise = if kind == Kind::Probe { Promise::default() } else { promise };
        let signal = Offer { kind, key, promise };
        options.extend_from_slice(&signal.encode(keys, &flow, syn.isn)?);
    }
    kept.write(&mut options);
    let ecn = if promise.ecn { Flags::ECE | Flags::CWR } else { Flags::default() };
    let mut forwarded = Vec::with_capacity(segment.bytes().len() + LENGTH);
    segment.write_with_options(&options, Flags::SYN | ecn, &mut forwarded);
    let start = Start {
        flow,
        client_isn: syn.isn,
        promised_isn,
        promise,
        client_window_scale: kept.window_scale.unwrap_or(0),
        offered: Offered { ecn: promise.ecn, ..Offered::new(&kept, false) },
        key,
        syn: forwarded,
        // The handshake crosses the long leg, so what the server measures is nearly true.
        copies: 1,
        repeat_after: plan.repeat_after,
    };
    Some(Spoof { syn_ack: syn_ack(flow, syn, promised_isn.get(), &promise, window), start })
}

fn syn_ack(flow: FlowKey, syn: &PlainSyn, isn: u32, promise: &Promise, window: u16) -> Vec<u8> {
    let echo = syn.options.timestamps.map_or(0, |timestamps| timestamps.value);
    let promised = SynOptions {
        mss: Some(promise.mss),
        window_scale: promise.window_scale,
        sack_permitted: promise.sack,
        timestamps: promise.tsval.map(|value| Timestamps { value, echo }),
    };
    let mut options = Vec::with_capacity(MAX_OPTIONS);
    promised.write(&mut options);
    let ecn = if promise.ecn { Flags::ECE } else { Flags::default() };
    let control = Control {
        source: flow.server(),
        destination: flow.client(),
        sequence: isn,
        acknowledgement: syn.isn.plus(1).get(),
        flags: Flags::SYN | Flags::ACK | ecn,
        window,
    };
    let mut packet = Vec::with_capacity(80);
    control.write(&options, &mut packet);
    packet
}

/// Appends to `out` the SYN marked with a probe; false if its options leave no room.
pub fn write_probe(
    flow: FlowKey,
    syn: &PlainSyn,
    segment: &Segment<'_>,
    keys: &Keys,
    out: &mut Vec<u8>,
) -> bool {
    let tcp = segment.tcp();
    let probe = Offer { kind: Kind::Probe, key: keys.signing(), promise: Promise::default() };
    let Some(probe) = probe.encode(keys, &flow, syn.isn) else { return false };
    let theirs = tcp.option_bytes();
    if theirs.len() + LENGTH > MAX_OPTIONS {
        return false;
    }
    // In front, where an end-of-list in the client's options can't hide it.
    let mut options = probe.to_vec();
    options.extend_from_slice(theirs);
    segment.write_with_options(&options, tcp.flags(), out);
    true
}

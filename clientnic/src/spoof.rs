//! Which SYNs may be answered early, and the packets that doing so takes.

use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::Start;
use rtt0_core::offer::{Keys, Kind, LENGTH, Offer, Promise};
use rtt0_core::profile::{Knowledge, Offered, UnknownAnswer};
use rtt0_core::reason::PassReason;
use rtt0_core::seq::{Client, Seq};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, SynOptionsError, Timestamps};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, MAX_OPTIONS};
use std::time::Duration;

/// A SYN that a middlebox can answer for: nothing in it is beyond its understanding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainSyn {
    /// The client's ISN.
    pub(crate) isn: Seq<Client>,
    /// Its options.
    pub(crate) options: SynOptions,
    /// What it offers the server.
    pub(crate) offered: Offered,
}

impl PlainSyn {
    /// Reads a SYN.
    ///
    /// # Errors
    /// Why it has to pass untouched.
    pub(crate) fn read(segment: &Segment<'_>) -> Result<Self, PassReason> {
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
pub(crate) struct Spoof {
    /// The SYN-ACK for the client.
    pub(crate) syn_ack: Vec<u8>,
    /// The handshake with the server or ServerNIC.
    pub(crate) start: Start,
}

/// How a flow is to be spoofed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// What the SYN tells the ServerNIC; nothing in mode `solo`.
    pub(crate) signal: Option<Kind>,
    /// Largest MSS to promise, in bytes.
    pub(crate) mss_clamp: u16,
    /// When the SYN is repeated first.
    pub(crate) repeat_after: Duration,
}

/// Makes the SYN-ACK that answers `syn` and the SYN that goes on. The SYN offers exactly what
/// the SYN-ACK promises, no more: an option that was not promised is removed.
///
/// # Errors
/// [`UnknownAnswer`] if the client offers something the server has never been asked.
pub(crate) fn spoof(
    flow: FlowKey,
    syn: &PlainSyn,
    segment: &Segment<'_>,
    knowledge: &Knowledge,
    keys: &Keys,
    plan: Plan,
) -> Result<Spoof, UnknownAnswer> {
    let key = keys.signing();
    let promised_isn = keys.promised_isn(key, &flow, syn.isn).ok_or(UnknownAnswer)?;
    let tsval = keys.promised_tsval(key, &flow, syn.isn).ok_or(UnknownAnswer)?;
    let promise = knowledge.promise(syn.offered, plan.mss_clamp, tsval)?;
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
        options.extend_from_slice(&signal.encode(keys, &flow, syn.isn).ok_or(UnknownAnswer)?);
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
    Ok(Spoof { syn_ack: syn_ack(flow, syn, promised_isn.get(), &promise, knowledge.window), start })
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
pub(crate) fn write_probe(
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

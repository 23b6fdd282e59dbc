//! What a flow can be to ClientNIC.

use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::{FIRST_FLIGHT, Opening};
use rtt0_core::journal::Kept;
use rtt0_core::limits::Limits;
use rtt0_core::offload::{Offloadable, Offloaded, Progress, Share};
use rtt0_core::profile::Offered;
use rtt0_core::rival::Rival;
use rtt0_core::seq::{Client, Promised, Seq};
use rtt0_core::time::Instant;
use rtt0_core::translate::Translation;
use rtt0_core::translated::Translated;
use rtt0_core::wire::tcp::{Flags, Tcp};

/// A flow.
#[derive(Debug)]
// The tag and a watched flow come first: two cache lines with what the table knows of it.
#[repr(u8)]
pub(crate) enum Flow {
    /// An unspoofed SYN whose SYN-ACK will teach something.
    Learning(Learning),
    /// A spoofed SYN without a real answer yet.
    Opening(Box<Pending>),
    /// A solo flow.
    Translated {
        /// The flow.
        flow: Translated,
        /// A newer SYN of the same 4-tuple that went to the server unspoofed.
        rival: Option<Rival>,
        /// What the journal knows of it.
        kept: Kept,
        /// Whether the client has acknowledged the promised ISN.
        proven: bool,
        /// Whether the kernel forwards it.
        share: Share,
    },
    /// Somebody else's business, but for the size of its upload.
    Watching(Watched),
}

/// A flow that nobody translates here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    /// The client's ISN.
    pub(crate) isn: Seq<Client>,
    /// Whether its SYN was answered here, and so its SYN-ACKs are for us; else they are the
    /// client's.
    pub(crate) spoofed: bool,
    /// What the client has still to acknowledge before it is more than a SYN from anybody.
    awaited: Option<u32>,
    /// Behind the last byte that the client sent.
    end: Seq<Client>,
    /// The number of a reset that answers early data the server saw before its own handshake, and
    /// until when it may come.
    early_reset: Option<(u32, Instant)>,
    /// An end has sent a FIN or a reset. It stays for a while, lest a late copy of the SYN be answered.
    has_ended: bool,
    /// Whether the kernel forwards it.
    pub(crate) share: Share,
}

impl Watched {
    /// Begins with the client's SYN. `awaited` is what a client that has been answered will
    /// acknowledge first, unless it has.
    pub(crate) fn new(isn: Seq<Client>, spoofed: bool, awaited: Option<u32>) -> Self {
        Self {
            isn,
            spoofed,
            awaited,
            end: isn.plus(1),
            early_reset: None,
            has_ended: false,
            share: Share::default(),
        }
    }

    /// Lets resets with the number behind the promised ISN count as answers to early data until
    /// then.
    pub(crate) fn expect_early_reset(mut self, promised: Seq<Promised>, until: Instant) -> Self {
        self.early_reset = Some((promised.plus(1).get(), until));
        self
    }

    /// Tells whether a segment from the server is a reset that answers early data. Should it be the
    /// connection's own, then the server says so again when the client repeats what it sent.
    pub(crate) fn is_early_reset(&self, now: Instant, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        flags.contains(Flags::RST)
            && !flags.contains(Flags::ACK)
            && self.early_reset.is_some_and(|(number, until)| tcp.sequence() == number && now < until)
    }

    /// Goes on with a flow that the kernel has forwarded while no engine ran.
    pub(crate) fn adopted(flow: &Offloaded) -> Self {
        let mut watched = Self::new(flow.client_isn, true, None);
        watched.resume(&flow.progress);
        watched.share.hand();
        watched
    }

    /// Returns what a fast path needs of it, `None` while it has to stay: its client may not exist, or it
    /// has ended.
    pub(crate) fn offloaded(&self, key: FlowKey) -> Option<Offloaded> {
        (self.awaited.is_none() && !self.has_ended).then(|| Offloaded::passing(key, self.isn, self.end))
    }

    /// Takes over what a fast path has seen the client send.
    pub(crate) fn resume(&mut self, progress: &Progress) {
        let end = progress.client_end();
        if end.beyond(self.end) > 0 {
            self.end = end;
        }
        let acknowledged = progress.client_acknowledged().get();
        if self.awaited.is_some_and(|awaited| acknowledged.wrapping_sub(awaited) <= FIRST_FLIGHT) {
            self.awaited = None;
        }
    }

    /// Tells whether a segment from the client proves for the first time that it exists.
    pub(crate) fn proves(&mut self, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        let proof = flags.contains(Flags::ACK)
            && !flags.intersects(Flags::SYN | Flags::RST)
            && self.awaited == Some(tcp.acknowledgement());
        if proof {
            self.awaited = None;
        }
        proof
    }

    /// Takes note of a FIN or a reset. Returns how many bytes the client has sent, modulo 4 GiB, if it is
    /// the first.
    pub(crate) fn ends(&mut self) -> Option<u32> {
        let upload = self.end.minus(self.isn.get()).minus(1).get();
        (!std::mem::replace(&mut self.has_ended, true)).then_some(upload)
    }

    /// Takes note of a segment from the client. A reset's number may be anything.
    pub(crate) fn sent(&mut self, tcp: &Tcp<'_>) {
        let end = Seq::new(tcp.sequence()).plus(tcp.payload().len() as u32);
        if !tcp.flags().contains(Flags::RST) && end.beyond(self.end) > 0 {
            self.end = end;
        }
    }
}

/// An unspoofed SYN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Learning {
    /// The client's ISN.
    pub(crate) isn: Seq<Client>,
    /// What it offers.
    pub(crate) offered: Offered,
    /// Whether it carries a probe: only then does a SYN-ACK without confirm mean that there is
    /// no ServerNIC.
    pub(crate) probed: bool,
    /// When it went out first; `None` once it is repeated (Karn).
    pub(crate) sent: Option<Instant>,
}

/// A spoofed flow before its real SYN-ACK.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The handshake. In paired mode it holds *copies*, sent only if no ServerNIC answers.
    pub(crate) opening: Opening,
    /// Whether a ServerNIC is expected to translate.
    pub(crate) paired: bool,
    /// Whether the SYN carries an offer or probe.
    pub(crate) probed: bool,
    /// Whether the server has refused. The client learns it once it has proven that it exists.
    pub(crate) refused: bool,
    /// The spoofed SYN-ACK, to answer a repeated SYN with.
    pub(crate) syn_ack: Vec<u8>,
    /// A newer SYN of the same 4-tuple that went to the server unspoofed.
    pub(crate) rival: Option<Rival>,
    /// Whether the kernel forwards what the client sends, and what ServerNIC has translated.
    pub(crate) share: Share,
}

impl Pending {
    /// Tells whether a segment from the client shows that ServerNIC has taken over: it acknowledges
    /// what the server sent, in promised numbers, although none of it came by here. Replies take
    /// another route, then, and so will the confirm.
    pub(crate) fn is_taken_over_unseen(&self, tcp: &Tcp<'_>) -> bool {
        let start = self.opening.start();
        let sent = tcp.sequence().wrapping_sub(start.client_isn.get());
        let received = tcp.acknowledgement().wrapping_sub(start.promised_isn.plus(1).get());
        let flight = 1..=FIRST_FLIGHT;
        self.paired
            && self.opening.is_proven()
            && tcp.flags().contains(Flags::ACK)
            && flight.contains(&sent)
            && flight.contains(&received)
    }

    /// Returns the flow as it goes on when ServerNIC has taken over.
    pub(crate) fn watched(&self, now: Instant, limits: &Limits) -> Watched {
        let start = self.opening.start();
        let awaited = (!self.opening.is_proven()).then(|| start.promised_isn.plus(1).get());
        let watched = Watched { share: self.share, ..Watched::new(start.client_isn, true, awaited) };
        watched.expect_early_reset(start.promised_isn, now + limits.early_reset)
    }

    /// Returns what a fast path needs of it, `None` if it has to stay: the data of a client that is to be translated here is
    /// held, and whoever has been refused or rivalled has to be seen.
    fn offloaded(&self, key: FlowKey) -> Option<Offloaded> {
        let start = self.opening.start();
        let is_plain = self.paired && !self.refused && self.rival.is_none();
        is_plain.then(|| Offloaded::opening(key, start.client_isn, start.promised_isn))
    }

    /// Takes over what a fast path has seen the client send.
    fn resume(&mut self, progress: &Progress) {
        if progress.client_acknowledged().beyond(self.opening.start().promised_isn) > 0 {
            self.opening.prove();
        }
    }

    /// Tells whether what a fast path has seen shows that ServerNIC has taken over, though its confirm got lost: it has
    /// forwarded what ServerNIC translated, or the client acknowledges such data that took another way.
    pub(crate) fn is_taken_over(&self, progress: &Progress) -> bool {
        let promised = self.opening.start().promised_isn;
        progress.to_client.packets > 0 || progress.client_acknowledged().beyond(promised) > 1
    }
}

impl Flow {
    /// A solo flow as it begins; `rival` has come while its handshake lasted.
    pub(crate) fn translated(flow: Translated, rival: Option<Rival>, kept: Kept, proven: bool) -> Self {
        Self::Translated { flow, rival, kept, proven, share: Share::default() }
    }

    /// Returns its translation, if it has one.
    pub(crate) fn translation(&self) -> Option<&Translation> {
        match self {
            Self::Translated { flow, .. } => Some(flow.translation()),
            _ => None,
        }
    }

    /// Takes the news of a fast path that it is closed. Returns how many bytes the client has sent, modulo 4 GiB, if that is
    /// not known yet.
    pub(crate) fn closes(&mut self, client_end: Seq<Client>) -> Option<u32> {
        let upload = |isn: Seq<Client>| client_end.minus(isn.get()).minus(1).get();
        match self {
            Self::Watching(watched) => watched.ends().map(|_| upload(watched.isn)),
            Self::Translated { flow, .. } => flow.upload().is_none().then(|| upload(flow.client_isn())),
            Self::Opening(pending) => Some(upload(pending.opening.start().client_isn)),
            Self::Learning(_) => None,
        }
    }

    /// Reads some of each part of an established flow, see `FlowTable::look_ahead`.
    pub(crate) fn touch(&self) -> u32 {
        match self {
            Self::Translated { flow, proven, .. } => flow.touch() ^ u32::from(*proven),
            Self::Watching(watched) => watched.end.get(),
            _ => 0,
        }
    }

    /// Returns what the journal knows of it.
    pub(crate) fn kept(&self) -> Kept {
        match self {
            Self::Translated { kept, .. } => *kept,
            _ => Kept::default(),
        }
    }

    /// Tells whether traffic keeps it alive: not that of a client which may not exist, nor what comes
    /// after the end.
    pub(crate) fn lives_on(&self) -> bool {
        self.half_open() == 0 && !matches!(self, Self::Watching(watched) if watched.has_ended)
    }

    /// Returns how many clients it counts for that were answered and have acknowledged nothing.
    pub(crate) fn half_open(&self) -> usize {
        usize::from(match self {
            Self::Learning(_) => false,
            Self::Opening(pending) => !pending.opening.is_proven(),
            Self::Translated { proven, .. } => !proven,
            Self::Watching(watched) => watched.awaited.is_some(),
        })
    }

    /// Returns how many servers' answers a client waits for that exists, or may have shown to the kernel that it does.
    pub(crate) fn awaited(&self) -> usize {
        let awaits = |pending: &Pending| pending.opening.is_proven() || pending.share.is_handed();
        usize::from(matches!(self, Self::Opening(pending) if awaits(pending)))
    }

    /// Returns how many pending handshakes it counts for.
    pub(crate) fn pending(&self) -> usize {
        usize::from(matches!(self, Self::Opening(_) | Self::Learning(_)))
    }
}

impl Offloadable for Flow {
    fn share(&self) -> Option<&Share> {
        match self {
            Self::Translated { share, .. } | Self::Watching(Watched { share, .. }) => Some(share),
            Self::Opening(pending) => Some(&pending.share),
            Self::Learning(_) => None,
        }
    }

    fn share_mut(&mut self) -> Option<&mut Share> {
        match self {
            Self::Translated { share, .. } | Self::Watching(Watched { share, .. }) => Some(share),
            Self::Opening(pending) => Some(&mut pending.share),
            Self::Learning(_) => None,
        }
    }

    fn offloaded(&self, key: FlowKey) -> Option<Offloaded> {
        match self {
            Self::Translated { flow, rival, proven: true, .. } => {
                flow.offloaded(key).filter(|_| rival.is_none_or(|rival| !rival.is_answered()))
            }
            Self::Watching(watched) => watched.offloaded(key),
            Self::Opening(pending) => pending.offloaded(key),
            _ => None,
        }
    }

    fn resume(&mut self, progress: &Progress) {
        match self {
            Self::Translated { flow, .. } => flow.resume(progress),
            Self::Watching(watched) => watched.resume(progress),
            Self::Opening(pending) => pending.resume(progress),
            Self::Learning(_) => {}
        }
    }

    fn is_same(&self, offloaded: &Offloaded) -> bool {
        matches!(self, Self::Translated { flow, .. } if flow.is_same(offloaded))
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Translated { flow, .. } if flow.has_ended())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::flow::Entry;

    #[test]
    fn an_established_flow_takes_less_than_256_bytes() {
        // In the table's slots, of whole cache lines.
        let bytes = size_of::<Entry<Flow>>().next_multiple_of(64);
        // The table adds at most 54: two cells of its index, its timer, its place among those at rest.
        assert!(bytes + 54 < 256, "{bytes} bytes");
    }
}

//! A flow whose handshake is done: translated both ways until it ends.

use crate::flow::FlowKey;
use crate::handshake::FIRST_FLIGHT;
use crate::limits::Limits;
use crate::offload::{Offloaded, Progress};
use crate::profile::SynAck;
use crate::reason::DropReason;
use crate::record::Record;
use crate::seq::{Client, Real, Seq};
use crate::time::Instant;
use crate::translate::Translation;
use crate::wire::options::{SynOptions, Timestamps};
use crate::wire::segment::Segment;
use crate::wire::tcp::{Flags, Tcp};
pub(crate) use end::{End, Ending, Sent};
use std::time::Duration;

mod end;

/// More bytes than any end has in flight when it closes: well above the largest default buffer.
const LARGEST_FLIGHT: u32 = 64 << 20;
/// How far acknowledgements lag behind what is sent, for telling two number spaces apart.
const USUAL_FLIGHT: u32 = 4 << 20;

/// How far a flow has ended: who has sent a FIN, who a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stage(u8);

impl Stage {
    const CLIENT_FIN: u8 = 1;
    const SERVER_FIN: u8 = 1 << 1;
    const CLIENT_RESET: u8 = 1 << 2;
    const SERVER_RESET: u8 = 1 << 3;

    /// Returns it as bits 0–3: the client's FIN, the server's; the client's reset, the server's.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Reads [`Stage::bits`]; `None` if others are set.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits < 1 << 4).then_some(Self(bits))
    }

    pub(crate) fn of(client: &End, server: &End) -> Self {
        let bits = [
            (client.fin, Self::CLIENT_FIN),
            (server.fin, Self::SERVER_FIN),
            (client.reset, Self::CLIENT_RESET),
            (server.reset, Self::SERVER_RESET),
        ];
        Self(bits.into_iter().fold(0, |stage, (set, bit)| if set { stage | bit } else { stage }))
    }

    /// Returns the client's FIN, the server's, the client's reset, the server's.
    pub(crate) fn parts(self) -> (bool, bool, bool, bool) {
        let has = |bit| self.has(bit);
        (has(Self::CLIENT_FIN), has(Self::SERVER_FIN), has(Self::CLIENT_RESET), has(Self::SERVER_RESET))
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// What a segment did to its flow's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Nothing: the flow goes on; the idle time begins anew.
    Goes(Duration),
    /// It has ended with this segment, or was wrongly thought to have: it is kept for so long
    /// from now on, whatever was said before.
    Ends(Duration),
    /// Both ends have said and acknowledged all they had to: it is kept for so long from now on, and may
    /// make room for another sooner, see [`Limits::finished_least`].
    Rests(Duration),
}

/// A translated flow.
#[derive(Debug)]
pub struct Translated {
    translation: Translation,
    client_isn: Seq<Client>,
    answer: SynAck,
    client: End,
    /// In the server's real space.
    server: End,
    /// SYN-ACKs still expected in answer to our own repeated SYNs, and until when.
    repeats: u8,
    repeats_until: Instant,
    /// It comes from an engine before this one.
    is_restored: bool,
    /// So it does, and nothing has shown yet that it still is as it was then.
    is_doubtful: bool,
}

impl Translated {
    /// Begins with the real SYN-ACK `answer`, received at `now`; `client_window_scale` is what
    /// the SYN offered, 0 if nothing; `extra_syns` counts the SYNs sent beyond the first, each of
    /// which the server answers too.
    pub fn new(
        translation: Translation,
        client_isn: Seq<Client>,
        client_window_scale: u8,
        answer: SynAck,
        extra_syns: u8,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        let (client, server) = (client_isn.plus(1).get(), translation.real_isn().plus(1).get());
        // RFC 7323 §2.2: both windows are scaled, or none.
        let scales = answer.options.window_scale.map_or((0, 0), |server| (client_window_scale, server));
        Self {
            translation,
            client_isn,
            answer,
            // The SYN's window does not matter: the client's ACK comes before the server's data.
            client: End::new(client, server, 0, scales.0),
            server: End::new(server, client, answer.window.into(), scales.1),
            repeats: extra_syns,
            repeats_until: now + limits.repeated_syn_ack,
            is_restored: false,
            is_doubtful: false,
        }
    }

    /// Goes on with a flow that another engine established. How far each end has come is unknown
    /// until its next segment; until then its FIN is believed and its reset is not.
    pub fn restore(record: &Record) -> Self {
        let stage = record.stage;
        Self {
            translation: record.translation,
            client_isn: record.client_isn,
            answer: record.answer,
            client: End::unknown(
                record.client_window_scale,
                stage.has(Stage::CLIENT_FIN),
                stage.has(Stage::CLIENT_RESET),
            ),
            server: End::unknown(
                record.answer.options.window_scale.unwrap_or(0),
                stage.has(Stage::SERVER_FIN),
                stage.has(Stage::SERVER_RESET),
            ),
            repeats: 0,
            repeats_until: Instant::ZERO,
            is_restored: true,
            is_doubtful: true,
        }
    }

    /// Goes on with a flow whose handshake a fast path has made, and of which no engine has noted anything. `None` if it is not
    /// translated, or its client has not proven that it exists.
    pub fn adopted(flow: &Offloaded) -> Option<Self> {
        let translation = flow.translation.filter(|_| !flow.progress.is_opening())?;
        let Progress { client, server, .. } = flow.progress;
        let parts = translation.parts();
        let timestamps = parts.tsval_offset.map(|_| Timestamps { value: parts.syn_ack_tsval, echo: 0 });
        let options = SynOptions {
            mss: None,
            window_scale: Some(server.scale()),
            sack_permitted: !parts.erase_sack,
            timestamps,
        };
        Some(Self {
            translation,
            client_isn: flow.client_isn,
            answer: SynAck { options, window: 0, ecn: false },
            client,
            server,
            repeats: 0,
            repeats_until: Instant::ZERO,
            is_restored: true,
            is_doubtful: false,
        })
    }

    /// Returns what [`Translated::restore`] needs.
    pub fn record(&self, key: FlowKey) -> Record {
        let Self { translation, client_isn, answer, .. } = *self;
        let (client_window_scale, stage) = (self.client.scale(), self.stage());
        Record { key, translation, client_isn, client_window_scale, answer, stage }
    }

    /// Returns how far it has ended.
    pub fn stage(&self) -> Stage {
        Stage::of(&self.client, &self.server)
    }

    /// Returns the translation.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// Returns the client's ISN.
    pub fn client_isn(&self) -> Seq<Client> {
        self.client_isn
    }

    /// Returns the real SYN-ACK's contents. `None` if nobody knows all of them ([`Translated::adopted`]).
    pub fn answer(&self) -> Option<&SynAck> {
        // Such an answer has no window. A server that opens none is not worth another mark.
        (self.answer.window > 0).then_some(&self.answer)
    }

    fn is_reset(&self) -> bool {
        self.client.reset || self.server.reset
    }

    /// Tells whether the flow has ended, by FINs both ways or a reset.
    pub fn has_ended(&self) -> bool {
        self.is_reset() || (self.client.fin && self.server.fin)
    }

    /// Tells whether each end has acknowledged the other's FIN, and with it all that came before.
    fn is_finished(&self) -> bool {
        let (client, server) = (&self.client, &self.server);
        client.fin && server.fin && client.has_received_all_of(server) && server.has_received_all_of(client)
    }

    /// Returns how many bytes the client has sent, modulo 4 GiB, once no more will follow: it
    /// has sent its FIN, or the flow was reset.
    pub fn upload(&self) -> Option<u32> {
        let first = self.client_isn.plus(1).get();
        let bytes = self.client.next.wrapping_sub(first).wrapping_sub(self.client.fin.into());
        (self.client.is_known && (self.client.fin || self.is_reset())).then_some(bytes)
    }

    /// Tells whether it comes from another engine, and nothing has shown yet that it still is as
    /// it was then.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Tells whether a segment from the client comes translated, or is of a newer connection that
    /// nobody translates: it acknowledges the server's own numbers. ClientNIC takes a flow over if
    /// ServerNIC dies between the server's SYN-ACK and the confirm, or if it meets the server's
    /// answer to an older SYN of the same ISN; and what both translate reaches nobody.
    pub fn is_client_translated(&self, tcp: &Tcp<'_>) -> bool {
        let acknowledged = tcp.acknowledgement();
        let translated = self.translation.to_real(Seq::new(acknowledged)).get();
        // All that the server has said so far, unless some of it went by before this engine began.
        let first = self.translation.real_isn().plus(1).get();
        let unacknowledged = self.server.next.wrapping_sub(translated);
        if unacknowledged <= self.server.next.wrapping_sub(first).min(LARGEST_FLIGHT) {
            // As nearly always. Both ways to be translated need a number that would not be the server's.
            return false;
        }
        let is_sent = |number: u32| number.wrapping_sub(first) <= self.server.next.wrapping_sub(first);
        let is_own = is_sent(acknowledged) && !is_sent(translated) && !self.is_restored;
        tcp.flags().contains(Flags::ACK) && (is_own || self.is_of_server(acknowledged, translated))
    }

    /// Reads some of each part, so that what a segment will need is in the processor's caches.
    pub fn touch(&self) -> u32 {
        self.translation.real_isn().get() ^ self.client.next ^ self.server.next ^ u32::from(self.is_doubtful)
    }

    /// Tells whether a segment from the server comes translated: it is the first flight of a server
    /// that has not said anything here yet, in the numbers that the client was promised and with the
    /// client's own, which nobody can guess who has not seen them.
    pub fn is_server_translated(&self, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        let silent = self.server.is_known && self.server.next == self.translation.real_isn().plus(1).get();
        let sent = tcp.sequence().wrapping_sub(self.translation.promised_isn().get());
        let received = tcp.acknowledgement().wrapping_sub(self.client_isn.plus(1).get());
        let acknowledges = received <= self.client.next.wrapping_sub(self.client_isn.plus(1).get());
        let begins = if flags.is_syn_ack() { sent == 0 } else { (1..=FIRST_FLIGHT).contains(&sent) };
        // One promise in some thousand lies so near the server's ISN that nobody can tell.
        let is_real = tcp.sequence().wrapping_sub(self.translation.real_isn().get()) <= FIRST_FLIGHT;
        let is_data = flags.contains(Flags::ACK) && !flags.contains(Flags::RST);
        is_data && silent && begins && !is_real && acknowledges
    }

    /// Tells whether `number`, rather than `other`, is one of the server's.
    fn is_of_server(&self, number: u32, other: u32) -> bool {
        // What was seen last of the server may be a repeat, so that others are ahead of it.
        let distance = |number: u32| (self.server.next.wrapping_sub(number) as i32).unsigned_abs();
        self.server.is_known && distance(number) <= USUAL_FLIGHT && distance(other) > LARGEST_FLIGHT
    }

    /// Tells whether a segment from the server shows that its connection is complete: it carries on
    /// with numbers of this flow's, which nobody can guess who has not seen them. A challenge ACK
    /// does not show it: a server answers any SYN with it, complete or not (RFC 9293 §3.10.7.4).
    pub fn is_spoken_for(&self, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        let sequence = Seq::<Real>::new(tcp.sequence()).beyond(self.translation.real_isn());
        let acknowledged = Seq::<Client>::new(tcp.acknowledgement()).beyond(self.client_isn);
        let within = |distance: i32| (1..=USUAL_FLIGHT as i32).contains(&distance);
        let carries_on = tcp.sequence_length() > 0 || sequence > 1 || acknowledged > 1;
        flags.contains(Flags::ACK)
            && !flags.intersects(Flags::SYN | Flags::RST)
            && within(sequence)
            && within(acknowledged)
            && carries_on
    }

    /// Tells whether a segment from the server is a SYN-ACK of this flow.
    pub fn is_syn_ack(&self, tcp: &Tcp<'_>) -> bool {
        tcp.flags().is_syn_ack()
            && tcp.acknowledgement() == self.client_isn.plus(1).get()
            && Seq::<Real>::new(tcp.sequence()) == self.translation.real_isn()
    }

    /// Tells whether a segment from the server is a SYN-ACK to this flow's SYN that began another
    /// connection than this one.
    pub fn is_other_syn_ack(&self, tcp: &Tcp<'_>) -> bool {
        tcp.flags().is_syn_ack()
            && tcp.acknowledgement() == self.client_isn.plus(1).get()
            && !self.is_syn_ack(tcp)
    }

    /// Tells whether a segment from the client, as it came, proves that the client has seen the
    /// promised ISN. Until the server has spoken, all that a client sends acknowledges S + 1.
    pub fn is_proof(&self, tcp: &Tcp<'_>) -> bool {
        let flags = tcp.flags();
        flags.contains(Flags::ACK)
            && !flags.intersects(Flags::SYN | Flags::RST)
            && tcp.acknowledgement() == self.translation.promised_isn().plus(1).get()
    }

    /// Tells whether a segment from the client can be this flow's although it has ended: then it
    /// repeats or acknowledges what has been sent. Anything else is a newer connection's.
    pub fn is_afterthought(&self, tcp: &Tcp<'_>) -> bool {
        let acknowledged = self.translation.to_real(Seq::new(tcp.acknowledgement())).get();
        // What is known of the ends of a restored flow may be a repeat, and they be ahead of it.
        let behind = |end: &End, number: u32| {
            let distance = end.next.wrapping_sub(number) as i32;
            let ahead = self.is_restored && distance < 0;
            !end.is_known || ((distance >= 0 || ahead) && distance.unsigned_abs() <= LARGEST_FLIGHT)
        };
        behind(&self.client, tcp.sequence())
            && (!tcp.flags().contains(Flags::ACK) || behind(&self.server, acknowledged))
    }

    /// Returns what a fast path needs of it, `None` while it has to stay: its segments have to be cut, it
    /// has ended, or nobody knows how far its ends have come.
    pub fn offloaded(&self, key: FlowKey) -> Option<Offloaded> {
        let is_constant = self.translation.payload_limit(0).is_none();
        let is_known = self.client.is_known && self.server.is_known && !self.is_doubtful;
        let ends = (self.client, self.server);
        (is_constant && is_known && !self.has_ended())
            .then(|| Offloaded::new(key, self.client_isn, Some(self.translation), ends))
    }

    /// Takes over what a fast path knows of how far its ends have come.
    pub fn resume(&mut self, progress: &Progress) {
        self.client.merge(&progress.client);
        self.server.merge(&progress.server);
        self.is_doubtful = false;
    }

    /// Tells whether a fast path has this very flow.
    pub fn is_same(&self, offloaded: &Offloaded) -> bool {
        let same = |other: &Translation| self.translation.promised_isn() == other.promised_isn();
        self.client_isn == offloaded.client_isn && offloaded.translation.as_ref().is_some_and(same)
    }

    /// Rewrites a segment from the client. Returns what became of the flow.
    pub fn client_segment(&mut self, segment: &mut Segment<'_>, limits: &Limits) -> Life {
        self.translation.client_to_server(segment);
        let tcp = segment.tcp();
        // Both ends know of one another's data in these numbers.
        if self.is_doubtful && self.server.is_known && tcp.acknowledgement() == self.server.next {
            self.is_doubtful = self.translation.hides_echo();
        }
        let ending = if is_believable(segment, self.is_doubtful) {
            self.client.sends(&Sent::of(&tcp), &self.server, self.is_doubtful)
        } else {
            Ending::None
        };
        self.life(ending, limits)
    }

    /// Rewrites a segment from the server. Returns what became of the flow.
    ///
    /// # Errors
    /// [`DropReason::RepeatedSynAck`] for the answer to our own second SYN; a later SYN-ACK
    /// means that the client's ACK got lost and goes on to the client.
    /// [`DropReason::ResetOfEarlyData`] for a reset whose number is the promised ISN + 1: the
    /// server sent it against early data it saw before its handshake.
    pub fn server_segment(
        &mut self,
        segment: &mut Segment<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Life, DropReason> {
        let tcp = segment.tcp();
        if self.is_syn_ack(&tcp) && self.repeats > 0 && now < self.repeats_until {
            self.repeats -= 1;
            return Err(DropReason::RepeatedSynAck);
        }
        let flags = tcp.flags();
        let promised = self.translation.promised_isn().plus(1).get();
        if flags.contains(Flags::RST)
            && !flags.contains(Flags::ACK)
            && tcp.sequence() == promised
            && !self.server.would_reset_at(promised, &self.client)
        {
            return Err(DropReason::ResetOfEarlyData);
        }
        let ending = if is_believable(segment, self.is_doubtful) {
            self.server.sends(&Sent::of(&tcp), &self.client, self.is_doubtful)
        } else {
            Ending::None
        };
        self.translation.server_to_client(segment);
        Ok(self.life(ending, limits))
    }

    /// Returns what is left of the flow's life, if a fast path has brought it to where it is.
    pub fn rest(&self, limits: &Limits) -> Life {
        match () {
            () if !self.has_ended() => Life::Ends(limits.idle),
            () if self.is_reset() => Life::Ends(limits.reset),
            () if self.is_finished() => Life::Rests(limits.finished),
            () => Life::Ends(limits.closed),
        }
    }

    fn life(&mut self, ending: Ending, limits: &Limits) -> Life {
        match ending {
            Ending::Reset => Life::Ends(limits.reset),
            Ending::Revived => Life::Ends(if self.has_ended() { limits.closed } else { limits.idle }),
            Ending::Fin if self.has_ended() => Life::Ends(limits.closed),
            _ if !self.has_ended() => Life::Goes(limits.idle),
            _ if self.is_reset() => Life::Goes(Duration::ZERO),
            _ if self.is_finished() => Life::Rests(limits.finished),
            // They may have lost data to repeat, ever more seldom.
            _ => Life::Goes(limits.closed),
        }
    }
}

/// Tells whether what a segment says of its sender may be believed. One flipped bit makes a FIN
/// or RST of an ordinary segment, with numbers that are right; its receiver will discard it. And nothing
/// shows which numbers are right as long as the flow `is_doubtful`.
fn is_believable(segment: &Segment<'_>, is_doubtful: bool) -> bool {
    let matters = is_doubtful || segment.tcp().flags().intersects(Flags::FIN | Flags::RST);
    !matters || segment.checksum_ok()
}

#[cfg(test)]
mod tests;

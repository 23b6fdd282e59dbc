//! What is known of a destination: learned from real SYN-ACKs only, forgotten at the first lie.

mod survey;

pub use survey::{Row, Standing};

use crate::offer::Promise;
use crate::time::Instant;
use crate::wire::options::SynOptions;
use crate::wire::segment::Endpoint;
use dashmap::DashMap;
use std::sync::OnceLock;
use std::time::Duration;

/// Whether a server took up an option. An option that was never offered to it is unknown, and
/// what is unknown is never promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer<T> {
    /// Never asked.
    #[default]
    Unknown,
    /// Offered and refused.
    No,
    /// Offered and taken.
    Yes(T),
}

impl<T: Copy> Answer<T> {
    /// Takes account of a new SYN-ACK: `offered` to the server, which gave `answer`.
    fn learn(&mut self, offered: bool, answer: Option<T>) {
        match (offered, answer) {
            (true, Some(value)) => *self = Self::Yes(value),
            (true, None) => *self = Self::No,
            (false, _) => {}
        }
    }

    /// The answer to promise if the client offers the option: `Err` if nobody knows.
    fn promise(self, offered: bool) -> Result<Option<T>, UnknownAnswer> {
        match self {
            _ if !offered => Ok(None),
            Self::Yes(value) => Ok(Some(value)),
            Self::No => Ok(None),
            Self::Unknown => Err(UnknownAnswer),
        }
    }
}

/// The client offers an option whose answer is not known: the connection must be learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownAnswer;

/// Which options a SYN offers that the server may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offered {
    /// Window scale.
    pub window_scale: bool,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Classic ECN.
    pub ecn: bool,
}

impl Offered {
    /// Reads them off a SYN; `ecn` tells whether both ECE and CWR are set.
    pub fn new(options: &SynOptions, ecn: bool) -> Self {
        Self {
            window_scale: options.window_scale.is_some(),
            sack: options.sack_permitted,
            timestamps: options.timestamps.is_some(),
            ecn,
        }
    }
}

/// A real SYN-ACK's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynAck {
    /// Its options.
    pub options: SynOptions,
    /// Its window, never scaled.
    pub window: u16,
    /// Whether it accepts classic ECN (ECE without CWR).
    pub ecn: bool,
}

/// What the server answers, as far as known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knowledge {
    /// Whether a ServerNIC translates for this destination.
    pub paired: bool,
    /// MSS in bytes; a SYN-ACK without the option means 536 (RFC 9293 §3.7.1) or 1,220.
    pub mss: u16,
    /// Window of the SYN-ACK.
    pub window: u16,
    window_scale: Answer<u8>,
    sack: Answer<()>,
    timestamps: Answer<()>,
    ecn: Answer<()>,
    expires: Instant,
}

impl Knowledge {
    /// Returns what to promise a client that sends `syn`: the intersection of what it offers
    /// and what is known, the MSS no larger than `mss_clamp` bytes. The promised TSval is
    /// `tsval` if timestamps are promised.
    ///
    /// # Errors
    /// [`UnknownAnswer`] if the client offers something the server has never been asked.
    pub fn promise(&self, offered: Offered, mss_clamp: u16, tsval: u32) -> Result<Promise, UnknownAnswer> {
        Ok(Promise {
            mss: self.mss.min(mss_clamp),
            window_scale: self.window_scale.promise(offered.window_scale)?,
            sack: self.sack.promise(offered.sack)?.is_some(),
            tsval: self.timestamps.promise(offered.timestamps)?.map(|()| tsval),
            ecn: self.ecn.promise(offered.ecn)?.is_some(),
        })
    }
}

/// The sizes of the last uploads to a destination, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Uploads {
    recent: [u32; 8],
    count: usize,
}

impl Uploads {
    fn push(&mut self, bytes: u32) {
        self.recent[self.count % self.recent.len()] = bytes;
        self.count += 1;
    }

    /// Tells whether at least a quarter of them is larger than `bytes`. A large upload loses
    /// more than many small ones gain, so the majority does not decide.
    fn often_exceed(&self, bytes: u32) -> bool {
        let known = &self.recent[..self.count.min(self.recent.len())];
        let large = known.iter().filter(|size| **size > bytes).count();
        large > 0 && large * 4 >= known.len()
    }
}

/// What a fast path may promise by itself to whoever asks a destination for everything that current systems ask for (window scale,
/// SACK, timestamps): only of a destination behind a ServerNIC that grants all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// MSS in bytes.
    pub mss: u16,
    /// The SYN-ACK's window field, never scaled.
    pub window: u16,
    /// Window scale shift, 0 to 14.
    pub window_scale: u8,
    /// Until when it is believed.
    pub expires: Instant,
}

impl Posted {
    /// Tells whether a fast path that knows this has to be told of `newer`. Each connection puts the end off, which is told
    /// when `worth` has come together.
    fn is_outdated_by(&self, newer: &Self, worth: Duration) -> bool {
        let same = Self { expires: self.expires, ..*newer } == *self;
        !same || newer.expires - self.expires >= worth
    }
}

/// Where profiles tell a fast path what it may promise by itself.
pub trait Board: std::fmt::Debug + Send + Sync {
    /// Puts up what `destination` may be promised for, or takes it down; returns whether that was possible. Called with a part of the
    /// table locked, so it may take the time of a system call, and may not use the table.
    fn post(&self, destination: &Endpoint, posted: Option<&Posted>) -> bool;
}

#[derive(Debug, Clone, Copy, Default)]
struct Profile {
    knowledge: Option<Knowledge>,
    refused_until: Instant,
    uploads: Uploads,
    long_leg_rtt: Option<Duration>,
    /// What is known of it on the board.
    posted: Option<Posted>,
}

impl Profile {
    /// Returns what may be promised without looking here.
    fn postable(&self, limits: &ProfileLimits) -> Option<Posted> {
        let known = self.knowledge.filter(|known| known.paired)?;
        let (Answer::Yes(window_scale), Answer::Yes(()), Answer::Yes(())) =
            (known.window_scale, known.sack, known.timestamps)
        else {
            return None;
        };
        let posted = Posted { mss: known.mss, window: known.window, window_scale, expires: known.expires };
        Some(posted).filter(|_| !self.uploads.often_exceed(limits.large_upload))
    }

    fn standing(&self, now: Instant, limits: &ProfileLimits) -> Standing {
        if now < self.refused_until {
            Standing::RefusedLately
        } else if self.uploads.often_exceed(limits.large_upload) {
            Standing::LargeUploads
        } else if self.knowledge.is_some_and(|known| now < known.expires) {
            Standing::Known
        } else {
            Standing::Unknown
        }
    }
}

/// How long things are remembered, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileLimits {
    /// Most destinations known at a time.
    pub destinations: usize,
    /// How long a SYN-ACK is believed.
    pub lifetime: Duration,
    /// How long after a refusal SYNs pass without even being learned from.
    pub refusal: Duration,
    /// Upload in bytes that is large: where a quarter of the last eight is, nothing is spoofed.
    pub large_upload: u32,
}

impl Default for ProfileLimits {
    /// 65,536 destinations, 10 minutes, 1 s, 256 KiB.
    fn default() -> Self {
        Self {
            destinations: 65_536,
            lifetime: Duration::from_secs(600),
            refusal: Duration::from_secs(1),
            large_upload: 256 * 1024,
        }
    }
}

/// What to do with a SYN to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing is known, or it is too old: learn.
    Unknown,
    /// It refused or timed out a moment ago: leave it alone.
    RefusedLately,
    /// Uploads are large there: do not spoof, but go on learning.
    LargeUploads,
    /// It is known; and the RTT of the long leg, if measured.
    Known(Knowledge, Option<Duration>),
}

/// The profiles of all destinations, shared by workers and the control plane.
#[derive(Debug)]
pub struct Profiles {
    map: DashMap<Endpoint, Profile, foldhash::fast::RandomState>,
    limits: ProfileLimits,
    board: OnceLock<Box<dyn Board>>,
}

impl Profiles {
    /// Makes an empty table.
    pub fn new(limits: ProfileLimits) -> Self {
        Self { map: DashMap::default(), limits, board: OnceLock::new() }
    }

    /// Tells `board` from now on, and what is known by now. There is one board, the first.
    pub fn post_to(&self, board: Box<dyn Board>) {
        if self.board.set(board).is_ok() {
            self.map.iter_mut().for_each(|mut entry| {
                let (destination, profile) = entry.pair_mut();
                self.post(destination, profile);
            });
        }
    }

    /// Has the board say what is known now. The caller has the entry locked, so no older news comes behind this.
    fn post(&self, destination: &Endpoint, profile: &mut Profile) {
        let Some(board) = self.board.get() else { return };
        let next = profile.postable(&self.limits);
        let is_news = match (&profile.posted, &next) {
            (Some(known), Some(next)) => known.is_outdated_by(next, self.limits.lifetime / 8),
            (known, next) => known.is_some() != next.is_some(),
        };
        if is_news && board.post(destination, next.as_ref()) {
            profile.posted = next;
        }
    }

    /// Takes down what is up of a profile that goes.
    fn take_down(&self, destination: &Endpoint, profile: &Profile) {
        if let Some(board) = self.board.get().filter(|_| profile.posted.is_some()) {
            board.post(destination, None);
        }
    }

    /// Returns the number of destinations.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Tells whether no destination is known.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns what is known of `destination` at `now`.
    pub fn outlook(&self, destination: &Endpoint, now: Instant) -> Outlook {
        let Some(profile) = self.map.get(destination) else { return Outlook::Unknown };
        match (profile.standing(now, &self.limits), profile.knowledge) {
            (Standing::RefusedLately, _) => Outlook::RefusedLately,
            (Standing::LargeUploads, _) => Outlook::LargeUploads,
            (Standing::Known, Some(knowledge)) => Outlook::Known(knowledge, profile.long_leg_rtt),
            _ => Outlook::Unknown,
        }
    }

    /// Learns from a real SYN-ACK of `destination` to a SYN that `offered`; `rtt` is the long
    /// leg's if this exchange measured it. Returns false if the table is full.
    pub fn learn(
        &self,
        destination: Endpoint,
        paired: bool,
        offered: Offered,
        answer: &SynAck,
        rtt: Option<Duration>,
        now: Instant,
    ) -> bool {
        if !self.has_room(&destination, now) {
            return false;
        }
        let mut profile = self.map.entry(destination).or_default();
        let default_mss = if destination.0.is_ipv4() { 536 } else { 1220 };
        let mut known = profile.knowledge.filter(|known| now < known.expires).unwrap_or(Knowledge {
            paired,
            mss: 0,
            window: 0,
            window_scale: Answer::Unknown,
            sack: Answer::Unknown,
            timestamps: Answer::Unknown,
            ecn: Answer::Unknown,
            expires: now,
        });
        known.paired = paired;
        known.mss = answer.options.mss.unwrap_or(default_mss);
        known.window = answer.window;
        known.window_scale.learn(offered.window_scale, answer.options.window_scale);
        known.sack.learn(offered.sack, answer.options.sack_permitted.then_some(()));
        known.timestamps.learn(offered.timestamps, answer.options.timestamps.map(|_| ()));
        known.ecn.learn(offered.ecn, answer.ecn.then_some(()));
        known.expires = now + self.limits.lifetime;
        profile.knowledge = Some(known);
        profile.refused_until = Instant::ZERO;
        profile.long_leg_rtt = rtt.or(profile.long_leg_rtt);
        self.post(&destination, &mut profile);
        true
    }

    /// Forgets a destination that refused, stayed silent or broke its promise, so that the next
    /// connections see the truth.
    pub fn refuse(&self, destination: &Endpoint, now: Instant) {
        if let Some(mut profile) = self.map.get_mut(destination) {
            profile.knowledge = None;
            profile.refused_until = now + self.limits.refusal;
            self.post(destination, &mut profile);
        }
    }

    /// Remembers that a client sent `bytes` to `destination` in one connection.
    pub fn uploaded(&self, destination: &Endpoint, bytes: u32) {
        if let Some(mut profile) = self.map.get_mut(destination) {
            profile.uploads.push(bytes);
            self.post(destination, &mut profile);
        }
    }

    fn has_room(&self, destination: &Endpoint, now: Instant) -> bool {
        if self.map.contains_key(destination) || self.map.len() < self.limits.destinations {
            return true;
        }
        self.map.retain(|destination, profile| {
            let stays = profile.knowledge.is_some_and(|known| now < known.expires);
            if !stays {
                self.take_down(destination, profile);
            }
            stays
        });
        self.map.len() < self.limits.destinations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Endpoint = (std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 10)), 80);
    const NOW: Instant = Instant::from_micros(1_000_000);
    const ALL: Offered = Offered { window_scale: true, sack: true, timestamps: true, ecn: false };

    fn answer() -> SynAck {
        let timestamps = Some(crate::wire::options::Timestamps { value: 1, echo: 2 });
        let options = SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps };
        SynAck { options, window: 65_160, ecn: false }
    }

    fn learned() -> Profiles {
        let profiles = Profiles::new(ProfileLimits::default());
        assert!(profiles.learn(SERVER, true, ALL, &answer(), None, NOW));
        profiles
    }

    fn known(profiles: &Profiles, now: Instant) -> Knowledge {
        match profiles.outlook(&SERVER, now) {
            Outlook::Known(knowledge, _) => knowledge,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn promises_the_intersection() {
        let known = known(&learned(), NOW);
        let all = known.promise(ALL, 1400, 9).unwrap();
        let expected = Promise { mss: 1400, window_scale: Some(7), sack: true, tsval: Some(9), ecn: false };
        assert_eq!(all, expected);
        let bare = known.promise(Offered::default(), 9000, 9).unwrap();
        assert_eq!(bare, Promise { mss: 1460, ..Promise::default() });
    }

    #[test]
    fn never_promises_what_was_never_asked() {
        let with_ecn = Offered { ecn: true, ..ALL };
        assert_eq!(known(&learned(), NOW).promise(with_ecn, 1460, 9), Err(UnknownAnswer));
        let profiles = learned();
        profiles.learn(SERVER, true, with_ecn, &answer(), None, NOW);
        assert!(!known(&profiles, NOW).promise(with_ecn, 1460, 9).unwrap().ecn, "asked and refused");
    }

    #[test]
    fn an_answer_survives_a_syn_that_did_not_ask() {
        let profiles = learned();
        let bare = SynAck { options: SynOptions::default(), ..answer() };
        profiles.learn(SERVER, true, Offered::default(), &bare, None, NOW);
        let known = known(&profiles, NOW);
        assert_eq!(known.mss, 536);
        assert_eq!(known.promise(ALL, 1460, 9).unwrap().window_scale, Some(7));
    }

    #[test]
    fn expires_and_is_forgotten_at_a_refusal() {
        let profiles = learned();
        assert_eq!(profiles.outlook(&SERVER, NOW + Duration::from_secs(600)), Outlook::Unknown);
        profiles.refuse(&SERVER, NOW);
        assert_eq!(profiles.outlook(&SERVER, NOW), Outlook::RefusedLately);
        assert_eq!(profiles.outlook(&SERVER, NOW + Duration::from_secs(1)), Outlook::Unknown);
    }

    #[derive(Debug, Default, Clone)]
    struct Notes(std::sync::Arc<std::sync::Mutex<Vec<Option<Posted>>>>);

    impl Board for Notes {
        fn post(&self, _: &Endpoint, posted: Option<&Posted>) -> bool {
            self.0.lock().unwrap().push(posted.copied());
            true
        }
    }

    #[test]
    fn the_board_hears_what_may_be_promised_and_when_it_may_not() {
        let (profiles, notes) = (learned(), Notes::default());
        profiles.post_to(Box::new(notes.clone()));
        let heard = || std::mem::take(&mut *notes.0.lock().unwrap());
        let lifetime = ProfileLimits::default().lifetime;
        let first = Posted { mss: 1460, window: 65_160, window_scale: 7, expires: NOW + lifetime };
        assert_eq!(heard(), [Some(first)]);
        profiles.learn(SERVER, true, ALL, &answer(), None, NOW + Duration::from_secs(1));
        assert_eq!(heard(), [], "a second later is no news");
        let later = NOW + lifetime / 2;
        profiles.learn(SERVER, true, ALL, &answer(), None, later);
        assert_eq!(heard(), [Some(Posted { expires: later + lifetime, ..first })]);
        profiles.uploaded(&SERVER, 2_000_000);
        assert_eq!(heard(), [None]);
        (0..8).for_each(|_| profiles.uploaded(&SERVER, 1));
        assert_eq!(heard(), [Some(Posted { expires: later + lifetime, ..first })]);
        profiles.refuse(&SERVER, later);
        assert_eq!(heard(), [None]);
        profiles.learn(SERVER, true, ALL, &answer(), None, later);
        assert_eq!(profiles.forget(|_| true), 1);
        assert_eq!(heard().last(), Some(&None));
    }

    #[test]
    fn only_who_grants_everything_behind_a_servernic_is_on_the_board() {
        let heard = |paired, answer: &SynAck| {
            let (profiles, notes) = (Profiles::new(ProfileLimits::default()), Notes::default());
            profiles.post_to(Box::new(notes.clone()));
            profiles.learn(SERVER, paired, ALL, answer, None, NOW);
            notes.0.lock().unwrap().len()
        };
        assert_eq!(heard(true, &answer()), 1);
        assert_eq!(heard(false, &answer()), 0);
        let without_sack = SynOptions { sack_permitted: false, ..answer().options };
        assert_eq!(heard(true, &SynAck { options: without_sack, ..answer() }), 0);
    }

    #[test]
    fn large_uploads_close_the_gate_and_small_ones_open_it() {
        let profiles = learned();
        for _ in 0..3 {
            profiles.uploaded(&SERVER, 2_000_000);
        }
        assert_eq!(profiles.outlook(&SERVER, NOW), Outlook::LargeUploads);
        for _ in 0..6 {
            profiles.uploaded(&SERVER, 500);
            assert_eq!(profiles.outlook(&SERVER, NOW), Outlook::LargeUploads);
        }
        profiles.uploaded(&SERVER, 500);
        assert!(matches!(profiles.outlook(&SERVER, NOW), Outlook::Known(..)), "one of eight");
        profiles.uploaded(&SERVER, 300_000);
        profiles.uploaded(&SERVER, 300_000);
        assert_eq!(profiles.outlook(&SERVER, NOW), Outlook::LargeUploads, "two of eight");
    }

    #[test]
    fn a_survey_says_what_would_be_done_and_forgetting_undoes_it() {
        let profiles = learned();
        let look = || profiles.survey(NOW, 9, |_| true);
        let row = look().remove(0);
        assert_eq!((row.destination, row.standing, row.mss), (SERVER, Standing::Known, 1460));
        assert!(row.options.contains(&"sack") && row.expires_in == Duration::from_secs(600), "{row:?}");
        assert_eq!(profiles.survey(NOW, 0, |_| true), []);
        let later = profiles.survey(NOW + Duration::from_secs(601), 9, |_| true).remove(0);
        assert_eq!((later.standing, later.expires_in), (Standing::Unknown, Duration::ZERO));
        profiles.uploaded(&SERVER, 2_000_000);
        assert_eq!(look()[0].standing, Standing::LargeUploads);
        profiles.refuse(&SERVER, NOW);
        assert_eq!(look()[0].standing, Standing::RefusedLately);
        assert_eq!(
            (profiles.forget(|known| known.1 == 1), profiles.forget(|known| *known == SERVER)),
            (0, 1)
        );
        assert!(profiles.is_empty());
    }

    #[test]
    fn the_bound_holds_until_something_expires() {
        let profiles = Profiles::new(ProfileLimits { destinations: 1, ..ProfileLimits::default() });
        assert!(profiles.learn(SERVER, true, ALL, &answer(), None, NOW));
        let other = (SERVER.0, 81);
        assert!(!profiles.learn(other, true, ALL, &answer(), None, NOW));
        assert!(profiles.learn(other, true, ALL, &answer(), None, NOW + Duration::from_secs(601)));
        assert_eq!(profiles.len(), 1);
    }
}

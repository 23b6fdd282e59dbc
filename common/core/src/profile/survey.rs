//! What is known of destinations, for operators.

use super::{Answer, Profiles};
use crate::time::Instant;
use crate::wire::segment::Endpoint;
use std::time::Duration;

/// What is done with a SYN to a destination: see [`Outlook`](super::Outlook).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Connections are answered early.
    Known,
    /// The next connection is learned from.
    Unknown,
    /// It refused or timed out a moment ago.
    RefusedLately,
    /// Uploads are large there.
    LargeUploads,
}

impl Standing {
    /// Returns what operators read: lower case, words joined by `_`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Unknown => "unknown",
            Self::RefusedLately => "refused_lately",
            Self::LargeUploads => "large_uploads",
        }
    }
}

/// A destination as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Address and port.
    pub destination: Endpoint,
    /// What is done with a SYN.
    pub standing: Standing,
    /// Whether a ServerNIC translates for it.
    pub paired: bool,
    /// MSS of its SYN-ACK in bytes; 0 if nothing is known.
    pub mss: u16,
    /// Window of its SYN-ACK in bytes, never scaled.
    pub window: u16,
    /// Whether it answers each option that is known to be offered to it, by the field's names.
    pub options: Vec<&'static str>,
    /// RTT of the path beyond, if measured.
    pub rtt: Option<Duration>,
    /// For how long what it has answered will be believed.
    pub expires_in: Duration,
}

impl Profiles {
    /// Returns the destinations of which `wanted` is true, `most` of them at most, in no order. Part of the table is
    /// locked at a time, for reading.
    pub fn survey(&self, now: Instant, most: usize, wanted: impl Fn(&Endpoint) -> bool) -> Vec<Row> {
        let rows = self.map.iter().filter(|entry| wanted(entry.key()));
        let row = |(destination, profile): (&Endpoint, &super::Profile)| {
            let known = profile.knowledge;
            let options = known.map_or(Vec::new(), |known| {
                let answers = [
                    ("window_scale", matches!(known.window_scale, Answer::Yes(_))),
                    ("sack", known.sack == Answer::Yes(())),
                    ("timestamps", known.timestamps == Answer::Yes(())),
                    ("ecn", known.ecn == Answer::Yes(())),
                ];
                answers.into_iter().filter(|(_, yes)| *yes).map(|(name, _)| name).collect()
            });
            Row {
                destination: *destination,
                standing: profile.standing(now, &self.limits),
                paired: known.is_some_and(|known| known.paired),
                mss: known.map_or(0, |known| known.mss),
                window: known.map_or(0, |known| known.window),
                options,
                rtt: profile.long_leg_rtt,
                expires_in: known.map_or(Duration::ZERO, |known| known.expires - now),
            }
        };
        rows.take(most).map(|entry| row(entry.pair())).collect()
    }

    /// Returns until when what `destination` has answered is believed; `None` if nothing is known.
    pub fn known_until(&self, destination: &Endpoint) -> Option<Instant> {
        Some(self.map.get(destination)?.knowledge?.expires)
    }

    /// Forgets the destinations of which `wanted` is true; returns how many. Their next connections are learned from.
    /// Connections under way go on.
    pub fn forget(&self, wanted: impl Fn(&Endpoint) -> bool) -> usize {
        let mut forgotten = 0;
        self.map.retain(|destination, profile| {
            let goes = wanted(destination);
            if goes {
                self.take_down(destination, profile);
            }
            forgotten += usize::from(goes);
            !goes
        });
        forgotten
    }

    /// Returns from how many bytes on an upload is large.
    pub fn large_upload(&self) -> u32 {
        self.limits.large_upload
    }

    /// Returns the most destinations known at a time.
    pub fn bound(&self) -> usize {
        self.limits.destinations
    }
}

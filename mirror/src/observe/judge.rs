//! What ClientNIC would do with a SYN, were it on the path and a ServerNIC beside the server.
//!
//! The order of the questions is that of ClientNIC's engine, and what is known of a destination is kept by
//! [`Profiles`], which the engine itself uses. Two things are taken for granted: that a ServerNIC answers each probe,
//! and that the SYN's checksum is right, which a copy that the mirror may have cut can't show.

use rtt0_core::offer;
use rtt0_core::profile::{Offered, Outlook, ProfileLimits, Profiles, SynAck};
use rtt0_core::reason::PassReason;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{SynOptions, SynOptionsError};
use rtt0_core::wire::segment::Endpoint;
use rtt0_core::wire::tcp::{Flags, MAX_OPTIONS, Tcp};
use std::time::Duration;

/// Destinations known at a time. The daemon's default is eight times that; beyond it both learn nothing new until
/// something expires.
const DESTINATIONS: usize = 8_192;
/// A full table is searched for what has expired no more often than this.
const SWEEP: Duration = Duration::from_secs(1);

/// What would be done with a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It would be answered at once.
    ZeroRtt,
    /// It would pass untouched.
    Pass(PassReason),
}

/// A SYN as it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    /// What would be done.
    pub(super) verdict: Verdict,
    /// What it offers, if its SYN-ACK would teach the NIC something.
    pub(super) teaches: Option<Offered>,
    /// Whether the NIC would follow the connection, and so learn of a refusal and of its upload.
    pub(super) followed: bool,
}

impl Judged {
    fn left_alone(reason: PassReason) -> Self {
        Self { verdict: Verdict::Pass(reason), teaches: None, followed: false }
    }
}

/// Judges SYNs by what the answers to those before them have taught.
#[derive(Debug)]
pub(super) struct Judge {
    profiles: Profiles,
    sweep: Instant,
}

impl Judge {
    pub(super) fn new() -> Self {
        let limits = ProfileLimits { destinations: DESTINATIONS, ..ProfileLimits::default() };
        Self { profiles: Profiles::new(limits), sweep: Instant::ZERO }
    }

    /// Judges the SYN of a new connection to `server` that carries `payload` bytes.
    pub(super) fn judge(&self, now: Instant, server: &Endpoint, tcp: &Tcp<'_>, payload: u32) -> Judged {
        let offered = match read(tcp, payload) {
            Ok(offered) => offered,
            Err(reason) => return Judged::left_alone(reason),
        };
        // A SYN that passes is marked with a probe. Without room for one nobody is asked and nothing is learned.
        let probes = tcp.option_bytes().len() + offer::LENGTH <= MAX_OPTIONS;
        let learn = |reason| {
            let reason =
                if probes || reason != PassReason::Learning { reason } else { PassReason::NoOptionSpace };
            let teaches = Some(offered).filter(|_| probes);
            Judged { verdict: Verdict::Pass(reason), teaches, followed: true }
        };
        match self.profiles.outlook(server, now) {
            Outlook::RefusedLately => Judged::left_alone(PassReason::RefusedLately),
            Outlook::LargeUploads => learn(PassReason::LargeUploads),
            Outlook::Unknown => learn(PassReason::Learning),
            // Neither the clamp nor the TSval decides whether there is a promise.
            Outlook::Known(knowledge, _) => match knowledge.promise(offered, u16::MAX, 1) {
                Ok(_) => Judged { verdict: Verdict::ZeroRtt, teaches: Some(offered), followed: true },
                Err(_) => learn(PassReason::Learning),
            },
        }
    }

    /// Learns from the SYN-ACK `answer` to a SYN that `offered`. Returns false if there is no room.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        server: Endpoint,
        offered: Offered,
        answer: &SynAck,
    ) -> bool {
        let full = self.profiles.len() >= self.profiles.bound();
        if full && self.profiles.known_until(&server).is_none() {
            if now < self.sweep {
                return false;
            }
            self.sweep = now + SWEEP;
        }
        self.profiles.learn(server, true, offered, answer, None, now)
    }

    /// Takes note that `server` has refused, or has not answered a SYN that would have been answered for it.
    pub(super) fn refused(&self, now: Instant, server: &Endpoint) {
        self.profiles.refuse(server, now);
    }

    /// Takes note of the size of an upload that has ended, in bytes.
    pub(super) fn uploaded(&self, server: &Endpoint, bytes: u32) {
        self.profiles.uploaded(server, bytes);
    }
}

/// Reads what a SYN offers.
///
/// # Errors
/// Why it has to pass untouched.
fn read(tcp: &Tcp<'_>, payload: u32) -> Result<Offered, PassReason> {
    let flags = tcp.flags();
    if flags.intersects(Flags::URG | Flags::PSH) {
        return Err(PassReason::OddSyn);
    }
    if flags.contains(Flags::AE) {
        return Err(PassReason::AccurateEcn);
    }
    if payload > 0 {
        return Err(PassReason::SynPayload);
    }
    let options = SynOptions::parse(tcp.options(), |_| false).map_err(|error| match error {
        SynOptionsError::Unknown(_) => PassReason::UnknownOption,
        SynOptionsError::Malformed => PassReason::MalformedTcp,
    })?;
    Ok(Offered::new(&options, flags.contains(Flags::ECE | Flags::CWR)))
}

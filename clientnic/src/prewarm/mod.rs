//! Destinations that ClientNIC learns of by itself, at its start and before what it knows expires, so that even the first
//! connection is answered early.
//!
//! A thread asks each with a SYN from this host's own address that offers everything, and a probe for a ServerNIC. The
//! answer is learned from as a client's would be. What is forgotten meanwhile, because it turned out to be wrong or an
//! operator wants it so, is asked for anew.

mod probe;

use crate::engine::Mode;
use crate::policy::SharedPolicy;
use arc_swap::ArcSwap;
use probe::{Answer, Probe};
use rtt0_core::offer::Keys;
use rtt0_core::profile::Profiles;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Endpoint;
use rtt0_netio::clock;
use rtt0_netio::privilege::{self, Duty};
use rtt0_netio::probe::ProbeSocket;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Destinations at most; further ones are learned from their first connection.
pub(crate) const MOST: usize = 64;
/// Between two looks at what is known.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take, for each try. The last does without ECN, which some routers do not let pass
/// (RFC 3168 §6.1.1.1).
const TRIES: [(Duration, bool); 3] =
    [(Duration::from_secs(1), true), (Duration::from_secs(2), true), (Duration::from_secs(1), false)];
/// How long a destination that gave no answer, or refused, is left alone.
const PAUSE: Duration = Duration::from_secs(30);
/// What is known is asked for anew when this part of its life is left.
const LEFT: u32 = 5;

/// The thread that asks. Dropping it ends it at its next look; it is not waited for.
#[derive(Debug)]
pub(crate) struct Prewarm {
    _end: Sender<()>,
}

/// What it needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Whom to ask.
    pub(crate) destinations: Vec<SocketAddr>,
    /// Whether to, and whether for a ServerNIC.
    pub(crate) policy: SharedPolicy,
    /// What it signs with.
    pub(crate) keys: Arc<ArcSwap<Keys>>,
    /// Where it learns.
    pub(crate) profiles: Arc<Profiles>,
    /// Largest MSS, for (IPv4, IPv6), in bytes.
    pub(crate) mss: (u16, u16),
    /// How long what was learned is believed.
    pub(crate) lifetime: Duration,
}

impl Prewarm {
    /// Starts it. Needs `CAP_NET_RAW`; the thread then does not. A destination without a route is left out, with a warning.
    ///
    /// # Errors
    /// That no thread can be had.
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        let open = |destination: &SocketAddr| {
            let opened = ProbeSocket::open(*destination);
            let socket = opened
                .inspect_err(|error| tracing::warn!(%destination, %error, "it can't be asked beforehand"));
            Some(Target { socket: socket.ok()?, not_before: Instant::ZERO, outcome: String::new() })
        };
        let targets = settings.destinations.iter().take(MOST).filter_map(open).collect();
        let (end, ended) = mpsc::channel();
        std::thread::Builder::new().name("prewarm".to_owned()).spawn(move || {
            privilege::confine(Duty::Nothing);
            keep_warm(targets, &settings, &ended);
        })?;
        Ok(Self { _end: end })
    }
}

/// A destination, and when it may be asked again.
struct Target {
    socket: ProbeSocket,
    not_before: Instant,
    /// What was said of it last.
    outcome: String,
}

fn keep_warm(mut targets: Vec<Target>, settings: &Settings, ended: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PERIOD) {
        let mode = settings.policy.now().mode;
        for target in targets.iter_mut().filter(|_| mode != Mode::Off) {
            let (now, destination) = (clock::now(), endpoint(target.socket.remote()));
            let known_until = settings.profiles.known_until(&destination);
            let is_fresh = known_until.is_some_and(|until| until - now > settings.lifetime / LEFT);
            if !is_fresh && now >= target.not_before {
                target.ask(settings, mode);
            }
        }
    }
}

impl Target {
    fn ask(&mut self, settings: &Settings, mode: Mode) {
        let destination = self.socket.remote();
        let (outcome, pause) = match self.answer(settings, mode) {
            Ok(Some(Answer::Accepted { paired: true, .. })) => {
                ("it is known, and has a ServerNIC".into(), PERIOD)
            }
            Ok(Some(Answer::Accepted { .. })) => ("it is known, and has no ServerNIC".into(), PERIOD),
            Ok(Some(Answer::Refused)) => ("it refuses".into(), PAUSE),
            Ok(None) => ("it does not answer".into(), PAUSE),
            Err(error) => (error.to_string(), PAUSE),
        };
        self.not_before = clock::now() + pause;
        // Only what is new: this may go on for months.
        if outcome != self.outcome {
            tracing::info!(%destination, outcome, "asked before its first connection");
            self.outcome = outcome;
        }
    }

    /// Asks until there is an answer, a few times at most, and learns from it.
    fn answer(&self, settings: &Settings, mode: Mode) -> io::Result<Option<Answer>> {
        let ends = (endpoint(self.socket.local()), endpoint(self.socket.remote()));
        let mss = if ends.1.0.is_ipv4() { settings.mss.0 } else { settings.mss.1 };
        let keys = settings.keys.load();
        let keys = (mode != Mode::Solo).then_some(&**keys);
        // What came to an earlier SYN is no answer to this one.
        self.socket.discard()?;
        for (patience, ecn) in TRIES {
            // Nobody else knows the keys that the standard library draws. Another one for each try, so that it is known
            // which of them was answered.
            let isn = RandomState::new().hash_one(clock::now().as_micros()) as u32;
            let probe = Probe::new(ends, isn, mss, keys, ecn);
            let sent = clock::now();
            self.socket.send(probe.segment())?;
            let Some(answer) = self.socket.receive(patience, |segment| probe.read(segment, keys))? else {
                continue;
            };
            if let Answer::Accepted { answer, paired } = &answer {
                let now = clock::now();
                settings.profiles.learn(ends.1, *paired, probe.offered(), answer, Some(now - sent), now);
            }
            return Ok(Some(answer));
        }
        Ok(None)
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    (address.ip(), address.port())
}

//! Both engines, fed with packets and pauses.

use crate::packets::{gateway, keys, ms};
use crate::script::{STEP, Step};
use clientnic::engine::{ClientNic, Mode, Settings};
use rtt0_core::claim::claims;
use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::gauges::Gauges;
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::{ProfileLimits, Profiles};
use rtt0_core::service::{Direction, Services};
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use servernic::engine::ServerNic;
use std::sync::Arc;
use std::time::Duration;

const MODES: [Mode; 4] = [Mode::Auto, Mode::Solo, Mode::Paired, Mode::Off];
/// Steps of one script that are looked at.
const LONGEST: usize = 200;

/// Takes a byte that chooses the engine and its mode, and steps (see `script`).
pub fn run(data: &[u8]) {
    let Some((&which, script)) = data.split_first() else { return };
    let limits = small_limits();
    let Some(&mode) = MODES.get(usize::from(which) % (MODES.len() + 1)) else {
        let mut nic = ServerNic::new(gateway(), keys(), limits);
        feed(&mut nic, script, 1, |nic| {
            assert!(nic.gauges().flows <= limits.flows && nic.gauges().pending <= limits.pending);
            assert!(nic.gauges().held <= limits.held_total);
        });
        return assert_eq!(nic.gauges(), Gauges::default());
    };
    let profiles = Arc::new(Profiles::new(ProfileLimits { destinations: 1, ..ProfileLimits::default() }));
    let settings = Settings { policy: mode.into(), mss_clamp: (1000, 1000), limits };
    let mut nic = ClientNic::new(gateway(), keys(), profiles, settings);
    // Of early data it sends on it keeps a copy, which it may send as well.
    feed(&mut nic, script, 2, |nic| {
        assert!(nic.gauges().flows <= limits.flows && nic.gauges().pending <= limits.pending);
        assert!(nic.gauges().half_open <= limits.half_open && nic.gauges().held <= limits.held_total);
    });
    assert_eq!(nic.gauges(), Gauges::default());
}

/// Bounds small enough to be reached.
fn small_limits() -> Limits {
    Limits {
        flows: 4,
        pending: 3,
        half_open: 2,
        held_per_flow: 400,
        held_total: 700,
        idle: Duration::from_secs(60),
        closed: Duration::from_secs(2),
        reset: Duration::from_secs(1),
        learning: Duration::from_secs(3),
        unproven: Duration::from_secs(1),
        unacknowledged: Duration::from_secs(4),
        ..Limits::default()
    }
}

/// What an engine has emitted for what it has been given.
#[derive(Debug, Default, Clone, Copy)]
struct Ledger {
    received: usize,
    answered: usize,
    timed: usize,
    /// Segments towards the server with ACK, received and emitted; then those towards the client
    /// without SYN and RST.
    acks: [[usize; 2]; 2],
}

/// Hands the steps to an engine, with `check` after each; then lets every timer run out.
///
/// All that is emitted at once is at most two packets for each received so far, held ones and
/// answers included; timers add at most six for each: five repeats of a SYN, and a reset. Nothing
/// is acknowledged on anybody's behalf: a segment that acknowledges has been received, though
/// perhaps in other numbers, and is emitted `copies` times at most. Towards the client a SYN-ACK and
/// a reset may acknowledge the SYN.
fn feed<E: Engine>(engine: &mut E, script: &[u8], copies: usize, check: impl Fn(&E)) {
    let (mut now, mut ledger) = (ms(1), Ledger::default());
    let (steps, _) = script.as_chunks::<STEP>();
    for step in steps.iter().take(LONGEST).map(Step) {
        now = now + step.pause();
        turn(engine, now, &mut ledger);
        let (mut bytes, mut out) = (step.packet(), Outbox::new());
        ledger.received += 1;
        ledger.note(&bytes, 0);
        let mut packet = Packet { bytes: &mut bytes, offload: step.offload() };
        let verdict = engine.handle(now, &mut packet, &mut out);
        if verdict == Verdict::Forward {
            ledger.answered += 1;
            ledger.note(&bytes, 1);
            engine.too_big(now, &bytes, 1200, &mut out);
        }
        ledger.answered += out.len();
        out.iter().for_each(|(bytes, _)| ledger.note(bytes, 1));
        assert!(out.iter().all(|(bytes, _)| !bytes.is_empty()));
        // Of those, one may be the answer to what was too big.
        assert!(ledger.answered <= 3 * ledger.received, "{ledger:?}");
        let made_up = ledger.acks.iter().any(|[received, emitted]| *emitted > copies * received);
        assert!(!made_up, "{ledger:?}");
        check(engine);
    }
    while let Some(at) = engine.next_timeout() {
        turn(engine, at.max(now), &mut ledger);
        assert!(at < now + Duration::from_secs(600), "a timer that never ends");
    }
    assert!(ledger.timed <= 6 * ledger.received, "{ledger:?}");
}

fn turn(engine: &mut impl Engine, now: Instant, ledger: &mut Ledger) {
    while engine.next_timeout().is_some_and(|at| at <= now) {
        let mut out = Outbox::new();
        engine.handle_timeout(now, &mut out);
        ledger.timed += out.len();
        out.iter().for_each(|(bytes, _)| ledger.note(bytes, 1));
    }
}

impl Ledger {
    /// Counts a segment that acknowledges, received (0) or emitted (1).
    fn note(&mut self, bytes: &[u8], which: usize) {
        let services = Services::new(vec!["10.1.2.0/24:80".parse().unwrap()], vec![]);
        let Some(rtt0_core::claim::Claim::Tcp(direction)) = claims(&services, bytes) else { return };
        let mut copy = bytes.to_vec();
        let mut packet = Packet { bytes: &mut copy, offload: Offload::default() };
        let Ok(segment) = Segment::parse(&mut packet) else { return };
        let flags = segment.tcp().flags();
        if !flags.contains(Flags::ACK) {
            return;
        }
        match direction {
            Direction::ToServer => self.acks[0][which] += 1,
            Direction::ToClient if !flags.intersects(Flags::SYN | Flags::RST) => self.acks[1][which] += 1,
            Direction::ToClient => {}
        }
    }
}

//! A TCP endpoint small enough to be obviously right: it sends a script, checks every number it
//! is given, and repeats what is not acknowledged.

use crate::packets::{ACK, FIN, PSH, RST, SYN, Seg};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use std::time::Duration;

/// Receive window in bytes, advertised throughout.
const WINDOW: u32 = 60_000;
/// Segments in flight.
const FLIGHT: usize = 8;
/// Nothing in these tests strays further than this from where it belongs.
const NEAR: u32 = 1 << 20;

/// What an endpoint does.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) isn: u32,
    pub(crate) options: SynOptions,
    /// What it sends before its FIN.
    pub(crate) data: Vec<u8>,
    /// It sends nothing before it has received so much.
    pub(crate) start_after: usize,
    /// It sends no FIN before it has received so much.
    pub(crate) finish_after: usize,
    /// Its clock at the origin of time.
    pub(crate) clock: u32,
    /// Whether the server may see early data that overtook both its SYN and the segment that
    /// would have proven it, untranslated. It is not accepted.
    pub(crate) disorder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listen,
    SynSent,
    SynReceived,
    Open,
    Reset,
}

/// The options in effect, once both ends have spoken.
#[derive(Debug, Clone, Copy)]
struct Peer {
    isn: u32,
    options: SynOptions,
    /// The peer's clock in the segment that opened the connection.
    tsval: u32,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    to: Direction,
    script: Script,
    state: State,
    peer: Option<Peer>,
    /// Sequence numbers relative to the ISN: the SYN is 0.
    una: u32,
    nxt: u32,
    received: Vec<u8>,
    fin_received: bool,
    ts_recent: u32,
    timer: Option<Instant>,
    rto: Duration,
}

impl Endpoint {
    pub(crate) fn client(script: Script) -> Self {
        Self::new(Direction::ToServer, State::SynSent, script)
    }

    pub(crate) fn server(script: Script) -> Self {
        Self::new(Direction::ToClient, State::Listen, script)
    }

    fn new(to: Direction, state: State, script: Script) -> Self {
        let rto = Duration::from_secs(1);
        let (una, nxt, received, fin_received) = (0, 0, vec![], false);
        Self {
            to,
            script,
            state,
            peer: None,
            una,
            nxt,
            received,
            fin_received,
            ts_recent: 0,
            timer: None,
            rto,
        }
    }

    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.state == State::Reset
    }

    /// Everything sent and acknowledged, and everything received.
    pub(crate) fn is_done(&self) -> bool {
        self.una == self.end() && self.fin_received
    }

    pub(crate) fn timer(&self) -> Option<Instant> {
        self.timer
    }

    /// Opens the connection: the client's SYN.
    pub(crate) fn connect(&mut self, now: Instant) -> Vec<Seg> {
        self.nxt = 1;
        self.arm(now);
        vec![self.syn(now)]
    }

    /// Repeats what is not acknowledged.
    pub(crate) fn on_timer(&mut self, now: Instant) -> Vec<Seg> {
        self.rto = (self.rto * 2).min(Duration::from_secs(3));
        self.arm(now);
        match self.state {
            State::SynSent | State::SynReceived => vec![self.syn(now)],
            State::Open => {
                self.nxt = self.una;
                self.send(now)
            }
            State::Listen | State::Reset => vec![],
        }
    }

    /// Takes a segment and returns the answers.
    pub(crate) fn receive(&mut self, now: Instant, segment: &Seg) -> Vec<Seg> {
        match self.state {
            State::Reset => vec![],
            State::Listen if segment.flags.contains(RST) => vec![],
            // Early data whose SYN got lost (RFC 9293 §3.10.7.2).
            State::Listen if segment.flags.contains(ACK) => vec![Seg::new(self.to, RST, segment.ack, 0)],
            State::Listen => {
                assert!(segment.flags.is_syn(), "LISTEN got {segment:?}");
                self.meet(segment);
                self.state = State::SynReceived;
                self.nxt = 1;
                self.arm(now);
                vec![self.syn(now)]
            }
            State::SynSent => {
                let acknowledges =
                    segment.flags.contains(ACK) && segment.ack == self.script.isn.wrapping_add(1);
                if acknowledges && segment.flags.contains(RST) {
                    self.state = State::Reset;
                } else if acknowledges && segment.flags.is_syn_ack() {
                    assert!(segment.raw.is_empty(), "the client sees the signalling option");
                    self.meet(segment);
                    return self.open(now);
                }
                vec![]
            }
            State::SynReceived | State::Open => self.synchronised(now, segment),
        }
    }

    fn synchronised(&mut self, now: Instant, segment: &Seg) -> Vec<Seg> {
        let unsent = segment.ack.wrapping_sub(self.script.isn) > self.end();
        if self.to == Direction::ToClient && segment.flags.contains(ACK) && unsent {
            assert!(self.script.disorder, "{segment:?} at {self:?}");
            // RFC 9293 §3.10.7.4.
            let reset = Seg::new(self.to, RST, segment.ack, 0);
            return vec![if self.state == State::SynReceived { reset } else { self.ack(now) }];
        }
        let flags = segment.flags;
        if flags.contains(RST) {
            // RFC 5961 §3: any other is not accepted. A server that saw early data without its
            // SYN makes such.
            if segment.seq == self.rcv_nxt() {
                self.state = State::Reset;
                self.timer = None;
            }
            return vec![];
        }
        self.check(now, segment);
        if flags.contains(SYN) {
            // Repeated, so something of ours got lost.
            return vec![if self.state == State::Open { self.ack(now) } else { self.syn(now) }];
        }
        let una = segment.ack.wrapping_sub(self.script.isn);
        if una > self.una {
            self.una = una;
            self.nxt = self.nxt.max(una);
            self.rto = Duration::from_millis(300);
            self.timer = None;
        }
        let mut out = if self.state == State::SynReceived { self.open(now) } else { vec![] };
        if let Some((value, _)) = segment.ts {
            self.ts_recent = value;
        }
        self.take_data(segment);
        out.extend(self.send(now));
        if out.is_empty() && (!segment.payload.is_empty() || flags.contains(FIN)) {
            out.push(self.ack(now));
        }
        out
    }

    fn take_data(&mut self, segment: &Seg) {
        let missing = self.rcv_nxt().wrapping_sub(segment.seq) as usize;
        let fin = segment.flags.contains(FIN);
        if self.fin_received || missing > segment.payload.len() {
            return;
        }
        self.received.extend_from_slice(&segment.payload[missing..]);
        self.fin_received = fin;
    }

    /// Every number must be of this end's space, whatever got lost or doubled on the way.
    fn check(&self, now: Instant, segment: &Seg) {
        let peer = self.peer.expect("synchronised");
        let near = |a: u32, b: u32| a.wrapping_sub(b).wrapping_add(NEAR) <= 2 * NEAR;
        assert!(near(segment.seq, self.rcv_nxt()), "SEQ of another space: {segment:?} at {self:?}");
        if segment.flags.contains(ACK) {
            assert!(
                near(segment.ack, self.script.isn.wrapping_add(self.nxt)),
                "ACK of another space: {segment:?} at {self:?}"
            );
            assert!(segment.ack.wrapping_sub(self.script.isn) <= self.end(), "ACK of what was never sent");
        }
        if segment.flags.contains(SYN) {
            return;
        }
        let limit = usize::from(self.script.options.mss.unwrap_or(536));
        let options = if self.uses_timestamps() { 12 } else { 0 };
        assert!(segment.payload.len() + options <= limit, "larger than the MSS");
        let scale = if self.scales() { peer.options.window_scale.unwrap_or(0) } else { 0 };
        let window = u32::from(segment.window) << scale;
        assert!(
            (WINDOW - 20_000..=WINDOW).contains(&window),
            "a window of {window}: {segment:?} at {self:?}"
        );
        assert_eq!(segment.ts.is_some(), self.uses_timestamps(), "timestamps");
        if let Some((value, echo)) = segment.ts {
            assert!(near(value, peer.tsval), "TSval {value} of another clock: {:?}", peer);
            assert!(
                echo == 0 || self.clock(now).wrapping_sub(echo) < NEAR,
                "TSecr {echo} of another clock at {self:?}"
            );
        }
    }

    fn meet(&mut self, segment: &Seg) {
        let options = segment.syn_options.expect("a SYN");
        let tsval = options.timestamps.map_or(0, |t| t.value);
        self.peer = Some(Peer { isn: segment.seq, options, tsval });
        self.ts_recent = tsval;
    }

    fn open(&mut self, now: Instant) -> Vec<Seg> {
        self.state = State::Open;
        self.una = self.una.max(1);
        self.timer = None;
        self.rto = Duration::from_millis(300);
        let mut out = self.send(now);
        if out.is_empty() && self.to == Direction::ToServer {
            out.push(self.ack(now));
        }
        out
    }

    /// Sends what the script and the flight allow.
    fn send(&mut self, now: Instant) -> Vec<Seg> {
        let peer = self.peer.expect("synchronised");
        let mss = usize::from(peer.options.mss.unwrap_or(536)) - if self.uses_timestamps() { 12 } else { 0 };
        let mut out = Vec::new();
        if self.received.len() < self.script.start_after {
            return out;
        }
        let may_finish = self.received.len() >= self.script.finish_after;
        while (self.nxt - self.una) as usize <= FLIGHT * mss && self.nxt < self.end() {
            let from = self.nxt as usize - 1;
            let to = (from + mss).min(self.script.data.len());
            let fin = to == self.script.data.len() && may_finish;
            if from >= to && !fin {
                break;
            }
            let flags = if fin { ACK | FIN } else { ACK | PSH };
            let payload = &self.script.data[from.min(to)..to];
            out.push(Seg { flags, ..self.ack(now) }.payload(payload));
            self.nxt = to as u32 + 1 + u32::from(fin);
        }
        if self.una < self.nxt && self.timer.is_none() {
            self.arm(now);
        }
        out
    }

    fn syn(&self, now: Instant) -> Seg {
        let answers = self.to == Direction::ToClient;
        let mut options = self.script.options;
        if let (true, Some(peer)) = (answers, self.peer) {
            options.window_scale = options.window_scale.filter(|_| peer.options.window_scale.is_some());
            options.sack_permitted &= peer.options.sack_permitted;
        }
        options.timestamps = self
            .uses_timestamps()
            .then(|| Timestamps { value: self.clock(now), echo: if answers { self.ts_recent } else { 0 } });
        let flags = if answers { SYN | ACK } else { SYN };
        let ack = if answers { self.rcv_nxt() } else { 0 };
        Seg { window: WINDOW as u16, ..Seg::new(self.to, flags, self.script.isn, ack) }.options(options)
    }

    fn ack(&self, now: Instant) -> Seg {
        let scale = if self.scales() { self.script.options.window_scale.unwrap_or(0) } else { 0 };
        let sequence = self.script.isn.wrapping_add(self.nxt);
        let mut segment = Seg::new(self.to, ACK, sequence, self.rcv_nxt());
        segment.window = (WINDOW >> scale) as u16;
        segment.ts = self.uses_timestamps().then(|| (self.clock(now), self.ts_recent));
        segment
    }

    /// Both must offer; before the peer has spoken its own wish counts.
    fn uses_timestamps(&self) -> bool {
        self.script.options.timestamps.is_some()
            && self.peer.is_none_or(|peer| peer.options.timestamps.is_some())
    }

    fn scales(&self) -> bool {
        self.script.options.window_scale.is_some()
            && self.peer.is_some_and(|peer| peer.options.window_scale.is_some())
    }

    fn rcv_nxt(&self) -> u32 {
        let isn = self.peer.map_or(0, |peer| peer.isn);
        isn.wrapping_add(1 + self.received.len() as u32 + u32::from(self.fin_received))
    }

    /// Behind the FIN.
    fn end(&self) -> u32 {
        self.script.data.len() as u32 + 2
    }

    fn clock(&self, now: Instant) -> u32 {
        self.script.clock.wrapping_add((now.as_micros() / 1000) as u32)
    }

    fn arm(&mut self, now: Instant) {
        self.timer = Some(now + self.rto);
    }
}

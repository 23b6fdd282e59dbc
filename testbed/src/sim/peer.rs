//! A host with a TCP of our own: small, strict, and able to do what smoltcp can't: selective
//! acknowledgements in use, options of every kind, ECN, super-packets, TIME-WAIT that gives way.

mod receive;
mod send;

use super::connection::{Connections, Host, Reuse, Stance};
use super::script::{Fate, Script};
use super::wire::{Addresses, Wire, ports, tcp};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

/// First and longest retransmission time-out (RFC 6298).
const FIRST_RTO: Duration = Duration::from_secs(1);
const LONGEST_RTO: Duration = Duration::from_secs(60);
/// How long the end that closed first remembers its connection.
const TIME_WAIT: Duration = Duration::from_secs(20);
/// Not more often than this is a challenge answered (RFC 5961 §10, as Linux has it).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// States of RFC 9293 §3.3.2 as far as they differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    /// ESTABLISHED and everything up to the last ACK of a FIN.
    Open,
    TimeWait,
    Closed,
}

/// A connection. Its sequence numbers are relative: 0 is the SYN.
#[derive(Debug)]
struct Tcb {
    connection: usize,
    ports: (u16, u16),
    state: State,
    stance: Stance,
    /// The peer's ISN.
    irs: u32,
    una: u32,
    nxt: u32,
    /// Largest `nxt` so far.
    max: u32,
    /// Bytes the peer is ready to take beyond `una`.
    window: u32,
    peer_mss: u16,
    /// Shifts of (our, the peer's) window field; zero unless both offered.
    shifts: (u8, u8),
    timestamps: bool,
    sack: bool,
    recent: u32,
    rcv_nxt: u32,
    /// Data beyond `rcv_nxt`, as half-open ranges.
    islands: Vec<(u32, u32)>,
    /// What the peer has of ours beyond `una`.
    sacked: Vec<(u32, u32)>,
    /// Where the peer's FIN stands.
    fin_at: Option<u32>,
    fin_received: bool,
    /// It sent its FIN before it had the peer's.
    closed_first: bool,
    duplicates: u8,
    rto: Duration,
    timer: Option<Instant>,
    keepalive: Option<Instant>,
    challenged: Option<Instant>,
    ack_due: bool,
    ecn: bool,
}

impl Tcb {
    fn new(connection: usize, ports: (u16, u16), state: State, stance: Stance) -> Self {
        Self {
            connection,
            ports,
            state,
            stance,
            irs: 0,
            una: 0,
            nxt: 0,
            max: 0,
            window: 0,
            peer_mss: 536,
            shifts: (0, 0),
            timestamps: stance.timestamps,
            sack: stance.sack,
            recent: 0,
            rcv_nxt: 0,
            islands: Vec::new(),
            sacked: Vec::new(),
            fin_at: None,
            fin_received: false,
            closed_first: false,
            duplicates: 0,
            rto: FIRST_RTO,
            timer: None,
            keepalive: None,
            challenged: None,
            ack_due: false,
            ecn: false,
        }
    }

    /// Data bytes in order.
    fn in_order(&self) -> u32 {
        self.rcv_nxt.saturating_sub(1 + u32::from(self.fin_received))
    }

    /// Receive window in bytes, given what the application has taken.
    fn receive_window(&self, taken: u32) -> u32 {
        self.stance.buffer.saturating_sub(self.in_order().saturating_sub(taken))
    }
}

/// The host.
#[derive(Debug)]
pub(super) struct Peer {
    /// Which way it sends.
    to: Direction,
    addresses: Addresses,
    tcbs: Vec<Tcb>,
    listening: bool,
    out: Vec<Wire>,
    random: fastrand::Rng,
    next: Option<Instant>,
}

impl Peer {
    /// Makes the client's host (`to` is [`Direction::ToServer`]) or the server's.
    pub(super) fn new(to: Direction, addresses: Addresses, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { to, addresses, tcbs: Vec::new(), listening: true, out: Vec::new(), random, next: None }
    }

    fn incoming(&self) -> Direction {
        match self.to {
            Direction::ToServer => Direction::ToClient,
            Direction::ToClient => Direction::ToServer,
        }
    }

    fn script(&self, tcb: usize, all: &mut Connections) -> Script {
        all.list[self.tcbs[tcb].connection].app(self.incoming()).script
    }

    fn set_fate(&self, tcb: usize, fate: Fate, all: &mut Connections) {
        let app = all.list[self.tcbs[tcb].connection].app(self.incoming());
        if app.fate != Fate::Gone {
            app.fate = fate;
        }
    }

    /// Does what is due at one connection.
    fn serve(&mut self, now: Instant, index: usize, all: &mut Connections) {
        let incoming = self.incoming();
        let tcb = &mut self.tcbs[index];
        let app = all.list[tcb.connection].app(incoming);
        if tcb.state == State::TimeWait && tcb.timer.is_some_and(|at| now >= at) {
            tcb.state = State::Closed;
        }
        let open = tcb.state == State::Open;
        let waiting = tcb.in_order().saturating_sub(app.received);
        if open && waiting > 0 && app.reads(now) {
            let closed = tcb.receive_window(app.received) < u32::from(tcb.peer_mss);
            app.received += waiting;
            // RFC 9293 §3.8.6.2.2: the window is announced again once a segment fits in.
            tcb.ack_due |= closed;
        }
        app.finished |= tcb.fin_received && app.received == tcb.in_order();
        if open && app.wants_abort() {
            app.fate = Fate::Gone;
            self.reset(index);
            self.tcbs[index].state = State::Closed;
            return;
        }
        self.run_timers(now, index, all);
        self.send(now, index, all);
        let tcb = &mut self.tcbs[index];
        if tcb.ack_due && tcb.state != State::Closed {
            self.acknowledge(now, index, all);
        }
        self.finish(now, index, all);
    }

    /// Closes what is done on both sides.
    fn finish(&mut self, now: Instant, index: usize, all: &mut Connections) {
        let end = self.script(index, all).send + 2;
        let tcb = &mut self.tcbs[index];
        if tcb.state == State::Open && tcb.fin_received && tcb.una == end {
            // RFC 9293 §3.6: who closed first answers for the last ACK.
            tcb.state = if tcb.closed_first { State::TimeWait } else { State::Closed };
            tcb.timer = Some(now + TIME_WAIT);
            tcb.keepalive = None;
            let app = all.list[tcb.connection].app(self.incoming());
            let left = self.tcbs[index].in_order().saturating_sub(app.received);
            app.received += left;
            app.finished = true;
            self.set_fate(index, Fate::Closed, all);
        }
    }
}

impl Host for Peer {
    fn connect(&mut self, now: Instant, connection: usize, all: &mut Connections) {
        let plan = &all.list[connection].plan;
        let ports = (plan.client_port, plan.server_port);
        let mut tcb = Tcb::new(connection, ports, State::SynSent, plan.client_stance);
        (tcb.nxt, tcb.max) = (1, 1);
        tcb.timer = Some(now + tcb.rto);
        self.tcbs.push(tcb);
        self.send_syn(now, self.tcbs.len() - 1);
        self.next = Some(now);
    }

    fn expect(&mut self, _: usize, _: &Connections) {}

    fn clear(&mut self, ports: (u16, u16), reuse: Reuse) {
        for index in 0..self.tcbs.len() {
            if self.tcbs[index].ports == ports {
                if reuse == Reuse::Abort && self.tcbs[index].state == State::Open {
                    self.reset(index);
                }
                self.tcbs[index].state = State::Closed;
            }
        }
        self.tcbs.retain(|tcb| tcb.state != State::Closed);
        self.next = Some(Instant::ZERO);
    }

    fn set_listening(&mut self, listening: bool) {
        self.listening = listening;
    }

    fn deliver(&mut self, now: Instant, bytes: &mut [u8], all: &mut Connections) {
        if super::wire::is_right(bytes, rtt0_core::packet::Offload::default())
            && let Some(view) = tcp(bytes)
        {
            let key = ports(&view, self.incoming());
            match self.tcbs.iter().position(|tcb| tcb.ports == key && tcb.state != State::Closed) {
                Some(index) => self.segment(now, index, &view, all),
                None => self.stray(now, key, &view, all),
            }
        }
        self.next = Some(now);
    }

    fn work(&mut self, now: Instant, all: &mut Connections, out: &mut Vec<Wire>) {
        for index in 0..self.tcbs.len() {
            self.serve(now, index, all);
        }
        self.tcbs.retain(|tcb| tcb.state != State::Closed);
        out.append(&mut self.out);
        let incoming = self.incoming();
        let timers = self.tcbs.iter().flat_map(|tcb| [tcb.timer, tcb.keepalive]).flatten();
        let wakes = self.tcbs.iter().filter_map(|tcb| all.list[tcb.connection].app(incoming).wake(now));
        let soonest = now + Duration::from_millis(1);
        self.next = timers.chain(wakes).min().map(|at| at.max(soonest));
    }

    fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// The flags of a segment that acknowledges.
const ACK: Flags = Flags::ACK;

//! The scripted peer's sending side: SYNs, data, acknowledgements, probes, resets.

use super::{ACK, LONGEST_RTO, Peer, State, Tcb};
use crate::sim::build::{Fields, segment};
use crate::sim::connection::{Connections, Oddity};
use crate::sim::script::{Close, Fate, bytes};
use crate::sim::wire::{Wire, make_partial};
use rtt0_core::packet::Offload;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::tcp::Flags;

/// Segments in flight.
const FLIGHT: u32 = 12;

impl Peer {
    /// Sends the SYN or SYN-ACK of a connection.
    pub(super) fn send_syn(&mut self, now: Instant, index: usize) {
        let tcb = &self.tcbs[index];
        let answers = tcb.state == State::SynReceived;
        let echo = if answers { tcb.recent } else { 0 };
        let options = SynOptions {
            mss: Some(tcb.stance.mss),
            window_scale: tcb.stance.window_scale,
            sack_permitted: tcb.sack,
            timestamps: tcb.timestamps.then(|| Timestamps { value: clock(tcb, now), echo }),
        };
        let mut raw = Vec::with_capacity(40);
        options.write(&mut raw);
        let mut flags = if answers { Flags::SYN | ACK } else { Flags::SYN };
        let mut payload: &[u8] = &[];
        match tcb.stance.oddity {
            _ if answers => {
                if tcb.ecn {
                    flags = flags | Flags::ECE;
                }
            }
            Oddity::None => {}
            Oddity::UnknownOption => raw.extend_from_slice(&[30, 4, 0, 0]),
            Oddity::FastOpen => raw.extend_from_slice(&[34, 2, 1, 1]),
            Oddity::SynData => payload = bytes(0, 0, 64),
            Oddity::Ecn => flags = flags | Flags::ECE | Flags::CWR,
            Oddity::AccurateEcn => flags = flags | Flags::ECE | Flags::CWR | Flags::AE,
            Oddity::NoRoom => raw.resize(raw.len().max(24), 1),
        }
        let acknowledgement = if answers { tcb.irs.wrapping_add(1) } else { 0 };
        let window = tcb.stance.buffer.min(65_535) as u16;
        let fields = Fields {
            to: self.to,
            client_port: tcb.ports.0,
            server_port: tcb.ports.1,
            seq: tcb.stance.isn,
            ack: acknowledgement,
            flags,
            window,
            options: &raw,
            payload,
        };
        let wire = segment(&self.addresses, &fields);
        self.emit(wire);
    }

    /// Sends what script, window and flight allow.
    pub(super) fn send(&mut self, now: Instant, index: usize, all: &mut Connections) {
        if self.tcbs[index].state != State::Open {
            return;
        }
        let incoming = self.incoming();
        let app = all.list[self.tcbs[index].connection].app(incoming);
        // TCP's send buffer holds all that the application wants to say.
        let more = app.next_run(now, usize::MAX).len() as u32;
        app.written += more;
        let (written, script) = (app.written, app.script);
        let closes = app.wants_close() && app.fate != Fate::Gone;
        loop {
            let tcb = &mut self.tcbs[index];
            if let Some((_, end)) = tcb.sacked.iter().find(|(from, end)| (*from..*end).contains(&tcb.nxt)) {
                tcb.nxt = *end;
            }
            let mss = u32::from(tcb.peer_mss).saturating_sub(if tcb.timestamps { 12 } else { 0 }).max(1);
            let edge = tcb.una + tcb.window.min(FLIGHT * mss);
            let end = written + 1;
            let until = end.min(edge).min(tcb.nxt.saturating_add(self.burst(index, mss)));
            let tcb = &mut self.tcbs[index];
            let length = until.saturating_sub(tcb.nxt);
            let fin = closes && tcb.nxt + length == end && tcb.nxt <= end;
            if length == 0 && !fin {
                break;
            }
            let from = tcb.nxt;
            tcb.nxt += length + u32::from(fin);
            tcb.closed_first |= fin && !tcb.fin_received;
            tcb.max = tcb.max.max(tcb.nxt);
            if tcb.timer.is_none() {
                tcb.timer = Some(now + tcb.rto);
            }
            let flags = if fin { ACK | Flags::FIN } else { ACK | Flags::PSH };
            let payload = bytes(script.salt, from - 1, length as usize);
            self.segment_out(now, index, from, flags, payload, all, mss);
        }
        let tcb = &mut self.tcbs[index];
        let wants = written + 1 > tcb.max
            || matches!(script.close, Close::After(_)) && closes && tcb.max < written + 2;
        if tcb.timer.is_none() && wants && tcb.window == 0 {
            tcb.timer = Some(now + tcb.rto);
        }
    }

    /// Bytes of one packet: a segment, or several for the network card to cut.
    fn burst(&mut self, index: usize, mss: u32) -> u32 {
        if self.tcbs[index].stance.offload && self.random.u8(..4) == 0 { mss * 3 } else { mss }
    }

    #[allow(clippy::too_many_arguments, reason = "a segment has that many fields")]
    fn segment_out(
        &mut self,
        now: Instant,
        index: usize,
        from: u32,
        flags: Flags,
        payload: &[u8],
        all: &mut Connections,
        mss: u32,
    ) {
        let taken = all.list[self.tcbs[index].connection].app(self.incoming()).received;
        let tcb = &mut self.tcbs[index];
        tcb.ack_due = false;
        let mut options = Vec::with_capacity(40);
        if tcb.timestamps {
            let timestamps = Some(Timestamps { value: clock(tcb, now), echo: tcb.recent });
            SynOptions { timestamps, ..SynOptions::default() }.write(&mut options);
        }
        if tcb.sack && !tcb.islands.is_empty() && payload.is_empty() {
            write_sack(tcb, &mut options);
        }
        let fields = Fields {
            to: self.to,
            client_port: tcb.ports.0,
            server_port: tcb.ports.1,
            seq: tcb.stance.isn.wrapping_add(from),
            ack: tcb.irs.wrapping_add(tcb.rcv_nxt),
            flags,
            window: (tcb.receive_window(taken) >> tcb.shifts.0).min(65_535) as u16,
            options: &options,
            payload,
        };
        let offload = tcb.stance.offload;
        let mut wire = segment(&self.addresses, &fields);
        if payload.len() as u32 > mss {
            make_partial(&mut wire);
            wire.offload.gso_size = mss as u16;
        } else if offload && self.random.bool() {
            make_partial(&mut wire);
        }
        self.emit(wire);
    }

    /// Sends an empty acknowledgement.
    pub(super) fn acknowledge(&mut self, now: Instant, index: usize, all: &mut Connections) {
        match self.tcbs[index].state {
            State::Open | State::TimeWait | State::SynReceived => {
                let from = self.tcbs[index].nxt;
                self.segment_out(now, index, from, ACK, &[], all, u32::MAX);
            }
            _ => self.tcbs[index].ack_due = false,
        }
    }

    /// Resets an open connection.
    pub(super) fn reset(&mut self, index: usize) {
        let tcb = &self.tcbs[index];
        let fields = Fields {
            to: self.to,
            client_port: tcb.ports.0,
            server_port: tcb.ports.1,
            seq: tcb.stance.isn.wrapping_add(tcb.nxt),
            ack: tcb.irs.wrapping_add(tcb.rcv_nxt),
            flags: Flags::RST | ACK,
            window: 0,
            options: &[],
            payload: &[],
        };
        let wire = segment(&self.addresses, &fields);
        self.emit(wire);
    }

    /// Answers what belongs to no connection (RFC 9293 §3.5.2).
    pub(super) fn reset_stray(&mut self, ports: (u16, u16), seq: u32, ack: Option<u32>) {
        let flags = if ack.is_some() { Flags::RST | ACK } else { Flags::RST };
        let fields = Fields {
            to: self.to,
            client_port: ports.0,
            server_port: ports.1,
            seq,
            ack: ack.unwrap_or(0),
            flags,
            window: 0,
            options: &[],
            payload: &[],
        };
        let wire = segment(&self.addresses, &fields);
        self.emit(wire);
    }

    fn emit(&mut self, wire: Wire) {
        debug_assert!(wire.offload == Offload::default() || wire.offload.needs_csum);
        self.out.push(wire);
    }

    /// Repeats, probes and keeps alive.
    pub(super) fn run_timers(&mut self, now: Instant, index: usize, all: &mut Connections) {
        let script = self.script(index, all);
        let tcb = &mut self.tcbs[index];
        if tcb.state != State::TimeWait && tcb.timer.is_some_and(|at| now >= at) {
            tcb.rto = (tcb.rto * 2).min(LONGEST_RTO);
            tcb.timer = Some(now + tcb.rto);
            match tcb.state {
                State::SynSent | State::SynReceived => self.send_syn(now, index),
                State::Open if tcb.window == 0 => {
                    // RFC 9293 §3.8.6.1: a byte beyond the window, if there is one.
                    let (from, total) = (tcb.una, script.send);
                    let length = usize::from(from <= total && from > 0);
                    tcb.max = tcb.max.max(from + length as u32);
                    let payload = bytes(script.salt, from.saturating_sub(1), length);
                    self.segment_out(now, index, from, ACK, payload, all, u32::MAX);
                }
                State::Open => {
                    tcb.nxt = tcb.una;
                    tcb.sacked.clear();
                }
                _ => {}
            }
        }
        let tcb = &mut self.tcbs[index];
        if tcb.state == State::Open && tcb.keepalive.is_some_and(|at| now >= at) {
            tcb.keepalive = script.keepalive.map(|interval| now + interval);
            // RFC 1122 §4.2.3.6.
            let from = tcb.una.saturating_sub(1);
            self.segment_out(now, index, from, ACK, &[], all, u32::MAX);
        }
    }
}

/// SND.NXT's clock.
fn clock(tcb: &Tcb, now: Instant) -> u32 {
    tcb.stance.clock.wrapping_add((now.as_micros() / 1000) as u32)
}

/// Up to three blocks (RFC 2018 §3), or four where no timestamps stand.
fn write_sack(tcb: &Tcb, options: &mut Vec<u8>) {
    let most = (40 - options.len() - 4) / 8;
    let blocks = tcb.islands.iter().rev().take(most);
    let at = options.len();
    options.extend_from_slice(&[1, 1, 5, 2]);
    for (from, until) in blocks {
        for edge in [from, until] {
            options.extend_from_slice(&tcb.irs.wrapping_add(*edge).to_be_bytes());
        }
    }
    options[at + 3] = (options.len() - at - 2) as u8;
}

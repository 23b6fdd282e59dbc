//! The scripted peer's side of RFC 9293 §3.10.7: segments that arrive.

use super::{ACK, CHALLENGE_INTERVAL, FIRST_RTO, Peer, State, Tcb};
use crate::sim::connection::{Connections, Oddity, Stance};
use crate::sim::script::{Fate, bytes};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::{Options, SynOptions, kind};
use rtt0_core::wire::tcp::{Flags, Tcp};

/// MAX.SND.WND of RFC 5961 §5.2: more than any window here.
const LARGEST_WINDOW: u32 = 1 << 20;

impl Peer {
    /// A segment that belongs to no connection (§3.10.7.1, §3.10.7.2).
    pub(super) fn stray(&mut self, now: Instant, key: (u16, u16), tcp: &Tcp<'_>, all: &mut Connections) {
        let flags = tcp.flags();
        if flags.contains(Flags::RST) {
            return;
        }
        let listens = self.to == Direction::ToClient && self.listening && key.1 == 80;
        if listens && flags.is_syn() {
            if let Some(connection) = all.of_syn(key.0, key.1, tcp.sequence()) {
                self.accept(now, connection, key, tcp, all);
            }
            return;
        }
        if flags.contains(ACK) {
            self.reset_stray(key, tcp.acknowledgement(), None);
        } else {
            self.reset_stray(key, 0, Some(tcp.sequence().wrapping_add(tcp.sequence_length())));
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        connection: usize,
        key: (u16, u16),
        tcp: &Tcp<'_>,
        all: &mut Connections,
    ) {
        all.accepts(connection);
        let entry = &all.list[connection];
        let stance = Stance { isn: entry.isn_of_attempt(), ..entry.plan.server_stance };
        let mut tcb = Tcb::new(connection, key, State::SynReceived, stance);
        meet(&mut tcb, tcp);
        (tcb.nxt, tcb.max) = (1, 1);
        tcb.ecn = tcp.flags().contains(Flags::ECE | Flags::CWR) && stance.oddity == Oddity::Ecn;
        tcb.timer = Some(now + tcb.rto);
        self.tcbs.push(tcb);
        self.send_syn(now, self.tcbs.len() - 1);
    }

    /// A segment of a known connection.
    pub(super) fn segment(&mut self, now: Instant, index: usize, tcp: &Tcp<'_>, all: &mut Connections) {
        if self.tcbs[index].state == State::SynSent {
            return self.syn_sent(now, index, tcp, all);
        }
        let tcb = &mut self.tcbs[index];
        let flags = tcp.flags();
        let relative = tcp.sequence().wrapping_sub(tcb.irs);
        let ahead = relative.wrapping_sub(tcb.rcv_nxt);
        if flags.contains(Flags::RST) {
            return self.received_reset(now, index, ahead, all);
        }
        if flags.contains(Flags::SYN) {
            return self.received_syn(now, index, tcp, all);
        }
        if !flags.contains(ACK) {
            return;
        }
        let acknowledged = tcp.acknowledgement().wrapping_sub(tcb.stance.isn);
        if tcb.state == State::SynReceived {
            if acknowledged == 0 || acknowledged > tcb.max {
                return self.reset_stray(self.tcbs[index].ports, tcp.acknowledgement(), None);
            }
            tcb.state = State::Open;
            tcb.timer = None;
            tcb.rto = FIRST_RTO;
            self.set_fate(index, Fate::Open, all);
        } else if acknowledged > tcb.max || tcb.una - acknowledged.min(tcb.una) > LARGEST_WINDOW {
            // RFC 5961 §5.2: neither what was never sent nor what is long past.
            return self.challenge(now, index);
        }
        self.acknowledged(now, index, acknowledged, tcp);
        self.data(index, relative, tcp, all);
        if let Some(interval) = self.script(index, all).keepalive {
            self.tcbs[index].keepalive = Some(now + interval);
        }
    }

    fn syn_sent(&mut self, now: Instant, index: usize, tcp: &Tcp<'_>, all: &mut Connections) {
        let tcb = &mut self.tcbs[index];
        let acceptable = tcp.acknowledgement() == tcb.stance.isn.wrapping_add(1);
        let flags = tcp.flags();
        if flags.contains(ACK) && !acceptable {
            if !flags.contains(Flags::RST) {
                self.reset_stray(self.tcbs[index].ports, tcp.acknowledgement(), None);
            }
            return;
        }
        if flags.contains(Flags::RST) {
            if flags.contains(ACK) {
                tcb.state = State::Closed;
                self.set_fate(index, Fate::Reset, all);
            }
            return;
        }
        if flags.is_syn_ack() {
            meet(tcb, tcp);
            (tcb.state, tcb.una, tcb.timer, tcb.rto) = (State::Open, 1, None, FIRST_RTO);
            tcb.ack_due = true;
            tcb.ecn = flags.contains(Flags::ECE);
            let interval = self.script(index, all).keepalive;
            self.tcbs[index].keepalive = interval.map(|interval| now + interval);
            self.set_fate(index, Fate::Open, all);
        }
    }

    /// RFC 5961 §3.2: only the very next number resets.
    fn received_reset(&mut self, now: Instant, index: usize, ahead: u32, all: &mut Connections) {
        let tcb = &mut self.tcbs[index];
        if ahead == 0 {
            let connected = tcb.state == State::Open;
            tcb.state = State::Closed;
            if connected {
                self.set_fate(index, Fate::Reset, all);
            }
        } else if ahead < tcb.stance.buffer && tcb.state != State::TimeWait {
            self.challenge(now, index);
        }
    }

    fn received_syn(&mut self, now: Instant, index: usize, tcp: &Tcp<'_>, all: &mut Connections) {
        let tcb = &mut self.tcbs[index];
        let isn = tcp.sequence();
        match tcb.state {
            State::SynReceived if isn == tcb.irs => self.send_syn(now, index),
            // RFC 9293 §3.10.7.4, as Linux does it: within the window the passive open is over,
            // elsewhere it is challenged.
            State::SynReceived if isn.wrapping_sub(tcb.irs.wrapping_add(1)) < tcb.stance.buffer => {
                tcb.state = State::Closed;
                self.reset_stray(self.tcbs[index].ports, 0, Some(isn.wrapping_add(1)));
            }
            // RFC 6191: a newer connection may follow at once.
            State::TimeWait if tcp.flags().is_syn() && self.to == Direction::ToClient => {
                tcb.state = State::Closed;
                let key = tcb.ports;
                self.stray(now, key, tcp, all);
            }
            _ => self.challenge(now, index),
        }
    }

    /// RFC 5961 §4, §5: a plain ACK that shows where this end stands.
    fn challenge(&mut self, now: Instant, index: usize) {
        let tcb = &mut self.tcbs[index];
        if tcb.challenged.is_none_or(|at| now >= at + CHALLENGE_INTERVAL) {
            tcb.challenged = Some(now);
            tcb.ack_due = true;
        }
    }

    fn acknowledged(&mut self, now: Instant, index: usize, acknowledged: u32, tcp: &Tcp<'_>) {
        let tcb = &mut self.tcbs[index];
        let window = u32::from(tcp.window()) << tcb.shifts.1;
        let advance = acknowledged.wrapping_sub(tcb.una);
        if advance > 1 << 31 {
            return;
        }
        if let Some(value) = tsval(tcp) {
            tcb.recent = value;
        }
        if advance > 0 {
            tcb.una = acknowledged;
            tcb.nxt = tcb.nxt.max(acknowledged);
            tcb.sacked.retain(|(_, end)| *end > acknowledged);
            (tcb.duplicates, tcb.rto) = (0, FIRST_RTO);
            tcb.timer = (tcb.una < tcb.max).then(|| now + tcb.rto);
        } else if window == tcb.window && tcp.payload().is_empty() && tcb.una < tcb.nxt {
            tcb.duplicates = tcb.duplicates.saturating_add(1);
        }
        tcb.window = window;
        if tcb.sack {
            note_sack(tcb, tcp);
        }
        if tcb.duplicates == 3 {
            // Fast retransmit: from `una` on, but for what the peer has.
            tcb.nxt = tcb.una;
        }
    }

    fn data(&mut self, index: usize, relative: u32, tcp: &Tcp<'_>, all: &mut Connections) {
        let incoming = self.incoming();
        let tcb = &mut self.tcbs[index];
        let connection = tcb.connection;
        let app = all.list[connection].app(incoming);
        let (payload, fin) = (tcp.payload(), tcp.flags().contains(Flags::FIN));
        let right_edge = tcb.rcv_nxt + tcb.receive_window(app.received);
        let end = relative.wrapping_add(payload.len() as u32);
        let far = end.wrapping_sub(tcb.rcv_nxt) as i32;
        if payload.is_empty() && !fin {
            // A keepalive or a probe, else nothing to say.
            tcb.ack_due |= far < 0;
            return;
        }
        tcb.ack_due = true;
        if far < 0 || relative.wrapping_sub(right_edge) as i32 >= 0 && !(payload.is_empty() && far == 0) {
            return;
        }
        let skip = tcb.rcv_nxt.wrapping_sub(relative) as i32;
        let (from, payload) = if skip > 0 {
            (tcb.rcv_nxt, payload.get(skip as usize..).unwrap_or_default())
        } else {
            (relative, payload)
        };
        let room = right_edge.saturating_sub(from) as usize;
        let whole = payload.len() <= room;
        let payload = &payload[..payload.len().min(room)];
        if payload.is_empty() && !fin {
            // smoltcp's keepalive repeats a byte that is no byte.
            return;
        }
        let (salt, total) = app.peer_stream();
        let begin = from - 1;
        if payload == [0] && payload != bytes(salt, begin, 1) {
            // Nor is this one: it stands in for a byte that may still be on its way.
            return;
        }
        if begin + payload.len() as u32 > total || payload != bytes(salt, begin, payload.len()) {
            let wrong = crate::sim::script::WrongBytes { offset: begin };
            return all.wrong_bytes(connection, incoming, wrong);
        }
        let until = from + payload.len() as u32;
        if fin && whole {
            tcb.fin_at = Some(until);
        }
        insert(&mut tcb.islands, from, until);
        while let Some(at) = tcb.islands.iter().position(|(from, _)| *from <= tcb.rcv_nxt) {
            tcb.rcv_nxt = tcb.rcv_nxt.max(tcb.islands.remove(at).1);
        }
        if tcb.fin_at == Some(tcb.rcv_nxt) && !tcb.fin_received {
            tcb.fin_received = true;
            tcb.rcv_nxt += 1;
        }
    }
}

/// Adds a range to others and joins those that touch.
fn insert(islands: &mut Vec<(u32, u32)>, mut from: u32, mut until: u32) {
    if from >= until {
        return;
    }
    islands.retain(|(a, b)| {
        let touches = *a <= until && from <= *b;
        if touches {
            (from, until) = (from.min(*a), until.max(*b));
        }
        !touches
    });
    islands.push((from, until));
}

fn note_sack(tcb: &mut Tcb, tcp: &Tcp<'_>) {
    for option in tcp.options().map_while(Result::ok).filter(|option| option.kind == kind::SACK) {
        for block in option.value.chunks_exact(8) {
            let number =
                |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            let relative = |at| number(at).wrapping_sub(tcb.stance.isn);
            insert(&mut tcb.sacked, relative(0), relative(4));
        }
    }
}

fn tsval(tcp: &Tcp<'_>) -> Option<u32> {
    let mut options = tcp.options().map_while(Result::ok);
    let option = options.find(|option| option.kind == kind::TIMESTAMPS && option.value.len() == 8)?;
    Some(u32::from_be_bytes([option.value[0], option.value[1], option.value[2], option.value[3]]))
}

/// Takes what the other end's SYN or SYN-ACK says.
fn meet(tcb: &mut Tcb, tcp: &Tcp<'_>) {
    let known = |kind| matches!(kind, 1..=4 | 8);
    let options = SynOptions::parse(Options::new(tcp.option_bytes()), |option| !known(option.kind));
    let options = options.unwrap_or_default();
    tcb.irs = tcp.sequence();
    tcb.rcv_nxt = 1;
    tcb.window = u32::from(tcp.window());
    tcb.peer_mss = options.mss.unwrap_or(536);
    tcb.timestamps &= options.timestamps.is_some();
    tcb.sack &= options.sack_permitted;
    tcb.shifts = match (tcb.stance.window_scale, options.window_scale) {
        (Some(own), Some(peers)) => (own, peers),
        _ => (0, 0),
    };
    if options.window_scale.is_none() {
        tcb.stance.window_scale = None;
    }
    tcb.recent = options.timestamps.map_or(0, |timestamps| timestamps.value);
}

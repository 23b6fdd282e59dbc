//! The bounds of every table, queue and timer.

use std::time::Duration;

/// Bounds of an engine; [`Limits::default`] is what the daemons run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows known at a time; beyond it new SYNs pass unspoofed.
    pub flows: usize,
    /// Handshakes pending at a time; beyond it new SYNs pass unspoofed.
    pub pending: usize,
    /// Clients at a time that may have been answered without having acknowledged anything yet;
    /// beyond it new SYNs pass without leaving a trace. What a flood of SYNs can occupy.
    pub half_open: usize,
    /// Early data held for one flow, in bytes; beyond it packets are dropped.
    pub held_per_flow: usize,
    /// Early data held for all flows, in bytes; beyond it packets are dropped.
    pub held_total: usize,
    /// How long an established flow may be idle.
    pub idle: Duration,
    /// How long a flow may be idle once both FINs were seen.
    pub closed: Duration,
    /// How long a flow may be idle once both FINs were acknowledged. Nothing is left to be repeated then
    /// but a FIN whose acknowledgement got lost, and that acknowledgement: for as long as the end
    /// that closed first remembers it (Linux: 60 s in TIME-WAIT).
    pub finished: Duration,
    /// Likewise if its room is needed for another. In that time a FIN is repeated at least four times
    /// (1 s, 3 s, 7 s, 15 s, RFC 6298 §5.5).
    pub finished_least: Duration,
    /// How long a flow is kept after a reset.
    pub reset: Duration,
    /// How long data that overtook its SYN is held for it.
    pub orphan: Duration,
    /// How long an unspoofed SYN waits for its SYN-ACK.
    pub learning: Duration,
    /// How long a client that was answered may take, from its last SYN on, to acknowledge it before
    /// it is forgotten: two of its SYNs may get lost in that time (1 s, 2 s, RFC 6298 §2.1).
    pub unproven: Duration,
    /// How long a flow is kept whose server waits for the client's acknowledgement: four of its
    /// SYN-ACKs may get lost in that time (1 s, 3 s, 7 s, 15 s).
    pub unacknowledged: Duration,
    /// Repeats of a SYN that gets no answer.
    pub syn_repeats: u8,
    /// Likewise while the client has acknowledged nothing, for it may be somebody's forgery.
    pub unproven_repeats: u8,
    /// When a handshake without an answer is given up.
    pub handshake: Duration,
    /// Until when a second SYN-ACK counts as the answer to our own second SYN. Below a server's
    /// shortest SYN-ACK time-out (1 s, RFC 6298 §2.1), since that one must reach the client.
    pub repeated_syn_ack: Duration,
    /// Until when, after a confirm, a reset may be the server's answer to early data that overtook
    /// its SYN.
    pub early_reset: Duration,
}

impl Limits {
    /// Returns the bounds of one of `engines` (1 or more) that share the work: totals are divided,
    /// rounded up.
    pub fn shared_by(self, engines: usize) -> Self {
        let share = |total: usize| total.div_ceil(engines.max(1));
        Self {
            flows: share(self.flows),
            pending: share(self.pending),
            half_open: share(self.half_open),
            held_total: share(self.held_total),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 1_000_000,
            pending: 65_536,
            half_open: 8_192,
            held_per_flow: 64 * 1024,
            held_total: 256 * 1024 * 1024,
            idle: Duration::from_secs(5 * 24 * 3600),
            closed: Duration::from_secs(120),
            finished: Duration::from_secs(60),
            finished_least: Duration::from_secs(30),
            reset: Duration::from_secs(10),
            orphan: Duration::from_secs(2),
            learning: Duration::from_secs(15),
            unproven: Duration::from_secs(3),
            unacknowledged: Duration::from_secs(20),
            syn_repeats: 5,
            unproven_repeats: 1,
            handshake: Duration::from_secs(15),
            repeated_syn_ack: Duration::from_millis(500),
            early_reset: Duration::from_secs(1),
        }
    }
}

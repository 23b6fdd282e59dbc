//! Segments in, report out. The peers' ISNs lie just below the u32 wrap, and the mirror cuts all behind the TCP header.

mod first_byte;
mod gates;
mod handshakes;
mod mirrors;
mod outputs;
mod properties;

use super::*;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Endpoint;
use rtt0_core::wire::tcp::Flags;

pub(super) const SYN: Flags = Flags::SYN;
pub(super) const ACK: Flags = Flags::ACK;
pub(super) const FIN: Flags = Flags::FIN;
pub(super) const RST: Flags = Flags::RST;
/// The client's ISN and the server's: numbers wrap within the first bytes.
pub(super) const C: u32 = 0xffff_fffd;
pub(super) const Y: u32 = 0xffff_fff0;

/// An observer, and the two ends of a connection whose segments it is shown.
pub(super) struct Bench {
    pub(super) observer: Observer,
    pub(super) client: Endpoint,
    pub(super) server: Endpoint,
    /// Where the current connection began, in ms.
    pub(super) at: f64,
    /// What a segment's timestamps option says; none if `None`.
    pub(super) clock: Option<u32>,
}

/// Options of a SYN as Linux sends them, 20 bytes.
pub(super) fn linux(clock: Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let timestamps = clock.map(|value| Timestamps { value, echo: 0 });
    SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps }.write(&mut bytes);
    bytes
}

/// Makes a packet whose payload of `length` bytes the mirror has cut off.
pub(super) fn packet(control: Control, options: &[u8], length: usize) -> (Vec<u8>, Inner) {
    let mut bytes = Vec::new();
    control.write(options, &mut bytes);
    let upper = if control.source.0.is_ipv4() { 20 } else { 40 };
    let inner = Inner {
        source: control.source.0,
        destination: control.destination.0,
        transport: Transport::Tcp,
        source_port: control.source.1,
        destination_port: control.destination.1,
        upper,
        length: bytes.len() + length,
        hop_limit: 64,
    };
    (bytes, inner)
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        Self {
            observer: Observer::new(options),
            client: ([10, 1, 0, 10].into(), 40_000),
            server: ([10, 1, 2, 10].into(), 443),
            at: 5_000.0,
            clock: Some(100),
        }
    }

    /// Goes on to another connection, `after` ms later.
    pub(super) fn next(&mut self, after: f64) -> &mut Self {
        self.client.1 += 1;
        self.at += after;
        self
    }

    pub(super) fn show(&mut self, ms: f64, control: Control, options: &[u8], length: usize) -> &mut Self {
        let (bytes, inner) = packet(control, options, length);
        self.observer.segment(Instant::from_micros(((self.at + ms) * 1000.0) as u64), &bytes, &inner);
        self
    }

    /// A segment from the client: numbers count from the ISNs.
    pub(super) fn client(&mut self, ms: f64, flags: Flags, seq: u32, ack: u32, length: usize) -> &mut Self {
        let options = if flags.contains(SYN) { linux(self.clock) } else { Vec::new() };
        self.client_with(ms, flags, (seq, ack), &options, length)
    }

    pub(super) fn client_with(
        &mut self,
        ms: f64,
        flags: Flags,
        (seq, ack): (u32, u32),
        options: &[u8],
        length: usize,
    ) -> &mut Self {
        let acknowledgement = if flags.contains(ACK) { Y.wrapping_add(ack) } else { 0 };
        let (source, destination) = (self.client, self.server);
        let sequence = C.wrapping_add(seq);
        let control = Control { source, destination, sequence, acknowledgement, flags, window: 500 };
        self.show(ms, control, options, length)
    }

    /// A segment from the server, likewise.
    pub(super) fn server(&mut self, ms: f64, flags: Flags, seq: u32, ack: u32, length: usize) -> &mut Self {
        let options = if flags.contains(SYN) { linux(self.clock) } else { Vec::new() };
        let acknowledgement = if flags.contains(ACK) { C.wrapping_add(ack) } else { 0 };
        let (source, destination) = (self.server, self.client);
        let sequence = Y.wrapping_add(seq);
        let control = Control { source, destination, sequence, acknowledgement, flags, window: 500 };
        self.show(ms, control, &options, length)
    }

    /// A handshake: `to_server` and `to_client` ms of round trip on either side of the mirror.
    pub(super) fn handshake(&mut self, to_server: f64, to_client: f64) -> &mut Self {
        self.client(0.0, SYN, 0, 0, 0).server(to_server, SYN | ACK, 0, 1, 0).client(
            to_server + to_client,
            ACK,
            1,
            1,
            0,
        )
    }

    /// A request of 100 bytes at once, and a response of 1,000 after one round trip more and 1 ms of work, then both
    /// ends close.
    pub(super) fn exchange(&mut self, to_server: f64, to_client: f64) -> &mut Self {
        let ready = to_server + to_client;
        self.handshake(to_server, to_client)
            .client(ready, ACK, 1, 1, 100)
            .server(ready + to_server + 1.0, ACK, 1, 101, 1000)
            .client(ready + to_server + 2.0, ACK | FIN, 101, 1001, 0)
            .server(ready + to_server + 3.0, ACK | FIN, 1001, 102, 0)
    }

    /// Returns the report `ms` after the current connection's beginning.
    pub(super) fn report(&self, ms: f64) -> Report {
        self.observer.report(Instant::from_micros(((self.at + ms) * 1000.0) as u64))
    }

    /// Returns what is told of all connections.
    pub(super) fn all(&self) -> ServiceReport {
        self.report(0.0).all
    }
}

/// Returns begun, answered, refused, unanswered, pending.
pub(super) fn outcomes(of: &ServiceReport) -> [u64; 5] {
    let of = &of.connections;
    [of.begun, of.answered, of.refused, of.unanswered, of.pending]
}

/// Returns how many connections passed for `label`.
pub(super) fn passed(of: &ServiceReport, label: &str) -> u64 {
    of.passed.iter().filter(|reason| reason.label == label).map(|reason| reason.count).sum()
}

//! The order of FINs and RSTs on the two hosts' own links.

use super::super::sighting::Sighting;
use crate::address::ETH0;
use crate::record::{Record, Recorder};
use crate::topology::Topology;
use rtt0_core::wire::tcp::Flags;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes kept of a packet: all, since a FIN may come with data and a cut packet can't be parsed.
const SNAPLEN: usize = 1 << 16;

/// A FIN or RST, as the host at whose link it was seen knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::scenario) enum Mark {
    /// The host sent a FIN.
    FinSent,
    /// It received one.
    FinReceived,
    /// It sent a reset.
    ResetSent,
    /// It received one.
    ResetReceived,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FinSent => "FIN→",
            Self::FinReceived => "→FIN",
            Self::ResetSent => "RST→",
            Self::ResetReceived => "→RST",
        })
    }
}

/// The first of each kind of mark at each host, in order: repeats depend on chance, and only tell why.
#[derive(Debug, Clone, Default)]
pub(in crate::scenario) struct Endings {
    /// At the client.
    pub(in crate::scenario) client: Vec<Mark>,
    /// At the server.
    pub(in crate::scenario) server: Vec<Mark>,
    /// All marks at both, with repeats, and when they were seen since 1970-01-01 UTC.
    pub(super) all: [Vec<(Duration, Mark)>; 2],
}

impl PartialEq for Endings {
    fn eq(&self, other: &Self) -> bool {
        self.client == other.client && self.server == other.server
    }
}

impl Eq for Endings {}

impl Endings {
    /// Leaves out resets behind both FINs: a segment that was overtaken by the connection's end,
    /// or sent twice, is answered with one if the socket is gone by then.
    pub(super) fn forget_late_resets(&mut self) {
        for marks in [&mut self.client, &mut self.server] {
            let fin = |wanted| marks.iter().position(|mark| *mark == wanted);
            if let (Some(sent), Some(received)) = (fin(Mark::FinSent), fin(Mark::FinReceived)) {
                let mut at = 0;
                marks.retain(|mark| {
                    at += 1;
                    at <= sent.max(received) || !matches!(mark, Mark::ResetSent | Mark::ResetReceived)
                });
            }
        }
    }
}

impl fmt::Display for Endings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client, server] = &self.all;
        let start =
            client.first().into_iter().chain(server.first()).map(|(at, _)| *at).min().unwrap_or_default();
        let list = |marks: &[(Duration, Mark)]| {
            let since_start = |at: Duration| at.saturating_sub(start).as_secs_f64() * 1e3;
            let told = marks.iter().map(|(at, mark)| format!("{mark} {:.1} ms", since_start(*at)));
            told.collect::<Vec<_>>().join(", ")
        };
        write!(f, "at the client {}; at the server {}", list(client), list(server))
    }
}

/// Recorders of both hosts' FINs and RSTs.
#[derive(Debug)]
pub(super) struct Watch {
    client: Recorder,
    server: Recorder,
}

impl Watch {
    /// Starts both.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub(super) fn start(topology: &Topology) -> anyhow::Result<Self> {
        let start = |host| Recorder::start(host, ETH0, SNAPLEN, Some(Box::new(may_end)));
        Ok(Self { client: start(&topology.client)?, server: start(&topology.server)? })
    }

    /// Stops both.
    ///
    /// # Errors
    /// As [`Recorder::stop`].
    pub(super) fn stop(self) -> anyhow::Result<Watched> {
        Ok(Watched { client: self.client.stop()?, server: self.server.stop()? })
    }
}

/// What was recorded.
#[derive(Debug)]
pub(super) struct Watched {
    client: Vec<Record>,
    server: Vec<Record>,
}

impl Watched {
    /// Returns what concerns the connections to `server`.
    pub(super) fn of(&self, server: SocketAddr) -> Endings {
        let all = [&self.client, &self.server].map(|records| marks(records, server));
        Endings { client: firsts(&all[0]), server: firsts(&all[1]), all }
    }
}

fn marks(records: &[Record], server: SocketAddr) -> Vec<(Duration, Mark)> {
    let mark = |seen: Sighting| match (seen.flags.contains(Flags::RST), seen.outgoing) {
        (true, true) => (seen.at, Mark::ResetSent),
        (true, false) => (seen.at, Mark::ResetReceived),
        (false, true) => (seen.at, Mark::FinSent),
        (false, false) => (seen.at, Mark::FinReceived),
    };
    records.iter().filter_map(|record| Sighting::read(record, server)).map(mark).collect()
}

fn firsts(marks: &[(Duration, Mark)]) -> Vec<Mark> {
    let mut firsts = Vec::new();
    for (_, mark) in marks {
        if !firsts.contains(mark) {
            firsts.push(*mark);
        }
    }
    firsts
}

/// Tells whether a packet is TCP with FIN or RST. Neither host sends extension headers.
fn may_end(packet: &[u8]) -> bool {
    let tcp = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.get(9) == Some(&6) => usize::from(packet[0] & 15) * 4,
        Some(6) if packet.get(6) == Some(&6) => 40,
        _ => return false,
    };
    packet.get(tcp + 13).is_some_and(|flags| flags & 0b101 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::wire::build::Control;

    const CLIENT: ([u8; 4], u16) = ([10, 1, 0, 10], 4000);
    const SERVER: ([u8; 4], u16) = ([10, 1, 2, 10], 8080);

    fn record(flags: Flags, outgoing: bool) -> Record {
        let (source, destination) = if outgoing { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let control = Control {
            source: (source.0.into(), source.1),
            destination: (destination.0.into(), destination.1),
            sequence: 1,
            acknowledgement: 2,
            flags,
            window: 3,
        };
        let mut bytes = Vec::new();
        control.write(&[], &mut bytes);
        let (interface, length) = ("client:eth0".to_owned(), bytes.len());
        Record { at: Duration::ZERO, interface, outgoing, bytes, length, needs_csum: false, gso_size: 0 }
    }

    #[test]
    fn the_first_of_each_kind_counts_in_order() {
        let records = [
            record(Flags::FIN | Flags::ACK, false),
            record(Flags::FIN | Flags::ACK, true),
            record(Flags::FIN | Flags::ACK, true),
            record(Flags::RST, false),
        ];
        assert_eq!(
            firsts(&marks(&records, SERVER.into())),
            [Mark::FinReceived, Mark::FinSent, Mark::ResetReceived]
        );
        assert!(marks(&records, ([10, 1, 2, 10], 1).into()).is_empty());
    }

    #[test]
    fn resets_are_late_behind_both_fins_only() {
        let late = vec![Mark::FinSent, Mark::FinReceived, Mark::ResetReceived];
        let early = vec![Mark::ResetSent, Mark::FinReceived];
        let mut endings = Endings { client: late.clone(), server: early.clone(), ..Endings::default() };
        endings.forget_late_resets();
        assert_eq!((endings.client, endings.server), (late[..2].to_vec(), early));
    }

    #[test]
    fn only_fin_and_rst_are_kept() {
        assert!(may_end(&record(Flags::FIN, true).bytes) && may_end(&record(Flags::RST, true).bytes));
        assert!(!may_end(&record(Flags::ACK, true).bytes) && !may_end(&[]) && !may_end(&[0x45; 20]));
    }
}

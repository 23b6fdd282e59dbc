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
/// Most payload, in bytes, of a segment that is kept besides.
const SHORT: usize = 16;
/// How many segments of a host are told of: the last ones.
const TOLD: usize = 24;

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

impl Mark {
    fn of(seen: &Sighting) -> Option<Self> {
        let (reset, fin) = (seen.flags.contains(Flags::RST), seen.flags.contains(Flags::FIN));
        Some(match (reset, fin, seen.outgoing) {
            (true, _, true) => Self::ResetSent,
            (true, _, false) => Self::ResetReceived,
            (false, true, true) => Self::FinSent,
            (false, true, false) => Self::FinReceived,
            (false, false, _) => return None,
        })
    }
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
    /// What both saw from the first mark on, as far as it is short: it tells why a mark is there.
    pub(super) closing: [Vec<Sighting>; 2],
    /// The path RTT.
    pub(super) rtt: Duration,
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

    /// Tells whether the server's first reset answers an acknowledgement that the client had sent before the one of the
    /// server's FIN, and that came behind it. NICs change the numbers, but not how far they are from the FIN.
    pub(super) fn resets_overtaken(&self) -> bool {
        let Some((before, answered)) = self.servers_reset() else { return false };
        let arrived = acknowledgements(before, false);
        let sent = acknowledgements(&self.closing[0], true);
        let sent_at = |number| sent.iter().position(|sent| *sent == number);
        let (Some(overtaken), Some(of_fin)) = (sent_at(answered), sent_at(1)) else { return false };
        overtaken < of_fin && arrived.last() == Some(&answered) && arrived.contains(&1)
    }

    /// Tells whether the server's first reset answers a second acknowledgement of its FIN, which it had repeated
    /// before the first came. It must have waited for two path RTTs, as TCP does for a tail loss probe (RFC 8985
    /// §7.2): sooner would mean that it was made to believe in a shorter path.
    pub(super) fn resets_behind_probe(&self) -> bool {
        let Some((before, answered)) = self.servers_reset() else { return false };
        let behind_fin = fin(before, true).wrapping_add(1);
        let acknowledges_fin = |seen: &Sighting| !seen.outgoing && seen.acknowledgement == behind_fin;
        let until = before.iter().position(acknowledges_fin).unwrap_or(0);
        let mut fins = before[..until].iter().filter(|seen| seen.outgoing && seen.flags.contains(Flags::FIN));
        let (Some(first), Some(second)) = (fins.next(), fins.next()) else { return false };
        let acknowledged = acknowledgements(before, false).into_iter().filter(|number| *number == 1).count();
        second.at.saturating_sub(first.at) >= 2 * self.rtt && answered == 1 && acknowledged > 1
    }

    /// Returns what the server saw before its first reset, and what that answers, counted from the server's FIN.
    fn servers_reset(&self) -> Option<(&[Sighting], i32)> {
        let server = &self.closing[1];
        let reset = server.iter().position(|seen| seen.outgoing && seen.flags.contains(Flags::RST))?;
        Some((&server[..reset], from_fin(server[reset].sequence, server, true)))
    }
}

impl fmt::Display for Endings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.closing.iter().flatten().map(|seen| seen.at).min().unwrap_or_default();
        let [client, server] = self.closing.each_ref().map(|seen| Closing { seen, start });
        write!(f, "at the client {client}; at the server {server}")
    }
}

/// The end of a connection at one host. Numbers count from the FINs: sequence 0 is a FIN's own, and
/// acknowledgement 1 is that of a FIN.
struct Closing<'a> {
    seen: &'a [Sighting],
    start: Duration,
}

impl fmt::Display for Closing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let untold = self.seen.len().saturating_sub(TOLD);
        if untold > 0 {
            write!(f, "{untold} segments, ")?;
        }
        for (at, seen) in self.seen.iter().enumerate().skip(untold) {
            let separator = if at == untold { "" } else { ", " };
            f.write_str(separator)?;
            match Mark::of(seen) {
                Some(mark) => write!(f, "{mark}")?,
                None => f.write_str(if seen.outgoing { "ACK→" } else { "→ACK" })?,
            }
            let time = seen.at.saturating_sub(self.start).as_secs_f64() * 1e3;
            let sequence = from_fin(seen.sequence, self.seen, seen.outgoing);
            write!(f, " {time:.2} ms [{sequence}")?;
            if seen.payload > 0 {
                write!(f, "+{}", seen.payload)?;
            }
            if seen.flags.contains(Flags::ACK) {
                write!(f, " ack {}", from_fin(seen.acknowledgement, self.seen, !seen.outgoing))?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

/// Returns the number of a direction's FIN, 0 if none was seen.
fn fin(seen: &[Sighting], outgoing: bool) -> u32 {
    let fin = seen.iter().find(|seen| seen.outgoing == outgoing && seen.flags.contains(Flags::FIN));
    fin.map_or(0, |fin| fin.sequence.wrapping_add(fin.payload))
}

/// Counts a sequence number of a direction from its FIN.
fn from_fin(number: u32, seen: &[Sighting], outgoing: bool) -> i32 {
    number.wrapping_sub(fin(seen, outgoing)).cast_signed()
}

/// Lists what one direction acknowledges, in the order seen and counted from the other one's FIN.
fn acknowledgements(seen: &[Sighting], outgoing: bool) -> Vec<i32> {
    let acknowledges = |seen: &&Sighting| {
        seen.outgoing == outgoing && seen.flags.contains(Flags::ACK) && !seen.flags.contains(Flags::RST)
    };
    let fin = fin(seen, !outgoing);
    let numbers = seen.iter().filter(acknowledges).map(|seen| seen.acknowledgement);
    numbers.map(|number| number.wrapping_sub(fin).cast_signed()).collect()
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
        let start = |host| Recorder::start(host, ETH0, SNAPLEN, Some(Box::new(tells_of_end)));
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
    /// Returns what concerns the connections to `server`, over a path of `rtt`.
    pub(super) fn of(&self, server: SocketAddr, rtt: Duration) -> Endings {
        let closing = [&self.client, &self.server].map(|records| closing(records, server));
        Endings { client: firsts(&closing[0]), server: firsts(&closing[1]), closing, rtt }
    }
}

fn closing(records: &[Record], server: SocketAddr) -> Vec<Sighting> {
    let seen = records.iter().filter_map(|record| Sighting::read(record, server));
    seen.skip_while(|seen| Mark::of(seen).is_none()).collect()
}

fn firsts(closing: &[Sighting]) -> Vec<Mark> {
    let mut firsts = Vec::new();
    for mark in closing.iter().filter_map(Mark::of) {
        if !firsts.contains(&mark) {
            firsts.push(mark);
        }
    }
    firsts
}

/// Tells whether a packet is TCP with FIN or RST, or with hardly any data: an acknowledgement. Neither
/// host sends extension headers.
fn tells_of_end(packet: &[u8]) -> bool {
    let tcp = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.get(9) == Some(&6) => usize::from(packet[0] & 15) * 4,
        Some(6) if packet.get(6) == Some(&6) => 40,
        _ => return false,
    };
    let (Some(offset), Some(flags)) = (packet.get(tcp + 12), packet.get(tcp + 13)) else { return false };
    let headers = tcp + usize::from(offset >> 4) * 4;
    flags & 0b101 != 0 || packet.len() <= headers + SHORT
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_core::wire::build::Control;

    const CLIENT: ([u8; 4], u16) = ([10, 1, 0, 10], 4000);
    const SERVER: ([u8; 4], u16) = ([10, 1, 2, 10], 8080);

    fn record(flags: Flags, outgoing: bool) -> Record {
        numbered(flags, outgoing, 1, 2)
    }

    fn numbered(flags: Flags, outgoing: bool, sequence: u32, acknowledgement: u32) -> Record {
        let (source, destination) = if outgoing { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let control = Control {
            source: (source.0.into(), source.1),
            destination: (destination.0.into(), destination.1),
            sequence,
            acknowledgement,
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
            firsts(&closing(&records, SERVER.into())),
            [Mark::FinReceived, Mark::FinSent, Mark::ResetReceived]
        );
        assert!(closing(&records, ([10, 1, 2, 10], 1).into()).is_empty());
    }

    #[test]
    fn what_comes_behind_the_first_mark_is_told_in_numbers_from_the_fins() {
        let records = [
            record(Flags::ACK, true),
            record(Flags::FIN | Flags::ACK, true),
            record(Flags::ACK, false),
            record(Flags::RST, false),
        ];
        let at_client = closing(&records, SERVER.into());
        let endings = Endings { closing: [at_client, Vec::new()], ..Endings::default() };
        let told =
            "at the client FIN→ 0.00 ms [0 ack 2], →ACK 0.00 ms [1 ack 1], →RST 0.00 ms [1]; at the server ";
        assert_eq!(endings.to_string(), told);
    }

    #[test]
    fn a_reset_answers_what_was_overtaken_only_if_it_was_sent_in_order() {
        // The server's FIN is 100 there, and 900 as the client knows it.
        let acks = |of: [u32; 2], outgoing| of.map(|number| numbered(Flags::ACK, outgoing, 8, number));
        let at_client = |sent: [u32; 2]| {
            let fins = [
                numbered(Flags::FIN | Flags::ACK, true, 7, 899),
                numbered(Flags::FIN | Flags::ACK, false, 900, 8),
            ];
            closing(&[&fins[..], &acks(sent, true)].concat(), SERVER.into())
        };
        // Here the server is the host: what the client sends comes in.
        let at_server = |arrived: [u32; 2], reset: u32| {
            let turned = |record: Record| Record { outgoing: !record.outgoing, ..record };
            let fins = [
                numbered(Flags::FIN | Flags::ACK, true, 7, 99),
                numbered(Flags::FIN | Flags::ACK, false, 100, 8),
            ];
            let rest = [&acks(arrived, true)[..], &[numbered(Flags::RST, false, reset, 0)]].concat();
            let all: Vec<_> = fins.into_iter().chain(rest).map(turned).collect();
            closing(&all, SERVER.into())
        };
        let resets =
            |client, server| Endings { closing: [client, server], ..Endings::default() }.resets_overtaken();
        assert!(resets(at_client([900, 901]), at_server([101, 100], 100)));
        assert!(!resets(at_client([901, 900]), at_server([101, 100], 100)), "the client sent it last");
        assert!(!resets(at_client([901, 901]), at_server([101, 100], 100)), "the client never sent it");
        assert!(!resets(at_client([900, 901]), at_server([101, 101], 101)), "a second acknowledgement");
        assert!(!resets(at_client([900, 901]), at_server([100, 101], 101)), "nothing was overtaken");
        assert!(
            !resets(at_client([900, 901]), at_server([101, 100], 102)),
            "the reset answers something else"
        );
    }

    #[test]
    fn a_reset_comes_behind_a_probe_only_if_the_server_has_waited() {
        const FIN: Flags = Flags::FIN;
        // The server's FIN (100), repeated after `repeated` ms, and the client's acknowledgements of it behind `acknowledged`.
        let resets = |repeated, acknowledged: [u64; 2]| {
            let at = |ms, record: Record| Record { at: Duration::from_millis(ms), ..record };
            let turned = |record: Record| Record { outgoing: !record.outgoing, ..record };
            let mut records = vec![
                at(0, numbered(FIN | Flags::ACK, true, 7, 99)),
                at(0, numbered(FIN | Flags::ACK, false, 100, 8)),
                at(repeated, numbered(FIN | Flags::ACK, false, 100, 8)),
            ];
            records.extend(acknowledged.map(|ms| at(ms, numbered(Flags::ACK, true, 8, 101))));
            records.push(at(100, numbered(Flags::RST, false, 101, 0)));
            records.sort_by_key(|record| record.at);
            let all: Vec<_> = records.into_iter().map(turned).collect();
            let closing = [Vec::new(), closing(&all, SERVER.into())];
            Endings { closing, rtt: Duration::from_millis(20), ..Endings::default() }.resets_behind_probe()
        };
        assert!(resets(45, [60, 70]));
        assert!(!resets(30, [60, 70]), "it did not wait for two round trips");
        assert!(!resets(45, [44, 70]), "it was answered before");
        assert!(!resets(45, [60, 101]), "nothing came twice");
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
    fn what_is_long_and_no_fin_or_rst_is_not_kept() {
        let with_payload = |flags, payload: usize| {
            let mut bytes = record(flags, true).bytes;
            bytes.resize(bytes.len() + payload, 0);
            tells_of_end(&bytes)
        };
        assert!(with_payload(Flags::FIN, 100) && with_payload(Flags::RST, 100));
        assert!(with_payload(Flags::ACK, 0) && with_payload(Flags::ACK, SHORT));
        assert!(!with_payload(Flags::ACK, SHORT + 1) && !tells_of_end(&[]) && !tells_of_end(&[0x45; 20]));
    }
}

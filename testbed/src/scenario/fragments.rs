//! IP fragments: TCP segments that were cut on the way to a NIC, between the NICs, or behind them.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::choice::IpVersion;
use crate::topology::{Leg, Wiring};
use crate::wan::{Fate, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::service::Direction::{ToClient, ToServer};
use rtt0_core::wire::ipv4::Ipv4;
use rtt0_netio::sysctl;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fragments",
    about: "large segments cut into IP fragments on each leg: every byte arrives, as with kernel forwarding",
    run,
};

/// Packets above this are cut, as by a router to a link with a small MTU.
const CUT_ABOVE: usize = 600;
/// Of IPv6, where only senders cut and the NICs claim no fragment, one in so many.
const IPV6_ONE_IN: u32 = 8;
const MUCH: u64 = 100_000;

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1200), Read(1200), ReadToEnd],
        server: &[Read(1200), Send(1200), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(MUCH), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(MUCH), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
];

const LEGS: [(Leg, Change); 3] = [
    (Leg::Client, |lab| cut_on(lab, Leg::Client)),
    (Leg::Long, |lab| cut_on(lab, Leg::Long)),
    (Leg::Server, |lab| cut_on(lab, Leg::Server)),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for ip in [IpVersion::V4, IpVersion::V6] {
        // Fragments are no super-packets.
        let case = Case { ip, offloads: false };
        report.at_once(&LEGS, |(leg, change), report| {
            let rtt = Duration::from_millis(20);
            let setting = Setting { rtt, wiring: Wiring::Lines, ..Setting::new(case, None) };
            let trial = Trial::new(case, DIALOGUES).setting(setting).prepare(may_fragment).upset(*change);
            let trial = trial.early(Early::All).check(some_were_cut);
            let verified = trial.verify(report).with_context(|| leg.to_string())?;
            let total = |world: usize| verified.times.iter().map(|times| times[world]).sum::<Duration>();
            report.note(format!("{ip}, {leg}: {:.0?}, kernel {:.0?}", total(1), total(0)));
            Ok(())
        })?;
    }
    Ok(())
}

/// Lets both hosts send IPv4 without Don't Fragment; see ip(7), `IP_MTU_DISCOVER`.
fn may_fragment(lab: &mut Lab) -> anyhow::Result<()> {
    for host in [&lab.topology().client, &lab.topology().server] {
        sysctl::set(host.namespace(), &[("net.ipv4.ip_no_pmtu_disc", "1")])?;
    }
    Ok(())
}

fn cut_on(lab: &Lab, leg: Leg) -> anyhow::Result<()> {
    for way in [ToServer, ToClient] {
        lab.topology().line(leg)?.sabotage(way, Some(cutter()));
    }
    Ok(())
}

fn some_were_cut(lab: &Lab) -> anyhow::Result<()> {
    let mut cut = 0;
    for leg in Leg::ALL {
        cut += lab.topology().line(leg)?.directions().iter().map(|way| way.counters.sabotaged).sum::<u64>();
    }
    ensure!(cut > 10, "only {cut} packets were cut");
    Ok(())
}

fn cutter() -> Saboteur {
    let mut large = 0;
    Box::new(move |packet| {
        if packet.bytes.len() <= CUT_ABOVE {
            return Fate::Keep;
        }
        large += 1;
        let fragments = match packet.bytes[0] >> 4 {
            4 => cut_v4(packet.bytes),
            _ if large % IPV6_ONE_IN == 0 => Some(cut_v6(packet.bytes, large)),
            _ => None,
        };
        fragments.map_or(Fate::Keep, Fate::Instead)
    })
}

/// Cuts a packet in two (RFC 791 §3.2), unless Don't Fragment forbids it or it is a fragment.
fn cut_v4(packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let ip = Ipv4::new(packet).ok()?;
    if ip.dont_fragment() || ip.more_fragments() || ip.fragment_offset() > 0 {
        return None;
    }
    let header = ip.header_length();
    let (first, second) =
        packet.get(header..ip.total_length().into())?.split_at_checked(CUT_ABOVE / 16 * 8)?;
    let fragment = |payload: &[u8], offset: usize, more: bool| -> Option<Vec<u8>> {
        let mut bytes = packet[..header].to_vec();
        bytes.extend_from_slice(payload);
        let word = u16::from(more) << 13 | u16::try_from(offset / 8).ok()?;
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        let length = u16::try_from(bytes.len()).ok()?;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        Ipv4::unverified(bytes.as_mut_slice()).ok()?.fill_checksum();
        Some(bytes)
    };
    Some(vec![fragment(first, 0, true)?, fragment(second, first.len(), false)?])
}

/// Cuts a packet in two behind its fixed header (RFC 8200 §4.5).
fn cut_v6(packet: &[u8], identification: u32) -> Vec<Vec<u8>> {
    const HEADER: usize = 40;
    const FRAGMENT: u8 = 44;
    let (header, payload) = packet.split_at(HEADER);
    let (first, second) = payload.split_at(CUT_ABOVE / 16 * 8);
    let fragment = |payload: &[u8], offset: usize, more: bool| {
        let mut bytes = header.to_vec();
        bytes.extend([header[6], 0]);
        bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
        bytes.extend(identification.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes[6] = FRAGMENT;
        let length = (bytes.len() - HEADER) as u16;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    vec![fragment(first, 0, true), fragment(second, first.len(), false)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_cut_in_two_unless_it_must_not() {
        let mut whole = Vec::new();
        let payload: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        etherparse::PacketBuilder::ipv4([10, 1, 0, 10], [10, 1, 2, 10], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut whole, &payload)
            .unwrap();
        assert_eq!(cut_v4(&whole), None, "it must not be fragmented");
        whole[6] = 0;
        Ipv4::unverified(whole.as_mut_slice()).unwrap().fill_checksum();
        let fragments = cut_v4(&whole).unwrap();
        let [first, second] = fragments.as_slice() else { panic!("not two: {fragments:?}") };
        assert!(Ipv4::new(first).unwrap().more_fragments());
        assert_eq!(usize::from(Ipv4::new(second).unwrap().fragment_offset()) * 8, first.len() - 20);
        assert_eq!([&first[20..], &second[20..]].concat(), whole[20..]);
        assert_eq!(cut_v4(first), None, "it is a fragment");
    }
}
